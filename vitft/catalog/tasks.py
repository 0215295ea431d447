"""The tasks vitft knows by name: the 19 of VTAB, their groups and split rules, and a few more."""

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypedDict, Unpack

from vitft.errors import UnknownName

Group = Literal["natural", "specialized", "structured"]


@dataclass(frozen=True)
class Slice:
    """Positions [start, stop) of one raw split in its hash order (see `data.official_splits`).

    Attributes:
        raw_split: "train", "validation" or "test"; its name also goes into the hash that orders its keys.
    """

    raw_split: str
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Task:
    """One task: a collection, a label rule, its splits.

    Attributes:
        name: canonical name, as on the command line.
        title: as the ViT paper's Table 9 prints it.
        group: VTAB group; None outside VTAB.
        num_classes: K.
        collection: raw collection it is built from (both clevr tasks share "clevr").
        sizes: examples in each raw split.
        splits: "train", "val", "test", "train800", "val200", "train800val200" -> slices, joined in order.
        crop, flip: whether a random crop or flip keeps the label true (BiT appendix F; scenic's VTAB configuration).
        aliases: folder names of the community's VTAB-1k archive, TFDS and task_adaptation names.
        non_reference: why the official membership cannot be rebuilt; empty where it can.
    """

    name: str
    title: str
    group: Group | None
    num_classes: int
    collection: str
    sizes: dict[str, int]
    splits: dict[str, tuple[Slice, ...]]
    crop: bool = True
    flip: bool = True
    aliases: tuple[str, ...] = ()
    non_reference: str = ""

    def count(self, split: str) -> int:
        """Return how many examples an official split has; 0 for one that the task has not."""
        return sum(map(len, self.splits.get(split, ())))


class _Rest(TypedDict, total=False):
    crop: bool
    flip: bool
    non_reference: str


def _task(
    name: str,
    title: str,
    group: Group | None,
    num_classes: int,
    collection: str,
    sizes: dict[str, int],
    slices: tuple[tuple[str, int, int], tuple[str, int, int], tuple[str, int, int]],
    *aliases: str,
    **rest: Unpack[_Rest],
) -> Task:
    """Build a VTAB task of its slices train, val and test; its 800 and 200 are the heads of the first two."""
    train_slice, val_slice, test_slice = (Slice(*piece) for piece in slices)
    train800 = Slice(train_slice.raw_split, train_slice.start, train_slice.start + 800)
    val200 = Slice(val_slice.raw_split, val_slice.start, val_slice.start + 200)
    splits = {
        "train": (train_slice,),
        "val": (val_slice,),
        "test": (test_slice,),
        "train800": (train800,),
        "val200": (val200,),
        "train800val200": (train800, val200),
    }
    return Task(name, title, group, num_classes, collection, sizes, splits, aliases=aliases, **rest)


_CALTECH = "which 30 images of each class train is drawn over a directory listing whose order is not defined"
_CLEVR = {"train": 70000, "validation": 15000, "test": 15000}
_CLEVR_SLICES = (("train", 0, 63000), ("train", 63000, 70000), ("validation", 0, 15000))
_DSPRITES = {"train": 737280}
_DSPRITES_SLICES = (("train", 0, 589824), ("train", 589824, 663552), ("train", 663552, 737280))
_NORB = {"train": 24300, "test": 24300}
_NORB_SLICES = (("train", 0, 24300), ("test", 0, 12150), ("test", 12150, 24300))

