"""A listing of a data set's files, so that a stored answer is given only for the data it belongs to.

An entry is [size, mtime in ns, inode] for an image or an archive, [size, "sha256 ..."] for a list or a table, and
[mtime in ns] for a folder. Images are never read. A list or a table that was written anew with the same content is
the same; an image that was is not, as nobody has looked into it.
"""

import hashlib
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitft import machine
from vitft.data.sources.files import printable, walk
from vitft.data.split import Source, place_of
from vitft.errors import DataDamaged, DiskFull, some
from vitft.results.files import RESULT, RUN, write_atomic

Listing = dict[str, list[Any]]

_READ = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".cls", ".parquet", ".arrow")
_READ_MOST = 256 << 20  # bytes; a larger table is told by its size and time, as reading it would take long
_DEBRIS = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
_OURS = (RUN, RESULT)  # a run that was put inside the data is no part of them
_NAMED = 3


@dataclass(frozen=True)
class Difference:
    """Names of files, sorted."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    def __str__(self) -> str:
        kinds = {"added": self.added, "removed": self.removed, "changed": self.changed}
        quoted = {kind: [f"'{name}'" for name in names] for kind, names in kinds.items() if names}
        return "; ".join(f"{some(names, _NAMED, 'more files')} {kind}" for kind, names in quoted.items())


def of(source: Source) -> Listing:
    """Return the listing of a source's files; empty for what is inside vitft.

    Raises:
        DataDamaged: a folder or a file cannot be listed (exit code 3).
    """
    place = place_of(source)
    if place is None:
        return {}
    root = Path(place)
    try:
        if not root.is_dir():
            return {root.name: _entry(root)}
        return _walk(root)
    except OSError as error:
        raise DataDamaged(f"'{root}' cannot be listed ({error.strerror}).", "files that can be read.") from None


def difference(then: Mapping[str, list[Any]], now: Mapping[str, list[Any]]) -> Difference:
    """Return the differences between two listings.

    Files that took one another's names (two class folders swapped) may agree in size and time: they are told by their
    inodes. Those alone prove nothing, as some file systems give them anew, so a folder must have changed, too.
    """
    files_then, files_now = ({k: v for k, v in all_.items() if not k.endswith("/")} for all_ in (then, now))
    both = files_then.keys() & files_now.keys()
    changed = {name for name in both if files_then[name][:2] != files_now[name][:2]}
    if any(then[name] != now[name] for name in then.keys() & now.keys() if name.endswith("/")):
        inodes = {entry[2]: name for name, entry in files_then.items() if len(entry) > 2}
        changed |= {n for n in both if len(files_now[n]) > 2 and inodes.get(files_now[n][2], n) != n}
    return Difference(
        tuple(sorted(files_now.keys() - files_then.keys())),
        tuple(sorted(files_then.keys() - files_now.keys())),
        tuple(sorted(changed)),
    )


def dumps(listing: Listing) -> bytes:
    """Return a listing as JSON, one file a line."""
    lines = (f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in listing.items())
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def _walk(root: Path) -> Listing:
    """List everything below a folder, links followed, each folder once; hidden names and debris are left out."""
    found: Listing = {}
    for prefix, folders, names in walk(root):
        if prefix and any(name in names for name in _OURS):
            folders.clear()
            continue
        folders[:] = [name for name in folders if not _left_out(name)]
        found[printable(prefix or "./")] = [(root / prefix).stat().st_mtime_ns]
        for name in names:
            with suppress(FileNotFoundError):  # a link to nothing
                if not _left_out(name):
                    found[printable(prefix + name)] = _entry(root / prefix / name)
    return found


def _entry(file: Path) -> list[Any]:
    state = file.stat()
    if file.suffix.lower() in _READ and state.st_size <= _READ_MOST:
        return [state.st_size, f"sha256 {_sha256(file)}"]
    return [state.st_size, state.st_mtime_ns, state.st_ino]


def _sha256(file: Path) -> str:
    """Return the SHA-256 of a list or a table, read once a machine as long as its size and its time stay."""
    state, settled = machine.identity(file, time.time_ns())
    kept = machine.cache() / "digests" / f"{hashlib.blake2b(state, digest_size=16).hexdigest()}.sha256"
    with suppress(OSError, ValueError):
        text = kept.read_text()
        if len(bytes.fromhex(text)) == hashlib.sha256().digest_size:
            return text
    digest = machine.sha256(file)
    if settled:
        with suppress(DiskFull):
            write_atomic(kept, digest.encode())
    return digest


def _left_out(name: str) -> bool:
    return name.startswith(".") or name.lower() in _DEBRIS
