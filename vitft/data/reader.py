"""How the encoded images of a split are read, and which images of which opened split they are."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

DIGEST = 16
"""Bytes of the digest of one encoded image."""


_LOCK = threading.Lock()  # of all of them: they grow seldom, and a warm process is copied in tests


class Digests:
    """Digests of images by their number, as far as they are known: 17 bytes an image. Safe to fill from threads."""

    def __init__(self) -> None:
        self._bytes = np.zeros((0, DIGEST), dtype=np.uint8)
        self._known = np.zeros(0, dtype=bool)

    def __contains__(self, number: int) -> bool:
        return number < len(self._known) and bool(self._known[number])

    def __getitem__(self, number: int) -> NDArray[np.uint8]:
        digest: NDArray[np.uint8] = self._bytes[number]
        return digest

    def __setitem__(self, number: int, digest: bytes | NDArray[np.uint8]) -> None:
        with _LOCK:
            if number >= len(self._known):
                more = max(number + 1, 2 * len(self._known)) - len(self._known)
                self._bytes = np.concatenate([self._bytes, np.zeros((more, DIGEST), dtype=np.uint8)])
                self._known = np.concatenate([self._known, np.zeros(more, dtype=bool)])
            self._bytes[number] = np.frombuffer(digest, np.uint8) if isinstance(digest, bytes) else digest
            self._known[number] = True


@dataclass(frozen=True, eq=False)
class Reader:
    """Read the encoded image at an index; what is found out about an image stays with the split that was opened.

    Attributes:
        one: index -> encoded image; safe to call from several threads.
        origin: index -> the reader and the index there that an image was taken from; None where it was opened itself.
        names: a number for each index, where readers of one source that share `found` hold some images both.
        found: number (or index) -> digest of the image, as far as it is known.
        file: index -> the file that holds an image, and the image's place in it (-1: the file is the image); as long as
            size and time of that file stay, so does the image. None where images are in no file, or in one that cannot
            be told.
    """

    one: Callable[[int], bytes]
    origin: Callable[[int], tuple["Reader", int]] | None = None
    names: Sequence[int] | None = None
    found: Digests = field(default_factory=Digests)
    file: Callable[[int], tuple[Path, int]] | None = None

    def __call__(self, i: int) -> bytes:
        return self.one(i)

    def opened(self, i: int) -> tuple["Reader", int]:
        """Return the reader that an image was opened with, and its index there."""
        reader = self
        while reader.origin is not None:
            reader, i = reader.origin(i)
        return reader, i

    def number(self, i: int) -> int:
        """Return the number under which the digest of an image that was opened here is kept."""
        return i if self.names is None else self.names[i]


def taken(places: Sequence[tuple[Reader, int]]) -> Reader:
    """Return a reader of some images of others, in the order of `places`."""
    return Reader(lambda i: places[i][0](places[i][1]), places.__getitem__)


def selected(reader: Reader, indices: NDArray[np.int64]) -> Reader:
    """Return a reader of the images at `indices`."""
    return Reader(lambda i: reader(int(indices[i])), lambda i: (reader, int(indices[i])))


def joined(readers: Sequence[Reader], lengths: Sequence[int]) -> Reader:
    """Return a reader of one after the other."""
    starts = np.cumsum([0, *lengths])

    def place(i: int) -> tuple[Reader, int]:
        part = int(np.searchsorted(starts, i, side="right")) - 1
        return readers[part], i - int(starts[part])

    def one(i: int) -> bytes:
        reader, at = place(i)
        return reader(at)

    return Reader(one, place)