# Splits and sizes: task_adaptation/data/*.py and the TFDS builders it pins. Crop and flip: scenic's
# vtab_plainvit_config.py. The order is that of the ViT paper's Table 9.
VTAB: tuple[Task, ...] = (
    _task(
        "caltech101", "Caltech101", "natural", 102, "caltech101", {"train": 3060, "test": 6084},
        (("train", 0, 2754), ("train", 2754, 3060), ("test", 0, 6084)),
        "caltech_101", "caltech",
        non_reference=_CALTECH,
    ),
    _task(
        "cifar100", "CIFAR-100", "natural", 100, "cifar100", {"train": 50000, "test": 10000},
        (("train", 0, 45000), ("train", 45000, 50000), ("test", 0, 10000)),
        "cifar", "cifar_100",
    ),
    _task(
        "dtd", "DTD", "natural", 47, "dtd", {"train": 1880, "validation": 1880, "test": 1880},
        (("train", 0, 1880), ("validation", 0, 1880), ("test", 0, 1880)),
    ),
    _task(
        "oxford_flowers102", "Flowers102", "natural", 102, "oxford_flowers102",
        {"train": 1020, "validation": 1020, "test": 6149},
        (("train", 0, 1020), ("validation", 0, 1020), ("test", 0, 6149)),
        "flowers", "flowers102", "oxford_flowers",
    ),
    _task(
        "oxford_iiit_pet", "Pets", "natural", 37, "oxford_iiit_pet", {"train": 3680, "test": 3669},
        (("train", 0, 2944), ("train", 2944, 3680), ("test", 0, 3669)),
        "pets", "pet", "oxford_pet", "oxford_pets", "oxford_iiit_pets",
    ),
    _task(
        "sun397", "Sun397", "natural", 397, "sun397", {"train": 76128, "validation": 10875, "test": 21750},
        (("train", 0, 76128), ("validation", 0, 10875), ("test", 0, 21750)),
        "sun397/tfds", "sun", "sun_397",
    ),
    _task(
        "svhn", "SVHN", "natural", 10, "svhn_cropped", {"train": 73257, "test": 26032, "extra": 531131},
        (("train", 0, 65931), ("train", 65931, 73257), ("test", 0, 26032)),
        "svhn_cropped",
    ),
    _task(
        "patch_camelyon", "Camelyon", "specialized", 2, "patch_camelyon",
        {"train": 262144, "validation": 32768, "test": 32768},
        (("train", 0, 262144), ("validation", 0, 32768), ("test", 0, 32768)),
        "pcam", "camelyon", "patchcamelyon",
    ),
    _task(
        "eurosat", "EuroSAT", "specialized", 10, "eurosat", {"train": 27000},
        (("train", 0, 16200), ("train", 16200, 21600), ("train", 21600, 27000)),
        "eurosat/rgb", "euro_sat",
    ),
    _task(
        "resisc45", "Resisc45", "specialized", 45, "resisc45", {"train": 31500},
        (("train", 0, 18900), ("train", 18900, 25200), ("train", 25200, 31500)),
        "resisc", "nwpu_resisc45",
    ),
    _task(
        "diabetic_retinopathy", "Retinopathy", "specialized", 5, "diabetic_retinopathy_detection",
        {"train": 35126, "validation": 10906, "test": 42670},
        (("train", 0, 35126), ("validation", 0, 10906), ("test", 0, 42670)),
        "retinopathy", "diabetic_retinopathy_detection", "diabetic_retinopathy_detection/btgraham_300",
    ),
    _task(
        "clevr_count", "Clevr-Count", "structured", 8, "clevr", _CLEVR, _CLEVR_SLICES,
        "clevr_count_all",
        crop=False,
    ),
    _task(
        "clevr_distance", "Clevr-Dist", "structured", 6, "clevr", _CLEVR, _CLEVR_SLICES,
        "clevr_dist", "clevr_closest_object_distance",
        crop=False,
    ),
    _task(
        "dmlab", "DMLab", "structured", 6, "dmlab", {"train": 65550, "validation": 22628, "test": 22735},
        (("train", 0, 65550), ("validation", 0, 22628), ("test", 0, 22735)),
        crop=False,
    ),
    _task(
        "dsprites_location", "dSpr-Loc", "structured", 16, "dsprites", _DSPRITES, _DSPRITES_SLICES,
        "dsprites_loc", "dspr_loc", "dsprites_xpos", "dsprites_label_x_position",
        crop=False, flip=False,
    ),
    _task(
        "dsprites_orientation", "dSpr-Ori", "structured", 16, "dsprites", _DSPRITES, _DSPRITES_SLICES,
        "dsprites_ori", "dspr_ori", "dspr_orient", "dsprites_label_orientation",
        flip=False,
    ),
    _task(
        "kitti_distance", "KITTI-Dist", "structured", 4, "kitti", {"train": 6347, "validation": 423, "test": 711},
        (("train", 0, 6347), ("validation", 0, 423), ("test", 0, 711)),
        "kitti", "kitti_dist", "kitti_closest_vehicle_distance",
        crop=False,
    ),
    _task(
        "smallnorb_azimuth", "sNORB-Azim", "structured", 18, "smallnorb", _NORB, _NORB_SLICES,
        "smallnorb_azi", "snorb_azim", "smallnorb_label_azimuth",
        flip=False,
    ),
    _task(
        "smallnorb_elevation", "sNORB-Elev", "structured", 9, "smallnorb", _NORB, _NORB_SLICES,
        "smallnorb_ele", "snorb_elev", "smallnorb_label_elevation",
    ),
)  # fmt: skip


