"""A directory that TensorFlow Datasets prepared: TFRecord shards in its own order, read without TensorFlow."""

import io
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vitft.catalog import tasks
from vitft.catalog.tasks import Task
from vitft.data import label_rules, official, official_splits, tfrecord
from vitft.data import labels as label_names
from vitft.data.encode import png
from vitft.data.reader import Reader
from vitft.data.reading import reading
from vitft.data.split import Provenance, Split
from vitft.errors import DataDamaged, DataMissing

_Example = Mapping[str, Any]
_AGAIN = "Prepare it again with TensorFlow Datasets, or run 'vitft data prepare'."
# Class folders of Caltech101 that are not written in lower case, as the labels are.
_CAPITALS = {n.lower(): n for n in ("BACKGROUND_Google", "Faces", "Faces_easy", "Leopards", "Motorbikes")}


def _text(feature: str) -> Callable[[_Example, Sequence[str]], str]:
    return lambda example, _: str(example[feature][0].decode())


def _number(example: _Example, _: Sequence[str]) -> str:
    """Turn the id "train_00016" into the row "16"."""
    return str(int(example["id"][0].decode().rsplit("_", 1)[-1]))


def _in_class(feature: str) -> Callable[[_Example, Sequence[str]], str]:
    return lambda example, names: f"{names[int(example['label'][0])]}_{example[feature][0].decode()}"


def _caltech(example: _Example, names: Sequence[str]) -> str:
    folder = names[int(example["label"][0])]
    return f"{_CAPITALS.get(folder, folder)}/{example['image/file_name'][0].decode()}"


# How an example tells its key; what is not here, or lacks the feature, has its key from its position.
_KEYS: dict[str, Callable[[_Example, Sequence[str]], str]] = {
    "caltech101": _caltech,
    "cifar10": _number,
    "cifar100": _number,
    "svhn_cropped": _number,
    "smallnorb": _number,
    "dsprites": _number,
    "dtd": _text("file_name"),
    "oxford_flowers102": _text("file_name"),
    "oxford_iiit_pet": _text("file_name"),
    "sun397": _text("file_name"),
    "clevr": _text("file_name"),
    "dmlab": _text("filename"),
    "kitti": _text("image/file_name"),
    "patch_camelyon": _text("id"),
    "diabetic_retinopathy_detection": _text("name"),
    "eurosat": _in_class("filename"),
    "resisc45": _in_class("filename"),
}


