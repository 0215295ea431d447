"""Files that appear whole or not at all: written beside, flushed to disk, renamed."""

import errno
import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from vitft import machine
from vitft.errors import CheckpointError, DiskFull

RUN, RESULT, SUITE = "run.json", "result.json", "suite.json"
"""What a run is; its answer, a unit's or an evaluation's; a suite's."""
STATE = "state.pt"
"""What an unfinished unit goes on from."""
WEIGHTS, HEAD = "weights.safetensors", "head.safetensors"
"""A run's network, and the head alone where the network is not kept."""

PREDICTIONS, UPDATES = "predictions.parquet", "metrics.jsonl"
"""A unit's answers for the test images, and what each of its updates told."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the kernel says of a disk, or a quota, that takes no more."""


class Pieces(io.RawIOBase):
    """Pieces of opened files, each from its file's start on, as one file that is read and closed as a whole."""

    def __init__(self, pieces: Sequence[tuple[IO[bytes], int]]) -> None:
        self._pieces, self._at = pieces, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        end = sum(size for _, size in self._pieces)
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: end}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        start = 0
        for file, size in self._pieces:
            if self._at < start + size:
                file.seek(self._at - start)
                data = file.read(min(len(buffer), start + size - self._at))
                buffer[: len(data)] = data
                self._at += len(data)
                return len(data)
            start += size
        return 0

    def close(self) -> None:
        for file, _ in self._pieces:
            file.close()
        super().close()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the name of a file beside `path` that takes its place when the block ends, whole and on disk, or not at all.

    Raises:
        OSError: as the system says it; what was there before is untouched.
    """
    temporary = machine.beside(path, ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


@contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """Give a stream into `replacing`. Raises OSError."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        yield file


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        DiskFull: there is no room, or the folder cannot be written; what was there before is untouched (exit code 1).
    """
    try:
        with writing(path) as file:
            file.write(data)
    except OSError as error:
        raise cannot_write(path, error) from None


def full(error: BaseException) -> bool:
    """Tell whether what could not be written found a full disk, or a quota used up."""
    return getattr(error, "errno", None) in _FULL or "No space left" in str(error)


def cannot_write(path: Path | str, error: Exception, action: str = "") -> DiskFull:
    """Return the error for a file that could not be written, saying why and what is still there."""
    why, otherwise = getattr(error, "strerror", None) or error, "Choose another folder with --output"
    if full(error):
        why, otherwise = "the disk is full", "Free some space"
    return DiskFull(
        f"Cannot write '{path}': {why}.",
        fact="Everything saved before is untouched.",
        action=action or f"{otherwise} and run the same command again.",
    )


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all; NaN and infinity are refused, as no other program reads them."""
    write_atomic(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def there(path: Path) -> bool:
    """Tell whether a file is there now, whichever machine made it."""
    if path.exists():
        return True
    machine.look_again(path)
    return path.exists()


def read_json(path: Path) -> dict[str, object] | None:
    """Read a JSON object; None where there is no such file.

    Raises:
        CheckpointError: the file is there but damaged, or not to be read (exit code 4).
    """
    try:
        data = _read(path)
        if data is None:
            return None
        value = json.loads(data)
    except OSError as error:
        raise CheckpointError(f"'{path}' cannot be read ({error.strerror}).", action="Let this user read it.") from None
    except ValueError as error:
        again = "Delete it and run the same command again, or start anew with --overwrite."
        raise damaged(f"'{path}' is damaged ({error})", again) from None
    if not isinstance(value, dict):
        raise CheckpointError(f"'{path}' holds no JSON object.", action="Delete it and run the same command again.")
    return value


def _read(path: Path, again: int = 5) -> bytes | None:
    """Read a file; None where there is none. Raises OSError.

    Args:
        again: how often one is opened anew that another machine replaced while it was read, which NFS 3 refuses.
    """
    try:
        return path.read_bytes() if there(path) else None
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno != errno.ESTALE or not again:
            raise
        return _read(path, again - 1)


def damaged(what: str, action: str = "Delete it and run the same command again.") -> CheckpointError:
    """Return the error for a file that does not hold what vitft has written: what is wrong, and what to do."""
    return CheckpointError(
        f"{what}.", fact="vitft writes its files whole; something else changed this one.", action=action
    )
