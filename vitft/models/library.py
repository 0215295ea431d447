"""ViT, DeiT, DINO and kin of the transformers library: what a config.json says is built, or refused by name."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from vitft.models import dinov3, places, processor
from vitft.models.architecture import Inferred, classes_in, infer
from vitft.models.checkpoint import Checkpoint
from vitft.models.declared import ACTIVATIONS, Declared
from vitft.models.processor import pair, refused
from vitft.models.renaming import timm_names
from vitft.results.checkpoint import CheckpointInfo, Size

_DINOV2 = ("dinov2", "dinov2_with_registers")
_CLIP, _SIGLIP = ("clip", "clip_vision_model"), ("siglip", "siglip_vision_model")
MODEL_TYPES = ("vit", "deit", "vit_mae", "vit_msn", "ijepa", *_DINOV2, dinov3.MODEL_TYPE, *_CLIP, *_SIGLIP)
"""Model types of the library that are timm's networks under other names."""

_ANY_SIZE = (*_DINOV2, dinov3.MODEL_TYPE)
"""Those that the library itself runs at another size than their config's, the one of their preprocessor."""

_EPS = {"vit_msn": 1e-6, "ijepa": 1e-6, **dict.fromkeys(_DINOV2, 1e-6), dinov3.MODEL_TYPE: 1e-5}
"""The library's own epsilon by model type; 1e-12 for the others."""

_USUAL: dict[str, Any] = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
                          "num_attention_heads": 12, "image_size": 224}  # fmt: skip
