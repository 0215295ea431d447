"""What a running fit keeps on disk: its state, whole and checked, and a line for each update."""

import hashlib
import io
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from vitft.results import cannot_write, write_atomic

_MAGIC = b"vitft-state-1\n"


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a state atomically, with the sha256 of its content in front. Raises DiskFull; the old state stays."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    write_atomic(path, _MAGIC + hashlib.sha256(payload).digest() + payload)


def load(path: Path) -> dict[str, Any] | None:
    """Read a state; None where there is none or where it is damaged (the caller then starts from the beginning)."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    start = len(_MAGIC)
    digest, payload = data[start : start + 32], data[start + 32 :]
    if not data.startswith(_MAGIC) or hashlib.sha256(payload).digest() != digest:
        return None
    state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    return state if isinstance(state, dict) else None


class Metrics:
    """metrics.jsonl: one line an update, without gap or duplicate whatever interrupts the run."""

    def __init__(self, path: Path, keep: int) -> None:
        self._path = path
        lines = path.read_text().splitlines(keepends=True)[:keep] if path.exists() and keep else []
        try:
            self._file = path.open("w")
            self._file.writelines(lines)
            self.flush()
        except OSError as error:
            raise cannot_write(path, error) from None

    def add(self, values: dict[str, float]) -> None:
        try:
            self._file.write(json.dumps(values) + "\n")
        except OSError as error:
            raise cannot_write(self._path, error) from None

    def flush(self) -> None:
        """Bring the lines to the disk; always before the state that counts on them."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise cannot_write(self._path, error) from None

    def close(self) -> None:
        with suppress(OSError):  # a full disk: the flush before the state has said so already
            self._file.close()
