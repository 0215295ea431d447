"""`vitft doctor`: what is here, what is missing; a block to paste into an issue."""

import importlib.metadata
import os
import platform
import sys
from pathlib import Path

from vitft import __version__, machine
from vitft.cli import console
from vitft.cli.options import FormatOption
from vitft.images import room

_FAULTS = ("MISSING", "not writable", "not a folder", "not a size")
_NO_LOCKS = ", mounted without locks between machines: do not start two commands in one run folder"
_PACKAGES = ("torch", "torchvision", "timm", "datasets", "scikit-learn", "typer", "rich", "pydantic", "pillow", "numpy")


def doctor(format: FormatOption = "text") -> None:
    """Check the installation. Versions, devices, how they are joined, engines, folders, room on disk."""
    from rich.table import Table

    facts = {
        "vitft": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    for package in _PACKAGES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = "MISSING"
    facts.update(_devices())
    facts |= _around()
    facts |= {name: _folder(path) for name, path in _folders().items()}
    facts["cache"] = room.usage()
    faults = [name for name, value in facts.items() if any(word in str(value) for word in _FAULTS)]
    table = Table("fact", "value", box=None, pad_edge=False, show_header=False)
    for name, value in facts.items():
        table.add_row(name, str(value))
    table.add_row("verdict", f"to mend: {', '.join(faults)}" if faults else "all is well")
    console.emit({**facts, "faults": faults}, table, format)
    if faults:
        sys.exit(1)


def _around() -> dict[str, str]:
    """Return how processes would talk, what engines there are, what a run would use, and what a queue has set."""
    try:
        import torch  # noqa: F401  what follows needs it
    except ImportError:
        return {}
    from vitft.engines import surroundings

    facts = {"interconnect": surroundings.interconnect(), **surroundings.engines()}
    facts |= {"compilers": surroundings.compilers(), "runs on": surroundings.would_use()}
    queue = surroundings.slurm(os.environ)
    return facts | ({"slurm": queue} if queue else {})


def _devices() -> dict[str, str]:
    try:
        import torch
    except ImportError as error:
        return {"devices": f"MISSING: torch does not import ({error})"}
    from vitft.products import by_onednn

    linear = ", linear layers by oneDNN" if by_onednn() else ""
    devices = [f"cpu ({machine.cores()} cores, {torch.get_num_threads()} threads{linear})"]
    for i in range(torch.cuda.device_count()):
        p = torch.cuda.get_device_properties(i)
        devices.append(f"cuda:{i} {p.name}, {p.total_memory / 2**30:.0f} GiB")
    if torch.backends.mps.is_available():
        devices.append("mps")
    return {"devices": "; ".join(devices)}


def _folders() -> dict[str, Path]:
    from vitft.results.folders import runs_root

    return {"VITFT_RUNS": runs_root(), "VITFT_CACHE": machine.cache(), "VITFT_DATA": machine.data()}


def _folder(path: Path) -> str:
    there = machine.existing(path)
    if not there.is_dir():
        return f"{path} ({'' if there == path else f'{there} '}is a file, not a folder)"
    words = [] if os.access(there, os.W_OK) else ["not writable"]
    words.append(f"{machine.free(there) / 2**30:.0f} GiB free")
    if shared := machine.shared_by(there):
        kind, locks = shared
        words.append(f"shared by {kind}" + (", with locks" if locks else _NO_LOCKS))
    return f"{path} ({', '.join(words)})"
