"""What this machine gives: cores, cache folder, the digest of a file, a turn at what is made once. No torch."""

import errno
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache as _cache
from itertools import takewhile
from pathlib import Path
from secrets import token_hex
from typing import IO


def bound() -> int:
    """Return how many cores the system lets this process run on; a container or `taskset` may give fewer than all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores() -> int:
    """Return how many cores this process may use: those it is bound to, below Slurm at most a task's share of them.

    Slurm binds tasks only where its administrator has set a plugin for that.
    """
    return min(bound(), number("SLURM_CPUS_PER_TASK") or number("SLURM_CPUS_ON_NODE") or bound())


_CPUINFO = Path("/proc/cpuinfo")


def processor() -> list[str]:
    """Return what the first core says of its model and its instructions; the architecture where it says nothing."""
    telling = ("model name", "flags", "Features", "CPU implementer", "CPU part", "isa")
    with suppress(OSError):
        with _CPUINFO.open() as cores:  # of many cores, the kernel writes them as they are read
            first = [line.rstrip("\n") for line in takewhile(str.strip, cores)]
        return [line for line in first if line.split("\t")[0].rstrip(" :") in telling] or [platform.machine()]
    return [platform.machine()]


def number(variable: str, environment: Mapping[str, str] = os.environ) -> int:
    """Return an environment variable as a number, 0 where it is absent or none."""
    text = environment.get(variable, "")
    return int(text) if text.isdecimal() else 0


def memory() -> int:
    """Return the bytes of memory that this process may still take; a container or a job may give less than there is."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with suppress(OSError, ValueError, StopIteration):
        line = next(line for line in _MEMINFO.read_text().splitlines() if line.startswith("MemAvailable"))
        found.append(1024 * int(line.split()[1]))
    # Slurm's words are MB of a node, whether it enforces them or not; 0 is all that the node has.
    mb = number("SLURM_MEM_PER_NODE") or number("SLURM_MEM_PER_CPU") * number("SLURM_CPUS_ON_NODE")
    found += [mb << 20] if mb else []
    for path in _limits():
        with suppress(OSError, ValueError):  # "max" is none
            found.append(int(path.read_text()))
    return min(found)


_MEMINFO = Path("/proc/meminfo")
_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


def _limits() -> Iterator[Path]:
    """Yield the files that may limit the memory of this process: its control groups, version 2 or 1, and those above.

    A container sees its own group as the root; a batch queue's job is somewhere below it.
    """
    yield _GROUPS / "memory.max"
    with suppress(OSError):
        for line in _OWN_GROUPS.read_text().splitlines():
            _, controllers, place = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            root, name = (_GROUPS / "memory", "memory.limit_in_bytes") if controllers else (_GROUPS, "memory.max")
            own = root / place.lstrip("/")
            yield from (folder / name for folder in (own, *own.parents) if folder.is_relative_to(root))


def cache() -> Path:
    """Return $VITFT_CACHE, or ~/.cache/vitft."""
    return Path(os.environ.get("VITFT_CACHE") or "~/.cache/vitft").expanduser()


def data() -> Path:
    """Return the folder of prepared data: $VITFT_DATA, else data/ in the cache folder."""
    value = os.environ.get("VITFT_DATA")
    return Path(value).expanduser() if value else cache() / "data"


def existing(path: Path) -> Path:
    """Return a path, or the nearest folder above it that exists."""
    return next(place for place in (path, *path.parents) if place.exists())


def free(path: Path) -> int:
    """Return the free bytes of the disk that a path lies on, whether it exists or not."""
    return shutil.disk_usage(existing(path)).free


def digest(value: object) -> str:
    """Return the hexadecimal SHA-256 of a JSON-able value; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


_MOUNTS = Path("/proc/self/mounts")
_SHARED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("nfs", "nfs4"), ("nolock", "local_lock=all", "local_lock=flock")),
    **dict.fromkeys(("cifs", "smb3"), ("nobrl",)),
    **dict.fromkeys(("gpfs", "ceph", "9p", "afs", "gfs2", "ocfs2", "orangefs", "fuse.glusterfs", "fuse.ceph"), ()),
    "lustre": ("localflock",),
}
"""Kinds of file systems that machines share -> the mount options with which a lock holds on one of them alone."""


def shared_by(path: Path) -> tuple[str, bool] | None:
    """Return the kind of file system that a folder shares with other machines, and whether its locks hold for them.

    None where its disk is this machine's own, or the system does not say. Options are those of mount(8), nfs(5),
    mount.lustre(8) and mount.cifs(8).
    """
    place, longest = os.path.realpath(path), -1
    kind, mounted = "", set[str]()
    with suppress(OSError):
        for line in _MOUNTS.read_text().splitlines():
            _, at, its_kind, options, *_ = line.split(" ")
            at = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), at)  # a space is \040
            if len(at) >= longest and Path(place).is_relative_to(at):
                kind, mounted, longest = its_kind, set(options.split(",")), len(at)
    if kind not in _SHARED:
        return None
    none = kind == "lustre" and "flock" not in mounted  # its default
    return kind, not none and mounted.isdisjoint(_SHARED[kind])


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


_SETTLED_NS = 2_000_000_000
"""A file of which the time is younger than this may change once more without another time."""


def identity(path: Path, now: int) -> tuple[bytes, bool]:
    """Return a file's path, size, time and inode as bytes: others for another file, or after a change.

    Args:
        now: in ns, before the file is read.

    Returns:
        The bytes, and whether a later change of the file must change them. Raises OSError.
    """
    state = path.stat()
    text = f"{os.path.abspath(path)}\0{state.st_size}\0{state.st_mtime_ns}\0{state.st_ino}"  # noqa: PTH100  links stay
    return os.fsencode(text), state.st_mtime_ns < now - _SETTLED_NS


def look_again(path: Path) -> None:
    """Forget that a name was absent where another machine may have made it since.

    NFS remembers absent names for up to a minute. To open the folder makes it ask its server (measured with Linux 6.1
    and NFS 4.2: seen after 24 s before, at once with it).
    """
    for folder in path.parents:  # those that were absent, too
        with suppress(OSError):
            os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))
            return


def beside(path: Path, end: str) -> Path:
    """Return a hidden name beside a path, for what is to take its place; no other process has it.

    Machines that share a disk share process ids.
    """
    return path.with_name(f".{path.name}.{token_hex(4)}{end}")


_LOOK_EVERY_S = 0.2


@contextmanager
def turn(path: Path, waiting: Callable[[bool], None]) -> Iterator[None]:
    """Let one process after the other at what is made once a machine, or once for all that share its file system.

    Args:
        path: of the lock, a file that is there only while somebody is at it. The kernel lets go of it when a process
            dies. Where the file system has no locks, or nothing can be written, everybody is let in.
        waiting: called again and again while another is at it, first with True; it may raise.
    """
    first = True
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a")
        except OSError:
            yield
            return
        with file:
            if locked(file):
                if not _there(file, path):  # the one before has just deleted it
                    continue
                look_again(path)  # what the one before has made is seen
                try:
                    yield
                finally:
                    with suppress(OSError):
                        path.unlink()
                return
        waiting(first)
        first = False
        time.sleep(_LOOK_EVERY_S)


def _there(file: IO[str], path: Path) -> bool:
    try:
        return os.fstat(file.fileno()).st_ino == path.stat().st_ino
    except OSError:
        return False


def locked(file: IO[str]) -> bool:
    """Lock a file for this process; False where another has it. True, too, where the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
    return True
