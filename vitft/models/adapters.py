"""LoRA adapters of the peft library: what a folder of one is, and the base it was trained on with it merged in."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from vitft.catalog.models import MODELS
from vitft.errors import CheckpointError, UnknownName
from vitft.models import files, places
from vitft.models.checkpoint import Checkpoint
from vitft.models.renaming import renamed

_FACTOR = re.compile(r"(.*)\.lora_(A|B)(?:\.\w+)?\.weight")
_TOP = re.compile(r"^base_model\.(model\.)?")
_INSIDE = re.compile(r"\.modules_to_save(\.default)?|\.base_layer")
_PARTS = ("query", "key", "value")
_REBASED = ("pissa", "olora", "corda", "loftq")
"""Ways to begin that take the adapter's start out of the base: what was trained is no addition to the base as it is."""
_OTHER = ("use_dora", "use_qalora", "layer_replication", "alora_invocation_tokens", "target_parameters")
"""Keys of peft's config that make an adapter more than an addition to the weights of layers, where they are set."""


def is_adapter(state: Mapping[str, Tensor]) -> bool:
    """Tell whether tensors are an adapter's, which mean nothing without their base."""
    return any(_FACTOR.fullmatch(name) for name in state)


def alone(path: Path) -> CheckpointError:
    """Return the error for an adapter's tensors without its config."""
    return CheckpointError(
        f"'{path}' is a LoRA adapter without its {places.ADAPTER_CONFIG}, which says how it is merged.",
        f"a folder with {places.ADAPTER_CONFIG} and {places.ADAPTERS[0]}.",
        "Copy the config beside it.",
    )


def merged(folder: Path, word: str, load: Callable[[str], Checkpoint]) -> Checkpoint:
    """Open an adapter's base and add the adapter to its weights.

    Args:
        folder: with the config and the tensors.
        word: "base=MODEL" to name the base; "" for the one the config names.
        load: opens a model by its name.

    Raises:
        CheckpointError: another kind of adapter than LoRA, no base at hand, or a base that it does not fit.
    """
    config = places.read_json(folder / places.ADAPTER_CONFIG)
    kind = str(config.get("peft_type", "?")).upper()
    begun = str(config.get("init_lora_weights")).lower()
    other = [key for key in _OTHER if config.get(key)] + [f"init_lora_weights {begun}"] * begun.startswith(_REBASED)
    if kind != "LORA" or other:
        raise _refused(folder, other[0].replace("use_dora", "DoRA") if kind == "LORA" else kind)
    file = next((folder / name for name in places.ADAPTERS if (folder / name).is_file()), None)
    if file is None:
        raise CheckpointError(
            f"'{folder}' is a LoRA adapter without its weights.", f"{places.ADAPTERS[0]} beside its config."
        )
    tensors = {_TOP.sub("", name): value.float() for name, value in files.read_flat(file).items()}
    base = _base(folder, config, word, load)
    state = {name: tensor.clone() for name, tensor in base.state.items()}
    adapted = _add(folder, config, tensors, state)
    info = base.info
    saved = "head.weight" in adapted
    note = f"LoRA adapter {folder.name} merged into {len(adapted)} tensors of {info.name}"
    info = replace(
        info,
        name=str(folder),
        path=str(file),
        sha256=places.joined((places.sha256(file), places.sha256(folder / places.ADAPTER_CONFIG), info.sha256)),
        num_classes=int(state["head.weight"].shape[0]) if saved else info.num_classes,
    )
    return Checkpoint(info.with_notes(note), state, () if saved else base.class_names)


