"""CLEVR: rendered scenes with a list of their objects."""

import json
from collections.abc import Iterator, Sequence
from posixpath import basename
from typing import Any

from vitft.data import label_rules
from vitft.errors import DataDamaged
from vitft.prepare.archives import Tree
from vitft.prepare.collections.raw import Collection, File, Listed, Raw, from_files


def _open(tree: Tree) -> Raw:
    """The n-th scene belongs to the n-th image by name. CLEVR's own test images have no scenes and are not used."""
    listed: dict[str, Sequence[Listed]] = {}
    for raw_split, folder in (("train", "train"), ("validation", "val")):
        files = {basename(path): path for path in tree.matching(rf"(^|/)images/{folder}/CLEVR_[^/]+\.png$")}
        name = tree.need(f"scenes/CLEVR_{folder}_scenes.json")
        ordered = sorted(files)
        counts, nearest = [], []
        for number, scene in enumerate(scenes(tree.read(name).decode(), tree.label(name))):
            objects = scene["objects"]
            file = scene.get("image_filename")
            if file is not None and number < len(ordered) and file != ordered[number]:
                raise DataDamaged(
                    f"'{tree.label(name)}' describes '{file}' where the images have '{ordered[number]}'.",
                    "scenes and images of one release.",
                    "Fetch CLEVR_v1.0.zip again.",
                )
            counts.append(len(objects))
            nearest.append(min((obj["pixel_coords"][2] for obj in objects), default=0.0))
        if len(counts) != len(files):
            raise DataDamaged(
                f"'{tree.label(name)}' describes {len(counts):,} scenes, but there are {len(files):,} images.",
                "one scene an image.",
                "Fetch or unpack CLEVR_v1.0.zip again.",
            )
        labels = zip(
            label_rules.clevr_count(counts).tolist(), label_rules.clevr_distance(nearest).tolist(), strict=True
        )
        listed[raw_split] = [Listed(key, files[key], label) for key, label in zip(ordered, labels, strict=True)]
    return from_files(tree, ("clevr_count", "clevr_distance"), listed)


def scenes(text: str, label: str) -> Iterator[dict[str, Any]]:
    """Yield the entries of the list "scenes" one by one: 70,000 of them parsed at once would fill the memory."""
    decoder = json.JSONDecoder()
    try:
        at = text.index("[", text.index('"scenes"')) + 1
        while True:
            while text[at] in " \t\r\n,":
                at += 1
            if text[at] == "]":
                return
            scene, at = decoder.raw_decode(text, at)
            yield scene
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise DataDamaged(
            f"'{label}' is no whole list of scenes ({type(error).__name__}: {error}).",
            '{"scenes": [{"objects": [...]}, ...]}.',
            "Fetch CLEVR_v1.0.zip again.",
        ) from None


CLEVR = Collection(
    "clevr",
    "CLEVR v1.0",
    "https://cs.stanford.edu/people/jcjohns/clevr/",
    "CC BY 4.0",
    (
        File(
            "https://dl.fbaipublicfiles.com/clevr/CLEVR_v1.0.zip",
            19_021_600_724,
            "5cd61cf1096ed20944df93c9adb31e74d189b8459a94f54ba00090e5c59936d1",
        ),
    ),
    _open,
)
