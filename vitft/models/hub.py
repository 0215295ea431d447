"""Weights by name: timm's tags, pages of the Hugging Face hub, folders laid out like one.

What a name says of the architecture is believed; the tensors must fit it.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from vitft.errors import CheckpointError, CheckpointUnsafe, UnknownName
from vitft.models import files, hub_files, kinds, library, npz, places, processor
from vitft.models.architecture import geometry
from vitft.models.checkpoint import Checkpoint, crop_mode
from vitft.models.choice import Chosen
from vitft.models.declared import Declared
from vitft.models.meta import meta_network
from vitft.models.methods import head_names
from vitft.models.renaming import timm_names
from vitft.results.checkpoint import Architecture, CheckpointInfo

# Arguments of timm's factory that read files or change what is loaded.
_RESERVED = frozenset(
    (
        "checkpoint_path",
        "cache_dir",
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "features_only",
        "scriptable",
    )
)

_ASSUMED = ("mean", "std", "crop_pct", "interpolation")
_STAMP = (*_ASSUMED, "crop_mode", "input_size", "num_classes", "label_names", "label_descriptions", "tag")


def timm_tag(name: str, model: str, *, weights: bool = True) -> Checkpoint:
    """Open timm:NAME, from the local caches or the hub.

    Args:
        name: timm's model name, with or without a tag.
        model: what the user wrote, for messages.
        weights: False for the architecture alone, which needs no network.

    Raises:
        UnknownName: timm has no such model. CheckpointError: the weights are not here and cannot be reached.
    """
    base, tag, cfg = _registered(name)
    file = hub_files.locate(*_page(cfg, tag, name), model) if weights else None
    return _open(base, cfg.to_dict(), {}, file, model, tag)


def fetch_tag(name: str, model: str) -> Path:
    """Return the file of a timm tag, fetched where it is not here yet. Raises as `timm_tag`."""
    _, tag, cfg = _registered(name)
    return hub_files.locate(*_page(cfg, tag, name), model)


def cached_tag(tag: str) -> Path | None:
    """Return the file of a timm tag where it is in a local cache."""
    cfg = timm.get_pretrained_cfg(tag)
    return None if cfg is None or not cfg.hf_hub_id else hub_files.cached(*_page(cfg, tag, tag))


def fetch_repository(name: str, model: str) -> Path:
    """Return the weights of a hub page, fetched with its config where they are not here yet."""
    _repository_config(name, model)
    return hub_files.locate(name, places.WEIGHTS, model)


def _repository_config(name: str, model: str) -> dict[str, object]:
    """Return a page's config, with the library's stamp fetched beside it."""
    if name.count("/") != 1:
        raise CheckpointError(f"'{model}' names no page of the hub.", "hf-hub:ORG/NAME.")
    config = places.read_json(hub_files.locate(name, ("config.json",), model))
    if config.get("model_type") in library.MODEL_TYPES:
        with contextlib.suppress(CheckpointError):  # a page may have none
            hub_files.locate(name, (processor.FILE,), model)
    return config


def _registered(name: str) -> tuple[str, str, Any]:
    """Return timm's model name, the full tag and its configuration. Raises UnknownName."""
    base = name.split(".")[0]
    cfg = timm.get_pretrained_cfg(name) if timm.is_model(base) else None
    if cfg is None or (name != base and name not in timm.list_pretrained()):
        known = [*timm.list_pretrained(), *timm.list_models()]
        raise UnknownName("timm model", name, known, "Run 'vitft models ls' for the aliases.")
    return base, f"{base}.{cfg.tag}" if cfg.tag else base, cfg


def _page(cfg: Any, tag: str, name: str) -> tuple[str, tuple[str, ...]]:
    """Return the hub page of a timm tag and the names its weights may have. Raises CheckpointError where none is."""
    if not cfg.hf_hub_id:
        base = tag.split(".")[0]
        raise CheckpointError(
            f"timm has no weights on the hub for '{name}'.",
            f"{', '.join(timm.list_pretrained(base + '.*')[:3]) or 'another model'}.",
            f"For random weights add --from-scratch; 'timm:{base}' then needs no file.",
        )
    page = cfg.hf_hub_id + tag if cfg.hf_hub_id.endswith("/") else cfg.hf_hub_id
    return page, (cfg.hf_hub_filename,) if cfg.hf_hub_filename else places.WEIGHTS


def repository(
    name: str, model: str, word: str = "", *, weights: bool = True, declared: Declared | None = None
) -> Checkpoint:
    """Open hf-hub:ORG/NAME[@revision]: timm's config.json, or a ViT of the transformers library.

    Raises CheckpointError.
    """
    config = _repository_config(name, model)
    wanted = weights or config.get("model_type") in library.MODEL_TYPES  # whose architecture the tensors tell
    return _configured(config, hub_files.locate(name, places.WEIGHTS, model) if wanted else None, model, declared, word)


