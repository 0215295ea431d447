"""What `vitft data prepare` wrote: one parquet a split and a manifest that says what must be in them."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vitft.data import official, reader
from vitft.data.sources.tables import Table, open_table
from vitft.data.split import Completeness, Provenance, Split
from vitft.errors import DataDamaged, DataMissing

_KIND = "vitft-prepared"
_PARTS = {"train800val200": ("train800", "val200")}
_AGAIN = "Remove the folder and run 'vitft data prepare' again."


def detect(path: Path) -> bool:
    """Tell whether `path` is a folder with such a manifest."""
    try:
        return bool(json.loads((path / "manifest.json").read_bytes()).get("kind") == _KIND)
    except (OSError, ValueError, AttributeError):
        return False


def read_manifest(path: Path) -> dict[str, Any] | None:
    """Return the manifest of a prepared folder, None where its manifest is of another kind.

    Raises:
        DataDamaged: it is no JSON, or lacks what every manifest has.
    """
    file = path / "manifest.json"
    try:
        manifest = json.loads(file.read_bytes())
        if not isinstance(manifest, dict) or manifest.get("kind") != _KIND:
            return None
        needed = {"task", "shots", "completeness", "reference", "why", "class_names", "splits", "decoder", "versions"}
        lacks = needed - manifest.keys()
        for name, split in manifest.get("splits", {}).items():
            lacks |= {f"splits.{name}.{key}" for key in {"n", "digest", "file", "bytes", "sha256"} - split.keys()}
    except (OSError, ValueError, AttributeError) as error:
        raise DataDamaged(f"'{file}' cannot be read ({error}).", "Legal: a whole manifest.", _AGAIN) from None
    if lacks:
        raise DataDamaged(f"'{file}' lacks '{min(lacks)}'.", "Legal: a whole manifest.", _AGAIN)
    return manifest


def outdated(manifest: dict[str, Any]) -> str:
    """Say by which other rule a prepared folder was split than its collection has now; empty where by the same."""
    rule = official.SPLIT_RULES.get(str(manifest.get("collection")), "")
    if manifest.get("rule", "") == rule:
        return ""
    return f"split by an earlier rule of vitft ('{manifest.get('rule') or 'unnamed'}'), not by '{rule}'"


@dataclass(frozen=True)
class Prepared:
    """One prepared task.

    Attributes:
        path: its folder.
        task: canonical name.
    """

    path: Path
    task: str

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What the preparation stated. Raises DataDamaged."""
        manifest = read_manifest(self.path)
        if manifest is None:
            raise DataMissing(f"'{self.path}' is no prepared data set.", "", "Run 'vitft data prepare'.")
        if why := outdated(manifest):
            raise DataDamaged(
                f"'{self.path}' was {why}: its examples are others.",
                "Legal: data that this vitft prepared.",
                f"Run 'vitft data prepare {self.task}' again; it replaces the folder.",
            )
        return manifest

    @property
    def splits(self) -> tuple[str, ...]:
        stored = tuple(self.manifest["splits"])
        return stored + tuple(name for name, parts in _PARTS.items() if set(parts) <= set(stored))

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.manifest["class_names"])

    def open(self, split: str) -> Split:
        """Open one split.

        Raises:
            DataMissing: it is not among what was prepared.
            DataDamaged: a file, its keys or its labels are not what the manifest states.
        """
        if split not in self.splits:
            more = " --shots full" if split in ("train", "val") else ""
            raise DataMissing(
                f"'{self.path}' has no split '{split}'.",
                f"There are: {', '.join(self.splits)}.",
                f"Run 'vitft data prepare {self.task}{more}'.",
            )
        parts = [self._opened(name) for name in _PARTS.get(split, (split,))]
        if len(parts) == 1:
            return parts[0]
        first, second = parts
        return Split(
            self.task,
            split,
            self.class_names,
            [*first.keys, *second.keys],
            np.concatenate([first.labels, second.labels]),
            reader.joined([first.reader, second.reader], [len(first), len(second)]),
            first.provenance,
        )

    @cached_property
    def _parts(self) -> dict[str, Split]:
        return {}

    def _opened(self, name: str) -> Split:
        if name not in self._parts:
            self._parts[name] = self._part(name)
        return self._parts[name]

    def _part(self, name: str) -> Split:
        stated = self.manifest["splits"][name]
        file = self.path / stated["file"]
        if not file.is_file():
            raise DataMissing(f"'{file}' is missing.", "Legal: every file that manifest.json names.", _AGAIN)
        if file.stat().st_size != stated["bytes"]:
            raise DataDamaged(
                f"'{file}' has {file.stat().st_size:,} bytes.",
                f"Legal: {stated['bytes']:,}, as its manifest says.",
                _AGAIN,
            )
        table = open_table([file])
        keys = [str(key) for key in table.column("key")]
        labels = np.asarray(table.column("label"), dtype=np.int64)
        k = len(self.class_names)
        split = Split(self.task, name, self.class_names, keys, labels, _reader(table, file), self._provenance())
        if len(keys) != stated["n"] or split.digest != stated["digest"]:
            raise DataDamaged(
                f"'{file}' holds other examples than its manifest states ({len(keys):,} of {stated['n']:,}).",
                "Legal: the keys and labels that were written.",
                _AGAIN,
            )
        if len(labels) and not 0 <= labels.min() <= labels.max() < k:
            raise DataDamaged(
                f"'{file}' has the label {labels.min() if labels.min() < 0 else labels.max()}.", f"Legal: 0 to {k - 1}."
            )
        return split

    def _provenance(self) -> Provenance:
        m = self.manifest
        version = m["versions"].get("vitft", "")
        found = "; ".join([f"prepared from the owner's files ({m['collection']})", m["decoder"], *m.get("notes", ())])
        completeness: Completeness = "full" if m["completeness"] == "full" else "partial"
        return Provenance(found, bool(m["reference"]), str(m["why"]), completeness, f"vitft {version}")


def _reader(table: Table, file: Path) -> Any:
    def read(i: int) -> bytes:
        data, _ = table.image("image", i)
        if not data:
            raise DataDamaged(f"Row {i} of '{file}' holds no image.", "Legal: the bytes that were written.", _AGAIN)
        return data

    return read
