"""Lists shipped with the package (see NOTICE): class names, the SUN397 splits, the ImageNet validation labels."""

import lzma
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

_RAW_SPLITS = ("train", "validation", "test")
_ALPHABET = "0abcdefghijklmnopqrstuvwxyz"
_WIDTH = 10  # bytes that hold 16 characters of that alphabet


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
    columns = np.frombuffer(raw, np.uint8, _WIDTH * n, sizes.nbytes).reshape(_WIDTH, n).T.tobytes()
    codes = np.frombuffer(raw, np.uint8, n, sizes.nbytes + _WIDTH * n).tolist()
    lists: dict[str, list[str]] = {raw_split: [] for raw_split in _RAW_SPLITS}
    at = 0
    for name, size in zip(classes, sizes.tolist(), strict=True):
        value = 0
        for i in range(at, at + size):
            value += int.from_bytes(columns[_WIDTH * i : _WIDTH * (i + 1)], "big")
            lists[_RAW_SPLITS[codes[i]]].append(f"{name}/sun_{_word(value)}.jpg")
        at += size
    return {raw_split: tuple(found) for raw_split, found in lists.items()}


def pack_sun397(lists: Mapping[str, Sequence[str]]) -> bytes:
    """Return the contents of sun397.bin.xz from the three lists (the inverse of `sun397`)."""
    by_class: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for code, raw_split in enumerate(_RAW_SPLITS):
        for line in lists[raw_split]:
            name, _, file = line.rpartition("/")
            by_class[name].append((_value(file.removeprefix("sun_").removesuffix(".jpg")), code))
    rows, codes = bytearray(), bytearray()
    for name in names("sun397"):
        before = 0
        for value, code in sorted(by_class[name]):
            rows += (value - before).to_bytes(_WIDTH, "big")
            codes.append(code)
            before = value
    sizes = np.array([len(by_class[name]) for name in names("sun397")], "<u2")
    columns = np.frombuffer(bytes(rows), np.uint8).reshape(-1, _WIDTH).T
    return lzma.compress(sizes.tobytes() + columns.tobytes() + bytes(codes), preset=9)


@cache
def imagenet_validation() -> NDArray[np.int64]:
    """Return the labels of ILSVRC2012_val_00000001.JPEG to ..._00050000.JPEG, (50000,) int64 in [0, 1000)."""
    raw = lzma.decompress(files(__name__).joinpath("imagenet_val.bin.xz").read_bytes())
    low, high = np.frombuffer(raw, np.uint8).reshape(2, -1).astype(np.int64)
    labels: NDArray[np.int64] = low + 256 * high
    labels.setflags(write=False)
    return labels


def pack_imagenet(wnids: Sequence[str]) -> bytes:
    """Return the contents of imagenet_val.bin.xz from 50,000 WordNet identifiers (see `imagenet_validation`)."""
    index = {wnid: label for label, wnid in enumerate(names("imagenet"))}
    labels = np.array([index[wnid] for wnid in wnids], dtype=np.uint16)
    return lzma.compress(
        (labels % 256).astype(np.uint8).tobytes() + (labels // 256).astype(np.uint8).tobytes(), preset=9
    )


def _value(word: str) -> int:
    value = 0
    for letter in word:
        value = value * len(_ALPHABET) + _ALPHABET.index(letter)
    return value


def _word(value: int) -> str:
    letters = []
    for _ in range(16):
        value, digit = divmod(value, len(_ALPHABET))
        letters.append(_ALPHABET[digit])
    return "".join(reversed(letters))
