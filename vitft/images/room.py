"""How much of the disk the cache may take, and what makes room in it: least recently used first, never what is in use.

Decoded pixels, features and digests count: all that is made again where it is gone. What was downloaded or prepared
does not. No torch.
"""

import fcntl
import math
import os
import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from vitft import machine
from vitft.errors import UsageError
from vitft.words import size

FOLDERS = ("pixels", "features", "digests")
"""Parts of the cache that are made again where they are gone."""

VARIABLE = "VITFT_CACHE_SIZE"
SHARE = 0.25
"""Of what is free, or taken by the cache itself, on its disk: the default."""

_SPARE = 1 << 30  # bytes of the disk that are left free in any case
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_LEFT_S = 3600.0
"""Age, in seconds, from which on a file that was to be renamed is one that a killed process has left."""


@dataclass(frozen=True)
class Entry:
    """One file of the cache."""

    path: Path
    size: int
    used: float


def limit(files: list[Entry] | None = None) -> int:
    """Return how many bytes the cache may take: $VITFT_CACHE_SIZE, else a quarter of what its disk has left for it.

    Args:
        files: the cache's files, where they were listed already.

    Raises:
        UsageError: the variable holds no size (exit code 2).
    """
    text = _variable()
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%|[a-zA-Z]*)", text or f"{100 * SHARE}%")
    n, unit = (float(match[1]), match[2].lower()) if match else (math.inf, "%")
    if unit in _UNITS:
        return int(n * _UNITS[unit])
    if unit != "%" or n > 100:
        raise UsageError(f"{VARIABLE} is '{text}'.", "a size such as 200GB, a share of the disk such as 10%, or 0.")
    return int(n / 100 * (machine.free(machine.cache()) + _taken(entries() if files is None else files)))


def usage() -> str:
    """Return the cache's size and limit in words, or what is wrong with the variable that sets the limit."""
    files = entries()
    try:
        most = limit(files)
    except UsageError as error:
        return f"not a size: {error.lines[0]} {error.lines[1]}"
    own = _variable()
    how = f"{VARIABLE}={own}" if own else f"{SHARE:.0%} of what it leaves free; {VARIABLE} sets it"
    return f"{size(_taken(files))} of at most {size(most)} ({how})"


def _variable() -> str:
    """Return the variable's text, "" where it is not set."""
    return os.environ.get(VARIABLE, "").strip()


def entries() -> list[Entry]:
    """Return the files of the cache, the least recently used first; what is being written counts at its whole size."""
    found = []
    for folder in FOLDERS:
        with suppress(OSError), os.scandir(machine.cache() / folder) as files:
            for file in files:
                with suppress(OSError):
                    state = file.stat()
                    if file.is_file() and not file.name.endswith(".lock"):
                        found.append(Entry(Path(file.path), state.st_size, state.st_mtime))
    return sorted(found, key=lambda entry: (entry.used, entry.path))


def turn() -> AbstractContextManager[None]:
    """Let one process after the other make room and take it."""
    return machine.turn(machine.cache() / ".room.lock", lambda _: None)


def make(size: int, *, evict: bool = True) -> bool:
    """Tell whether so many bytes may be written; delete what was used least recently until they may, if that helps.

    Call it within `turn`, and take the room there.

    Args:
        evict: False = nothing is deleted for it but what a killed process left half written.
    """
    for left in entries():
        # What is written as pixels is held meanwhile; other files are whole within moments.
        if left.path.name.startswith(".") and (left.path.suffix == ".npy" or left.used < time.time() - _LEFT_S):
            _delete(left.path)
    files = entries()
    most = limit(files)
    if size > most:
        return False
    taken, free = _taken(files), machine.free(machine.cache())
    for entry in files if evict else ():
        if taken + size <= most and size + _SPARE <= free:
            break
        if _delete(entry.path):
            taken, free = taken - entry.size, free + entry.size
    return taken + size <= most and size + _SPARE <= free


def clean(*, dry: bool = False) -> tuple[list[str], int]:
    """Delete all that no process uses; return the files, as paths inside the cache, and the bytes that this freed.

    Args:
        dry: delete nothing, and return what would be.
    """
    root, names, freed = machine.cache(), [], 0
    for entry in entries():
        if _delete(entry.path, dry=dry):
            names.append(str(entry.path.relative_to(root)))
            freed += entry.size
    return names, freed


def touch(path: Path) -> None:
    """Note that a file of the cache was used just now."""
    with suppress(OSError):
        os.utime(path)


def hold(file: IO[bytes]) -> bool:
    """Keep an opened file of the cache from being deleted until it is closed; False where that has happened already."""
    with suppress(OSError):  # a file system without locks: its bytes stay readable as long as it is open
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    try:
        return os.fstat(file.fileno()).st_nlink > 0
    except OSError:  # NFS, of what another machine has deleted
        return False


@contextmanager
def writing(path: Path, size: int) -> Iterator[IO[bytes]]:
    """Give a new file of that size, held, to be written and renamed to `path` by the caller; it is gone on an error."""
    temporary = machine.beside(path, path.suffix)
    file = temporary.open("w+b")
    try:
        hold(file)
        file.truncate(size)  # its room is counted from now on
        yield file
    finally:
        with suppress(OSError):  # a full disk, told late
            file.close()
        temporary.unlink(missing_ok=True)


def _delete(path: Path, *, dry: bool = False) -> bool:
    """Delete a file unless a process holds it."""
    try:
        with path.open("r+b") as file:  # NFS locks for one process alone only what that may write
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not dry:
                path.unlink()
            return True
    except OSError:
        return False


def _taken(files: list[Entry]) -> int:
    return sum(entry.size for entry in files)
