"""The official splits of VTAB: positions in the order of md5(raw split + key), as TensorFlow Datasets stores them.

A slice such as train[:800] is a set fixed by keys alone, whatever the number of shards. (The order in which TFDS reads
several shards is another, 16 by 16 in turn; vitft uses the order of the hash throughout, so only sets are compared.)
Source: tensorflow_datasets/core/hashing.py and shuffle.py, the same from 1.3.2 to 4.9.10.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from vitft.catalog import tasks
from vitft.catalog.tasks import Slice, Task
from vitft.data import lists
from vitft.errors import DataError, UsageError
from vitft.results.checks import keys_digest

# Collections whose key is the number of the row.
_ROWS = frozenset({"cifar10", "cifar100", "svhn_cropped", "dsprites", "smallnorb"})
_ENUMERABLE = _ROWS | {"clevr", "patch_camelyon", "eurosat", "resisc45", "sun397"}
_EUROSAT = (3000, 3000, 3000, 2500, 2500, 2000, 2500, 3000, 2500, 3000)
_PCAM = {"train": "train", "validation": "valid", "test": "test"}
_CLEVR = {"train": "train", "validation": "val", "test": "test"}


def hash_order(keys: Sequence[str | bytes | int], raw_split: str) -> NDArray[np.int64]:
    """Return the positions of `keys` in ascending order of int(md5(raw_split + key)), (N,) int64.

    Args:
        keys: as TFDS makes them: bytes as they are, text in UTF-8, numbers in decimal.
        raw_split: the raw split: "train", "validation" or "test".
    """
    start = hashlib.md5(raw_split.encode())
    digests = bytearray()
    for key in keys:
        h = start.copy()
        h.update(key if isinstance(key, bytes) else str(key).replace("\\", "/").encode())
        digests += h.digest()
    halves = np.frombuffer(bytes(digests), ">u8").astype(np.uint64).reshape(-1, 2)
    return np.lexsort((halves[:, 1], halves[:, 0])).astype(np.int64)


def raw_keys(task: Task, raw_split: str) -> list[str] | None:
    """Return all keys of a raw split in the collection's own order, or None where they are known from the data only."""
    n = task.sizes[raw_split]
    make: Callable[[int], str]
    match task.collection:
        case name if name in _ROWS:
            make = str
        case "clevr":
            make = f"CLEVR_{_CLEVR[raw_split]}_{{:06d}}.png".format
        case "patch_camelyon":
            make = f"{_PCAM[raw_split]}_{{}}".format
        case "eurosat":
            names = zip(lists.names("eurosat"), _EUROSAT, strict=True)
            return [f"{name}_{name}_{i}.jpg" for name, size in names for i in range(1, size + 1)]
        case "resisc45":
            return [f"{name}_{name}_{i:03d}.jpg" for name in lists.names("resisc45") for i in range(1, 701)]
        case "sun397":
            return list(lists.sun397()[raw_split])
        case _:
            return None
    return [make(i) for i in range(n)]


def slices(task: Task, split: str, sizes: Mapping[str, int] | None = None) -> tuple[Slice, ...]:
    """Return the slices of a split. Raises UsageError for a split that the task does not have.

    `sizes` is how many examples each raw split was found to have. Caltech101 prepared elsewhere may have 3,059 in train
    instead of 3,060; its val starts after nine tenths, rounded down, so it moves with them.
    """
    if split not in task.splits:
        legal = ", ".join(task.splits)
        raise UsageError(f"Task '{task.name}' has no split '{split}'.", f"{legal}.")
    pieces = task.splits[split]
    sizes = sizes or task.sizes
    n = sizes.get("train", 0)
    if task.name != "caltech101" or n == task.sizes["train"]:
        return pieces
    shift = n * 9 // 10 - task.sizes["train"] * 9 // 10
    moved = []
    for piece in pieces:
        if piece.raw_split != "train":
            moved.append(Slice(piece.raw_split, piece.start, sizes.get(piece.raw_split, piece.stop)))
        else:
            start = piece.start + shift if piece.start else 0
            moved.append(
                Slice(
                    "train",
                    start,
                    piece.stop if piece.stop == 800 else min(piece.stop + shift, n),
                )
            )
    return tuple(moved)


def split_keys(task: str, split: str, keys_by_raw_split: Mapping[str, Sequence[str]] | None = None) -> list[str]:
    """Return the keys of an official split in hash order, the pieces of train800val200 one after the other.

    Args:
        task: canonical name or alias.
        split: "train", "val", "test", "train800", "val200" or "train800val200".
        keys_by_raw_split: all keys of each raw split as found in the data; needed where `raw_keys` gives None.

    Raises:
        UnknownName, UsageError: no such task or split (exit code 2).
        DataError: the keys are known from the data only (exit code 3).
    """
    known = tasks.get(task)
    sizes = {raw_split: len(keys) for raw_split, keys in keys_by_raw_split.items()} if keys_by_raw_split else None
    chosen: list[str] = []
    for piece in slices(known, split, sizes):
        if keys_by_raw_split and piece.raw_split in keys_by_raw_split:
            ordered = _sorted_keys(keys_by_raw_split[piece.raw_split], piece.raw_split)
        elif keys_by_raw_split or known.collection not in _ENUMERABLE:
            raise DataError(
                f"The keys of '{known.name}' are known from its data only.",
                "--source DIR naming the raw data, or prepared data.",
                f"Run 'vitft data splits {known.name} --split {split} --source DIR'.",
            )
        else:
            ordered = _enumerated(known.collection, piece.raw_split)
        chosen += ordered[piece.start : piece.stop]
    return chosen


def _sorted_keys(keys: Sequence[str], raw_split: str) -> tuple[str, ...]:
    return tuple(keys[i] for i in hash_order(keys, raw_split).tolist())


@lru_cache(maxsize=2)
def _enumerated(collection: str, raw_split: str) -> tuple[str, ...]:
    """Return the keys of a raw split in hash order; dSprites' 737,280 take over a second, so they are remembered."""
    task = next(task for task in tasks.TASKS if task.collection == collection)
    return _sorted_keys(raw_keys(task, raw_split) or (), raw_split)


class Described(TypedDict):
    """The keys of an official split, and whether they are the reference; `why` where they are not."""

    task: str
    split: str
    n: int
    sha256: str
    reference: bool
    why: str
    keys: list[str]


def describe(task: str, split: str, keys: Sequence[str]) -> Described:
    """Return the JSON of `vitft data splits`."""
    known = tasks.get(task)
    return {
        "task": known.name,
        "split": split,
        "n": len(keys),
        "sha256": keys_digest(keys),
        "reference": not known.non_reference,
        "why": known.non_reference,
        "keys": list(keys),
    }
