"""What a collection is: the files its owner publishes, and how keys, labels and encoded images are read from them."""

from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from posixpath import basename
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from vitft.errors import DataDamaged
from vitft.prepare.archives import Tree

Labels = Mapping[str, Mapping[str, NDArray[np.int64]]]
"""task -> raw split -> (N,) labels, in the order of the keys; -1 where the file itself says "none"."""

Read = Callable[[str, Sequence[int]], Iterator[tuple[int, bytes]]]
"""(raw split, rows) -> (row, encoded image), each row once, in whatever order the files are read fastest."""


@dataclass(frozen=True)
class File:
    """One file as its owner publishes it.

    Attributes:
        address: where it is served; empty where a person has to fetch it.
        size: bytes, 0 where not known.
        sha256: hex digest, empty where not known.
        manual: what the person has to do; also the way out where the address no longer answers.
        name: file name on disk; by default the last part of the address.
        about: bytes, roughly, where the exact size is not known.
    """

    address: str
    size: int = 0
    sha256: str = ""
    manual: str = ""
    name: str = ""
    about: int = 0

    @property
    def filename(self) -> str:
        return self.name or unquote(basename(urlsplit(self.address).path))


@dataclass(frozen=True)
class Raw:
    """A collection opened: everything but the images.

    Attributes:
        keys: raw split ("train", "validation", "test") -> keys in the owner's order; unique in their split.
        labels: see there.
        read: see there.
        drawn: the images are arrays in the files, written here as lossless PNG.
        absent: raw split -> first image that the owner's lists name and the files lack.
        notes: what a reader of the numbers should know.
    """

    keys: Mapping[str, Sequence[str]]
    labels: Labels
    read: Read
    drawn: bool = False
    absent: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Collection:
    """One raw data set of VTAB.

    Attributes:
        name: as `catalog.tasks.Task.collection`.
        title: as its owner calls it.
        page: the owner's page.
        licence: as the owner states it; "see the owner's page" where vitft is not sure.
        files: what to fetch.
        open: tree -> Raw.
        archives: patterns of archive names that may hold it, beside the names of `files`.
        processing: what is done to the images, where they are not kept byte for byte.
        opencv: the processing is defined by OpenCV (the extra `vitft[opencv]`).
        rule: by which vitft makes its splits, where an earlier vitft went by another; a manifest carries it, and data
            prepared by another one is refused.
    """

    name: str
    title: str
    page: str
    licence: str
    files: tuple[File, ...]
    open: Callable[[Tree], Raw]
    archives: tuple[str, ...] = ()
    processing: str = ""
    opencv: bool = False
    rule: str = ""

    @property
    def automatic(self) -> bool:
        """Whether every file has an address."""
        return all(file.address for file in self.files)

    @property
    def size(self) -> int:
        """Bytes to fetch, 0 where one of the files has no known size."""
        sizes = [file.size or file.about for file in self.files]
        return sum(sizes) if all(sizes) else 0


def unexpected(label: str, found: str, legal: str) -> DataDamaged:
    """Return the error for an owner's file that holds something else than it should."""
    return DataDamaged(f"'{label}' holds {found}.", f"{legal}.", "Fetch the file again.")


def row_numbers(rows: Mapping[str, Sized]) -> dict[str, list[str]]:
    """Return the keys of splits whose examples are called by their row, from 0."""
    return {raw_split: [str(i) for i in range(len(found))] for raw_split, found in rows.items()}


@dataclass(frozen=True)
class Listed:
    """One image that is a file of its own: its key, where it lies (None: absent) and its label for each task."""

    key: str
    file: str | None
    labels: tuple[int, ...]


def from_files(
    tree: Tree,
    tasks: Sequence[str],
    listed: Mapping[str, Sequence[Listed]],
    process: Callable[[bytes, str], bytes] | None = None,
    notes: tuple[str, ...] = (),
) -> Raw:
    """Return the Raw of a collection whose images are files.

    Args:
        tree: where the files are.
        tasks: the tasks whose labels `Listed.labels` holds, in that order.
        listed: raw split -> its images.
        process: (encoded image, name for an error) -> encoded image; None keeps the bytes.
        notes: see Raw.
    """
    present = {raw_split: [item for item in items if item.file is not None] for raw_split, items in listed.items()}
    absent = {raw_split: next((i.key for i in items if i.file is None), "") for raw_split, items in listed.items()}

    def read(raw_split: str, rows: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        row_of = {str(present[raw_split][row].file): int(row) for row in rows}
        for name, data in tree.stream(row_of.keys()):
            yield row_of[name], process(data, tree.label(name)) if process else data

    return Raw(
        {raw_split: [item.key for item in items] for raw_split, items in present.items()},
        {
            task: {raw_split: np.array([i.labels[t] for i in items], np.int64) for raw_split, items in present.items()}
            for t, task in enumerate(tasks)
        },
        read,
        absent={raw_split: key for raw_split, key in absent.items() if key},
        notes=notes,
    )
