"""smallNORB: the owner's own binary matrices, named .mat but not MATLAB's."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from vitft.data import label_rules
from vitft.data.encode import png
from vitft.prepare.archives import Tree
from vitft.prepare.collections.raw import Collection, File, Raw, row_numbers, unexpected

_TYPES: dict[int, np.dtype[Any]] = {0x1E3D4C55: np.dtype("u1"), 0x1E3D4C54: np.dtype("<i4")}
_STEMS = {
    "train": "smallnorb-5x46789x9x18x6x2x96x96-training-",
    "test": "smallnorb-5x01235x9x18x6x2x96x96-testing-",
}


def _open(tree: Tree) -> Raw:
    """Columns of info: instance, elevation 0..8, azimuth 0, 2, .., 34, lighting. Only the left camera is used."""
    info, images = {}, {}
    for raw_split, stem in _STEMS.items():
        name = tree.need(f"{stem}info.mat")
        with _matrix(tree, name) as (file, dtype, shape):
            data = file.read()
        if len(shape) < 2 or shape[1] != 4 or len(data) != int(np.prod(shape)) * dtype.itemsize:
            raise unexpected(tree.label(name), f"{shape} in {len(data)} bytes", "(N, 4) of int32")
        info[raw_split] = np.frombuffer(data, dtype).reshape(-1, 4).astype(np.int64)
        images[raw_split] = tree.need(f"{stem}dat.mat")

    def read(raw_split: str, rows: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        wanted, label = set(map(int, rows)), tree.label(images[raw_split])
        with _matrix(tree, images[raw_split]) as (file, dtype, shape):
            if shape != (len(info[raw_split]), 2, 96, 96) or dtype.itemsize != 1:
                raise unexpected(label, f"{shape} of {dtype}", f"({len(info[raw_split])}, 2, 96, 96) of uint8")
            for row in range(max(wanted, default=-1) + 1):
                data = file.read(2 * 96 * 96)
                if len(data) < 2 * 96 * 96:
                    raise unexpected(label, f"only {row} whole images", f"{shape[0]}")
                if row in wanted:
                    left: NDArray[np.uint8] = np.frombuffer(data, np.uint8, 96 * 96).reshape(96, 96)
                    yield row, png(left)

    return Raw(
        row_numbers(info),
        {
            "smallnorb_azimuth": {
                raw_split: label_rules.smallnorb_azimuth(found[:, 2]) for raw_split, found in info.items()
            },
            "smallnorb_elevation": {raw_split: found[:, 1] for raw_split, found in info.items()},
        },
        read,
        drawn=True,
    )


@contextmanager
def _matrix(tree: Tree, name: str) -> Iterator[tuple[BinaryIO, np.dtype[Any], tuple[int, ...]]]:
    """Open a matrix behind its header: magic, number of dimensions, at least three sizes (all int32 LE)."""
    with tree.open(name) as file:
        head = np.frombuffer(file.read(8), "<i4")
        if len(head) < 2 or int(head[0]) not in _TYPES or not 1 <= head[1] <= 8:
            raise unexpected(
                tree.label(name), "another header", "0x1E3D4C55 or 0x1E3D4C54, then the number of dimensions"
            )
        sizes = np.frombuffer(file.read(4 * max(3, int(head[1]))), "<i4")
        yield file, _TYPES[int(head[0])], tuple(int(n) for n in sizes[: int(head[1])])


def _file(raw_split: str, kind: str, size: int, sha256: str) -> File:
    return File(f"https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/{_STEMS[raw_split]}{kind}.mat.gz", size, sha256)


SMALLNORB = Collection(
    "smallnorb",
    "smallNORB",
    "https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/",
    "research purposes, may not be sold; see the owner's page",
    (
        _file("train", "dat", 131_896_188, "5ffd6272a07d32695ee1082a26a41a93a37aab8c28da047f8c34ed348d214873"),
        _file("train", "info", 71_052, "de7eb932ebe7a4ee16217fead60660d0eb3d23632c2f4d1c51f88c501c17bf32"),
        _file("test", "dat", 130_799_817, "cf7104eed3e51174d2f65b66d1e5878b9da233b886f161b0d88f4510ba2c7474"),
        _file("test", "info", 10_428, "16adf314226327ee006d1a44db8cfef52773c06c829951d5653a9f6f310248a2"),
    ),
    _open,
)
