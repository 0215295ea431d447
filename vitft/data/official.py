"""How many examples the official splits of a task hold, and what a source may therefore claim."""

import itertools
from collections.abc import Mapping, Sequence

from vitft.catalog import tasks
from vitft.catalog.tasks import Task
from vitft.results.parts import Completeness

SUN397_LEFT_OUT = "/t/track/outdoor/sun_aophkoiosslinihb.jpg"
"""A training image of SUN397 that is badly encoded; TensorFlow Datasets leaves it out from 4.9.3 on, vitft always."""
SUN397_NOTE = f"train lacks '{SUN397_LEFT_OUT}', which is badly encoded (so in TensorFlow Datasets from 4.9.3 on)"

SPLIT_RULES = {"caltech101": "30 of each class, as TensorFlow Datasets 3.0.2 draws over sorted names"}
"""Collection -> the rule by which vitft makes its splits, where an earlier vitft went by another."""


def counts(task: str, split: str) -> tuple[int, ...]:
    """Return every count that the official split is known to have; empty for a task or split without one.

    Caltech101's test split holds 6,084 images in the benchmark's own test and 6,085 in the community's archive. The
    `train` of SUN397 lacks `SUN397_LEFT_OUT` where TensorFlow Datasets 4.9.3 or later, or vitft, made it. `train` may
    be the owner's whole training split (CIFAR-100: 50,000) or the part of it that VTAB calls train (45,000).
    """
    name = tasks.canonical(task)
    n = tasks.get(name).count(split) if name else 0
    if not n:
        return ()
    if (name, split) == ("caltech101", "test"):
        return (n, n + 1)
    if (name, split) == ("sun397", "train"):
        return (n, n - 1)
    if name and split == "train":
        return tuple(dict.fromkeys((tasks.get(name).sizes["train"], n)))
    return (n,)


def joined(task: str, splits: Sequence[str]) -> tuple[int, ...]:
    """Return every count that several official splits are known to have together, the usual one first."""
    each = [counts(task, split) for split in splits]
    if len(each) == 1:
        return each[0]
    return tuple(sorted({sum(one) for one in itertools.product(*each)})) if all(each) else ()


def completeness(task: str, split: str, n: int) -> Completeness:
    """Return "full" when `n` is the official count of the split, else "partial"."""
    return "full" if n in counts(task, split) else "partial"


def shortfall(task: str, split: str, n: int) -> str:
    """Return the words for how far `n` is from the official count; empty where it is one, or where there is none."""
    official = counts(task, split)
    return "" if not official or n in official else f"{split} has {n:,} of the official {official[0]:,} images"


def raw_shortfall(task: Task, sizes: Mapping[str, int]) -> tuple[str, str] | None:
    """Return the first raw split that does not have its official count, and say how far it is; None where all have.

    Official, too, are: Caltech101 with one example less in train and one more in test, where a file that is no image
    was drawn for train; SUN397 without its badly encoded image.
    """
    used = dict.fromkeys(piece.raw_split for pieces in task.splits.values() for piece in pieces)
    if task.name == "caltech101" and (sizes.get("train"), sizes.get("test")) == (3059, 6085):
        return None
    for raw_split in used:
        n, present = task.sizes[raw_split], sizes.get(raw_split, 0)
        if present != n and (task.name, raw_split, present) != ("sun397", "train", n - 1):
            return raw_split, f"{raw_split} has {present:,} of {n:,} images"
    return None
