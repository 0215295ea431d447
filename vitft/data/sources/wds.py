"""Local mirrors of `clip-benchmark/wds_*`: tars of s0000000.webp and s0000000.cls, those of VTAB without validation."""

import tarfile
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitft.catalog import tasks
from vitft.catalog.tasks import Task
from vitft.data import label_rules, official, official_splits
from vitft.data import labels as label_names
from vitft.data.reader import Reader
from vitft.data.reading import reading
from vitft.data.sources.files import filled_lines, is_image
from vitft.data.split import Provenance, Split
from vitft.errors import DataDamaged, DataMissing

_UNBINNED = {
    "dsprites_location": label_rules.dsprites_location,
    "dsprites_orientation": label_rules.dsprites_orientation,
}
_ORIGINAL = {"dsprites_location": 32, "dsprites_orientation": 40}
_SHARDS = (1, 2, 4, 8, 16, 32, 64)
_NO_VAL = (
    "{}; the mirrors keep no validation part, so nothing can be chosen on it.",
    "Prepare the owner's files with 'vitft data prepare {}', or take a recipe that chooses nothing.",
)


def detect(path: Path) -> bool:
    """Tell whether `path` holds train/*.tar or test/*.tar beside classnames.txt, or their parquet conversion."""
    if not path.is_dir():
        return False
    tars = any(True for split in ("train", "test") for _ in path.glob(f"{split}/*.tar"))
    return (tars and (path / "classnames.txt").is_file()) or bool(_conversion(path))


def _conversion(path: Path) -> dict[str, list[Path]]:
    """Return split -> files of the hub's automatic parquet conversion of such a mirror."""
    found: dict[str, list[Path]] = defaultdict(list)
    for pattern in ("*/[0-9][0-9][0-9][0-9].parquet", "*/*/[0-9][0-9][0-9][0-9].parquet"):
        for file in sorted(path.glob(pattern)):
            split = file.parent.name.removeprefix("partial-")
            if split in ("train", "test") and _is_webdataset(file):
                found[split].append(file)
    return dict(found)


def _is_webdataset(file: Path) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return {"webp", "cls"} <= set(pq.read_schema(file).names)
    except (pa.ArrowException, OSError):
        return False


