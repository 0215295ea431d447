"""Local parquet and arrow files: `train*.parquet`, `test-00000-of-00002.parquet`, `validation/*.arrow`, ..."""

import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitft.catalog import tasks
from vitft.data import labels as label_names
from vitft.data import official
from vitft.data.sources.columns import Columns, find_columns
from vitft.data.sources.image_folder import read_file
from vitft.data.sources.tables import Table, open_table
from vitft.data.split import Provenance, Split
from vitft.errors import DataDamaged, DataMissing

SUFFIXES = (".parquet", ".arrow")
_WORDS = {"train": "train", "training": "train", "validation": "val", "valid": "val", "val": "val", "dev": "val"}
_WORDS |= {"test": "test", "testing": "test", "eval": "test"}
_SHARD = re.compile(r"-(\d+)-of-(\d+)$")
_LEGAL = "Legal: train*.parquet, validation*.parquet, test*.parquet (or .arrow), or folders of those names."


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
    """

    path: Path
    task: str
    kind: str = "parquet"
    revision: str = ""

    @cached_property
    def _files(self) -> dict[str, list[Path]]:
        if self.path.is_file():
            return {_split_of(self.path.stem) or "train": [self.path]}
        return _layout(self.path)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(name for name in ("train", "val", "test") if name in self._files)

    @cached_property
    def _tables(self) -> dict[str, tuple[Table, Columns]]:
        opened = {}
        for name in self.splits:
            table = open_table(_whole(self._files[name]))
            opened[name] = (table, find_columns(table.schema, self._files[name][0]))
        return opened

    @cached_property
    def _labels(self) -> tuple[tuple[str, ...], dict[str, NDArray[np.int64]]]:
        """Return class names and the labels of every split."""
        columns = {name: table.column(c.label) for name, (table, c) in self._tables.items()}
        stated = {c.names for _, c in self._tables.values() if c.names}
        if len(stated) > 1:
            raise DataDamaged(f"The splits of '{self.path}' name different classes.", "Legal: one list of classes.")
        known = tasks.canonical(self.task)
        texts = any(isinstance(value, str) for values in columns.values() for value in values[:1])
        if texts:
            return self._text_labels(columns, stated.pop() if stated else None)
        values = {name: self._integers(name, column) for name, column in columns.items()}
        if stated:
            names = stated.pop()
        else:
            present = np.unique(np.concatenate(list(values.values())))
            k = int(present.max(initial=0)) + 1
            lacking = sorted(set(range(k)) - set(present.tolist()))
            if lacking:
                raise DataDamaged(
                    f"'{self.path}' has labels up to {k - 1}, but none of class {lacking[0]}.",
                    "Legal: the labels 0 to K-1 without a gap, or class names in the file's Hugging Face metadata.",
                )
            official_names = known is not None and k == tasks.get(known).num_classes
            names = label_names.class_names(known) if known and official_names else tuple(map(str, range(k)))
        for name, of_split in values.items():
            if of_split.max() >= len(names):
                raise DataDamaged(
                    f"Split '{name}' of '{self.path}' has label {of_split.max()}.",
                    f"Legal: 0 to {len(names) - 1}, as it has {len(names)} classes.",
                )
        return names, values

    def _integers(self, split: str, column: list[Any]) -> NDArray[np.int64]:
        hidden = sum(value == -1 for value in column)
        if hidden:
            raise DataDamaged(
                f"Split '{split}' of '{self.path}' has the label -1 {hidden:,} times: its labels are hidden.",
                "Legal: the labels 0 to K-1.",
                "Remove that file, or use another split.",
            )
        for row, value in enumerate(column):
            if value is None or value < 0:
                raise DataDamaged(
                    f"Row {row} of split '{split}' of '{self.path}' has the label {value}.", "Legal: 0 to K-1."
                )
        return np.asarray(column, dtype=np.int64)

    def _text_labels(
        self, columns: dict[str, list[Any]], stated: tuple[str, ...] | None
    ) -> tuple[tuple[str, ...], dict[str, NDArray[np.int64]]]:
        """Number the classes in sorted order where the labels are names."""
        for name, column in columns.items():
            if None in column:
                raise DataDamaged(f"Row {column.index(None)} of split '{name}' of '{self.path}' has no label.")
        names = stated or tuple(sorted({value for column in columns.values() for value in column}))
        index = {value: label for label, value in enumerate(names)}
        for name, column in columns.items():
            for value in column:
                if value not in index:
                    raise DataDamaged(f"Split '{name}' of '{self.path}' has the label '{value}', which is no class.")
        return names, {n: np.asarray([index[v] for v in column], dtype=np.int64) for n, column in columns.items()}

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names from the file's Hugging Face metadata, else the labels themselves."""
        return self._labels[0]

    def open(self, split: str) -> Split:
        """Open one split.

        Raises:
            DataMissing: no such split.
            DataDamaged: an unreadable file, a missing shard, no or several columns to choose from, bad labels.
        """
        if split not in self._files:
            raise DataMissing(f"'{self.path}' has no split '{split}'; it has: {', '.join(self.splits)}.", _LEGAL)
        names, labels = self._labels
        table, columns = self._tables[split]
        if not len(table):
            raise DataDamaged(f"Split '{split}' of '{self.path}' has no rows.")
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
        why = official.shortfall(self.task, split, n) or "a table's membership is not checked"
        found = f"image '{columns.image}', label '{columns.label}', key {'path' if by_path else 'row'}"
        return Split(
            self.task,
            split,
            names,
            keys,
            labels[split],
            read,
            Provenance(f"{self.kind} ({found})", False, why, official.completeness(self.task, split, n), self.revision),
        )


