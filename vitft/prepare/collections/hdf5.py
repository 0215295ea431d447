"""The two collections in HDF5: PatchCamelyon and dSprites. Only the chunks that hold wanted rows are read."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitft.data import label_rules
from vitft.data.encode import png
from vitft.data.reading import reading
from vitft.prepare.archives import Tree
from vitft.prepare.collections.raw import Collection, File, Raw, row_numbers, unexpected

_PCAM = (("train", "train"), ("validation", "valid"), ("test", "test"))
_DSPRITES = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.hdf5"


def _open_camelyon(tree: Tree) -> Raw:
    """Labels are (N, 1, 1, 1), patches (N, 96, 96, 3); the key says `valid` where the split is `validation`."""
    stem = "camelyonpatch_level_2_split_"
    patches = {raw_split: tree.need(f"{stem}{short}_x.h5") for raw_split, short in _PCAM}
    keys, labels = {}, {}
    for raw_split, short in _PCAM:
        name = tree.need(f"{stem}{short}_y.h5")
        with _dataset(tree.local(name), "y", tree.label(name)) as y:
            labels[raw_split] = np.asarray(y[...]).reshape(-1).astype(np.int64)
        keys[raw_split] = [f"{short}_{i}" for i in range(len(labels[raw_split]))]

    def read(raw_split: str, rows: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        name = patches[raw_split]
        with _dataset(tree.local(name), "x", tree.label(name)) as x:
            _check(x, (len(labels[raw_split]), 96, 96, 3), tree.label(name))
            for row, image in chosen(x, rows, tree.label(name)):
                yield row, png(image)

    return Raw(keys, {"patch_camelyon": labels}, read, drawn=True)


def _open_dsprites(tree: Tree) -> Raw:
    """Latent classes are colour, shape, scale, orientation, x, y; pixels are 0 or 1 and become 0 or 255."""
    name = tree.need(_DSPRITES)
    label = tree.label(name)
    path = tree.local(name)
    with _dataset(path, "latents/classes", label) as found:
        latents = np.asarray(found[...]).astype(np.int64)
    if latents.ndim != 2 or latents.shape[1] != 6:
        raise unexpected(label, f"latents/classes {latents.shape}", "(N, 6)")

    def read(_: str, rows: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        with _dataset(path, "imgs", label) as images:
            _check(images, (len(latents), 64, 64), label)
            for row, image in chosen(images, rows, label):
                yield row, png(image if image.max() > 1 else image * np.uint8(255))

    return Raw(
        row_numbers({"train": latents}),
        {
            "dsprites_location": {"train": label_rules.dsprites_location(latents[:, 4])},
            "dsprites_orientation": {"train": label_rules.dsprites_orientation(latents[:, 3])},
        },
        read,
        drawn=True,
    )


def chosen(dataset: Any, rows: Sequence[int], label: str) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield (row, array) for `rows` in ascending order; each stored chunk that holds some of them is read once."""
    step = dataset.chunks[0] if dataset.chunks else 1
    for _, of_chunk in groupby(sorted({int(row) for row in rows}), key=lambda row: row // step):
        wanted = list(of_chunk)
        with reading(label):
            block = dataset[wanted[0] : wanted[-1] + 1]
        for row in wanted:
            yield row, block[row - wanted[0]]


@contextmanager
def _dataset(path: Path, name: str, label: str) -> Iterator[Any]:
    import h5py

    with reading(label):
        file = h5py.File(path, "r")
    with file:
        if not isinstance(file.get(name), h5py.Dataset):
            raise unexpected(label, f"no data set '{name}'", f"an HDF5 file with '{name}'")
        yield file[name]


def _check(dataset: Any, shape: tuple[int, ...], label: str) -> None:
    if dataset.shape != shape or dataset.dtype != np.uint8:
        raise unexpected(label, f"{dataset.shape} of {dataset.dtype}", f"{shape} of uint8, one image a label")


def _camelyon_file(name: str, size: int, sha256: str) -> File:
    return File(f"https://zenodo.org/record/2546921/files/camelyonpatch_level_2_split_{name}.h5.gz", size, sha256)


CAMELYON = Collection(
    "patch_camelyon",
    "PatchCamelyon",
    "https://github.com/basveeling/pcam",
    "CC0 1.0",
    (
        _camelyon_file("train_x", 6_421_353_462, "d619e741468a7ab35c7e4a75e6821b7e7e6c9411705d45708f2a0efc8960656c"),
        _camelyon_file("train_y", 21_378, "b74126d2c01b20d3661f9b46765d29cf4e4fba6faba29c8e0d09d406331ab75a"),
        _camelyon_file("valid_x", 805_965_320, "f82ee1670d027b4ec388048d9eabc2186b77c009655dae76d624c0ecb053ccb2"),
        _camelyon_file("valid_y", 3_038, "ce1ae30f08feb468447971cfd0472e7becd0ad96d877c64120c72571439ae48c"),
        _camelyon_file("test_x", 800_875_929, "79174c2201ad521602a5888be8f36ee10875f37403dd3f2086caf2182ef87245"),
        _camelyon_file("test_y", 3_040, "0a522005fccc8bbd04c5a117bfaf81d8da2676f03a29d7499f71d0a0bd6068ef"),
    ),
    _open_camelyon,
)
DSPRITES = Collection(
    "dsprites",
    "dSprites",
    "https://github.com/google-deepmind/dsprites-dataset",
    "see the owner's page",
    (
        File(
            f"https://github.com/deepmind/dsprites-dataset/blob/master/{_DSPRITES}?raw=true",
            28_024_106,
            "729fa22e884c9c500e1f17415d580746b4c5894fbbb780a1319bbcfa39a745bb",
        ),
    ),
    _open_dsprites,
)
