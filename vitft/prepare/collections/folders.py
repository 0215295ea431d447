"""Collections whose images lie in one folder a class: EuroSAT, Resisc45, DTD, Caltech101."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from vitft.data import labels as label_names
from vitft.data import official
from vitft.errors import DataDamaged
from vitft.prepare.archives import Tree
from vitft.prepare.collections.raw import Collection, File, Listed, Raw, from_files

_DRAWN = 30  # of each class of Caltech101, for train
_SEED = 1234
_CALTECH_RULE = f"{_DRAWN} images of each class drawn over sorted names with seed {_SEED}: not the reference membership"


def _class_files(tree: Tree, task: str) -> dict[str, dict[str, str]]:
    """Return class folder -> {file name: path} for the .jpg files below a folder that is named as a class."""
    names = set(label_names.class_names(task))
    found: dict[str, dict[str, str]] = {}
    for path in tree.matching(r"[^/]+/[^/]+\.jpg$"):
        *_, folder, file = path.split("/")
        if folder in names:
            found.setdefault(folder, {}).setdefault(file, path)
    if not found:
        raise tree.missing(f"{min(names)}/*.jpg")
    return found


def _one_split(task: str, tree: Tree) -> Raw:
    """Everything is "train"; the key is `<class>_<file>` (TFDS 4.2.0 and later, see vtab facts)."""
    index = label_names.index(task)
    listed = [
        Listed(f"{folder}_{file}", path, (index[folder],))
        for folder, files in sorted(_class_files(tree, task).items())
        for file, path in sorted(files.items())
    ]
    return from_files(tree, (task,), {"train": listed})


def _open_dtd(tree: Tree) -> Raw:
    """Fold 1 of 10."""
    index = label_names.index("dtd")
    files = {"/".join(path.split("/")[-2:]): path for path in reversed(tree.matching(r"[^/]+/[^/]+\.jpg$"))}
    listed: dict[str, Sequence[Listed]] = {}
    for raw_split, name in (("train", "train1.txt"), ("validation", "val1.txt"), ("test", "test1.txt")):
        keys = tree.read(tree.need(f"labels/{name}")).decode().split()
        listed[raw_split] = [Listed(key, files.get(key), (index.get(key.split("/")[0], -1),)) for key in keys]
    return from_files(tree, ("dtd",), listed)


def _open_caltech(tree: Tree) -> Raw:
    """Draw 30 of each class as TensorFlow Datasets 3.0.2 does, over sorted names instead of its file system's order.

    What is no .jpg stands in the draw and is left out after it. A folder in which no class has 30 images, and which
    lacks classes, is an excerpt: half of each class is train then.
    """
    index = label_names.index("caltech101")
    classes = _caltech_files(tree, set(index))
    excerpt = len(classes) < len(index) and max(map(len, classes.values())) < _DRAWN
    random = np.random.RandomState(_SEED)
    listed: dict[str, list[Listed]] = {"train": [], "test": []}
    notes = [_CALTECH_RULE]
    for folder, files in sorted(classes.items()):
        names = sorted(files)
        if len(names) < _DRAWN and not excerpt:
            raise DataDamaged(
                f"Class folder '{folder}' of Caltech101 holds {len(names)} images.",
                f"at least {_DRAWN}, which the rule of its split draws for train.",
                "Fetch or unpack the archive again.",
            )
        drawn = set(random.choice(len(names), len(names) // 2 if excerpt else _DRAWN, replace=False).tolist())
        for i, name in enumerate(names):
            raw_split = "train" if i in drawn else "test"
            if name.endswith(".jpg"):
                listed[raw_split].append(Listed(f"{folder}/{name}", files[name], (index[folder.lower()],)))
            else:
                notes.append(f"'{folder}/{name}' is no .jpg: left out of {raw_split} after the draw, as the rule says")
    return from_files(tree, ("caltech101",), listed, notes=tuple(notes))


def _caltech_files(tree: Tree, names: set[str]) -> dict[str, dict[str, str]]:
    """Return class folder -> {file name: path} of all files that lie beside a .jpg in a folder named as a class.

    (The archive holds annotations in folders of the same names.)
    """
    inside: dict[str, dict[str, str]] = {}
    for path in tree.matching(r"[^/]+/[^/]+$"):
        parent, _, file = path.rpartition("/")
        if parent.rpartition("/")[2].lower() in names:
            inside.setdefault(parent, {})[file] = path
    found: dict[str, dict[str, str]] = {}
    for parent, files in inside.items():
        if any(file.endswith(".jpg") for file in files):
            ours = found.setdefault(parent.rpartition("/")[2], {})
            ours.update((file, path) for file, path in files.items() if file not in ours)
    if not found:
        raise tree.missing(f"{min(names)}/*.jpg")
    return found


EUROSAT = Collection(
    "eurosat",
    "EuroSAT (RGB)",
    "https://github.com/phelber/EuroSAT",
    "MIT (as the owner's repository states)",
    (
        File(
            "http://madm.dfki.de/files/sentinel/EuroSAT.zip",
            94_280_567,
            "8ebea626349354c5328b142b96d0430e647051f26efc2dc974c843f25ecf70bd",
            "the data set 'torchgeo/eurosat' on the Hugging Face Hub holds the same EuroSAT.zip",
        ),
    ),
    partial(_one_split, "eurosat"),
    ("EuroSAT*.zip",),
)
RESISC45 = Collection(
    "resisc45",
    "NWPU-RESISC45",
    "https://gcheng-nwpu.github.io/",
    "see the owner's page",
    (
        File(
            "",
            manual="fetch NWPU-RESISC45.rar from the owner's OneDrive "
            "(https://1drv.ms/u/s!AmgKYzARBl5ca3HNaHIlzp_IXjs) "
            "and unpack it, or NWPU-RESISC45.zip from 'torchgeo/resisc45' on the Hugging Face Hub",
            name="NWPU-RESISC45",
            about=427_000_000,
        ),
    ),
    partial(_one_split, "resisc45"),
    ("NWPU-RESISC45*",),
)
DTD = Collection(
    "dtd",
    "Describable Textures (DTD), fold 1",
    "https://www.robots.ox.ac.uk/~vgg/data/dtd/",
    "research purposes; see the owner's page",
    (
        File(
            "https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
            625_239_812,
            "e42855a52a4950a3b59612834602aa253914755c95b0cff9ead6d07395f8e205",
        ),
    ),
    _open_dtd,
    ("dtd*.tar.gz",),
)
CALTECH101 = Collection(
    "caltech101",
    "Caltech 101",
    "https://data.caltech.edu/records/mzrjq-6wc02",
    "see the owner's page",
    (
        File(
            "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip?download=1",
            137_414_764,
            "331234750fc7f77520e50d9565e8b6907b03565e30320da1401130db08c61f91",
        ),
    ),
    _open_caltech,
    ("101_ObjectCategories.tar.gz",),
    rule=official.SPLIT_RULES["caltech101"],
)
