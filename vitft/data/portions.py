"""Portions of an opened split: `--limit N`, `--per-class K`, and the development split that tuning selects on.

The splits that a benchmark's rule cuts out of its owner's files are in `official_splits`.
"""

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vitft.data import reader
from vitft.data.split import Provenance, Split
from vitft.errors import DataError, UsageError

DevRule = Literal["end", "stratified end"]

JOINED = "+"
"""Between the names of splits that are trained on together."""


def limit(split: Split, n: int, seed: int) -> Split:
    """Return at most `n` examples, drawn without replacement, in the split's order.

    Each class gets its share of `n`, rounded so that the shares add up (largest remainder first, then the lower label);
    classes therefore keep an example as far as `n` allows. The draw depends on keys, not on their order.
    """
    if n < 1:
        raise UsageError(f"--limit {n} leaves no image.", "a number from 1.")
    if n >= len(split):
        return split
    counts = np.bincount(split.labels, minlength=split.num_classes)
    exact = counts * (n / len(split))
    shares = np.floor(exact).astype(np.int64)
    # An empty share is filled before a larger one is rounded up.
    order = np.lexsort((np.arange(len(counts)), -(exact - shares), shares > 0))
    for label in order[counts[order] > 0][: n - int(shares.sum())]:
        shares[label] += 1
    return split.select(_drawn(split, shares, seed))


def per_class(split: Split, k: int, seed: int) -> Split:
    """Return `k` examples of each class, drawn without replacement, in the split's order.

    Draws of one seed are nested: the first 5 of a class are among its first 10.

    Raises:
        DataError: a class has fewer than `k` (exit code 3).
    """
    if k < 1:
        raise UsageError(f"--per-class {k} leaves no image.", "a number from 1.")
    counts = np.bincount(split.labels, minlength=split.num_classes)
    short = np.flatnonzero(counts < k)
    if len(short):
        label = int(short[np.argmin(counts[short])])
        more = f" ({len(short)} classes have too few)" if len(short) > 1 else ""
        raise DataError(
            f"Class '{split.class_names[label]}' has {counts[label]} images in '{split.name}', not {k}{more}.",
            f"up to {int(counts.min())} of each class." if counts.min() else "",
            "Lower --per-class, or take a larger split.",
        )
    return split.select(_drawn(split, np.full(split.num_classes, k), seed))


def dev_split(split: Split, fraction: float) -> tuple[Split, Split, DevRule]:
    """Cut a training split into (train, dev): the first part and the end, as TFDS `train[:98%]` and `train[98%:]`.

    Where the split is sorted by class (image folders), its end would be one class: then the end of each class is taken
    instead, and the rule is "stratified end". The same split always gives the same parts.

    Args:
        split: the training split.
        fraction: of it that goes to dev, in (0, 1); TFDS rounds to the nearest whole example.

    Raises:
        DataError: too few images to cut.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"A development split of {fraction:g} is not possible.", "between 0 and 1.")
    n = len(split)
    if n < 2:
        raise DataError(f"'{split.name}' of '{split.task}' has {n} image: too few to hold some out for selection.")
    cut = min(max(round((1 - fraction) * n), 1), n - 1)
    rows = np.arange(n)
    if not sorted_by_class(split.labels):
        return split.select(rows[:cut], "train"), split.select(rows[cut:], "dev"), "end"
    held = np.zeros(n, dtype=bool)
    for label in np.unique(split.labels):
        of_class = rows[split.labels == label]
        held[of_class[len(of_class) - _share(len(of_class), fraction) :]] = True
    return split.select(rows[~held], "train"), split.select(rows[held], "dev"), "stratified end"


def sorted_by_class(labels: NDArray[np.int64]) -> bool:
    """Tell whether equal labels stand together: several classes, each in one run, and more images than classes."""
    runs = int(np.count_nonzero(np.diff(labels))) + 1
    classes = len(np.unique(labels))
    return 1 < classes == runs < len(labels)


def join(splits: Sequence[Split], name: str) -> Split:
    """Return several splits of one task one after the other, e.g. train and val.

    Raises:
        DataError: an image stands in two of them.
    """
    first = splits[0]
    keys = [key for split in splits for key in split.keys]
    if len(set(keys)) != len(keys):
        # Keys are unique within a split only: row numbers start anew in each.
        keys = [f"{split.name}/{key}" for split in splits for key in split.keys]
        if len(set(keys)) != len(keys):
            raise DataError(f"'{name}' of '{first.task}' would hold an image twice.", "splits apart from one another.")
    stamps = [split.provenance for split in splits]
    worst = max(stamps, key=lambda stamp: ("full", "declared", "partial").index(stamp.completeness))
    return Split(
        first.task,
        name,
        first.class_names,
        keys,
        np.concatenate([split.labels for split in splits]),
        reader.joined([split.reader for split in splits], [len(split) for split in splits]),
        Provenance(
            stamps[0].source,
            all(stamp.reference for stamp in stamps),
            next((stamp.why for stamp in stamps if stamp.why), ""),
            worst.completeness,
            stamps[0].revision,
        ),
        first.exif,
    )


def _share(n: int, fraction: float) -> int:
    """Return how many of `n` examples of a class are held out: rounded, at least one where two are there."""
    return min(max(round(n * fraction), 1), n - 1)


def _drawn(split: Split, shares: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Draw `shares[label]` examples of each class: those with the smallest digest of (seed, key)."""
    prefix = f"{seed}:".encode()
    digests = [hashlib.blake2b(prefix + str(key).encode(), digest_size=8).digest() for key in split.keys]
    order = sorted(range(len(split)), key=digests.__getitem__)
    left = shares.tolist()
    labels = split.labels.tolist()
    chosen = []
    for i in order:
        if left[labels[i]] > 0:
            left[labels[i]] -= 1
            chosen.append(i)
    return np.sort(np.asarray(chosen, dtype=np.int64))
