"""ViT, DeiT and their kin of the transformers library: what a config.json says of them is built, or refused by name."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from vitft.models import places, processor
from vitft.models.architecture import Inferred, classes_in, infer
from vitft.models.checkpoint import Checkpoint
from vitft.models.declared import ACTIVATIONS, Declared
from vitft.models.processor import pair, refused
from vitft.results.checkpoint import CheckpointInfo, Size

MODEL_TYPES = ("vit", "deit", "vit_mae", "vit_msn", "ijepa")
"""Model types of the library that are timm's networks under the names of its ViT."""

_EPS = {"vit_msn": 1e-6, "ijepa": 1e-6}
"""The library's own epsilon by model type; 1e-12 for the others."""

# The library's words for an activation -> timm's.
_ACTIVATIONS = {
    **{word: word for word in ACTIVATIONS},
    "gelu_python": "gelu",
    **dict.fromkeys(("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate", "gelu_python_tanh"), "gelu_tanh"),
    "swish": "silu",
}


def checkpoint(
    config: Mapping[str, Any],
    preprocessor: Mapping[str, Any],
    state: Mapping[str, Tensor],
    file: Path,
    model: str,
    declared: Declared | None = None,
) -> Checkpoint:
    """Open a ViT or DeiT of the library.

    Args:
        config: its config.json.
        preprocessor: its preprocessor_config.json; empty where there is none.
        state: timm name -> tensor.
        file: the weights.
        model: what the user wrote, for messages.
        declared: facts by the user's word.

    Raises:
        CheckpointError: a key that cannot be honoured, or tensors that do not fit the config.
    """
    inferred, image, unsaid = _network(config, state, model, declared)
    native = image
    if inferred.grid is not None:
        native = (inferred.grid[0] * inferred.patch[0], inferred.grid[1] * inferred.patch[1])
    stamp = processor.read(preprocessor, str(config["model_type"]), native, model)
    names = config.get("id2label") or {}
    classes = classes_in(state)
    info = CheckpointInfo(
        name=model,
        kind="hub",
        path=str(file),
        sha256=places.sha256(file),
        timm_name=inferred.tag,
        mean=stamp.mean,
        std=stamp.std,
        crop_pct=stamp.crop_pct,
        crop_mode=stamp.crop_mode,
        before=stamp.before,
        interpolation=stamp.interpolation,
        native=native,
        num_classes=classes,
        patch=inferred.patch,
        grid=inferred.grid,
        resolution=native,
        used=native,
        architecture=inferred.architecture,
        channels=inferred.channels,
        assumed=(*stamp.assumed, *unsaid),
        notes=stamp.notes,
    )
    return Checkpoint(info, {name: tensor.float() for name, tensor in state.items()}, labels(names, classes))


def _network(
    config: Mapping[str, Any], state: Mapping[str, Tensor], model: str, declared: Declared | None
) -> tuple[Inferred, Size, tuple[str, ...]]:
    """Return the network that config and tensors describe, its image size, and what neither says."""
    word = str(config.get("hidden_act", "gelu"))
    if word not in _ACTIVATIONS:
        raise refused(model, "config.json", "hidden_act", word, f"{', '.join(_ACTIVATIONS)}.")
    kernel = state.get("patch_embed.proj.weight")
    patch = (int(kernel.shape[2]), int(kernel.shape[3])) if kernel is not None else (16, 16)
    image = pair(config.get("image_size", 224), model, "config.json", "image_size")
    grid = (image[0] // patch[0], image[1] // patch[1])
    _agrees(config, state, model)
    inferred = infer(
        state,
        hint=model,
        num_heads=int(config.get("num_attention_heads", 0)),
        no_embed_class=False,
        grid=declared.grid if declared is not None and declared.grid else grid if "image_size" in config else None,
    )
    eps = config.get("layer_norm_eps", _EPS.get(str(config["model_type"]), 1e-12))
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 < eps < 1:
        raise refused(model, "config.json", "layer_norm_eps", eps, "a small number above 0.")
    arch = replace(inferred.architecture, activation=_ACTIVATIONS[word], norm_eps=float(eps))
    keys = {"norm_eps": "layer_norm_eps", "activation": "hidden_act", "grid": "image_size", "pool": ""}
    unsaid = tuple(name for name in inferred.assumed if name not in keys or (keys[name] and keys[name] not in config))
    return replace(inferred, architecture=arch), image, unsaid


def _agrees(config: Mapping[str, Any], state: Mapping[str, Tensor], model: str) -> None:
    """Hold the shape that the config says against the tensors: a network with fewer layers would answer, but wrongly.

    Raises CheckpointError.
    """
    kernel, hidden = state.get("patch_embed.proj.weight"), state.get("blocks.0.mlp.fc1.weight")
    if kernel is None or hidden is None:
        return  # no network: `infer` says so
    width = int(kernel.shape[0])
    have: dict[str, object] = {
        "num_hidden_layers": len({name.split(".")[1] for name in state if name.startswith("blocks.")}),
        "hidden_size": width,
        "intermediate_size": int(hidden.shape[0]),
        "num_channels": int(kernel.shape[1]),
        "qkv_bias": "blocks.0.attn.qkv.bias" in state,
    }
    for key, value in have.items():
        if config.get(key, value) != value:
            raise refused(model, "config.json", key, config[key], f"{value}, which the tensors have.")
    heads = config.get("num_attention_heads", 1)
    if isinstance(heads, bool) or not isinstance(heads, int) or heads < 1 or width % heads:
        legal = f"a number that divides the width, {width}."
        raise refused(model, "config.json", "num_attention_heads", heads, legal)


def labels(names: Any, classes: int) -> tuple[str, ...]:
    """Return the names of id2label in order; the library's placeholders LABEL_0, ... are none."""
    if not isinstance(names, Mapping) or {str(key) for key in names} != {str(i) for i in range(classes)}:
        return ()
    labels = tuple(str({str(k): v for k, v in names.items()}[str(i)]) for i in range(classes))
    return () if all(label == f"LABEL_{i}" for i, label in enumerate(labels)) else labels
