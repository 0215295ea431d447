"""Small copies of test images, where their data lie here: nothing is fetched, and what is gone is left out."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitft.catalog import tasks
from vitft.data import find
from vitft.data.split import Source, Split
from vitft.errors import DataMissing, VitftError
from vitft.images.decode import decode

SIDE = 56
BUDGET = 800_000
"""Bytes of all thumbnails of a page."""


def data_address(data: bytes, kind: str) -> str:
    """Return a picture's file as an address that holds it.

    Args:
        kind: png or jpeg.
    """
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


class Thumbnails:
    """Thumbnails of the images of some runs; each split is opened once."""

    def __init__(self) -> None:
        self.left = BUDGET
        self._splits: dict[tuple[str, str, str], dict[str, tuple[Split, int]]] = {}

    def of(self, task: str, run: Mapping[str, Any], split: str, key: str) -> str:
        """Return an image as a data address; "" where it is not here or there is no room.

        Args:
            task: what the result calls it, for a run of several.
            run: run.json of the run.
            split: that its answers are of.
            key: of the image.
        """
        found = self._keys(str(run.get("task") or task), run, split).get(key)
        if found is None or self.left <= 0:
            return ""
        from PIL import Image

        try:
            pixels = decode(found[0].read(found[1]), key, found[0].exif)
        except (VitftError, OSError):
            return ""
        image = Image.fromarray(pixels)
        image.thumbnail((SIDE, SIDE))
        out = io.BytesIO()
        image.save(out, "JPEG", quality=80)
        self.left -= len(out.getvalue())
        return data_address(out.getvalue(), "jpeg")

    def _keys(self, task: str, run: Mapping[str, Any], split: str) -> dict[str, tuple[Split, int]]:
        what = (task, str(run.get("data_dir") or ""), split)
        if what not in self._splits:
            try:
                opened = _source(*what[:2]).open(split)
                self._splits[what] = {key: (opened, i) for i, key in enumerate(opened.keys)}
            except (VitftError, OSError, ValueError):
                self._splits[what] = {}
        return self._splits[what]


def _source(task: str, data_dir: str) -> Source:
    """Return the data of a run where they are in a folder, or built in. Raises VitftError for anything else."""
    place, name = Path(data_dir) if data_dir else None, tasks.canonical(task)
    if name is None:
        return find.at(find.path_of(task, place) or Path(task))
    here = find.nearest(tasks.get(name), place)
    if not isinstance(here, str):
        return here[1]
    built_in = find.built_in(tasks.get(name))
    if built_in is None:
        raise DataMissing(f"'{task}' is not looked for elsewhere.")
    return built_in