def folder(path: Path, file: Path | None = None, declared: Declared | None = None, word: str = "") -> Checkpoint:
    """Open a folder with a config.json like the hub's, and the weights beside it. Raises CheckpointError."""
    file = file or places.weights_in(path)
    if file is None:
        legal = f"{', '.join(places.WEIGHTS)} beside it, or an index with its parts."
        raise CheckpointError(f"'{path}' has a config.json but no weights.", legal)
    return _configured(places.read_json(path / "config.json"), file, str(path), declared, word)


def is_page(path: Path) -> bool:
    """Tell whether a folder's config.json names a timm architecture."""
    try:
        config = places.read_json(path / "config.json")
    except CheckpointError:
        return False
    return timm.is_model(str(config.get("architecture", ""))) or config.get("model_type") in library.MODEL_TYPES


def unread(path: Path) -> tuple[str, ...]:
    """Return a note on a folder's config.json that says of what network it is, and is of none that is known here."""
    try:
        config = places.read_json(path / "config.json")
    except CheckpointError:
        return ()
    kind = config.get("architecture") or config.get("model_type")
    return (f"config.json beside it says '{kind}', which is not known here, and was not read",) if kind else ()


def check(arch: Architecture) -> None:
    """Refuse a record that would make timm do more than build a network: fetch a page, open another file.

    Raises CheckpointUnsafe.
    """
    taken = _RESERVED & set(arch.kwargs)
    if not timm.is_model(arch.name) or taken:
        raise CheckpointUnsafe(
            f"A checkpoint may not ask for '{sorted(taken)[0] if taken else arch.name}'; nothing was built.",
            "the name of a timm architecture and its shape.",
        )


def _configured(
    config: Mapping[str, Any], file: Path | None, model: str, declared: Declared | None, word: str = ""
) -> Checkpoint:
    base = str(config.get("architecture", ""))
    if config.get("model_type") in library.MODEL_TYPES and file is not None:
        beside = file.parent / processor.FILE
        stamp = places.read_json(beside) if beside.is_file() else {}
        chosen = _read(file, word)
        with files.one_network(file):
            opened = library.checkpoint(config, stamp, chosen.state, file, model, declared)
        return replace(opened, info=replace(opened.info, part=chosen.part).with_notes(*chosen.notes))
    if not timm.is_model(base):
        kind = f"architecture '{base}'" if base else f"model type '{config.get('model_type', '?')}'"
        raise CheckpointError(
            f"'{model}' has {kind}, which is not timm's.",
            f"pages whose config.json names a timm architecture, or model type {', '.join(library.MODEL_TYPES)}.",
            "Most models have a timm copy: try timm:NAME.",
        )
    cfg = timm.get_pretrained_cfg(base)
    own = config.get("pretrained_cfg") or {key: config[key] for key in _STAMP if key in config}  # the form before 0.8
    args = config.get("model_args") or {}
    for name, part in (("pretrained_cfg", own), ("model_args", args)):
        if not isinstance(part, dict):
            raise processor.refused(model, "config.json", name, part, "an object of keys and values.")
    own = _prepares({key: value for key, value in own.items() if value is not None}, model)
    stamp = {**(cfg.to_dict() if cfg else {}), **own}
    stamp |= {name: config[name] for name in ("num_classes", "global_pool") if name in config}
    tag = stamp.get("tag")
    check(Architecture(base, args))
    opened = _open(base, stamp, args, file, model, f"{base}.{tag}" if tag else base, word)
    info = replace(opened.info, assumed=tuple(name for name in _ASSUMED if name not in own))
    labels, texts = _labels({"label_names": config.get("labels"), **own, **config}, info.num_classes)
    return Checkpoint(info, opened.state, labels, texts)


