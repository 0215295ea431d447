"""scikit-learn's handwritten digits: 1,797 images of 8 x 8, built in, so that everything runs without a network."""

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from vitft.data.encode import png
from vitft.data.split import Provenance, Split
from vitft.errors import DataMissing

_NAMES = tuple("0123456789")


@dataclass(frozen=True)
class Digits:
    """A stratified half for training and the other half for test, fixed for ever."""

    @property
    def task(self) -> str:
        return "digits"

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train", "test")

    def open(self, split: str) -> Split:
        """Open "train" (901 images) or "test" (896). Raises DataMissing for another name."""
        if split not in self.splits:
            raise DataMissing(f"digits has no split '{split}'.", "train, test.")
        images, labels, train = _arrays()
        rows = np.flatnonzero(train == (split == "train"))
        return Split(
            "digits",
            split,
            _NAMES,
            [str(row) for row in rows],
            labels[rows],
            lambda i: png(images[rows[i]]),
            Provenance("digits (scikit-learn)", True, "", "full"),
        )


@cache
def _arrays() -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.bool_]]:
    """Return images (1797, 8, 8) in 0..255, labels (1797,) and whether each belongs to train.

    Of each class the first half (the larger one, where odd) in the order of md5("digits" + row) is for training: no
    random generator, whose stream a library could change.
    """
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = np.round(raw.images * (255 / 16)).astype(np.uint8)
    labels = raw.target.astype(np.int64)
    rows = defaultdict(list)
    for row in sorted(range(len(labels)), key=lambda row: hashlib.md5(f"digits{row}".encode()).digest()):
        rows[int(labels[row])].append(row)
    train = np.zeros(len(labels), dtype=bool)
    for of_class in rows.values():
        train[of_class[: (len(of_class) + 1) // 2]] = True
    return images, labels, train
