"""The manifest of a prepared data set: what `vitft data prepare` wrote, and what must be in it."""

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vitft.data import official
from vitft.errors import DataDamaged
from vitft.results.files import write_json

FILE = "manifest.json"
KIND: Literal["vitft-prepared"] = "vitft-prepared"
Shots = Literal["1000", "full"]
AGAIN = "Remove the folder and run 'vitft data prepare' again."


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class SourceFile(_Part):
    """A file of the owner's, or all that lay unpacked, in one.

    Attributes:
        size: bytes.
        official: whether the checksum is the owner's; None where that is not known.
        files: how many, of unpacked ones.
    """

    name: str
    size: int
    sha256: str | None = None
    official: bool | None = None
    files: int | None = None


class TableFile(_Part):
    """A parquet file as it was written; `bytes` is its size."""

    file: str
    bytes: int
    sha256: str


class StoredSplit(TableFile):
    """A split: its file, its n examples, the digest over keys and labels, the sha256 of its keys."""

    n: int
    digest: str
    keys_sha256: str = ""


class Manifest(_Part):
    """What was prepared from which files.

    Attributes:
        why: it is not the reference; empty where it is.
        rule: of the splits, see `collections.raw.Collection`.
        images: how they are kept, e.g. "the owner's bytes".
    """

    schema_version: int = 1
    kind: Literal["vitft-prepared"] = KIND
    task: str
    collection: str = ""
    title: str = ""
    licence: str = ""
    page: str = ""
    shots: Shots
    completeness: Literal["full", "partial"]
    reference: bool
    why: str
    notes: tuple[str, ...] = ()
    images: str = ""
    rule: str = ""
    decoder: str
    versions: dict[str, str]
    source: tuple[SourceFile, ...] = ()
    raw_counts: dict[str, int] = Field(default_factory=dict)
    class_names: tuple[str, ...]
    splits: dict[str, StoredSplit]

    @property
    def outdated(self) -> str:
        """By which other rule it was split than its collection has now; empty where by the same."""
        rule = official.SPLIT_RULES.get(self.collection, "")
        if self.rule == rule:
            return ""
        return f"split by an earlier rule of vitft ('{self.rule or 'unnamed'}'), not by '{rule}'"

    def to_json(self) -> dict[str, object]:
        return self.model_dump(mode="json", exclude_none=True)

    def write(self, folder: Path) -> None:
        write_json(folder / FILE, self.to_json())


def read(folder: Path) -> Manifest | None:
    """Return the manifest of a prepared folder, None where its manifest is of another kind.

    Raises:
        DataDamaged: it is no JSON, or lacks what every manifest has.
    """
    file, legal = folder / FILE, "a whole manifest."
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise DataDamaged(f"'{file}' cannot be read ({error}).", legal, AGAIN) from None
    if not isinstance(value, dict) or value.get("kind") != KIND:
        return None
    try:
        return Manifest.model_validate(value)
    except ValidationError as error:
        faults = {".".join(map(str, item["loc"])): item for item in error.errors()}
    first = min(faults)
    if faults[first]["type"] == "missing":
        raise DataDamaged(f"'{file}' lacks '{first}'.", legal, AGAIN)
    raise DataDamaged(f"'{file}' has {first} {faults[first]['input']!r}.", f"{faults[first]['msg']}.", AGAIN)
