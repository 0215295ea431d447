"""How many training examples a task of VTAB has: the 1,000 of VTAB-1k, all, or the first N of the 1,000."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vitft.data import subsets
from vitft.data.split import Source, Split
from vitft.errors import DataError, DataMissing, UsageError

Shots = str
"""A number up to "1000", which is VTAB-1k and less the first of it, or "full" for all training data."""

MOST = 1000


def checked(text: str) -> Shots:
    """Return "full", or a number as it is written shortest. Raises UsageError (exit code 2)."""
    if text == "full" or (text.isdecimal() and 0 < int(text) <= MOST):
        return text if text == "full" else str(int(text))
    raise UsageError(
        f"--shots '{text}' is no number of training examples.",
        f"Legal: 1 to {MOST} (the first of VTAB-1k's {MOST:,}), or full.",
    )


def splits_of(shots: Shots) -> Literal["1000", "full"]:
    """Return whose splits they are cut from: VTAB-1k's or full VTAB's."""
    return "full" if shots == "full" else "1000"


def number(shots: Shots) -> int:
    """Return how many they are; 0 for all."""
    return 0 if shots == "full" else int(shots)


def first_of(shots: Shots | None) -> int | None:
    """Return N where only the first N of VTAB-1k's examples are asked for, else None."""
    return int(shots) if shots and shots != "full" and int(shots) < MOST else None


def split_name(n: int) -> str:
    """Return the name of the first N examples of VTAB-1k, as TensorFlow Datasets writes a slice."""
    return f"train800val200[:{n}]"


def first_in(name: str | None) -> int | None:
    """Return N of a split's name, None where it is no such split."""
    found = re.fullmatch(r"train800val200\[:(\d+)\]", name or "")
    return int(found[1]) if found else None


@dataclass(frozen=True)
class First:
    """A VTAB-1k source with the first N of its 1,000 training examples: train800 in its order, then val200.

    What N has, every larger N has too. Nothing of val200 beyond them is to be seen: choices are made on their end.
    """

    source: Source
    n: int

    @property
    def task(self) -> str:
        return self.source.task

    @property
    def place(self) -> Path | None:
        """Where the source's files are."""
        place: Path | None = getattr(self.source, "place", None) or getattr(self.source, "path", None)
        return place

    @property
    def splits(self) -> tuple[str, ...]:
        return (split_name(self.n), "test")

    def open(self, split: str) -> Split:
        """Open one split.

        Raises:
            DataMissing: no such split.
            DataError: the 1,000 are sorted by class, so that the first N would be of a few classes only.
        """
        if split == "test":
            return self.source.open(split)
        if split != split_name(self.n):
            raise DataMissing(f"'{self.task}' has no split '{split}'.", f"Legal: {', '.join(self.splits)}.")
        whole = self._whole()
        if subsets.sorted_by_class(whole.labels):
            raise DataError(
                f"The examples of '{self.task}' are sorted by class: the first {self.n} say nothing of the rest.",
                "Legal: VTAB-1k's examples in their own order.",
                "Take --shots 1000, or 'vitft finetune --per-class K'.",
            )
        if len(whole) < self.n:
            raise DataError(f"'{self.task}' has {len(whole):,} training examples, not {self.n:,}.")
        return whole.select(range(self.n), split)

    def _whole(self) -> Split:
        if "train800val200" in self.source.splits:
            return self.source.open("train800val200")
        return subsets.join([self.source.open("train800"), self.source.open("val200")], "train800val200")
