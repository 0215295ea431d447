"""The first N of VTAB-1k's training examples, for accuracy against their number."""

from dataclasses import dataclass
from pathlib import Path

from vitft.catalog.shots import split_name
from vitft.data import subsets
from vitft.data.split import Source, Split, place_of
from vitft.errors import DataError, DataMissing


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
        return place_of(self.source)

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
            raise DataMissing(f"'{self.task}' has no split '{split}'.", f"{', '.join(self.splits)}.")
        whole = self._whole()
        if subsets.sorted_by_class(whole.labels):
            raise DataError(
                f"The examples of '{self.task}' are sorted by class: the first {self.n} say nothing of the rest.",
                "VTAB-1k's examples in their own order.",
                "Take --shots 1000, or 'vitft finetune --per-class K'.",
            )
        if len(whole) < self.n:
            raise DataError(f"'{self.task}' has {len(whole):,} training examples, not {self.n:,}.")
        return whole.select(range(self.n), split)

    def _whole(self) -> Split:
        if "train800val200" in self.source.splits:
            return self.source.open("train800val200")
        return subsets.join([self.source.open("train800"), self.source.open("val200")], "train800val200")
