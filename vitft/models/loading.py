"""Open a checkpoint of any kind as timm-named tensors, an architecture and its stamp; save a run's weights.

Kinds: `.npz` of the JAX releases, `.safetensors`, `.pth`, a finished run or export folder, `timm:NAME`,
`hf-hub:ORG/NAME`, and the aliases of the catalog. Nothing in a file is run.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from vitft import machine
from vitft.catalog.models import MODELS
from vitft.catalog.stamps import MEAN_STD, Triple
from vitft.errors import CheckpointError, rebuilt
from vitft.models import adapters, dinov3, files, hub, kinds, methods, names, npz, places, tags
from vitft.models.architecture import Inferred, classes_in, infer
from vitft.models.checkpoint import Checkpoint, crop_mode
from vitft.models.choice import Chosen
from vitft.models.declared import Declared, apply
from vitft.models.meta import meta_network
from vitft.models.renaming import heads_of_layout, timm_names
from vitft.results.checkpoint import Architecture, CheckpointInfo
from vitft.results.files import RESULT, WEIGHTS, cannot_write, replacing


def load(model: str, *, weights: bool = True, declared: Declared | None = None) -> Checkpoint:
    """Open what the user named after --model.

    Args:
        model: an alias, timm:NAME, hf-hub:ORG/NAME, a file, or a folder; PATH::KEY for one of a file's networks.
        weights: False for the architecture alone; a hub name then needs no network.
        declared: facts by the user's word that its tensors do not show.

    Raises:
        UnknownName: neither an alias nor a file (exit code 2).
        CheckpointError: missing, damaged or of no known architecture; CheckpointUnsafe: it would run code.
    """
    declared = declared or Declared()
    return apply(_load(model, weights, declared), declared)


def _load(model: str, weights: bool, declared: Declared) -> Checkpoint:
    model, word = places.split(model)
    path = Path(model).expanduser()
    scheme, _, rest = model.partition(":")
    if word and (model in MODELS or scheme == "timm"):
        raise CheckpointError(
            f"'{model}' is one network, so '{word}' names nothing in it.", "PATH::KEY for a local file."
        )
    if model in MODELS:
        alias = MODELS[model]
        if alias.file is None:
            return _with_patch(hub.timm_tag(alias.timm, model, weights=weights), alias.patch_size)
        if not alias.file.is_file():
            raise CheckpointError(
                f"The file of '{model}' is missing from this installation ({alias.file}).",
                "an installation with its package data, or another model.",
                "Install vitft again, or name a model with --model.",
            )
        return _renamed(load_path(alias.file), model)
    if scheme == "timm":
        return hub.timm_tag(rest, model, weights=weights)
    if scheme in ("hf-hub", "hf_hub"):
        return hub.repository(rest, model, word, weights=weights, declared=declared)
    if names.is_path(model):
        return _renamed(load_path(path, declared, word), f"{model}{places.SEPARATOR}{word}" if word else model)
    raise names.unknown(model)


def fetch(model: str) -> Path:
    """Return the file of a model, fetched into the local cache where it is not here yet; nothing is loaded.

    Raises as `load`.
    """
    alias = MODELS.get(model)
    scheme, _, rest = model.partition(":")
    if scheme == "timm" or (alias is not None and alias.timm):
        return hub.fetch_tag(alias.timm if alias is not None else rest, model)
    if scheme in ("hf-hub", "hf_hub"):
        return hub.fetch_repository(rest, model)
    return Path(load(model).info.path)


def load_path(path: Path, declared: Declared | None = None, word: str = "") -> Checkpoint:
    """Open a local file or folder; `word` is what the user said after '::'. Raises as `load` does."""
    if path.is_dir():
        return _folder(path, declared, word)
    if not path.is_file():
        raise names.missing(path)
    if path.name in places.ADAPTERS and (path.parent / places.ADAPTER_CONFIG).is_file():
        return _folder(path.parent, declared, word)
    kind = kinds.PICKLE if path.name.endswith(places.INDEX) else kinds.kind(path)
    if kind == kinds.NPZ:
        return _npz(path, word)
    if kind == kinds.SAFETENSORS and (record := files.read_record(path)):
        return _recorded(path, record, word)
    return _named(path, kind.removeprefix("."), declared, word)


def save_weights(
    path: Path, net: nn.Module, info: CheckpointInfo, class_names: Sequence[str] = (), *, head_only: bool = False
) -> None:
    """Write a network and what is needed to build it again, atomically; LoRA is merged in.

    Args:
        path: `<unit>/weights.safetensors`, or head.safetensors.
        net: as trained, on any device.
        info: of the built network; its mean and std should be those the images were normalised with.
        class_names: of the head's outputs, in order.
        head_only: leave the backbone out; with a frozen one, head and checkpoint are the whole network.

    Raises:
        DiskFull: it could not be written whole; an older file is left as it was.
    """
    record = {
        "model": info.to_dict(),
        "architecture": info.to_dict()["architecture"],
        "class_names": list(class_names),
        "num_classes": info.num_classes,
        "resolution": list(info.resolution),
    }
    kept = methods.merged_state(net)
    if head_only:
        kept = {name: kept[name] for name in sorted(methods.head_names(net))}
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in kept.items()}
    try:
        with replacing(path) as temporary:
            # One metadata key: with several, safetensors writes them in an order that differs from process to process.
            save_file(state, temporary, metadata={"vitft": json.dumps(record)})
            # What safetensors writes is private; a result is as readable as any other new file.
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
    except (OSError, SafetensorError) as error:
        raise cannot_write(path, error) from None


def _folder(path: Path, declared: Declared | None, word: str) -> Checkpoint:
    if (path / WEIGHTS).is_file():
        return load_path(path / WEIGHTS, declared, word)
    if (path / places.ADAPTER_CONFIG).is_file():
        return adapters.merged(path, word, lambda base: _load(base, True, declared or Declared()))
    indexed = any(path.glob(f"*{places.INDEX}"))
    if (path / "config.json").is_file() and (hub.is_page(path) or not indexed):
        return hub.folder(path, None, declared, word)
    if indexed and (file := places.weights_in(path)) is not None:
        return load_path(file, declared, word)
    if (path / RESULT).is_file():
        raise CheckpointError(
            f"The run '{path}' kept no weights (no {WEIGHTS} in it).",
            "a run made with --save-weights.",
            "Run the same command again with --save-weights --overwrite.",
        )
    raise CheckpointError(
        f"The folder '{path}' holds no checkpoint.",
        f"a finished run ({RESULT} and {WEIGHTS}), or config.json and model.safetensors.",
        "Name the weight file itself.",
    )


def _npz(path: Path, word: str) -> Checkpoint:
    _refuse_key(path, word)
    with _with_file_name(path):
        translated = npz.translate(files.read_npz(path))
        inferred = infer(
            translated.state,
            hint=path.stem,
            num_heads=translated.num_heads,
            no_embed_class=translated.no_embed_class,
            half=True,
        )
        return _stamped(path, "npz", translated.state, inferred)


def _named(path: Path, kind: str, declared: Declared | None, word: str) -> Checkpoint:
    """Open tensors that have timm's names, or the near ones of the releases timm's own derive from."""
    if hub.is_page(path.parent):
        return hub.folder(path.parent, path, declared, word)
    chosen = files.read_network(path, word)
    if adapters.is_adapter(chosen.state):
        raise adapters.alone(path)
    with _with_file_name(path):
        state, inferred = _network(path, chosen, declared)
        opened = _stamped(path, kind, state, inferred)
    notes = (*chosen.notes, *hub.unread(path.parent))
    return replace(opened, info=replace(opened.info, part=chosen.part).with_notes(*notes))


def _network(path: Path, chosen: Chosen, declared: Declared | None) -> tuple[Mapping[str, Tensor], Inferred]:
    """Return a file's tensors by timm's names, and the network that they show."""
    if dinov3.is_own(chosen.state):
        return dinov3.read(chosen.state, path.stem)
    state = timm_names(chosen.state)
    heads = heads_of_layout([f"{chosen.part}."])
    if heads and state.get("norm.weight", torch.empty(0)).numel() % heads:
        heads = 0  # not one of the layout's own sizes
    grid = declared.grid if declared is not None else None
    inferred = infer(state, hint=path.stem, num_heads=heads, grid=grid)
    _of_other_blocks(path.stem, inferred)
    return state, inferred


def _of_other_blocks(stem: str, inferred: Inferred) -> None:
    """Refuse a file that is called by a model of timm's whose blocks have the same tensors and compute otherwise.

    Rotary positions beside learned ones, or norms behind the layers, are in no tensor. Raises CheckpointError.
    """
    name = tags.named(stem)
    if not name or inferred.tag.startswith(name) or inferred.architecture.name.startswith("resnetv2"):
        return
    try:
        theirs, ours = (meta_network(one, depth=1).blocks[0] for one in (name, inferred.architecture.name))
    except (TypeError, AttributeError, RuntimeError, ValueError, AssertionError):
        return  # no transformer of one depth: its name is a part of another word
    if type(theirs) is not type(ours):
        raise CheckpointError(
            f"It is called by timm's '{name}', whose {type(theirs).__name__} computes otherwise than its tensors tell.",
            "a config.json beside it that names the network, or another file name.",
            f'Put config.json beside it: {{"architecture": "{name}", "num_classes": K}}',
        )


def _refuse_key(path: Path, word: str) -> None:
    """Refuse PATH::KEY for a file that holds one network."""
    if word:
        raise CheckpointError(
            f"'{path}' holds one network, so '{word}' names nothing in it.", f"{path}.", "Leave '::' out."
        )


def _stamped(path: Path, kind: str, state: Mapping[str, Tensor], inferred: Inferred) -> Checkpoint:
    cfg = timm.get_pretrained_cfg(inferred.tag) if inferred.tag else None
    grid, patch = inferred.grid, inferred.patch
    native = (grid[0] * patch[0], grid[1] * patch[1]) if grid else cfg.input_size[1:] if cfg else (224, 224)
    notes: tuple[str, ...] = ()
    if cfg is None:
        # All of Google's JAX releases map pixels to [-1, 1]; most PyTorch ones use ImageNet's statistics.
        usual = "mean = std = 0.5" if kind == "npz" else "ImageNet mean and std"
        notes = (f"no timm tag has this shape: {usual} assumed",)
    unknown = MEAN_STD["half" if kind == "npz" else "imagenet"]
    mean, std = (cfg.mean, cfg.std) if cfg else unknown
    info = CheckpointInfo(
        name=str(path),
        kind=kind,
        path=str(path),
        sha256=places.sha256(path),
        timm_name=inferred.tag,
        mean=_triple(mean),
        std=_triple(std),
        crop_pct=float(cfg.crop_pct if cfg else 0.9),
        interpolation=cfg.interpolation if cfg else "bicubic",
        native=native,
        num_classes=classes_in(state),
        patch=patch,
        grid=grid,
        resolution=native,
        used=native,
        architecture=inferred.architecture,
        crop_mode=crop_mode(cfg.crop_mode if cfg else ""),
        channels=inferred.channels,
        assumed=("mean", "std", "crop_pct", "interpolation", *inferred.assumed),
        notes=notes,
    )
    return Checkpoint(info, {name: tensor.float() for name, tensor in state.items()})


def _triple(values: Sequence[float]) -> Triple:
    return (float(values[0]), float(values[1]), float(values[2]))


def _recorded(path: Path, record: Mapping[str, Any], word: str) -> Checkpoint:
    """Open what `save_weights` wrote: nothing is inferred, nothing assumed anew."""
    _refuse_key(path, word)
    state: Mapping[str, Tensor] = files.read_safetensors(path)
    try:
        info = CheckpointInfo.from_dict(record["model"])
        hub.check(info.architecture)
        classes = tuple(str(name) for name in record.get("class_names", ()))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"The record in '{path}' is not one this vitft understands ({error}).",
            "a weights file of this or an earlier version.",
        ) from None
    if info.architecture.pre_logits:
        # Inside a network the kept tanh layer is part of the head.
        state = {
            name.replace("head.0.", "pre_logits.").replace("head.2.", "head."): tensor for name, tensor in state.items()
        }
    kind = "run" if (path.parent / RESULT).is_file() else "safetensors"
    info = replace(info, kind=kind, path=str(path), sha256=machine.sha256_once(path), native=info.resolution, notes=())
    return Checkpoint(info, {name: tensor.float() for name, tensor in state.items()}, classes)


def _renamed(checkpoint: Checkpoint, name: str) -> Checkpoint:
    """Return the checkpoint under the name the user gave it."""
    return replace(checkpoint, info=replace(checkpoint.info, name=name))


def _with_patch(checkpoint: Checkpoint, patch: int) -> Checkpoint:
    """Ask for another patch size than the file's (FlexiViT): the build resizes the kernel."""
    arch = checkpoint.info.architecture
    if not arch.name.startswith("flexivit") or checkpoint.info.patch == (patch, patch):
        return checkpoint
    arch = Architecture(arch.name, {**arch.kwargs, "patch_size": patch}, arch.pre_logits)
    return replace(checkpoint, info=replace(checkpoint.info, architecture=arch))


@contextlib.contextmanager
def _with_file_name(path: Path) -> Iterator[None]:
    """Add the file's name to errors that come from its tensors."""
    try:
        with files.one_network(path):
            yield
    except CheckpointError as error:
        if str(path) in error.lines[0]:
            raise
        what, *rest = error.lines
        raise rebuilt(type(error), (f"'{path}' cannot be used. {what}", *rest)) from None
