"""Where the parts of a local checkpoint lie, without opening them: no torch.

A model's name may say more after two colons: PATH::KEY is the network at that key of the file, ADAPTER::base=MODEL an
adapter on that base.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from vitft import machine
from vitft.errors import CheckpointError
from vitft.results import files as run_files

SEPARATOR = "::"
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors")
ADAPTER_CONFIG, ADAPTERS = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
INDEX = ".index.json"
SUFFIXES = (".npz", ".safetensors", ".pth", ".pt", ".bin", ".tar", ".ckpt")
_CONFIGS = ("config.json", "preprocessor_config.json", ADAPTER_CONFIG)


def split(model: str) -> tuple[str, str]:
    """Return a model's name and what the user said after two colons, "" where nothing."""
    if SEPARATOR not in model or Path(model).expanduser().exists():
        return model, ""
    name, _, word = model.partition(SEPARATOR)
    return name, word


def weights_in(folder: Path) -> Path | None:
    """Return the weights of a folder laid out like a hub page; the index of weights in several parts.

    Raises CheckpointError for several files of which none has the usual name.
    """
    for name in (*WEIGHTS, *(f"{name}{INDEX}" for name in WEIGHTS)):
        if (folder / name).is_file():
            return folder / name
    indexes = sorted(folder.glob(f"*{INDEX}"))
    found = indexes or sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not _is_part(p))
    if len(found) > 1:
        names = ", ".join(p.name for p in found[:6])
        raise CheckpointError(f"'{folder}' holds several weight files.", f"one of {names}.", "Name the file.")
    return found[0] if found else None


def _is_part(path: Path) -> bool:
    return path.name in ADAPTERS or path.name in ("training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt")


def parts(index: Path) -> list[Path]:
    """Return the files that an index of sharded weights names.

    Raises CheckpointError: no such index, a part outside its folder, or a missing one.
    """
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise CheckpointError(f"'{index}' is no index of weights.", "a JSON file with a 'weight_map'.")
    names = sorted({str(name) for name in where.values()})
    strange = next((name for name in names if Path(name).name != name), None)
    if strange is not None:
        raise CheckpointError(f"'{index}' names '{strange}', which is no file beside it.", "bare file names.")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise CheckpointError(
            f"'{index.parent / missing[0]}' is missing{more}: the weights are in {len(names)} parts.",
            f"every part that {index.name} names.",
            "Copy or download the missing part.",
        )
    return [index.parent / name for name in names]


def read_json(path: Path) -> dict[str, object]:
    """Return a JSON object. Raises CheckpointError for anything else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(data, dict):
            return data
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        pass
    raise CheckpointError(f"The {path.name} of '{path.parent}' is not readable JSON.")


def sha256(file: Path) -> str:
    """Return the digest of a weight file; of an index with all its parts."""
    return (
        machine.sha256_once(file)
        if not file.name.endswith(INDEX)
        else joined(machine.sha256_once(f) for f in _all(file))
    )


def _all(index: Path) -> list[Path]:
    return [index, *parts(index)]


def joined(digests: Any) -> str:
    """Return one digest for several."""
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def files(path: Path) -> list[Path]:
    """Return every file that decides what a local checkpoint is: weights, their parts, the configs beside them.

    Of an adapter also those of the base that its config names. A path that holds none gives an empty list: opening it
    tells why.
    """
    folder = path if path.is_dir() else path.parent
    try:
        file: Path | None = path
        if path.is_dir():
            own = [path / run_files.WEIGHTS, *(path / name for name in ADAPTERS)]
            file = next((one for one in own if one.is_file()), None) or weights_in(path)
        if file is None or not file.is_file():
            return []
        found = _all(file) if file.name.endswith(INDEX) else [file]
        if file.name == run_files.WEIGHTS:
            return found
        found += [folder / name for name in _CONFIGS if (folder / name).is_file()]
        base = adapter_base(folder) if file.name in ADAPTERS else None
        return found + (files(base) if base is not None and base.resolve() != folder.resolve() else [])
    except (CheckpointError, OSError):
        return []


def run_folder(path: Path) -> Path | None:
    """Return the run that a path is the folder or the network of; None where it is none."""
    folder = path.parent if path.name == run_files.WEIGHTS else path
    return folder if (folder / run_files.WEIGHTS).is_file() else None


def adapter_base(folder: Path) -> Path | None:
    """Return the local base that an adapter's config names, as a path from here or from its folder."""
    named = str(read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path") or "")
    return next((place for place in (Path(named).expanduser(), folder / named) if named and place.exists()), None)
