"""Oxford Flowers 102 and the Oxford-IIIT Pets."""

from collections.abc import Sequence
from posixpath import basename

import numpy as np

from vitft.errors import DataDamaged
from vitft.prepare.archives import Tree
from vitft.prepare.collections.raw import Collection, File, Listed, Raw, from_files
from vitft.prepare.collections.svhn import load

_FLOWERS = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
_PETS = "https://thor.robots.ox.ac.uk/~vgg/data/pets/"


def _open_flowers(tree: Tree) -> Raw:
    labels = load(tree, tree.need("imagelabels.mat"), "labels").reshape(-1).astype(np.int64) - 1
    ids = tree.need("setid.mat")
    files = {basename(path): path for path in reversed(tree.matching(r"(^|/)image_\d{5}\.jpg$"))}
    listed: dict[str, Sequence[Listed]] = {}
    for raw_split, variable in (("train", "trnid"), ("validation", "valid"), ("test", "tstid")):
        numbers = load(tree, ids, variable).reshape(-1).astype(np.int64)
        if len(wrong := numbers[(numbers < 1) | (numbers > len(labels))]):
            raise DataDamaged(
                f"'{tree.label(ids)}' names image {wrong[0]}; imagelabels.mat has {len(labels)} labels.",
                "both files as their owner publishes them.",
                "Fetch both again.",
            )
        names = [f"image_{number:05d}.jpg" for number in numbers]
        listed[raw_split] = [
            Listed(name, files.get(name), (int(labels[number - 1]),))
            for name, number in zip(names, numbers, strict=True)
        ]
    return from_files(tree, ("oxford_flowers102",), listed)


def _open_pets(tree: Tree) -> Raw:
    files = {basename(path): path for path in reversed(tree.matching(r"(^|/)images/[^/]+\.jpg$"))}
    listed: dict[str, Sequence[Listed]] = {}
    for raw_split, name in (("train", "trainval.txt"), ("test", "test.txt")):
        path = tree.need(f"annotations/{name}")
        items = []
        for number, line in enumerate(tree.read(path).decode().splitlines(), 1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if len(words) < 2 or not words[1].lstrip("-").isdigit():
                raise DataDamaged(
                    f"'{tree.label(path)}', line {number}: '{line[:80]}' cannot be read.",
                    "an image name and its class from 1, as 'Abyssinian_100 1 1 1'.",
                    "Fetch annotations.tar.gz again.",
                )
            key = f"{words[0]}.jpg"
            items.append(Listed(key, files.get(key), (int(words[1]) - 1,)))
        listed[raw_split] = items
    return from_files(tree, ("oxford_iiit_pet",), listed)


FLOWERS = Collection(
    "oxford_flowers102",
    "Oxford Flowers 102",
    "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
    "see the owner's page",
    (
        File(
            _FLOWERS + "102flowers.tgz",
            344_862_509,
            "2d01ecc807db462958cfe3d92f57a8c252b4abd240eb955770201e45f783b246",
        ),
        File(_FLOWERS + "imagelabels.mat", 502, "4903e94206bac23bf772aadf06451916df56b58fc483a62db32a97b82656651d"),
        File(_FLOWERS + "setid.mat", 14_989, "46b8678f91fd95d3c8f4feab80d271a6c834a1dd896fe29fd3e6ad9ce5c8dccd"),
    ),
    _open_flowers,
)
PETS = Collection(
    "oxford_iiit_pet",
    "Oxford-IIIT Pets",
    "https://www.robots.ox.ac.uk/~vgg/data/pets/",
    "CC BY-SA 4.0",
    (
        File(_PETS + "images.tar.gz", 791_918_971, "67195c5e1c01f1ab5f9b6a5d22b8c27a580d896ece458917e61d459337fa318d"),
        File(
            _PETS + "annotations.tar.gz",
            19_173_078,
            "52425fb6de5c424942b7626b428656fcbd798db970a937df61750c0f1d358e91",
        ),
    ),
    _open_pets,
)
