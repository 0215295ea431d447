"""The community's VTAB-1k layout: train800.txt, val200.txt, ..., test.txt with lines `images/test/000000.jpg 307`."""

import json
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vitft.catalog import tasks
from vitft.data import labels as label_names
from vitft.data import official
from vitft.data.reader import Digests
from vitft.data.sources.files import filled_lines, numbered_lines, read_text, reader, refuse_listed
from vitft.data.split import Provenance, Split
from vitft.errors import DataDamaged, DataMissing
from vitft.results.parts import Completeness

_SPLITS = ("train800", "val200", "train800val200", "test")
_LEGAL = "one image a line, a path below that folder, a space, and its label, as 'images/test/000000.jpg 307'."
_KIND = "vtab folder (JPEG re-encoded)"


def detect(path: Path) -> bool:
    """Tell whether `path` holds at least two of the four lists."""
    return sum((path / f"{name}.txt").is_file() for name in _SPLITS) >= 2


@dataclass(frozen=True)
class VtabFolder:
    """One task of the archive that goes round among the parameter-efficient tuning papers.

    Its images are those of the official splits, written once more as JPEG: the membership can be the reference, the
    pixels are not. A `manifest.json` beside the lists may state `{"counts": {"test": 1000}, "completeness": "full" |
    "declared", "reference": true | false, "why": "...", "revision": "..."}`; what it states is held against the lists.

    Attributes:
        path: the folder of the lists.
        task: canonical name of a VTAB task, or the folder's name.
    """

    path: Path
    task: str
    # Digests of its images, and their numbers by path: train800val200 holds those of train800 and val200.
    _found: Digests = field(default_factory=Digests, init=False, repr=False, compare=False)
    _numbers: dict[str, int] = field(default_factory=dict, init=False, repr=False, compare=False)
    _parsed: dict[str, list[tuple[str, int]]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def splits(self) -> tuple[str, ...]:
        present = {name for name in _SPLITS if self.lists(name)}
        if {"train800", "val200"} <= present:
            present.add("train800val200")
        return tuple(name for name in _SPLITS if name in present)

    def lists(self, split: str) -> bool:
        """Tell whether a split has a list of its own."""
        return (self.path / f"{split}.txt").is_file()

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names from `classes.txt`, else the task's own, else the numbers up to the largest label."""
        file = self.path / "classes.txt"
        known = tasks.canonical(self.task)
        if file.is_file():
            return tuple(filled_lines(file))
        if known:
            return label_names.class_names(known)
        lists = {name: self._lines(name) for name in _SPLITS if self.lists(name)}
        largest, where = max((label, name) for name, lines in lists.items() for _, label in lines)
        if largest >= sum(map(len, lists.values())):
            raise DataDamaged(
                f"'{where}.txt' of '{self.path}' has the label {largest}, more than there are images.",
                "the labels 0 to K-1.",
            )
        return tuple(str(label) for label in range(largest + 1))

    @cached_property
    def _manifest(self) -> dict[str, Any]:
        file = self.path / "manifest.json"
        if not file.is_file():
            return {}
        try:
            manifest = json.loads(read_text(file))
            if isinstance(manifest, dict) and isinstance(manifest.get("counts", {}), dict):
                return manifest
        except ValueError:
            pass
        raise DataDamaged(f"'{file}' is no manifest.", '{"counts": {"test": 1000}, "completeness": "declared"}.')

    def open(self, split: str) -> Split:
        """Open one split; `train800val200` is the two lists joined where it has no list of its own.

        Raises:
            DataMissing: no such list, or an image that it names is not there.
            DataDamaged: a bad line, a label outside the task, an image named twice, or a broken manifest.
        """
        if split not in self.splits:
            raise DataMissing(f"'{self.path}' has no list '{split}.txt'.", fact=f"There are: {', '.join(self.splits)}.")
        joined = split == "train800val200" and not self.lists(split)
        parts = ("train800", "val200") if joined else (split,)
        lines = [line for part in parts for line in self._lines(part)]
        for part in parts:
            self._check(part, self._lines(part))
        paths = [path for path, _ in lines]
        twice = [path for path, n in Counter(paths).items() if n > 1]
        if twice:
            raise DataDamaged(
                f"'{self.path / parts[0]}.txt' names '{twice[0]}' {paths.count(twice[0])} times.",
                "each image once; counted twice it would weigh twice.",
                "Remove the second line.",
            )
        return Split(
            self.task,
            split,
            self.class_names,
            paths,
            np.asarray([label for _, label in lines], dtype=np.int64),
            replace(reader(self.path, paths), names=[self._number(path) for path in paths], found=self._found),
            self._provenance(split, parts, len(lines)),
        )

    def _number(self, path: str) -> int:
        return self._numbers.setdefault(path, len(self._numbers))

    def _lines(self, split: str) -> list[tuple[str, int]]:
        """Parse one list to (relative path, label); tolerates a byte-order mark, CRLF, backslashes and empty lines."""
        if split not in self._parsed:
            self._parsed[split] = _parse(self.path / f"{split}.txt")
        return self._parsed[split]

    def _check(self, split: str, lines: list[tuple[str, int]]) -> None:
        """Hold a list against the folder, the class names and the manifest."""
        k = len(self.class_names)
        for path, label in lines:
            if label >= k:
                raise DataDamaged(
                    f"'{self.path / split}.txt' gives '{path}' the label {label}.",
                    f"0 to {k - 1}, as '{self.task}' has {k} classes.",
                )
        refuse_listed(self.path, (path for path, _ in lines))
        present: dict[str, set[str]] = {}
        absent = []
        for path, _ in lines:
            folder, _, name = path.rpartition("/")
            if folder not in present:
                present[folder] = _names(self.path / folder)
            if name not in present[folder]:
                absent.append(path)
        if absent:
            more = f" ({len(absent):,} of {len(lines):,} are missing)" if len(absent) > 1 else ""
            raise DataMissing(
                f"Image '{self.path / absent[0]}' is missing{more}.",
                f"every image that '{split}.txt' names.",
                "Unpack the archive anew.",
            )
        counts = self._manifest.get("counts", {})
        if split in counts and counts[split] != len(lines):
            raise DataDamaged(
                f"'{split}.txt' names {len(lines):,} images; manifest.json declares {counts[split]:,}.",
                "the counts of its own manifest.",
                f"Unpack the archive of '{self.task}' anew.",
            )
        shortfall = official.shortfall(self.task, split, len(lines))
        if self._manifest.get("completeness") == "full" and shortfall:
            raise DataDamaged(
                f"'{self.path}' claims to be full, but {shortfall}.",
                "the official counts, or a manifest that says 'declared'.",
            )

    def _provenance(self, split: str, parts: tuple[str, ...], n: int) -> Provenance:
        full = official.completeness(self.task, split, n)
        stated: Completeness = "declared" if set(parts) <= self._manifest.get("counts", {}).keys() else "partial"
        # A folder is judged as a whole: a training list of 800 proves little where the test list is not the official.
        test = len(self._lines("test")) if self.lists("test") else 0
        short = official.shortfall(self.task, "test", test) or official.shortfall(self.task, split, n)
        known = bool(official.counts(self.task, "test"))
        why = short or ("" if known else "not a task with official splits")
        reference = not why
        if "reference" in self._manifest:
            reference = bool(self._manifest["reference"]) and reference
            why = str(self._manifest.get("why", "")) or why or ("" if reference else "its manifest says so")
        revision = str(self._manifest.get("revision", ""))
        return Provenance(_KIND, reference, why, full if full == "full" else stated, revision)


def _parse(file: Path) -> list[tuple[str, int]]:
    lines: list[tuple[str, int]] = []
    for number, line in numbered_lines(file):
        path, _, label = line.rpartition(" " if " " in line else "\t")
        path = path.rstrip().replace("\\", "/").removeprefix("./")
        outside = path.startswith("/") or (".." in path and ".." in path.split("/"))
        if not path or outside or not (label.isascii() and label.isdigit()):
            raise DataDamaged(f"'{file}', line {number}: '{line[:120]}' cannot be used.", _LEGAL)
        lines.append((path, int(label)))
    if not lines:
        raise DataDamaged(f"'{file}' names no image.", _LEGAL)
    return lines


def _names(folder: Path) -> set[str]:
    """Return the file names in a folder: one listing, where 73,728 single questions would be slow on a network disk."""
    try:
        return {entry.name for entry in folder.iterdir()}
    except OSError:
        return set()
