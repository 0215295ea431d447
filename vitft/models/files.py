"""Read weight files without running anything in them."""

import argparse
import json
import pickle
import re
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vitft.errors import CheckpointError, CheckpointUnsafe

NPZ, SAFETENSORS, PICKLE = (".npz",), (".safetensors",), (".pth", ".pt", ".bin", ".tar", ".ckpt")
SUFFIXES = NPZ + SAFETENSORS + PICKLE

# Where training scripts put the weights, the averaged ones first.
_CONTAINERS = ("state_dict_ema", "model_ema", "ema_state_dict", "model", "state_dict", "teacher", "net", "params")
_DEPTH = 4


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read every array. Raises CheckpointUnsafe for pickled objects, CheckpointError for a damaged file."""
    try:
        if not _starts(path, b"PK", b"\x80"):
            raise damaged(path, ValueError("it is no .npz archive"))
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except ValueError as error:
        if "allow_pickle" in str(error) or "pickled" in str(error):
            raise CheckpointUnsafe(
                f"'{path}' holds pickled Python objects, which could run code when read.",
                "Legal: an .npz of plain numeric arrays.",
                "Save it again with numeric arrays only; nothing in it was run.",
            ) from None
        raise damaged(path, error) from None
    except (OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise damaged(path, error) from None


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and vitft's own record (empty for files of others).

    Raises CheckpointError for a damaged file.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            record = (file.metadata() or {}).get("vitft", "{}")
            return {name: file.get_tensor(name) for name in list(file.keys())}, json.loads(record)
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise damaged(path, error) from None


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Read a PyTorch file as weights only and find the network in its containers.

    Raises:
        CheckpointUnsafe: the file asks for anything but tensors and plain containers; it is named, not run.
        CheckpointError: damaged, or no tensors in it.
    """
    # Plain records that training scripts add beside the weights; building one runs nothing of the file's.
    harmless = [argparse.Namespace, np.dtype, *_numpy_scalars()]
    try:
        with torch.serialization.safe_globals(harmless), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about TorchScript, refused below
            data = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        text = str(error)
        wanted = re.search(r"GLOBAL (\S+)|[Cc]lass (\S+)|unsupported operand (\d+)|Unsupported (\S+ \S+)", text)
        if wanted and (wanted[1] or wanted[2] or _starts(path, b"PK", b"\x80")):
            name = next((group for group in wanted.groups() if group), "?").rstrip(".,")
            raise CheckpointUnsafe(
                f"'{path}' would have to run '{name}' to be read; it was blocked, not run.",
                "Legal: a file of tensors and plain containers.",
                "If you trust it, save its state_dict as .safetensors where it was made.",
            ) from None
        raise damaged(path, error) from None
    except RuntimeError as error:
        if "TorchScript" in str(error):
            raise CheckpointUnsafe(
                f"'{path}' is a TorchScript program, which runs when loaded; it was not run.",
                "Legal: a state_dict.",
                "Save its state_dict as .safetensors where it was made.",
            ) from None
        raise damaged(path, error) from None
    except Exception as error:  # torch.load's failures on damaged files are of many types
        raise damaged(path, error) from None
    state = _tensors(data)
    if not state:
        raise CheckpointError(
            f"'{path}' holds no tensors vitft can find.",
            f"Legal: a state_dict, bare or under {', '.join(_CONTAINERS[:5])}.",
        )
    return state


def damaged(path: Path, error: BaseException) -> CheckpointError:
    """Return the error for a file that cannot be read: first line of the cause, and what to do."""
    if path.is_file() and path.stat().st_size == 0:
        cause = "the file is empty"
    else:
        cause = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
    return CheckpointError(
        f"'{path}' cannot be read: {cause}.".replace("..", "."),
        "Legal: a whole .npz, .safetensors or .pth file.",
        "It may be truncated: compare its size with the source and copy or download it again.",
    )


def _starts(path: Path, *magic: bytes) -> bool:
    """Tell whether a file begins like one of these; b"PK" is a zip archive, 0x80 a pickle."""
    with path.open("rb") as file:
        return file.read(8).startswith(magic)


def _tensors(data: Any, depth: int = 0) -> dict[str, Tensor]:
    if not isinstance(data, Mapping) or depth > _DEPTH:
        return {}
    for name in _CONTAINERS:
        inner = data.get(name)
        if isinstance(inner, Mapping) and (found := _tensors(inner, depth + 1)):
            return found
    return {str(name): value for name, value in data.items() if isinstance(value, Tensor)}


def _numpy_scalars() -> list[Any]:
    """Return what a pickled numpy scalar (a best accuracy, say) is made of."""
    multiarray = getattr(np, "_core", None) or np.core
    kinds = {type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "b1")}
    return [multiarray.multiarray.scalar, *kinds]
