"""How the lists in vitft/data/lists were packed, the inverse of how they are read there."""

import lzma
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from vitft.data.lists import ALPHABET, RAW_SPLITS, WIDTH, names


def pack_sun397(lists: Mapping[str, Sequence[str]]) -> bytes:
    """Return the contents of sun397.bin.xz from the three lists (the inverse of `sun397`)."""
    by_class: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for code, raw_split in enumerate(RAW_SPLITS):
        for line in lists[raw_split]:
            name, _, file = line.rpartition("/")
            by_class[name].append((_value(file.removeprefix("sun_").removesuffix(".jpg")), code))
    rows, codes = bytearray(), bytearray()
    for name in names("sun397"):
        before = 0
        for value, code in sorted(by_class[name]):
            rows += (value - before).to_bytes(WIDTH, "big")
            codes.append(code)
            before = value
    sizes = np.array([len(by_class[name]) for name in names("sun397")], "<u2")
    columns = np.frombuffer(bytes(rows), np.uint8).reshape(-1, WIDTH).T
    return lzma.compress(sizes.tobytes() + columns.tobytes() + bytes(codes), preset=9)


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
        value = value * len(ALPHABET) + ALPHABET.index(letter)
    return value
