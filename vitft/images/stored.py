"""Pixels that were decoded before: rows of a file, or of an array in memory. No torch."""

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from vitft.errors import DataDamaged
from vitft.images import room

Shape = tuple[int, int, int, int]


class Stored:
    """(N, h, w, 3) uint8. A file is read row by row, so that memory does not grow with it; nobody deletes it meanwhile.

    A memory map would do the same, but its pages count as this process's memory, and a file that is cut short under one
    ends the process.

    Attributes:
        shape: (N, h, w, 3).
    """

    def __init__(self, shape: Shape, source: IO[bytes] | NDArray[np.uint8]) -> None:
        self.shape = shape
        self._source = source
        self._row = math.prod(shape[1:])
        self._start = len(header(shape))

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        return len(self) * self._row

    @property
    def on_disk(self) -> bool:
        return not isinstance(self._source, np.ndarray)

    def rows(
        self, indices: Sequence[int] | NDArray[np.int64], out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """Return the pixels at `indices`, (B, h, w, 3), in `out` where it is given. Safe to call from several threads.

        Raises:
            DataDamaged: the file was cut short since it was opened.
        """
        if out is None:
            out = np.empty((len(indices), *self.shape[1:]), dtype=np.uint8)
        if isinstance(self._source, np.ndarray):
            return np.take(self._source, np.asarray(indices, dtype=np.int64), axis=0, out=out)
        for k, i in enumerate(indices):
            if (
                os.preadv(self._source.fileno(), [memoryview(out[k]).cast("B")], self._start + int(i) * self._row)
                != self._row
            ):
                raise DataDamaged(
                    f"'{self._source.name}' was cut short while it was read.",
                    "a cache that only vitft writes to.",
                    "Run the same command again.",
                )
        return out


def header(shape: Shape) -> bytes:
    """Return the header of a file of pixels, in NumPy's format."""
    stream = io.BytesIO()
    npy.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return stream.getvalue()


def size(shape: Shape) -> int:
    """Return the bytes of a whole file."""
    return len(header(shape)) + math.prod(shape)


def opened(path: Path, shape: Shape) -> Stored | None:
    """Return a file's pixels; None where it is absent, cut short or of another shape."""
    try:
        file = path.open("rb")
        begin = header(shape)
        if room.hold(file) and file.read(len(begin)) == begin and os.fstat(file.fileno()).st_size == size(shape):
            room.touch(path)
            return Stored(shape, file)
        file.close()
    except OSError:
        pass
    return None