@dataclass(frozen=True)
class Wds:
    """One task of the mirrors, or a data set of theirs that is no task and has the classes of its classnames.txt.

    The train of VTAB's mirrors is VTAB's `train`; its order is the one in which TensorFlow Datasets read it, and keys
    are not stored. Which of its images are the official 800 is therefore known only where class names in the keys prove
    the order.

    Attributes:
        path: the folder of train/ and test/.
        task: canonical name, or the folder's name.
    """

    path: Path
    task: str

    @cached_property
    def _task(self) -> Task | None:
        name = tasks.canonical(self.task)
        return tasks.get(name) if name else None

    @property
    def _of_vtab(self) -> bool:
        return self._task in tasks.VTAB

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The task's names; those of classnames.txt for what is no task, or has another number of classes."""
        file = self.path / "classnames.txt"
        listed = filled_lines(file) if file.is_file() else []
        if self._task and (self._of_vtab or len(listed) in (0, self._task.num_classes)):
            return label_names.class_names(self._task.name)
        return tuple(f"{name} ({i})" if listed.count(name) > 1 else name for i, name in enumerate(listed))

    @property
    def splits(self) -> tuple[str, ...]:
        present = {s for s in ("train", "test") if any(self.path.glob(f"{s}/*.tar"))} | _conversion(self.path).keys()
        names = ("train", "train800", "test") if self._of_vtab else ("train", "test")
        return tuple(n for n in names if n.removesuffix("800") in present)

    def open(self, split: str) -> Split:
        """Open "train", "train800" or "test".

        Raises:
            DataMissing: another split (val200 is not in the mirrors), or a shard is absent.
            DataDamaged: a damaged tar, or fewer images than the official split has (a truncated conversion).
        """
        if split not in self.splits:
            legal, action = _NO_VAL
            raise DataMissing(
                f"'{self.path}' has no split '{split}'.", legal.format(", ".join(self.splits)), action.format(self.task)
            )
        stored = split.removesuffix("800")
        places, labels = self._stored(stored)
        n = len(labels)
        counts = official.counts(self.task, stored)
        known = n in counts or (self.task == "caltech101" and stored == "train" and n == counts[0] - 1)
        if not known and (self._of_vtab or (counts and not any(self.path.glob(f"{stored}/*.tar")))):
            raise DataDamaged(
                f"'{self.path}' has {n:,} of {counts[0]:,} images in {stored}: it is truncated.",
                "all shards of the tars; the hub's own parquet conversion of large mirrors is cut short.",
                f"Fetch the tars of {stored}/ whole, or run 'vitft data prepare {self.task}'.",
            )
        keys = [f"{stored}/{place[0]}" for place in places]
        rows: NDArray[np.int64] = np.arange(n)
        why = "" if known else official.shortfall(self.task, stored, n) or "a mirror's membership is not checked"
        if split == "train800":
            order = self._proven(labels)
            rows = (rows if order is None else order)[:800]
            why = "" if order is not None else "it keeps no keys: which 800 are the official ones cannot be told"
        return Split(
            self._task.name if self._task else self.task,
            split,
            self.class_names,
            [keys[i] for i in rows],
            labels[rows],
            Reader(lambda i: _bytes(places[rows[i]]), file=_file(places, rows)),
            Provenance("wds_vtab mirror (lossless WebP)", not why, why, "full" if known else "partial"),
        )

    def _stored(self, split: str) -> tuple[list[tuple[str, Any, int, int]], NDArray[np.int64]]:
        """Return the place of every image and its label, binned for dSprites."""
        parquet = _conversion(self.path).get(split)
        has_tars = any((self.path / split).glob("*.tar"))
        places, raw = _tables(parquet) if parquet and not has_tars else _tars(self.path / split)
        labels = np.asarray(raw, np.int64)
        k = _ORIGINAL.get(self.task, len(self.class_names))
        if len(labels) and not 0 <= labels.min() <= labels.max() < k:
            raise DataDamaged(f"'{self.path}' has the label {labels.max()} in {split}.", f"0 to {k - 1}.")
        rule = _UNBINNED.get(self.task)
        return places, rule(labels) if rule else labels

    def _proven(self, labels: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Return the stored position of each image in hash order, where labels that the keys tell prove it."""
        if self._task is None or self._task.collection not in ("eurosat", "resisc45"):
            return None
        pieces = self._task.splits["train"]
        keys = official_splits.raw_keys(self._task, pieces[0].raw_split)
        index = {name: label for label, name in enumerate(self.class_names)}
        if keys is None:
            return None
        order = official_splits.hash_order(keys, pieces[0].raw_split)[: len(labels)]
        # "AnnualCrop_AnnualCrop_1.jpg", "sea_ice_sea_ice_001.jpg": the class stands twice before the number.
        expected = np.array([index[_class(keys[i])] for i in order])
        for shards in _SHARDS:
            read = read_order(len(keys), len(labels), shards)
            if np.array_equal(labels, expected[read]):
                return np.argsort(read)
        return None


def _class(key: str) -> str:
    name = key.rsplit("_", 1)[0]
    return name[: len(name) // 2]


def read_order(total: int, stop: int, shards: int) -> NDArray[np.int64]:
    """Return the positions of [0, stop) in the order in which tf.data reads a split of `total` examples.

    Shards end at round(total * k / shards); 16 of them are open at a time and give 16 examples a turn. An exhausted
    slot ends its turn at once and takes the next shard only when it is visited again (TFDS core/reader.py).
    """
    borders = [round(total * k / shards) for k in range(shards + 1)]
    pieces = [list(range(a, min(b, stop))) for a, b in pairwise(borders) if a < stop]
    waiting = deque(pieces)
    slots: list[list[int]] = [waiting.popleft() if waiting else [] for _ in range(16)]
    order: list[int] = []
    while any(slots) or waiting:
        for s in range(16):
            if not slots[s] and waiting:
                slots[s] = waiting.popleft()
            order += slots[s][:16]
            slots[s] = slots[s][16:]
    return np.asarray(order, np.int64)


def _tars(folder: Path) -> tuple[list[tuple[str, Any, int, int]], list[int]]:
    """Index the shards in the order of their numbers; images stay where they are."""
    shards = sorted((file for file in folder.glob("*.tar")), key=lambda file: (len(file.stem), file.stem))
    counted = folder / "nshards.txt"
    n = int(counted.read_text()) if counted.is_file() and counted.read_text().strip().isdigit() else len(shards)
    for i in range(n):
        if not (folder / f"{i}.tar").is_file():
            raise DataMissing(
                f"Shard '{folder / f'{i}.tar'}' is missing.", f"all {n} that nshards.txt counts.", "Fetch it."
            )
    places: dict[str, tuple[str, Any, int, int]] = {}
    labels: dict[str, int] = {}
    for shard in shards:
        with reading(str(shard)), tarfile.open(shard, "r:") as tar:
            for info in tar:
                stem, kind = (PurePosixPath(info.name).stem, PurePosixPath(info.name).suffix)
                if kind == ".cls":
                    file = tar.extractfile(info)
                    labels[stem] = int(file.read()) if file else -1
                elif is_image(info.name):
                    places[stem] = (stem, shard, info.offset_data, info.size)
    if places.keys() != labels.keys():
        odd = min(places.keys() ^ labels.keys())
        raise DataDamaged(f"'{folder}' has '{odd}' without its image or its label.", ".webp and .cls of each.")
    return list(places.values()), [labels[stem] for stem in places]


def _tables(files: list[Path]) -> tuple[list[tuple[str, Any, int, int]], list[int]]:
    from vitft.data.sources.tables import open_table

    table = open_table(files)
    names = table.column("__key__") if "__key__" in table.schema.names else range(len(table))
    return [(str(name), table, row, -1) for row, name in enumerate(names)], [int(y) for y in table.column("cls")]


def _file(places: list[tuple[str, Any, int, int]], rows: NDArray[np.int64]) -> Callable[[int], tuple[Path, int]] | None:
    """Return a function from an image to its shard and place there; None where a table may not hold all images."""
    if not places or places[0][3] >= 0:
        return lambda i: (places[rows[i]][1], places[rows[i]][2])
    table = places[0][1]
    return (lambda i: table.place(places[rows[i]][2])) if table.holds("webp") else None


def _bytes(place: tuple[str, Any, int, int]) -> bytes:
    name, where, offset, size = place
    if size < 0:
        data, _ = where.image("webp", offset)
    else:
        with reading(str(where)), where.open("rb") as file:
            file.seek(offset)
            data = file.read(size)
    if not data or (size >= 0 and len(data) < size):
        raise DataDamaged(f"Image '{name}' of '{where}' is cut short.", "whole shards.", "Fetch it again.")
    return bytes(data)
