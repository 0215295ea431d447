"""Image files whose labels stand in a table or a list beside them: what `metadata` and `split_lists` read."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from vitft.catalog import tasks
from vitft.data import labels as label_names
from vitft.data import official
from vitft.data.sources.files import filled_lines, printable, reader, refuse_listed
from vitft.data.sources.own_split import OWN, unchecked
from vitft.data.split import Provenance, Split
from vitft.errors import DataDamaged, DataMissing

Label = int | str
Row = tuple[str, Label]
"""A path below the data set's folder, with forward slashes, and its label."""

NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
"""What folders and lists of each split are called, in lower case."""


def by_split(paths: Iterable[Path], legal: str) -> dict[str, Path]:
    """Map "train", "val", "test" to the folder or list of that meaning; others are left out.

    Raises:
        DataDamaged: two mean the same split (exit code 3).
    """
    found: dict[str, Path] = {}
    for path in paths:
        name = NAMES.get((path.name if path.is_dir() else path.stem).lower())
        if name in found:
            both = f"'{path.parent}' holds both '{found[name].name}' and '{path.name}'"
            raise DataDamaged(f"{both}, which mean the same split.", legal, "Remove or rename one.")
        if name is not None:
            found[name] = path
    return found


@dataclass(frozen=True)
class Rows:
    """A folder of images with their labels beside them.

    Attributes:
        path: the folder.
        task: what the data set is called.
        kind: what the provenance calls it.
        read: folder -> split -> its rows.
        own: folder -> what a split that vitft made of it is called; empty where it made none.
        unread: folder -> what a footnote should say of lists and images that no split holds; empty where nothing.
    """

    path: Path
    task: str
    kind: str
    read: Callable[[Path], Mapping[str, Sequence[Row]]]
    unread: Callable[[Path], str] = lambda _: ""
    own: Callable[[Path], str] = lambda _: ""

    @cached_property
    def _rows(self) -> Mapping[str, Sequence[Row]]:
        return self.read(self.path)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(name for name in ("train", "val", "test") if name in self._rows)

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names as they stand there, sorted; for integers those of `classes.txt`, of the task, or the numbers.

        Raises DataDamaged where names and numbers are mixed, or a number is absent from all splits.
        """
        present = {label for rows in self._rows.values() for _, label in rows}
        names = sorted(label for label in present if isinstance(label, str))
        numbers = sorted(label for label in present if isinstance(label, int))
        if names and numbers:
            raise DataDamaged(
                f"The labels of '{self.path}' are names ('{names[0]}') and numbers ({numbers[0]}).",
                "names of classes, or the integers 0 to K-1.",
            )
        if names:
            return tuple(names)
        if numbers[0] < 0:
            raise DataDamaged(
                f"'{self.path}' has the label {numbers[0]}: it is hidden, or no class.",
                "the integers 0 to K-1, or names of classes.",
                "Remove those rows, or use another split.",
            )
        file = self.path / "classes.txt"
        known = tasks.canonical(self.task)
        if file.is_file():
            stated = tuple(filled_lines(file))
        elif known and max(numbers) < tasks.get(known).num_classes:
            stated = label_names.class_names(known)
        else:
            stated = tuple(str(i) for i in range(len(numbers)))
            lacking = next((i for i, number in enumerate(numbers) if i != number), None)
            if lacking is not None:
                raise DataDamaged(
                    f"The labels of '{self.path}' go up to {numbers[-1]}, and none is {lacking}.",
                    "the integers 0 to K-1 without a gap, names of classes, or a classes.txt of all names.",
                )
        if numbers[-1] >= len(stated):
            raise DataDamaged(f"'{self.path}' has the label {numbers[-1]}.", f"0 to {len(stated) - 1}.")
        return stated

    def open(self, split: str) -> Split:
        """Open one split.

        Raises:
            DataMissing: no such split, or a file that a row names is absent.
            DataDamaged: a file is named twice, or the labels make no classes.
        """
        unread = self.unread(self.path)
        if split not in self._rows:
            raise DataMissing(
                f"'{self.path}' has no split '{split}'; it has: {', '.join(self.splits)}.",
                f"those{f'; {unread}' if unread else ''}.",
            )
        rows = self._rows[split]
        files = [self._present(name) for name, _ in rows]
        refuse_listed(self.path, files)
        twice = [name for name, n in Counter(files).items() if n > 1]
        if twice:
            raise DataDamaged(
                f"'{self.path}' names '{printable(twice[0])}' more than once in {split}.",
                "each image once; counted twice it would weigh twice.",
            )
        names = self.class_names
        index: dict[Label, int] = {name: i for i, name in enumerate(names)}
        labels = [label if isinstance(label, int) else index[label] for _, label in rows]
        note = f"; {unread}" if unread else ""
        opened = of_files(self.path, files, self.task, split, names, labels, self.kind, note)
        if not (own := self.own(self.path)):
            return opened
        why = opened.provenance.why
        why = why.replace(OWN, own, 1) if why.startswith(OWN) else f"{own}; {why}"
        return replace(opened, provenance=replace(opened.provenance, why=why))

    def _present(self, name: str) -> str:
        """Return the path of a file as the disk spells it: macOS writes an accent in two characters."""
        for spelling in (name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)):
            if (self.path / spelling).is_file():
                return spelling
        raise DataMissing(
            f"Image '{printable(self.path / name)}' is missing.", f"every image that the {self.kind} names."
        )


def of_files(
    root: Path,
    files: Sequence[str],
    task: str,
    split: str,
    names: tuple[str, ...],
    labels: Sequence[int],
    kind: str,
    note: str,
) -> Split:
    """Return the split of a user's image files below `root`; `kind` and `note` go into its provenance."""
    why = official.shortfall(task, split, len(files)) or unchecked(task, "folder")
    return Split(
        task,
        split,
        names,
        [printable(file) for file in files],
        np.asarray(labels, dtype=np.int64),
        reader(root, files),
        Provenance(kind, False, why + note, official.completeness(task, split, len(files))),
        exif=not official.counts(task, split),
    )


def relative(name: str, where: str) -> str:
    """Return a path with forward slashes. Raises DataDamaged for an empty one and one that leads out of its folder."""
    path = name.strip().replace("\\", "/").removeprefix("./")
    if not path or path.startswith("/") or ".." in path.split("/"):
        raise DataDamaged(f"{where}: '{name[:120]}' is no path of an image.", "paths below the list's folder.")
    return path


def number_or_name(text: str) -> Label:
    """Return a word as an integer where it is written as one; -1 is one, too, and no class."""
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdigit() and str(int(text)) == text else text
