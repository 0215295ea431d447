"""The state of a running fit on disk: whole, checked, and small enough to write within seconds."""

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from vitft.results import write_atomic

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
