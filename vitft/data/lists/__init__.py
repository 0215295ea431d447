"""Lists shipped with the package (see NOTICE): class names, the SUN397 splits, the ImageNet validation labels."""

import lzma
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

RAW_SPLITS = ("train", "validation", "test")
ALPHABET = "0abcdefghijklmnopqrstuvwxyz"
WIDTH = 10  # bytes that hold 16 characters of that alphabet


@cache
def names(collection: str) -> tuple[str, ...]:
    """Return the class names of a collection that has a list here; index = label."""
    return tuple(files(__name__).joinpath(f"{collection}.txt").read_text(encoding="utf-8").split("\n")[:-1])


@cache
def sun397() -> dict[str, tuple[str, ...]]:
    """Return the file names of SUN397's "train" (76,128), "validation" (10,875) and "test" (21,750), each sorted.

    A name is "/a/abbey/sun_<16 letters>.jpg": 75 bits of noise. They are stored sorted, as differences, byte by byte
    in columns, which leaves 0.9 MB of 4.4 MB.
    """
    classes = names("sun397")
    raw = lzma.decompress(files(__name__).joinpath("sun397.bin.xz").read_bytes())
    sizes = np.frombuffer(raw, "<u2", len(classes))
    n = int(sizes.sum())
    columns = np.frombuffer(raw, np.uint8, WIDTH * n, sizes.nbytes).reshape(WIDTH, n).T.tobytes()
    codes = np.frombuffer(raw, np.uint8, n, sizes.nbytes + WIDTH * n).tolist()
    lists: dict[str, list[str]] = {raw_split: [] for raw_split in RAW_SPLITS}
    at = 0
    for name, size in zip(classes, sizes.tolist(), strict=True):
        value = 0
        for i in range(at, at + size):
            value += int.from_bytes(columns[WIDTH * i : WIDTH * (i + 1)], "big")
            lists[RAW_SPLITS[codes[i]]].append(f"{name}/sun_{_word(value)}.jpg")
        at += size
    return {raw_split: tuple(found) for raw_split, found in lists.items()}


@cache
def imagenet_validation() -> NDArray[np.int64]:
    """Return the labels of ILSVRC2012_val_00000001.JPEG to ..._00050000.JPEG, (50000,) int64 in [0, 1000)."""
    raw = lzma.decompress(files(__name__).joinpath("imagenet_val.bin.xz").read_bytes())
    low, high = np.frombuffer(raw, np.uint8).reshape(2, -1).astype(np.int64)
    labels: NDArray[np.int64] = low + 256 * high
    labels.setflags(write=False)
    return labels


def _word(value: int) -> str:
    letters = []
    for _ in range(16):
        value, digit = divmod(value, len(ALPHABET))
        letters.append(ALPHABET[digit])
    return "".join(reversed(letters))
