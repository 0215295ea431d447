"""Mistakes in a model's name, and the facts of an alias, without reading a tensor. Torch-free.

Importing torch and timm takes seconds; a missing file or a misspelt name needs neither.
"""

import json
import re
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from vitft import machine
from vitft.catalog.models import MODELS, ModelAlias
from vitft.catalog.stamps import MEAN_STD, STAMPS
from vitft.errors import CheckpointError, UnknownName
from vitft.models import kinds, places
from vitft.results.checkpoint import Architecture, CheckpointInfo

_FLEXI_PATCH = 16  # of the files; another one is made of it when the network is built


def check(model: str) -> None:
    """Raise what `loading.load` would raise of this name, without opening anything.

    Raises:
        UnknownName: neither an alias, nor a timm model, nor a file (exit code 2).
        CheckpointError: no such file (exit code 4).
    """
    model, _ = places.split(model)
    scheme, _, rest = model.partition(":")
    if model in MODELS or scheme in ("hf-hub", "hf_hub"):
        return
    if scheme == "timm":
        names, text = _timm()
        # Told by timm itself where its own sources cannot be read, or mention the name elsewhere.
        if names and not re.search(rf"\b{re.escape(rest.split('.')[0])}\b", text):
            raise UnknownName("timm model", rest, names, "Run 'vitft models ls' for the aliases.")
    elif not is_path(model):
        raise unknown(model)
    elif not Path(model).expanduser().exists():
        raise missing(Path(model).expanduser())


def is_path(model: str) -> bool:
    """Tell whether a name is the path of a file or a folder, there or not; 'ViT-B/16' or 'vit_b_16' is none."""
    path = Path(model).expanduser()
    return path.exists() or path.suffix.lower() in places.SUFFIXES or ("/" in model and not _alike(model))


def missing(path: Path) -> CheckpointError:
    """Return the error for a file that is not there."""
    near = sorted(p.name for p in path.parent.glob("*") if p.suffix.lower() in places.SUFFIXES)[:4]
    return CheckpointError(
        f"No checkpoint file '{path}'.",
        "" if near else kinds.LEGAL,
        "Check the path; 'vitft models ls' lists the aliases.",
        fact=f"That folder holds: {', '.join(near)}." if near else "",
    )


def unknown(model: str) -> UnknownName:
    """Return the error for a name that is neither an alias nor a path."""
    names = _alike(model) or ([f"timm:{model}"] if model.split(".")[0] in _timm()[0] else list(MODELS))
    return UnknownName("model", model, names, "Run 'vitft models ls' to list them; a file needs its suffix.")


def _alike(model: str) -> list[str]:
    return [name for name in MODELS if _letters(name) == _letters(model)]


def _letters(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


@cache
def _timm() -> tuple[list[str], str]:
    """Return the names of timm's models and the text that says them; nothing where it is not to be read."""
    spec = find_spec("timm")
    folders = (spec.submodule_search_locations or []) if spec is not None else []
    text = "".join(p.read_text(encoding="utf-8") for f in folders for p in sorted(Path(f, "models").glob("*.py")))
    return re.findall(r"@register_model\s+def (\w+)\(", text), text


def alias_info(alias: ModelAlias) -> CheckpointInfo:
    """Return what `loading.load(name, weights=False)` knows of an alias; a file of the package describes itself."""
    if alias.file is not None:
        with alias.file.open("rb") as weights:
            head = json.loads(weights.read(int.from_bytes(weights.read(8), "little")))
        info = CheckpointInfo.from_dict(json.loads(head["__metadata__"]["vitft"])["model"])
        path = alias.file
        info = replace(info, name=alias.name, kind="safetensors", path=str(path), sha256=machine.sha256_once(path))
        return replace(info, native=info.resolution, notes=())
    stamp, (mean, std) = STAMPS[alias.name], MEAN_STD[alias.normalisation]
    flexi = alias.timm.startswith("flexivit")
    patch = _FLEXI_PATCH if flexi else alias.patch_size
    size, rows = (alias.resolution, alias.resolution), alias.resolution // patch
    kwargs = {} if patch == alias.patch_size else {"patch_size": alias.patch_size}
    return CheckpointInfo(
        name=alias.name,
        kind="random",
        path="",
        sha256="",
        timm_name=alias.timm,
        mean=mean,
        std=std,
        crop_pct=stamp.crop_pct,
        crop_mode=stamp.crop_mode,
        interpolation=stamp.interpolation,
        native=size,
        num_classes=stamp.num_classes,
        patch=(patch, patch),
        grid=(rows, rows) if stamp.positions else None,
        resolution=size,
        used=size,
        architecture=Architecture(alias.timm.split(".")[0], kwargs),
    )


def alias_file(alias: ModelAlias) -> Path | None:
    """Return the file of an alias in a local cache of the hub, or inside the package; None where it is not here."""
    from vitft.models import hub_files

    # CLIP's weights lie on one page for both of timm's activations.
    page = f"timm/{alias.timm.replace('quickgelu_', '')}"
    return alias.file or hub_files.cached(page, places.WEIGHTS)
