"""VTAB's splits where a data set has others: cut out of its owner's raw splits, or the first N of the 1,000."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from vitft.catalog import tasks
from vitft.catalog.shots import split_name
from vitft.data import official_splits, portions, reader
from vitft.data.split import Around, Opened, Sized, Source, Split
from vitft.errors import DataDamaged, DataError, DataMissing

_RAW = {"train": "train", "validation": "val", "test": "test"}
_VTAB_1K = ("train800", "val200", "train800val200", "test")
_FULL = ("train", "val", "test")


@dataclass(frozen=True)
class OfRaw(Around):
    """The splits of VTAB-1k (or of full VTAB) of a source whose keys are the owner's own.

    Attributes:
        source: opens the raw splits as "train", "val" (the raw validation split) and "test".
        full: give train, val and test of full VTAB instead of the 800 and 200.
    """

    source: Source
    full: bool = False

    @property
    def splits(self) -> tuple[str, ...]:
        return _FULL if self.full else _VTAB_1K

    @cached_property
    def _opened(self) -> Opened:
        return Opened(self.source)

    def open(self, split: str) -> Split:
        """Open one split of VTAB.

        Raises:
            DataMissing: no such split.
            DataDamaged: a raw split does not have its official size, without which its slices mean nothing.
        """
        if split not in self.splits:
            raise DataMissing(f"'{self.task}' has no split '{split}'.", f"{', '.join(self.splits)}.")
        task = tasks.get(self.task)
        raws: dict[str, Split] = {}  # the raw splits that this one is cut from
        chosen: list[tuple[Split, int]] = []
        for piece in official_splits.slices(task, split):
            raw = raws.setdefault(piece.raw_split, self._opened.open(_RAW[piece.raw_split]))
            if len(raw) != task.sizes[piece.raw_split]:
                official = task.sizes[piece.raw_split]
                raise DataDamaged(
                    f"{self.task}: {piece.raw_split} has {len(raw):,} of the official {official:,} images.",
                    "the whole raw split, as the official splits are positions in it.",
                    f"Run 'vitft data prepare {self.task}'.",
                )
            order = official_splits.hash_order(raw.keys, piece.raw_split)
            chosen += ((raw, i) for i in order[piece.start : piece.stop].tolist())
        keys = [raw.keys[i] for raw, i in chosen]
        stamp = next(iter(raws.values())).provenance
        return Split(
            self.task,
            split,
            next(iter(raws.values())).class_names,
            keys,
            np.asarray([raw.labels[i] for raw, i in chosen], dtype=np.int64),
            reader.taken([(raw.reader, i) for raw, i in chosen]),
            replace(
                stamp,
                reference=stamp.reference and not task.non_reference,
                why=stamp.why or task.non_reference,
                completeness="full",
            ),
        )


@dataclass(frozen=True)
class FirstShots(Around):
    """A VTAB-1k source with the first N of its 1,000 training examples: train800 in its order, then val200.

    What N has, every larger N has too. Nothing of val200 beyond them is to be seen: choices are made on their end.
    """

    source: Source
    n: int

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
        if portions.sorted_by_class(whole.labels):
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
        return portions.join([self.source.open("train800"), self.source.open("val200")], "train800val200")


def can_cut(source: Source) -> bool:
    """Tell whether VTAB's splits can be cut out of `source`: a VTAB task whose keys are the owner's own."""
    name = tasks.canonical(source.task)
    if name is None or name not in {task.name for task in tasks.VTAB} or not getattr(source, "owner_keys", False):
        return False
    needed = {
        _RAW[piece.raw_split] for piece in (*tasks.get(name).splits["train800val200"], *tasks.get(name).splits["test"])
    }
    return needed <= set(source.splits)


def val_is_train(data: Sized) -> bool:
    """Tell whether a known task comes with the val that VTAB cut off the end of its owner's train."""
    known = tasks.by_name(data.task)
    if known is None or not {"train", "val"} <= set(known.splits) & set(data.splits):
        return False
    train, val = known.splits["train"][0], known.splits["val"][0]
    lengths = [(data.count(name), len(piece)) for name, piece in (("train", train), ("val", val))]
    return train.raw_split == val.raw_split and all(have == official for have, official in lengths)
