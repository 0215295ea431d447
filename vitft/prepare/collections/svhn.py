"""SVHN, cropped digits: MATLAB 5 files with X (32, 32, 3, N) and y (N, 1), where 10 stands for the digit 0."""

import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitft.data.encode import png
from vitft.data.reading import reading
from vitft.errors import DataDamaged
from vitft.prepare.archives import Tree
from vitft.prepare.collections.raw import Collection, File, Raw, row_numbers, unexpected

_FILES = {"train": "train_32x32.mat", "test": "test_32x32.mat"}


def _open(tree: Tree) -> Raw:
    names = {raw_split: tree.need(file) for raw_split, file in _FILES.items()}
    labels = {raw_split: load(tree, name, "y").reshape(-1).astype(np.int64) % 10 for raw_split, name in names.items()}

    def read(raw_split: str, rows: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        images = load(tree, names[raw_split], "X")
        if images.shape != (32, 32, 3, len(labels[raw_split])) or images.dtype != np.uint8:
            label, n = tree.label(names[raw_split]), len(labels[raw_split])
            found = f"X {images.shape} of {images.dtype}, {n} labels"
            raise unexpected(label, found, "X (32, 32, 3, N) of uint8, y (N, 1)")
        for row in rows:
            yield int(row), png(images[..., row])

    return Raw(row_numbers(labels), {"svhn": labels}, read, drawn=True)


def load(tree: Tree, name: str, variable: str) -> NDArray[Any]:
    """Return one variable of a MATLAB 5 file. Raises DataDamaged."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    path = tree.path(name)
    label = tree.label(name)
    try:
        with reading(label):
            found = loadmat(path if path else io.BytesIO(tree.read(name)), variable_names=[variable])
        return np.asarray(found[variable])
    except (MatReadError, ValueError, TypeError, IndexError, KeyError) as error:
        raise DataDamaged(
            f"'{label}' is no whole MATLAB 5 file with the variable '{variable}' ({type(error).__name__}: {error}).",
            "the file as its owner publishes it.",
            "Fetch it again, then give the same command.",
        ) from None


SVHN = Collection(
    "svhn_cropped",
    "SVHN, cropped digits",
    "http://ufldl.stanford.edu/housenumbers/",
    "non-commercial use only",
    (
        File(
            "http://ufldl.stanford.edu/housenumbers/train_32x32.mat",
            182_040_794,
            "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
        ),
        File(
            "http://ufldl.stanford.edu/housenumbers/test_32x32.mat",
            64_275_384,
            "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
        ),
    ),
    _open,
)
