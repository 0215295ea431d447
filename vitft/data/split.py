"""What a data set looks like to the rest of vitft: a `Source` opens a `Split`."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vitft.catalog.shots import Shots, first_of, split_name
from vitft.catalog.tasks import Task
from vitft.data.reader import Reader, selected
from vitft.results.parts import Completeness


@dataclass(frozen=True)
class Provenance:
    """Where a split's images come from; it only ever adds a footnote to a number.

    Attributes:
        source: kind and place, e.g. "vtab folder (JPEG re-encoded)", "parquet", "digits (scikit-learn)".
        reference: whether the examples are those of the official split.
        why: the reason where they are not.
        completeness: "full" (the official count), "declared" (the count its manifest gives), "partial".
        revision: version or commit of the data where it has one.
    """

    source: str
    reference: bool = False
    why: str = ""
    completeness: Completeness = "partial"
    revision: str = ""


@dataclass(frozen=True)
class Split:
    """One opened split: an index of its examples. Images are read one by one, when asked for.

    Attributes:
        task: canonical task name, or the folder's name for a user's own data.
        name: "train", "val", "test", "train800", "val200" or "train800val200".
        class_names: K names, index = label.
        keys: N stable names of the examples, unique within the split.
        labels: (N,) int64 in [0, K).
        read: index -> the encoded image (JPEG, PNG, WebP, ... bytes); safe to call from several threads. It becomes a
            `Reader`: parts of a split, and its likes with other labels, know of which opened images they are.
        provenance: see there.
        exif: apply the EXIF orientation (a user's photographs); benchmark sets are read as their reference code does.
    """

    task: str
    name: str
    class_names: tuple[str, ...]
    keys: Sequence[str]
    labels: NDArray[np.int64]
    read: Callable[[int], bytes]
    provenance: Provenance
    exif: bool = field(default=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "read", self.reader)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def reader(self) -> Reader:
        return self.read if isinstance(self.read, Reader) else Reader(self.read)

    @cached_property
    def digest(self) -> str:
        """sha256 over keys and labels in their order: equal digests mean the same examples in the same order."""
        h = hashlib.sha256()
        for key, label in zip(self.keys, self.labels.tolist(), strict=True):
            h.update(f"{key}\t{label}\n".encode())
        return h.hexdigest()

    def select(self, indices: Sequence[int] | NDArray[np.int64], name: str | None = None) -> "Split":
        """Return the examples at `indices`, in that order, as a `partial` split."""
        indices = np.asarray(indices, dtype=np.int64)
        return Split(
            self.task,
            name or self.name,
            self.class_names,
            [self.keys[i] for i in indices],
            self.labels[indices],
            selected(self.reader, indices),
            replace(self.provenance, completeness="partial"),
            self.exif,
        )


class Named(Protocol):
    """A data set by its name and those of its splits."""

    @property
    def task(self) -> str:
        """Canonical task name, or the folder's name for a user's own data."""
        ...

    @property
    def splits(self) -> tuple[str, ...]:
        """Names that the other methods take."""
        ...


class Source(Named, Protocol):
    """One data set at one place: the file or folder `path`, or `place` where its files are more narrowly there."""

    def open(self, split: str) -> Split:
        """Open one split. Raises DataMissing (no such split or file) or DataDamaged (exit code 3)."""
        ...


def place_of(source: Source) -> Path | None:
    """Return where a source's files are, as narrowly as it knows; None for what is inside vitft."""
    place: Path | None = getattr(source, "place", None) or getattr(source, "path", None)
    return place


def path_of(source: Source) -> str:
    """Return the absolute path that opens a source again; "" for what is inside vitft, or on the hub."""
    path: Path | None = getattr(source, "path", None)
    return str(path.absolute()) if path is not None and path.exists() else ""


class Sized(Named, Protocol):
    """What a plan asks of a data set: how many images its splits have, and how many classes; no image, no name."""

    def count(self, split: str) -> int:
        """Return how many images a split has."""
        ...

    def num_classes(self, split: str, /) -> int:
        """Return how many classes a split's labels are of."""
        ...


@dataclass(frozen=True)
class Counts:
    """A data set in numbers: `images` of each split, and classes."""

    task: str
    images: Mapping[str, int]
    classes: int

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.images)

    def count(self, split: str) -> int:
        return self.images[split]

    def num_classes(self, _split: str, /) -> int:
        return self.classes


def catalogued(task: Task, shots: Shots | None = None) -> Counts:
    """Return a task's official data in numbers: its owner's training images, val and test, or VTAB's splits of them."""
    first = first_of(shots)
    whole = ("train", "val", "test") if shots in (None, "full") else ("train800", "val200", "train800val200", "test")
    images = {name: task.count(name) for name in (("test",) if first else whole) if name in task.splits}
    return Counts(task.name, {split_name(first): first, **images} if first else images, task.num_classes)


class Around:
    """What a source has from the one it is made of: its task and its place."""

    source: Source

    @property
    def task(self) -> str:
        return self.source.task

    @property
    def place(self) -> Path | None:
        """Where its files are; None for what is inside vitft."""
        return place_of(self.source)


class Opened(Around):
    """A source whose splits are opened once; what is found out about an opened split stays with it."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._splits: dict[str, Split] = {}

    @property
    def splits(self) -> tuple[str, ...]:
        return self.source.splits

    def open(self, split: str) -> Split:
        """Open one split, or return the one that is open. Raises as the source."""
        if split not in self._splits:
            self._splits[split] = self.source.open(split)
        return self._splits[split]

    def count(self, split: str) -> int:
        return len(self.open(split))

    def num_classes(self, split: str) -> int:
        return self.open(split).num_classes

    def counts(self, splits: Sequence[str]) -> Counts:
        """Return these splits in numbers; they are opened, where they are not."""
        return Counts(self.task, {split: self.count(split) for split in splits}, self.num_classes(splits[0]))
