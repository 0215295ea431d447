"""What this machine gives: its cores, its cache folder, the digest of a file. No torch."""

import hashlib
import os
from functools import cache as _cache
from pathlib import Path


def cores() -> int:
    """Return how many cores this process may use; a container or `taskset` may give fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cache() -> Path:
    """Return $VITFT_CACHE, or ~/.cache/vitft."""
    return Path(os.environ.get("VITFT_CACHE") or "~/.cache/vitft").expanduser()


def data() -> Path:
    """Return the folder of prepared data: $VITFT_DATA, else data/ in the cache folder."""
    value = os.environ.get("VITFT_DATA")
    return Path(value).expanduser() if value else cache() / "data"


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_once(path: Path) -> str:
    """Return the SHA-256 of a large file, digested once a process as long as its size and its time stay the same."""
    state = path.stat()
    return _digested(path, state.st_size, state.st_mtime_ns, state.st_ino)


@_cache
def _digested(path: Path, *state: int) -> str:
    del state
    return sha256(path)