def _base(folder: Path, config: Mapping[str, Any], word: str, load: Callable[[str], Checkpoint]) -> Checkpoint:
    key, _, name = word.partition("=")
    if word and (key != "base" or not name):
        raise CheckpointError(
            f"'{word}' means nothing for a LoRA adapter.", f"{folder}::base=MODEL, the model it was trained on."
        )
    named = name or str(config.get("base_model_name_or_path") or "")
    if not name and (near := places.adapter_base(folder)):
        named = str(near)
    elif not name and named.count("/") == 1 and named not in MODELS:
        named = f"hf-hub:{named}"
    try:
        if not named:
            raise CheckpointError("Its config names no base.")
        return load(named)
    except (CheckpointError, UnknownName) as error:
        raise CheckpointError(
            f"'{folder}' is a LoRA adapter, and its base '{named or '?'}' cannot be opened: {error.lines[0]}",
            f"{folder}::base=MODEL, the model it was trained on.",
            "An adapter holds only what was added to that model.",
        ) from None


def _add(folder: Path, config: Mapping[str, Any], tensors: dict[str, Tensor], state: dict[str, Tensor]) -> list[str]:
    """Add each pair of factors to its weight and put whole saved tensors in place; return the names changed."""
    changed: list[str] = []
    factors: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if match := _FACTOR.fullmatch(name):
            factors.setdefault(match[1], {})[match[2]] = tensor
        elif "lora_" in name:
            raise _refused(folder, "DoRA" if "magnitude" in name else f"'{name}'")
        else:  # modules_to_save, and biases trained beside
            target, rows = _target(folder, _INSIDE.sub("", name), state)
            if rows is None:
                state[target] = tensor.clone()
            else:
                state[target][rows] = tensor
            changed.append(target)
    for module, pair in factors.items():
        if set(pair) != {"A", "B"}:
            raise CheckpointError(f"'{folder}' has one LoRA factor of '{module}' and lacks the other.")
        target, rows = _target(folder, f"{module}.weight", state)
        delta = _scale(config, module) * (pair["B"].flatten(1) @ pair["A"].flatten(1))
        if config.get("fan_in_fan_out"):
            delta = delta.T
        place = state[target] if rows is None else state[target][rows]
        if place.numel() != delta.numel() or place.shape[0] != delta.shape[0]:
            raise CheckpointError(
                f"'{folder}' does not fit its base: '{module}' is {tuple(delta.shape)}, there {tuple(place.shape)}.",
                "the base it was trained on.",
            )
        place += delta.view(place.shape)
        changed.append(target)
    if not changed:
        raise CheckpointError(f"'{folder}' holds no LoRA factors.", "names with lora_A and lora_B.")
    return sorted(set(changed))


def _scale(config: Mapping[str, Any], module: str) -> float:
    """Return alpha / rank (or its root) of one module: patterns are ends of module names."""
    rank, alpha = (
        float(
            next(
                (value for key, value in (config.get(patterns) or {}).items() if re.search(rf"(^|\.){key}$", module)),
                config.get(usual) or 8,
            )
        )
        for patterns, usual in (("rank_pattern", "r"), ("alpha_pattern", "lora_alpha"))
    )
    return alpha / rank**0.5 if config.get("use_rslora") else alpha / rank


def _target(folder: Path, name: str, state: Mapping[str, Tensor]) -> tuple[str, slice | None]:
    """Return the base's tensor under timm's name, and its rows where query, key and value are one there."""
    words = name.split(".")
    for start in range(len(words)):
        candidate = renamed(".".join(words[start:]))
        if candidate in state or candidate in ("head.weight", "head.bias"):
            return candidate, None
        part = next((part for part in _PARTS if f".attn.{part}." in candidate), "")
        joined = candidate.replace(f".attn.{part}.", ".attn.qkv.") if part else ""
        if joined in state:
            width, at = state[joined].shape[0] // 3, _PARTS.index(part)
            return joined, slice(at * width, (at + 1) * width)
    raise CheckpointError(f"'{folder}' adapts '{name}', which its base has not.", "the base it was trained on.")


def _refused(folder: Path, kind: str) -> CheckpointError:
    return CheckpointError(
        f"'{folder}' is an adapter of peft of a kind that is not merged here: {kind}.",
        "LoRA on linear layers and convolutions.",
        "Merge it where it was made (merge_and_unload) and save the whole model.",
    )
