"""What a process runs: the programs that decide a number. Processes that share work must run the same. No torch."""

import hashlib
import importlib.metadata
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from vitft import __version__

_DECIDE = ("torch", "timm")


@cache
def versions() -> Mapping[str, str]:
    """Return program -> version; of vitft also a digest of its code, as a checkout changes without its version."""
    here, code = Path(__file__).parent, hashlib.sha256()
    for file in sorted(here.rglob("*.py")):
        code.update(f"{file.relative_to(here)}\0".encode() + file.read_bytes() + b"\0")
    others = {name: importlib.metadata.version(name) for name in _DECIDE}
    return {"vitft": f"{__version__} (code {code.hexdigest()[:8]})"} | others


def difference(theirs: Mapping[str, str], ours: Mapping[str, str]) -> str:
    """Tell in words in which programs two processes differ; "" where in none."""
    differ = [name for name in {**ours, **theirs} if theirs.get(name) != ours.get(name)]
    return "; ".join(f"{name} {theirs.get(name, 'none')}, not {ours.get(name, 'none')}" for name in differ)
