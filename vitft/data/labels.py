"""What the labels of each task are called (index = label), and splits whose labels are brought to other classes."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vitft.catalog import tasks
from vitft.data import lists
from vitft.data.split import Split
from vitft.errors import DataError, some

_NAMED = 3

_LISTED = frozenset(
    {
        "caltech101",
        "cifar10",
        "cifar100",
        "dtd",
        "eurosat",
        "imagenet",
        "oxford_flowers102",
        "oxford_iiit_pet",
        "resisc45",
        "sun397",
    }
)
_NAMES = {
    "patch_camelyon": ("normal", "tumour"),
    "diabetic_retinopathy": ("none", "mild", "moderate", "severe", "proliferative"),
    "clevr_count": tuple(str(n) for n in range(3, 11)),
    "clevr_distance": (
        "up to 8",
        "up to 8.5",
        "up to 9",
        "up to 9.5",
        "up to 10",
        "up to 100",
    ),
    "kitti_distance": ("up to 8 m", "up to 20 m", "farther", "no vehicle"),
    "smallnorb_azimuth": tuple(f"{degrees} degrees" for degrees in range(0, 360, 20)),
    "smallnorb_elevation": tuple(f"{degrees} degrees" for degrees in range(30, 75, 5)),
}


def class_names(task: str) -> tuple[str, ...]:
    """Return the K names of a task (canonical name or alias); the numbers themselves where a class has no name.

    ImageNet's are WordNet identifiers.
    """
    known = tasks.get(task)
    if known.name in _LISTED:
        return lists.names(known.name)
    return _NAMES.get(known.name) or tuple(str(label) for label in range(known.num_classes))


def index(task: str) -> dict[str, int]:
    """Return class name -> label of a task (canonical name or alias)."""
    return {name: label for label, name in enumerate(class_names(task))}


def by_name(split: Split, class_names: tuple[str, ...], whose: str) -> Split:
    """Return a split whose labels are positions in `class_names`: classes are the same where their names are.

    Args:
        split: may lack some of the classes.
        class_names: of what it is to be compared with.
        whose: what these classes belong to, for the message.

    Raises:
        DataError: it has images of another class (exit code 3).
    """
    if split.class_names == class_names:
        return split
    used = [split.class_names[label] for label in np.unique(split.labels)]
    unknown = [name for name in used if name not in class_names]
    if unknown or len(set(class_names)) < len(class_names) or len(set(split.class_names)) < split.num_classes:
        what = f"has the class '{unknown[0]}'" if unknown else "gives one name to two classes"
        more = f" ({len(unknown):,} classes)" if len(unknown) > 1 else ""
        raise DataError(
            f"'{split.name}' of '{split.task}' {what}{more}, which {whose} has not.",
            f"the {len(class_names):,} classes of {whose}, or some of them, by their names.",
            "Rename its class folders, or leave the others out.",
        )
    index = {name: label for label, name in enumerate(class_names)}
    places = np.array([index.get(name, -1) for name in split.class_names], dtype=np.int64)
    return replace(split, class_names=class_names, labels=places[split.labels])


def numbers(names: Sequence[str]) -> list[int] | None:
    """Return the numbers that all these names are; None where one is none."""
    return [int(name) for name in names] if all(name.isascii() and name.isdigit() for name in names) else None


def by_number(split: Split, outputs: int, whose: str) -> Split:
    """Return a split whose classes stand in the order of their numbers, where numbers are all their names are.

    Folders called 0 to 10 are read as 0, 1, 10, 2, ...: outputs that have no names are meant by the number.

    Args:
        split: its classes are as many as the outputs.
        outputs: of what its classes are to be positions of.
        whose: what these outputs belong to, for the message.

    Raises:
        DataError: the numbers are not 0 to K-1, and their order is not that of the names either (exit code 3).
    """
    names = split.class_names
    found = numbers(names)
    if found is None or found == sorted(found):
        return split
    if sorted(found) != list(range(outputs)):
        raise DataError(
            f"The classes of '{split.task}' are numbers, {min(found)} to {max(found)}; which output of {whose} "
            "each is cannot be told.",
            f"the numbers 0 to {outputs - 1}, of the outputs.",
            "Rename its class folders, or give the outputs names: label_names in a config.json beside the file.",
        )
    return by_name(split, tuple(sorted(names, key=int)), whose)


def absent(split: Split) -> tuple[str, ...]:
    """Return the names of the classes that have no image in a split."""
    present = set(np.unique(split.labels).tolist())
    return tuple(name for label, name in enumerate(split.class_names) if label not in present)


def untrained(train: Sequence[Split], test: Split) -> tuple[str, ...]:
    """Return the names of the classes that have an image in a split and none in those trained on, of equal classes."""
    seen = set(np.concatenate([split.labels for split in train]).tolist())
    return tuple(test.class_names[label] for label in np.unique(test.labels).tolist() if label not in seen)


def absent_note(names: Sequence[str]) -> str:
    """Return the note on classes without a test image; empty where each has one."""
    return f"{_classes(names)}: no test image" if names else ""


def untrained_note(names: Sequence[str]) -> str:
    """Return the note on classes that have test images and no training image; empty where there are none."""
    return f"{_classes(names)}: no training image, so that its test images count as wrong" if names else ""


def _classes(names: Sequence[str]) -> str:
    shown = some([f"'{name}'" for name in names], _NAMED)
    return f"class{'es' * (len(names) > 1)} {shown}"