def _label(task: str, example: _Example) -> int:
    """Apply the task's rule to one example."""
    match task:
        case "clevr_count":
            return int(label_rules.clevr_count(len(example["objects/pixel_coords"]) // 3))
        case "clevr_distance":
            return int(
                label_rules.clevr_distance(np.asarray(example["objects/pixel_coords"]).reshape(-1, 3)[:, 2].min())
            )
        case "kitti_distance":
            vehicles = np.asarray(example["objects/type"]) < len(label_rules.VEHICLES)
            z = np.asarray(example["objects/location"]).reshape(-1, 3)[vehicles, 2]
            return int(label_rules.kitti_distance(z.min() if len(z) else label_rules.NO_VEHICLE))
        case "dsprites_location":
            return int(label_rules.dsprites_location(example["label_x_position"][0]))
        case "dsprites_orientation":
            return int(label_rules.dsprites_orientation(example["label_orientation"][0]))
        case "smallnorb_azimuth":  # already halved by TensorFlow Datasets
            return int(example["label_azimuth"][0])
        case "smallnorb_elevation":
            return int(example["label_elevation"][0])
        case _:
            return int(example["label"][0])


def detect(path: Path) -> bool:
    """Tell whether `path` is such a directory, or has exactly one below it (`<config>/<version>`)."""
    return _directory(path) is not None


def _directory(path: Path) -> Path | None:
    for pattern in ("dataset_info.json", "*/dataset_info.json", "*/*/dataset_info.json"):
        folders = [file.parent for file in path.glob(pattern) if (file.parent / "features.json").is_file()]
        if folders:
            return folders[0] if len(folders) == 1 else None
    return None


@dataclass(frozen=True)
class Tfds:
    """One task read from a prepared directory.

    Attributes:
        path: the directory of one version, or one above it.
        task: canonical name.
    """

    path: Path
    task: str

    @cached_property
    def _task(self) -> Task:
        name = tasks.canonical(self.task)
        if name is None:
            raise DataMissing(
                f"'{self.path}' is a directory of TensorFlow Datasets, but '{self.task}' is no task.",
                "a task's name with --data-dir naming the directory.",
                "Run 'vitft data ls' to list the tasks.",
            )
        return tasks.get(name)

    @cached_property
    def _info(self) -> tuple[Path, str, str, dict[str, list[int]]]:
        """Return (directory, name, version, raw split -> examples in each shard)."""
        folder = _directory(self.path)
        if folder is None:
            raise DataMissing(f"'{self.path}' holds no prepared directory.", "<name>/<version>/dataset_info.json.")
        file = folder / "dataset_info.json"
        try:
            info = json.loads(file.read_bytes())
            splits = {s["name"]: [int(n) for n in s.get("shardLengths", [])] for s in info["splits"]}
            name, version = str(info["name"]), str(info["version"])
            kind = str(info.get("fileFormat", "tfrecord"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataDamaged(
                f"'{file}' cannot be read ({error}).", "as TensorFlow Datasets writes it.", _AGAIN
            ) from None
        if kind != "tfrecord":
            raise DataDamaged(f"'{folder}' is stored as '{kind}'.", "tfrecord.", _AGAIN)
        if name != self._task.collection:
            raise DataDamaged(f"'{folder}' holds '{name}'; {self.task} needs '{self._task.collection}'.", "", _AGAIN)
        return folder, name, version, splits

    @property
    def class_names(self) -> tuple[str, ...]:
        return label_names.class_names(self._task.name)

    @property
    def splits(self) -> tuple[str, ...]:
        sizes = self._sizes
        return tuple(
            name
            for name, pieces in self._task.splits.items()
            if all(sizes.get(p.raw_split, 0) > p.start for p in pieces)
        )

    @cached_property
    def _sizes(self) -> dict[str, int]:
        return {raw_split: sum(lengths) for raw_split, lengths in self._info[3].items()}

    def open(self, split: str) -> Split:
        """Open one split: only the examples in it are read.

        Raises:
            DataMissing: no such split, or a shard is absent.
            DataDamaged: a shard is damaged, or holds another number of examples than stated.
        """
        if split not in self.splits:
            raise DataMissing(
                f"'{self.path}' has no split '{split}'.", fact=f"There are: {', '.join(self.splits) or 'none'}."
            )
        places: list[tuple[Path, int, int]] = []
        keys: list[str] = []
        labels: list[int] = []
        names = self.class_names
        ordered = True
        for piece in official_splits.slices(self._task, split, self._sizes):
            records = self._records(piece.raw_split, piece.start, piece.stop)
            here = []
            for position, place in enumerate(records, piece.start):
                example = tfrecord.example(_record(*place), str(place[0]))
                here.append(self._key(piece.raw_split, position, example))
                labels.append(self._checked(_label, self._task.name, example))
                places.append(place)
            ordered &= np.array_equal(official_splits.hash_order(here, piece.raw_split), np.arange(len(here)))
            keys += here
        wrong = [i for i, label in enumerate(labels) if not 0 <= label < len(names)]
        if wrong:
            raise DataDamaged(
                f"'{keys[wrong[0]]}' has the label {labels[wrong[0]]}.", f"0 to {len(names) - 1}.", _AGAIN
            )
        return Split(
            self._task.name,
            split,
            names,
            keys,
            np.asarray(labels, np.int64),
            Reader(
                lambda i: self._image(_record(*places[i]), places[i][0]),
                file=None if self._task.collection == "dsprites" else lambda i: places[i][:2],
            ),
            self._provenance(ordered),
        )

    def _key(self, raw_split: str, position: int, example: _Example) -> str:
        try:
            return _KEYS[self._task.collection](example, self.class_names)
        except (KeyError, IndexError, ValueError):
            known = self._enumerated.get(raw_split)
            return known[position] if known and position < len(known) else f"{raw_split}_{position}"

    @cached_property
    def _enumerated(self) -> dict[str, list[str]]:
        """Return the official keys in hash order where they are known without data and the counts agree."""
        found = {}
        for raw_split, n in self._sizes.items():
            keys = official_splits.raw_keys(self._task, raw_split) if raw_split in self._task.sizes else None
            if keys is not None and len(keys) == n:
                found[raw_split] = [keys[i] for i in official_splits.hash_order(keys, raw_split).tolist()]
        return found

    def _provenance(self, ordered: bool) -> Provenance:
        _, name, version, _ = self._info
        short = official.raw_shortfall(self._task, self._sizes)
        why = self._task.non_reference
        if not ordered:
            why = "stored in another order than its keys give (TensorFlow Datasets before 4.2.0)"
        if short:
            why = short[1]
        kind = f"TensorFlow Datasets directory ({name} {version})"
        if name == "sun397" and self._sizes.get("train") == self._task.sizes["train"] - 1:
            kind += f"; {official.SUN397_NOTE}"
        return Provenance(kind, not why, why, "partial" if short else "full", version)

    def _records(self, raw_split: str, start: int, stop: int) -> list[tuple[Path, int, int]]:
        """Return (shard, offset, length) of the examples [start, stop) of a raw split."""
        folder, name, _, splits = self._info
        lengths = splits[raw_split]
        found: list[tuple[Path, int, int]] = []
        first = 0
        for i, n in enumerate(lengths):
            if first < stop and first + n > start:
                shard = folder / f"{name}-{raw_split}.tfrecord-{i:05d}-of-{len(lengths):05d}"
                places = _scan(shard, n)
                found += places[max(0, start - first) : stop - first]
            first += n
        return found

    def _checked(self, rule: Callable[[str, _Example], int], task: str, example: _Example) -> int:
        try:
            return rule(task, example)
        except (KeyError, IndexError, ValueError) as error:
            raise DataDamaged(f"'{self.path}' lacks the feature {error} that {task} needs.", "", _AGAIN) from None

    def _image(self, record: bytes, shard: Path) -> bytes:
        example: _Example = tfrecord.example(record, str(shard))
        data = example["image"][0] if example.get("image") else None
        if not isinstance(data, bytes):
            raise DataDamaged(f"'{shard}' holds an example without an image.", "", _AGAIN)
        return _brightened(data) if self._task.collection == "dsprites" else data


def _brightened(data: bytes) -> bytes:
    """Turn dSprites' stored 0 and 1 into 0 and 255, as the task does."""
    from PIL import Image

    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("L"))
    return data if pixels.max() > 1 else png(pixels * np.uint8(255))


def _scan(shard: Path, n: int) -> list[tuple[Path, int, int]]:
    """Return the place of every record, by the lengths alone."""
    if not shard.is_file():
        raise DataMissing(f"Shard '{shard}' is missing.", "every shard that dataset_info.json counts.", _AGAIN)
    places: list[tuple[Path, int, int]] = []
    size = shard.stat().st_size
    with reading(str(shard)), shard.open("rb") as file:
        at = 0
        while at < size:
            head = file.read(12)
            if not tfrecord.intact(head[:8], head[8:]):
                raise EOFError(f"record {len(places)}")
            length = struct.unpack("<Q", head[:8])[0]
            places.append((shard, at + 12, length))
            at += 12 + length + 4
            file.seek(at)
    if at != size or len(places) != n:
        raise DataDamaged(f"'{shard}' has {len(places):,} whole records.", f"{n:,}, as dataset_info.json says.", _AGAIN)
    return places


def _record(shard: Path, offset: int, length: int) -> bytes:
    with reading(str(shard)), shard.open("rb") as file:
        file.seek(offset)
        data, tail = file.read(length), file.read(4)
    if not tfrecord.intact(data, tail):
        raise DataDamaged(f"'{shard}' is damaged at byte {offset:,}.", "a whole TFRecord file.", _AGAIN)
    return data
