"""Local parquet and arrow files: `train*.parquet`, `test-00000-of-00002.parquet`, `validation/*.arrow`, ..."""

import re
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vitft.catalog import tasks
from vitft.data import labels as label_names
from vitft.data import official
from vitft.data.reader import Reader
from vitft.data.sources.columns import Columns, find_columns
from vitft.data.sources.files import read_file
from vitft.data.sources.own_split import unchecked
from vitft.data.sources.rows import NAMES
from vitft.data.sources.tables import Table, open_table
from vitft.data.split import Provenance, Split
from vitft.errors import DataDamaged, DataMissing, some

SUFFIXES = (".parquet", ".arrow")
SHARD = re.compile(r"-(\d+)-of-(\d+)(?:-[0-9a-f]{16})?$")
_PART = re.compile(r"[-_. ]*(part|shard)?[-_. ]*\d*$")
_LEGAL = "train*.parquet, validation*.parquet, test*.parquet (or .arrow), or folders of those names."


def detect(path: Path) -> bool:
    """Tell whether `path` is such a file, or a folder with some at its top, in data/ or in one folder a split."""
    if path.is_file():
        return path.suffix.lower() in SUFFIXES
    return path.is_dir() and bool(_layout(path))


@dataclass(frozen=True)
class Parquet:
    """A table of images. Nothing is read before it is needed, and pictures only row group by row group.

    Attributes:
        path: a file, or a folder of files.
        task: what the data set is called.
        kind: what the provenance calls it.
        revision: commit or version of the data.
        take: (split in the files, split it is given out as); the others are left alone. Empty: all, as they are.
    """

    path: Path
    task: str
    kind: str = "parquet"
    revision: str = ""
    take: tuple[tuple[str, str], ...] = ()
    _opened: dict[str, tuple[Table, Columns]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def _files(self) -> dict[str, list[Path]]:
        found = {split_of(self.path.stem) or "train": [self.path]} if self.path.is_file() else _layout(self.path)
        return {out: found[name] for name, out in self.take if name in found} if self.take else found

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(name for name in ("train", "val", "test") if name in self._files)

    @cached_property
    def _unread(self) -> str:
        """The note on tables that belong to no split; empty where there are none."""
        read = {file for files in self._files.values() for file in files}
        if self.take or self.path.is_file():
            return ""
        left = [file.name for folder in sorted({f.parent for f in read}) for file in _tables_in(folder)]
        left = [name for name in left if name not in {file.name for file in read}]
        return f"; tables not read: {some(left, 3)}" if left else ""

    def _table(self, split: str) -> tuple[Table, Columns]:
        if split not in self._opened:
            table = open_table(_one(_whole(self._files[split]), split))
            self._opened[split] = table, find_columns(table.schema, self._files[split][0])
        return self._opened[split]

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names from the file's Hugging Face metadata; else the labels of all splits, which have no gap.

        Raises DataDamaged where there is neither.
        """
        if not self.splits:
            raise DataMissing(f"'{self.path}' has no split that vitft can use.", _LEGAL)
        stated = self._table(self.splits[0])[1].names
        if stated:
            return stated
        present: set[Any] = set()
        for split in self.splits:
            table, columns = self._table(split)
            present |= set(table.column(columns.label))
        if any(isinstance(value, str) for value in present):
            return tuple(sorted(value for value in present if isinstance(value, str)))
        numbers = sorted({value for value in present if value is not None and value >= 0})
        k = len(numbers)
        lacking = next((i for i, number in enumerate(numbers) if i != number), None)
        if lacking is not None:
            raise DataDamaged(
                f"'{self.path}' has labels up to {numbers[-1]}, but none of class {lacking}.",
                "the labels 0 to K-1 without a gap, or class names in the file's Hugging Face metadata.",
            )
        known = tasks.canonical(self.task)
        if known and tasks.get(known).num_classes == k:
            return label_names.class_names(known)
        return tuple(str(label) for label in range(k))

    def _labels(self, split: str) -> NDArray[np.int64]:
        table, columns = self._table(split)
        if columns.names and columns.names != self.class_names:
            raise DataDamaged(f"The splits of '{self.path}' name different classes.", "one list of classes.")
        column = table.column(columns.label)
        where = f"split '{split}' of '{self.path}'"
        if not column:
            raise DataDamaged(f"{where[0].upper()}{where[1:]} has no rows.", "at least one image.")
        hidden = sum(value == -1 for value in column)
        if hidden:
            raise DataDamaged(
                f"The label is -1 in {hidden:,} of {len(column):,} rows of {where}: it is hidden.",
                "the labels 0 to K-1.",
                "Remove that file, or use another split.",
            )
        k = len(self.class_names)
        index: dict[Any, int] = {name: label for label, name in enumerate(self.class_names)}
        if not any(isinstance(value, str) for value in column):
            index = {label: label for label in range(k)}
        for row, value in enumerate(column):
            if value not in index:
                raise DataDamaged(f"Row {row} of {where} has the label '{value}'.", f"the {k} classes 0 to {k - 1}.")
        return np.asarray([index[value] for value in column], dtype=np.int64)

    def open(self, split: str) -> Split:
        """Open one split.

        Raises:
            DataMissing: no such split.
            DataDamaged: an unreadable file, a missing shard, no or several columns to choose from, bad labels.
        """
        if split not in self._files:
            raise DataMissing(f"'{self.path}' has no split '{split}'; it has: {', '.join(self.splits)}.", _LEGAL)
        table, columns = self._table(split)
        labels = self._labels(split)
        keys, by_path = _keys(table, columns)
        root = self.path if self.path.is_dir() else self.path.parent

        def read(i: int) -> bytes:
            data, path = table.image(columns.image, i)
            if data:
                return data
            # Hugging Face tables may hold a path instead of the bytes.
            if path and (root / path).is_file():
                return read_file(root / path)
            raise DataDamaged(f"Row {i} ('{keys[i]}') of split '{split}' of '{self.path}' holds no image.")

        n = len(keys)
        why = (official.shortfall(self.task, split, n) or unchecked(self.task, "table")) + self._unread
        how = f"image '{columns.image}', label '{columns.label}', key {'path' if by_path else 'row'}"
        return Split(
            self.task,
            split,
            self.class_names,
            keys,
            labels,
            Reader(read, file=table.place if table.holds(columns.image) else None),
            Provenance(f"{self.kind} ({how})", False, why, official.completeness(self.task, split, n), self.revision),
            exif=not official.counts(self.task, split),
        )


def _keys(table: Table, columns: Columns) -> tuple[list[str], bool]:
    """Return the images' own file names where each has one and no two are equal, else the row numbers."""
    if columns.has_path:
        paths = table.column(f"{columns.image}.path")
        if all(paths) and len(set(paths)) == len(paths):
            return [str(path) for path in paths], True
    return [str(row) for row in range(len(table))], False


def split_of(stem: str) -> str | None:
    """Return the split that a file or folder name speaks of: its first word that is one."""
    for word in re.split(r"[^a-z]+", stem.lower()):
        if word in NAMES:
            return NAMES[word]
    return None


def _layout(path: Path) -> dict[str, list[Path]]:
    """Find the files of each split; empty where there are none, or several tables."""
    here = _grouped(path)
    if here:
        return here
    try:
        inside = {folder.name: folder for folder in sorted(path.iterdir()) if folder.is_dir()}
    except OSError as error:
        raise DataMissing(f"Folder '{path}' cannot be read ({error.strerror}).") from None
    by_split: dict[str, list[Path]] = defaultdict(list)
    for name, folder in inside.items():
        split = NAMES.get(name.lower())
        if split and (files := _tables_in(folder)):
            by_split[split] += files
    if by_split:
        return dict(by_split)
    if "data" in inside and (grouped := _grouped(inside["data"])):
        return grouped
    # A repository of the hub names the folder after its configuration. With other folders beside it, this is a
    # folder of data sets, not one of them.
    visible = [folder for name, folder in inside.items() if not name.startswith((".", "__"))]
    return _grouped(visible[0]) if len(visible) == 1 else {}


def _grouped(folder: Path) -> dict[str, list[Path]]:
    """Group the files in one folder by split. Files without a split's name are `train` when they are alone."""
    files = _tables_in(folder)
    groups: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        if split := split_of(SHARD.sub("", file.stem)):
            groups[split].append(file)
    if files and not groups:
        groups["train"] = files
    return dict(groups)


def _tables_in(folder: Path) -> list[Path]:
    try:
        names = sorted(entry for entry in folder.iterdir() if entry.suffix.lower() in SUFFIXES)
    except OSError:
        return []
    # "cache-<hash>.arrow" are leftovers of `map` in a folder of Hugging Face datasets.
    files = [file for file in names if file.is_file() and not file.name.startswith((".", "cache-"))]
    return [file for file in files if not _names_files(file)]


def _names_files(file: Path) -> bool:
    """Tell whether a table is the `metadata.parquet` of images that are files (see `metadata`)."""
    if file.stem.lower() != "metadata":
        return False
    try:
        return "file_name" in pq.read_schema(file).names
    except (pa.ArrowException, OSError):
        return False


def _one(files: list[Path], split: str) -> list[Path]:
    """Return the files of a split, parts of one table. Raises DataDamaged where two tables mean the split."""
    first = {_PART.sub("", SHARD.sub("", file.stem.lower())): file.name for file in reversed(files)}
    if len(first) > 1 and files[0].parent.name.lower() not in NAMES and all(split_of(f.stem) for f in files):
        one, other = sorted(first.values())[:2]
        raise DataDamaged(
            f"'{files[0].parent}' holds both '{one}' and '{other}', which mean the same split, {split}.",
            "one table a split, or its parts by number: train-00000-of-00002.parquet, train_1.parquet.",
            "Remove or rename one.",
        )
    return files


def _whole(files: list[Path]) -> list[Path]:
    """Return the files in shard order. Raises DataMissing where a shard of a numbered set is absent."""
    shards: dict[int, set[int]] = defaultdict(set)
    for file in files:
        if match := SHARD.search(file.stem):
            shards[int(match[2])].add(int(match[1]))
    for total, present in shards.items():
        absent = sorted(set(range(total)) - present)
        if absent:
            raise DataMissing(
                f"'{files[0].parent}' lacks shard {absent[0]:05d} of {total} ('{files[0].name}' is there).",
                "every shard that the file names count.",
                "Download the missing files.",
            )
    return files
