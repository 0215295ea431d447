"""What `vitft data prepare` wrote: one parquet a split and a manifest that says what must be in them."""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from vitft.data import manifest as manifests
from vitft.data import reader
from vitft.data.manifest import AGAIN, Manifest
from vitft.data.reader import Reader
from vitft.data.sources.tables import Table, open_table
from vitft.data.split import Provenance, Split
from vitft.errors import DataDamaged, DataMissing

_PARTS = {"train800val200": ("train800", "val200")}


def detect(path: Path) -> bool:
    """Tell whether `path` is a folder with such a manifest."""
    try:
        return bool(json.loads((path / manifests.FILE).read_bytes()).get("kind") == manifests.KIND)
    except (OSError, ValueError, AttributeError):
        return False


@dataclass(frozen=True)
class Prepared:
    """One prepared task.

    Attributes:
        path: its folder.
        task: canonical name.
    """

    path: Path
    task: str
    _parts: dict[str, Split] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def manifest(self) -> Manifest:
        """What the preparation stated. Raises DataDamaged."""
        manifest = manifests.read(self.path)
        if manifest is None:
            raise DataMissing(f"'{self.path}' is no prepared data set.", "", "Run 'vitft data prepare'.")
        if why := manifest.outdated:
            raise DataDamaged(
                f"'{self.path}' was {why}: its examples are others.",
                "data that this vitft prepared.",
                f"Run 'vitft data prepare {self.task}' again; it replaces the folder.",
            )
        return manifest

    @property
    def splits(self) -> tuple[str, ...]:
        stored = tuple(self.manifest.splits)
        return stored + tuple(name for name, parts in _PARTS.items() if set(parts) <= set(stored))

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.manifest.class_names

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
                fact=f"There are: {', '.join(self.splits)}.",
                action=f"Run 'vitft data prepare {self.task}{more}'.",
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

    def _opened(self, name: str) -> Split:
        if name not in self._parts:
            self._parts[name] = self._part(name)
        return self._parts[name]

    def _part(self, name: str) -> Split:
        stated = self.manifest.splits[name]
        file = self.path / stated.file
        if not file.is_file():
            raise DataMissing(f"'{file}' is missing.", "every file that manifest.json names.", AGAIN)
        if file.stat().st_size != stated.bytes:
            raise DataDamaged(
                f"'{file}' has {file.stat().st_size:,} bytes.",
                f"{stated.bytes:,}, as its manifest says.",
                AGAIN,
            )
        table = open_table([file])
        keys = [str(key) for key in table.column("key")]
        labels = np.asarray(table.column("label"), dtype=np.int64)
        k = len(self.class_names)
        split = Split(self.task, name, self.class_names, keys, labels, _reader(table, file), self._provenance())
        if len(keys) != stated.n or split.digest != stated.digest:
            raise DataDamaged(
                f"'{file}' holds other examples than its manifest states ({len(keys):,} of {stated.n:,}).",
                "the keys and labels that were written.",
                AGAIN,
            )
        if len(labels) and not 0 <= labels.min() <= labels.max() < k:
            raise DataDamaged(
                f"'{file}' has the label {labels.min() if labels.min() < 0 else labels.max()}.", f"0 to {k - 1}."
            )
        return split

    def _provenance(self) -> Provenance:
        m = self.manifest
        found = "; ".join([f"prepared from the owner's files ({m.collection})", m.decoder, *m.notes])
        return Provenance(found, m.reference, m.why, m.completeness, f"vitft {m.versions.get('vitft', '')}")


def _reader(table: Table, file: Path) -> Reader:
    def read(i: int) -> bytes:
        data, _ = table.image("image", i)
        if not data:
            raise DataDamaged(f"Row {i} of '{file}' holds no image.", "the bytes that were written.", AGAIN)
        return data

    return Reader(read, file=table.place if table.holds("image") else None)
