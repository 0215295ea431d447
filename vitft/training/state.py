"""What a running fit keeps on disk: its state, whole and checked, and a line for each update."""

import errno
import hashlib
import io
import json
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

import torch
from torch import Tensor

from vitft.results.files import Pieces, cannot_write, there, write_atomic, writing
from vitft.trees import mapped

_MAGIC = b"vitft-state-2\n"
_DIGEST = hashlib.sha256().digest_size

State = dict[str, Any]
"""What a fit goes on from: names -> tensors, numbers, and trees of them."""


class Saver:
    """Writes states beside the computing: a copy in the host's memory at once, the file by a thread.

    The copy is what the file holds, whatever happens to the weights afterwards. One file is written at a time.

    As a context it covers what comes after the last state: an error leaves when the file is whole, and with success the
    file is deleted, written or not, as nobody will go on from it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None
        self._dropped = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self.wait()
            return
        self._dropped.set()
        if self._thread is not None:
            self._thread.join()
        self._path.unlink(missing_ok=True)

    def save(self, state: State) -> None:
        """Copy a state and begin to write it atomically. Raises DiskFull of this or the one before; the old stays."""
        self.wait()
        copied = _copied(state)
        self._thread = threading.Thread(target=self._write, args=(copied,), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when the file is whole and on disk. Raises DiskFull."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise cannot_write(self._path, error)

    @property
    def busy(self) -> bool:
        """Whether a file is still being written."""
        return self._thread is not None and self._thread.is_alive()

    def _write(self, state: State) -> None:
        try:
            with writing(self._path) as file:
                digested = _Digested(file, self._dropped)
                with io.BufferedWriter(digested, 1 << 20) as stream:
                    torch.save(state, stream)
                file.write(digested.hash.digest() + _MAGIC)
        except OSError as error:
            self._error = error
        except RuntimeError as error:  # torch's archive writer says this of a stream that takes no more
            cause = error.__cause__ or error.__context__
            self._error = cause if isinstance(cause, OSError) else OSError(str(error).split("\n")[0])


def interval(least: float, cost: float) -> float:
    """Return the seconds between states: `least`, or twenty times what one holds the updates up; 0 stays 0."""
    return max(least, 20 * cost) if least else 0.0


def load(path: Path) -> State | None:
    """Read a state; None where there is none or where it is damaged (the caller then starts from the beginning)."""
    end = _DIGEST + len(_MAGIC)
    try:
        if not there(path):
            return None
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size - end  # of what is open: another machine may have saved it anew
            if size <= 0 or file.seek(size) != size:
                return None
            digest, magic = file.read(_DIGEST), file.read()
            if magic != _MAGIC or _digest(file, size) != digest:
                return None
            state = torch.load(io.BufferedReader(Pieces([(file, size)])), map_location="cpu", weights_only=True)
    except OSError:
        return None
    return state if isinstance(state, dict) else None


def _copied(value: Any) -> Any:
    """Return a state whose tensors are this process's own memory, shared with nothing that is still computed on."""
    return mapped(value, lambda leaf: leaf.detach().to("cpu", copy=True) if isinstance(leaf, Tensor) else leaf)


class _Digested(io.RawIOBase):
    """A stream that digests what is written through it, and fails once nobody wants the file any more."""

    def __init__(self, file: IO[bytes], dropped: threading.Event) -> None:
        self.hash = hashlib.sha256()
        self._file, self._dropped = file, dropped

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self._dropped.is_set():
            raise OSError(errno.ECANCELED, "the state is no longer needed")
        self.hash.update(data)
        return self._file.write(data)


def _digest(file: IO[bytes], size: int) -> bytes:
    digest = hashlib.sha256()
    file.seek(0)
    while size > 0 and (data := file.read(min(size, 1 << 20))):
        digest.update(data)
        size -= len(data)
    return digest.digest()


class Metrics:
    """metrics.jsonl: one line an update, without gap or duplicate whatever interrupts the run.

    Args:
        path: None = nowhere, of a process that does not write.
        keep: lines of an interrupted run that are gone on from.
    """

    def __init__(self, path: Path | None, keep: int) -> None:
        self._pending = ""
        self.last: dict[str, float] = {}
        if path is None:
            self._file: IO[str] | None = None
            return
        self._path = path
        lines = path.read_text().splitlines(keepends=True)[:keep] if keep and there(path) else []
        self.last = json.loads(lines[-1]) if lines else {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("w")
            self._file.writelines(lines)
            self.flush()
        except OSError as error:
            raise cannot_write(path, error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with suppress(OSError):  # a full disk: the flush before the state has said so already
            self._write()
        with suppress(OSError):
            if self._file is not None:
                self._file.close()

    def add(self, values: dict[str, float]) -> None:
        if self._file is None:
            return
        try:
            self._write()
        except OSError as error:
            raise cannot_write(self._path, error) from None
        self._pending, self.last = json.dumps(values) + "\n", values

    def amend(self, values: dict[str, float]) -> None:
        """Add values to the last line."""
        if self._file is None:
            return
        self.last = {**self.last, **values}
        line = json.dumps(self.last) + "\n"
        if self._pending:
            self._pending = line
            return
        # It lies on disk, and a state counts on it: the file is replaced whole.
        self.flush()
        self._file.close()
        before = self._path.read_text().splitlines(keepends=True)[:-1]
        write_atomic(self._path, "".join([*before, line]).encode())
        self._file = self._path.open("a")

    def _write(self) -> None:
        if self._file is not None:
            self._file.write(self._pending)
            self._pending = ""

    def flush(self) -> None:
        """Bring the lines to the disk; always before the state that counts on them."""
        if self._file is None:
            return
        try:
            self._write()
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise cannot_write(self._path, error) from None