_CLIPS: dict[str, Any] = {**_USUAL, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_SIGLIPS: dict[str, Any] = {**_USUAL, "patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
_TWO_TOWERS = {**dict.fromkeys(_CLIP, _CLIPS), **dict.fromkeys(_SIGLIP, _SIGLIPS)}
"""The library's own values, which their configs may leave out, of networks that see images beside one that reads."""

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
        state: the library's name -> tensor.
        file: the weights.
        model: what the user wrote, for messages.
        declared: facts by the user's word.

    Raises:
        CheckpointError: a key that cannot be honoured, or tensors that do not fit the config.
    """
    kind, names = str(config["model_type"]), config.get("id2label") or {}
    config = _of_images(config, kind, model)
    if kind == dinov3.MODEL_TYPE:
        state, inferred = _dinov3(config, state, model)
        image, unsaid = pair(config.get("image_size", 224), model, "config.json", "image_size"), inferred.assumed
        notes: tuple[str, ...] = ()
    else:
        state, notes = _readable_head(timm_names(state), kind)
        inferred, image, unsaid = _network(config, state, model, declared)
    native = image
    if inferred.grid is not None:
        native = (inferred.grid[0] * inferred.patch[0], inferred.grid[1] * inferred.patch[1])
    stamp = processor.read(preprocessor, kind, native, model, any_size=kind in _ANY_SIZE)
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
        notes=(*notes, *stamp.notes),
    )
    return Checkpoint(info, {name: tensor.float() for name, tensor in state.items()}, labels(names, classes))


def _of_images(config: Mapping[str, Any], kind: str, model: str) -> Mapping[str, Any]:
    """Return the config of the network that sees images, where another one reads beside it. Raises CheckpointError."""
    if kind not in _TWO_TOWERS:
        return config
    inner = config if config.get("vision_config") is None else config["vision_config"]
    if not isinstance(inner, Mapping):
        raise refused(model, "config.json", "vision_config", inner, "an object of keys and values.")
    return {**_TWO_TOWERS[kind], **inner, "model_type": kind}


def _readable_head(state: Mapping[str, Tensor], kind: str) -> tuple[Mapping[str, Tensor], tuple[str, ...]]:
    """Leave out a classifier that reads what timm's does not, as those of DINOv2, CLIP and SigLIP in the library do.

    Returns:
        the tensors, and a note of it.
    """
    head, norm = state.get("head.weight"), state.get("norm.weight")
    if head is None or norm is None or (kind not in _TWO_TOWERS and head.shape[1] != 2 * norm.numel()):
        return state, ()
    reads = "the mean of the patches" if kind in _TWO_TOWERS else "the class token beside the mean of the patches"
    note = f"its classifier reads {reads}, which timm's does not: left out"
    return {name: tensor for name, tensor in state.items() if not name.startswith("head.")}, (note,)


def _dinov3(config: Mapping[str, Any], state: Mapping[str, Tensor], model: str) -> tuple[dict[str, Tensor], Inferred]:
    """Return DINOv3's tensors by timm's names, and the network; its config.json must be one of DINOv3's own."""
    nested = config.get("rope_parameters")  # where the library keeps it from its version 5 on
    theta = config.get("rope_theta", nested.get("rope_theta", 100.0) if isinstance(nested, Mapping) else 100.0)
    if theta != 100:
        raise refused(model, "config.json", "rope_theta", theta, "100.")
    heads = config.get("num_attention_heads", 6)
    named, inferred = dinov3.read(dinov3.from_transformers(state), model, heads)
    _agrees({**config, "num_attention_heads": heads}, named, model)
    if len(named["patch_embed.proj.weight"]) % (4 * heads):
        raise refused(model, "config.json", "num_attention_heads", heads, "a number whose fourfold divides the width.")
    gated = "blocks.0.mlp.fc1_g.weight" in named
    for key, legal, usual in (("hidden_act", "silu" if gated else "gelu", "gelu"), ("layer_norm_eps", 1e-5, 1e-5)):
        if config.get(key, usual) != legal:
            raise refused(model, "config.json", key, config.get(key, usual), f"{legal}, as DINOv3's.")
    return named, inferred


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
        no_embed_class=config["model_type"] == "dinov2_with_registers",
        grid=declared.grid if declared is not None and declared.grid else grid if "image_size" in config else None,
    )
    eps = config.get("layer_norm_eps", _EPS.get(str(config["model_type"]), 1e-12))
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 < eps < 1:
        raise refused(model, "config.json", "layer_norm_eps", eps, "a small number above 0.")
    gated = bool(config.get("use_swiglu_ffn"))  # whose activation is SiLU, whatever the word
    arch = replace(inferred.architecture, activation="" if gated else _ACTIVATIONS[word], norm_eps=float(eps))
    keys = {"norm_eps": "layer_norm_eps", "activation": "hidden_act", "grid": "image_size", "pool": ""}
    unsaid = tuple(name for name in inferred.assumed if name not in keys or (keys[name] and keys[name] not in config))
    return replace(inferred, architecture=arch), image, unsaid


def _agrees(config: Mapping[str, Any], state: Mapping[str, Tensor], model: str) -> None:
    """Hold the shape that the config says against the tensors: a network with fewer layers would answer, but wrongly.

    Raises CheckpointError.
    """
    kernel = state.get("patch_embed.proj.weight")
    hidden = state.get("blocks.0.mlp.fc1.weight", state.get("blocks.0.mlp.fc1_g.weight"))
    if kernel is None or hidden is None:
        return  # no network: `infer` says so
    width = int(kernel.shape[0])
    have: dict[str, object] = {
        "num_hidden_layers": len({name.split(".")[1] for name in state if name.startswith("blocks.")}),
        "hidden_size": width,
        "intermediate_size": int(hidden.shape[0]),
        "num_channels": int(kernel.shape[1]),
        "qkv_bias": "blocks.0.attn.qkv.bias" in state,
        "num_register_tokens": int(state["reg_token"].shape[1]) if "reg_token" in state else 0,
    }
    for key, value in have.items():
        if config.get(key, value) != value:
            raise refused(model, "config.json", key, config[key], f"{value}, which the tensors have.")
    patch = (int(kernel.shape[2]), int(kernel.shape[3]))
    if "patch_size" in config and pair(config["patch_size"], model, "config.json", "patch_size") != patch:
        raise refused(model, "config.json", "patch_size", config["patch_size"], f"{list(patch)}, of the tensors.")
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