def _mini(name: str, group: Group, num_classes: int, test: int, *, crop: bool = True, flip: bool = True) -> Task:
    splits: dict[str, tuple[Slice, ...]] = {
        "train": (Slice("train", 0, 1000),),
        "test": (Slice("test", 0, test),),
        "train800": (Slice("train", 0, 800),),
        "val200": (Slice("train", 800, 1000),),
        "train800val200": (Slice("train", 0, 1000),),
    }
    sizes = {"train": 1000, "test": test}
    return Task(f"mini-{name}", f"mini-{name}", group, num_classes, "drawn", sizes, splits, crop, flip)


# The suite `mini`: made by vitft itself, no download, not comparable with VTAB. The digits are real handwriting
# (scikit-learn), the rest is drawn. Cells are counted as under a microscope, hence specialized; location and
# orientation are asked as dSprites asks them.
MINI: tuple[Task, ...] = (
    _mini("digits", "natural", 10, 797, crop=False, flip=False),
    _mini("shapes", "natural", 8, 600),
    _mini("texture", "specialized", 6, 600),
    _mini("count", "specialized", 6, 600, crop=False),
    _mini("location", "structured", 8, 600, crop=False, flip=False),
    _mini("orientation", "structured", 8, 600, flip=False),
)

TASKS: tuple[Task, ...] = (
    *VTAB,
    *MINI,
    Task(
        "cifar10", "CIFAR-10", None, 10, "cifar10", {"train": 50000, "test": 10000},
        {"train": (Slice("train", 0, 50000),), "test": (Slice("test", 0, 10000),)},
        aliases=("cifar_10",),
    ),
    Task(
        "imagenet", "ImageNet", None, 1000, "imagenet2012", {"train": 1281167, "validation": 50000},
        {"train": (Slice("train", 0, 1281167),), "test": (Slice("validation", 0, 50000),)},
        aliases=("imagenet2012", "imagenet_1k", "imagenet1k", "ilsvrc2012", "ilsvrc_2012"),
    ),
    # Handwritten digits, 8 x 8: a mirrored digit is another sign, a crop cuts strokes away.
    Task(
        "digits", "Digits", None, 10, "digits", {"train": 901, "test": 896},
        {"train": (Slice("train", 0, 901),), "test": (Slice("test", 0, 896),)},
        crop=False, flip=False,
    ),
)  # fmt: skip

GROUPS: tuple[Group, ...] = ("natural", "specialized", "structured")


def canonical(name: str) -> str | None:
    """Return the canonical name that `name` stands for, or None. Case, '-' and ' ' do not matter."""
    word = re.sub(r"[\s-]+", "_", name.strip().lower())
    for prefix in ("clip_benchmark/", "wds_", "vtab/", "vtab_"):
        word = word.removeprefix(prefix)
    return _names().get(word)


def get(name: str) -> Task:
    """Return the task called `name`, by its canonical name or any alias. Raises UnknownName with the nearest name."""
    known = canonical(name)
    if known is None:
        legal = dict.fromkeys((*(task.name for task in TASKS), *_names()))
        raise UnknownName("task", name, legal, "Run 'vitft data ls' to list them.")
    return next(task for task in TASKS if task.name == known)


def by_name(name: str) -> Task | None:
    """Return the task of exactly this canonical name; None for a user's own data set."""
    return next((task for task in TASKS if task.name == name), None)


def group(name: Group) -> tuple[Task, ...]:
    """Return the VTAB tasks of one group, in the table's order."""
    return tuple(task for task in VTAB if task.group == name)


@cache
def _names() -> dict[str, str]:
    """Map every legal spelling to its canonical name."""
    names: dict[str, str] = {}
    for task in TASKS:
        title = re.sub(r"[\s-]+", "_", task.title.lower())
        for word in (task.name, title, *task.aliases):
            if names.setdefault(word, task.name) != task.name:
                raise AssertionError(f"'{word}' names both {names[word]} and {task.name}")
    return names