def _prepares(own: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return a timm config's facts on images, mean and std for each channel.

    Raises CheckpointError for what vitft's evaluation would do otherwise, by its key.
    """
    out = dict(own)
    for key in ("mean", "std"):
        if key in own:
            value = own[key] if isinstance(own[key], list | tuple) else [own[key]] * 3
            if not all(isinstance(n, int | float) and (key == "mean" or n > 0) and 0 <= n <= 1 for n in value):
                legal = f"numbers from 0 to 1, of pixels from 0 to 1{', above 0' * (key == 'std')}."
                raise processor.refused(model, "config.json", key, own[key], legal)
            out[key] = tuple(map(float, value))
    share = own.get("crop_pct", 1.0)
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise processor.refused(model, "config.json", "crop_pct", share, "above 0, up to 1.")
    for key, words in (("interpolation", ("bilinear", "bicubic")), ("crop_mode", ("center", "squash"))):
        if own.get(key, words[0]) not in words:
            raise processor.refused(model, "config.json", key, own[key], f"{' or '.join(words)}.")
    return out


def _labels(config: Mapping[str, Any], classes: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the class names and descriptions that timm's config may have, in order of the head's outputs."""
    names, texts = config.get("label_names"), config.get("label_descriptions")
    if not names:  # the transformers library's wrapper of timm
        return library.labels(config.get("id2label"), classes), ()
    if not isinstance(names, list) or len(names) != classes or len(set(map(str, names))) != classes:
        return (), ()
    labels = tuple(map(str, names))
    if isinstance(texts, list) and len(texts) == classes:
        texts = dict(zip(labels, texts, strict=True))
    if not isinstance(texts, dict) or not set(labels) <= set(texts):
        return labels, ()
    return labels, tuple(str(texts[label]) for label in labels)


def _open(
    base: str, cfg: Mapping[str, Any], args: Mapping[str, Any], file: Path | None, model: str, tag: str, word: str = ""
) -> Checkpoint:
    """Read a file as the architecture its name or config says, at its native resolution, with timm's own renaming."""
    cfg = {key: value for key, value in cfg.items() if value is not None}
    channels, *native = cfg.get("input_size", (3, 224, 224))
    if args.get("img_size") and not args.get(
        "dynamic_img_size"
    ):  # what the tensors are of; a stamp may be their model's
        native = [args["img_size"]] * 2 if isinstance(args["img_size"], int) else args["img_size"]
    channels, native = int(args.get("in_chans", channels)), (int(native[0]), int(native[1]))
    classes = max(0, int(cfg.get("num_classes", 0)))
    pool = cfg.pop("global_pool", None)  # beside pretrained_cfg in every page, and read by nobody: model_args decide
    cfg |= {"num_classes": classes}
    try:
        net, chosen = _fitted(base, cfg, args, file, word)
    except (RuntimeError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise CheckpointError(
            f"'{model}' does not fit {base}: {' '.join(str(error).split())[:200]}.",
            "the weights of that architecture, every one.",
            "Is its config.json that of these weights? A file in the cache may be removed and fetched again.",
        ) from None
    if pool is not None and (built := getattr(net, "global_pool", pool)) != pool:
        raise processor.refused(model, "config.json", "global_pool", pool, f"{built}, which its model_args build.")
    state = chosen.state
    if classes and state and not any(name in state for name in head_names(net)):
        classes = 0
    patch, grid, _ = geometry(net, native)
    info = CheckpointInfo(
        name=model,
        kind="hub" if file is not None else "random",
        path=str(file or ""),
        sha256=places.sha256(file) if file is not None else "",
        timm_name=tag,
        mean=tuple(cfg.get("mean", (0.5, 0.5, 0.5))),
        std=tuple(cfg.get("std", (0.5, 0.5, 0.5))),
        crop_pct=float(cfg.get("crop_pct", 0.875)),
        crop_mode=crop_mode(cfg.get("crop_mode")),
        interpolation=str(cfg.get("interpolation", "bicubic")),
        native=native,
        num_classes=classes,
        patch=patch,
        grid=grid if getattr(net, "pos_embed", None) is not None else None,
        resolution=native,
        used=native,
        architecture=Architecture(base, dict(args)),
        notes=chosen.notes,
        part=chosen.part,
        channels=channels,
    )
    return Checkpoint(info, {name: tensor.float() for name, tensor in state.items()})


def _fitted(base: str, cfg: Any, args: Mapping[str, Any], file: Path | None, word: str) -> tuple[Any, Chosen]:
    """Build an architecture without storage and read its tensors, under timm's names."""
    net = meta_network(base, pretrained_cfg=cfg, **args)
    shapes = _shapes(net.state_dict())
    if file is None:
        return net, Chosen({})
    chosen = _read(file, word, list(shapes))
    headless = {name: shape for name, shape in shapes.items() if name not in head_names(net)}
    for state in (chosen.state, timm_names(chosen.state)):
        if _shapes(state) in (shapes, headless):
            return net, replace(chosen, state=state)
    # Not timm's names throughout: timm renames what it knows.
    overlay = {"state_dict": dict(chosen.state), "custom_load": False}
    with torch.random.fork_rng(devices=[]):
        net = timm.create_model(base, pretrained=True, pretrained_cfg=cfg, pretrained_cfg_overlay=overlay, **args)
    state, notes = dict(net.state_dict()), chosen.notes
    stored, built = (of.get("pos_embed") for of in (timm_names(chosen.state), state))
    if stored is not None and built is not None and stored.shape != built.shape:
        said = f"{stored.shape[1]} position embeddings, its config's size asks for {built.shape[1]}"
        notes += (f"the file has {said}: timm resized them",)
    return net, replace(chosen, state=state, notes=notes)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


def _read(file: Path, word: str, expected: Sequence[str] = ()) -> Chosen:
    if not file.name.endswith(places.INDEX) and kinds.kind(file) == kinds.NPZ:
        return Chosen(npz.translate(files.read_npz(file)).state)
    return files.read_network(file, word, expected)
