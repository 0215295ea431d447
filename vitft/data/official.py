"""How many examples the official splits of a task hold, and what a source may therefore claim."""

import itertools
from collections.abc import Sequence

from vitft.catalog import tasks
from vitft.data.split import Completeness


def counts(task: str, split: str) -> tuple[int, ...]:
    """Return every count that the official split is known to have; empty for a task or split without one.

    Caltech101's test split holds 6,084 images in the benchmark's own test and 6,085 in the community's archive. `train`
    may be the owner's whole training split (CIFAR-100: 50,000) or the part of it that VTAB calls train (45,000).
    """
    name = tasks.canonical(task)
    pieces = tasks.get(name).splits.get(split, ()) if name else ()
    if not pieces:
        return ()
    n = sum(piece.stop - piece.start for piece in pieces)
    if (name, split) == ("caltech101", "test"):
        return (n, n + 1)
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
    """Say how far `n` is from the official count; empty when it is one, or when there is none."""
    official = counts(task, split)
    return "" if not official or n in official else f"{split} has {n:,} of the official {official[0]:,} images"
