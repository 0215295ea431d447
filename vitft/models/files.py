"""Read weight files without running anything in them."""

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vitft.errors import CheckpointError, CheckpointUnsafe
from vitft.models import kinds, pickles, places
from vitft.models.choice import Chosen, choose


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read every array. Raises CheckpointUnsafe for pickled objects, CheckpointError for a damaged file."""
    try:
        if kinds.kind(path) != kinds.NPZ:
            raise ValueError("it is no .npz archive but another kind of checkpoint: give it its own suffix")
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except ValueError as error:
        if "allow_pickle" in str(error) or "pickled" in str(error):
            raise CheckpointUnsafe(
                f"'{path}' holds pickled Python objects, which could run code when read.",
                "an .npz of plain numeric arrays.",
                "Save it again with numeric arrays only; nothing in it was run.",
            ) from None
        raise damaged(path, error) from None
    except (OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise damaged(path, error) from None


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors. Raises CheckpointError for a damaged file."""
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in list(file.keys())}
    except (OSError, SafetensorError) as error:
        raise damaged(path, error) from None


def read_record(path: Path) -> dict[str, object]:
    """Return vitft's own record of a .safetensors file, empty for files of others.

    Raises CheckpointError for a damaged file.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            record: dict[str, object] = json.loads((file.metadata() or {}).get("vitft", "{}"))
            return record
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise damaged(path, error) from None


def read_network(path: Path, word: str = "", expected: Sequence[str] = ()) -> Chosen:
    """Return the network of a .safetensors or PyTorch file, or of the parts that an index names.

    Args:
        path: of any suffix: the content tells its kind.
        word: see `choice.choose`.
        expected: see `choice.choose`.

    Raises:
        CheckpointUnsafe: the file is, or asks for, more than tensors and records; it is named, not run.
        CheckpointError: damaged, of another kind, or no single network in it.
    """
    if path.name.endswith(places.INDEX):
        tree: Any = {}
        for part in places.parts(path):
            tree |= read_flat(part)
    else:
        tree = _tree(path)
    return choose(tree, path, word, expected)


def read_flat(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file that holds nothing else. Raises as `read_network`."""
    tree = _tree(path)
    return dict(pickles.tensors(tree)) if isinstance(tree, Mapping) else {}


def _tree(path: Path) -> Any:
    if kinds.kind(path) == kinds.SAFETENSORS:
        return read_safetensors(path)
    try:
        return pickles.read(path)
    except CheckpointError:
        raise
    except Exception as error:  # the failures of damaged files are of many types
        raise damaged(path, error) from None


def damaged(path: Path, error: BaseException) -> CheckpointError:
    """Return the error for a file that cannot be read: first line of the cause, and what to do."""
    cause = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
    return CheckpointError(
        f"'{path}' cannot be read: {cause}.".replace("..", "."),
        kinds.LEGAL,
        "It may be damaged or truncated: compare its size with the source and copy or download it again.",
    )


@contextmanager
def one_network(path: Path) -> Iterator[None]:
    """Raise CheckpointError where tensors of a file are missing, or of shapes that do not belong together."""
    try:
        yield
    except (KeyError, ValueError, IndexError, RuntimeError) as error:
        raise CheckpointError(
            f"'{path}' cannot be used: its tensors are not those of one network ({str(error)[:120]}).",
            "timm's names ('patch_embed.proj.weight', 'blocks.0...'), or the JAX releases' .npz.",
        ) from None
