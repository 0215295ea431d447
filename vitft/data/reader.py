"""How the encoded images of a split are read, and which images of which opened split they are."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Reader:
    """Read the encoded image at an index; what is found out about an image stays with the split that was opened.

    Attributes:
        one: index -> encoded image; safe to call from several threads.
        origin: index -> the reader and the index there that an image was taken from; None where it was opened itself.
        names: a name for each index, where readers of one source that share `found` hold some images both.
        found: name (or index) -> digest of the image, as far as it is known.
    """

    one: Callable[[int], bytes]
    origin: Callable[[int], tuple["Reader", int]] | None = None
    names: Sequence[Hashable] | None = None
    found: dict[Hashable, bytes] = field(default_factory=dict)

    def __call__(self, i: int) -> bytes:
        return self.one(i)

    def known(self, i: int) -> tuple[dict[Hashable, bytes], Hashable]:
        """Return where the digest of an image is kept, and under which key."""
        reader = self
        while reader.origin is not None:
            reader, i = reader.origin(i)
        return reader.found, i if reader.names is None else reader.names[i]


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