def _keys(table: Table, columns: Columns) -> tuple[list[str], bool]:
    """Return the images' own file names where each has one and no two are equal, else the row numbers."""
    if columns.has_path:
        paths = table.column(f"{columns.image}.path")
        if all(paths) and len(set(paths)) == len(paths):
            return [str(path) for path in paths], True
    return [str(row) for row in range(len(table))], False


def _split_of(stem: str) -> str | None:
    """Return the split that a file or folder name speaks of: its first word that is one."""
    for word in re.split(r"[^a-z]+", stem.lower()):
        if word in _WORDS:
            return _WORDS[word]
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
        files = _tables_in(folder)
        if files and (split := _WORDS.get(name.lower())):
            by_split[split] += files
    if by_split:
        return dict(by_split)
    if "data" in inside and (grouped := _grouped(inside["data"])):
        return grouped
    # A repository of the hub names the folder after its configuration. With other folders beside it, this is a
    # folder of data sets, not one of them.
    visible = [folder for name, folder in inside.items() if not name.startswith((".", "__"))]
    found = {folder.name: grouped for folder in visible if (grouped := _grouped(folder))}
    if len(found) == len(visible) == 1:
        return next(iter(found.values()))
    return {}


def _grouped(folder: Path) -> dict[str, list[Path]]:
    """Group the files in one folder by split. Files without a split's name are `train` when they are alone."""
    files = _tables_in(folder)
    groups: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        if split := _split_of(_SHARD.sub("", file.stem)):
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
    return [file for file in names if file.is_file() and not file.name.startswith((".", "cache-"))]


def _whole(files: list[Path]) -> list[Path]:
    """Return the files in shard order. Raises DataMissing where a shard of a numbered set is absent."""
    shards: dict[int, set[int]] = defaultdict(set)
    for file in files:
        if match := _SHARD.search(file.stem):
            shards[int(match[2])].add(int(match[1]))
    for total, present in shards.items():
        absent = sorted(set(range(total)) - present)
        if absent:
            raise DataMissing(
                f"'{files[0].parent}' lacks shard {absent[0]:05d} of {total} ('{files[0].name}' is there).",
                "Legal: every shard that the file names count.",
                "Download the missing files.",
            )
    return files
