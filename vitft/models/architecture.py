"""The architecture that a file's tensors show, and the timm tag closest to it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any

import timm
from torch import Tensor

from vitft.errors import CheckpointError
from vitft.models.declared import ACTIVATIONS
from vitft.models.meta import meta_network
from vitft.models.npz import stage_units
from vitft.models.tags import closest_tag
from vitft.results.checkpoint import Architecture, Size

State = Mapping[str, Tensor]

# (width, depth) -> the size word of timm's names.
_SIZES = {
    (192, 12): "tiny",
    (384, 12): "small",
    (512, 12): "medium",
    (768, 12): "base",
    (1024, 24): "large",
    (1152, 27): "so400m",
    (1280, 32): "huge",
    (1408, 40): "giant",
    (1536, 40): "giant",
    (1664, 48): "gigantic",
}
# Where heads are not 64 wide (big_vision's decode_variant, DINOv2's giant). A head's width is in no timm-named tensor.
_HEADS = {1152: 16, 1280: 16, 1408: 16, 1664: 16, 1792: 16, 64: 2}
_HYBRIDS = {
    (): "vit_tiny_r_s16_p8",
    (2, 2, 2, 2): "vit_small_r26_s32",
    (3, 4, 9): "vit_base_r50_s16",
    (3, 4, 6, 3): "vit_large_r50_s32",
}
_TRUNK = "patch_embed.backbone."
_TRUNK_STEMS = (f"{_TRUNK}stem.conv.weight", f"{_TRUNK}conv.weight")
FIRST_CONVOLUTIONS = ("stem.conv.weight", *_TRUNK_STEMS, "patch_embed.proj.weight")
"""What reads the images: a ResNet's stem, a hybrid's, or the patch embedding; the first one there."""
_RESNETS = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}

_ANOTHER = "For another architecture put the config.json of its hub page beside the file."


@dataclass(frozen=True)
class Inferred:
    """What the tensors show.

    Attributes:
        tag: the closest timm tag, e.g. "vit_tiny_patch16_224.augreg_in21k"; "" where none has this shape.
        patch: pixels a token, (height, width).
        grid: of the position embeddings; None without.
        assumed: parts of the architecture that no tensor tells.
        channels: of the images.
    """

    architecture: Architecture
    tag: str
    patch: Size
    grid: Size | None
    assumed: tuple[str, ...]
    channels: int = 3


def infer(
    state: State,
    *,
    hint: str = "",
    num_heads: int = 0,
    no_embed_class: bool | None = None,
    half: bool = False,
    grid: Size | None = None,
) -> Inferred:
    """Infer the architecture of a ViT, a hybrid or a BiT ResNet from timm-named tensors.

    Args:
        state: timm name -> tensor.
        hint: the file's name; its words choose between tags of one shape.
        num_heads: 0 where the file does not say.
        no_embed_class: whether the class token has no position; None to tell by the count.
        half: a file of Google's JAX releases: they tell their heads, share epsilon and activation, and have square
            grids; only tags with mean and std 0.5 fit them.
        grid: rows and columns of the position embeddings, where they are said.

    Raises:
        CheckpointError: no such architecture, or position embeddings that form no square grid, nor the one said.
    """
    if "stem.conv.weight" in state and "stages.0.blocks.0.conv1.weight" in state:
        return _resnet(state, hint)
    if "patch_embed.proj.weight" not in state or "blocks.0.norm1.weight" not in state:
        raise CheckpointError(
            f"Its tensors are no Vision Transformer or BiT ResNet (first: {', '.join(list(state)[:3]) or 'none'}).",
            "timm's names ('patch_embed.proj.weight', 'blocks.0...'), or the JAX releases' .npz.",
            _ANOTHER,
        )
    stages = None
    if any(name.startswith(_TRUNK) for name in state):
        stages = stage_units(state, _TRUNK + r"stages\.(\d+)\.blocks\.(\d+)\.")
        if not any(name in state for name in _TRUNK_STEMS):
            raise CheckpointError(
                "Its patches come from a convolutional network that is no ResNet-v2 of the R+ViT hybrids.",
                f"{', '.join(_HYBRIDS.values())}.",
                _ANOTHER,
            )
    return _transformer(state, hint, num_heads, no_embed_class, stages, half, grid)


def _transformer(
    state: State,
    hint: str,
    num_heads: int,
    no_embed_class: bool | None,
    stages: tuple[int, ...] | None,
    half: bool,
    said_grid: Size | None,
) -> Inferred:
    kernel = state["patch_embed.proj.weight"]
    _positioned(state)
    width, depth = kernel.shape[0], 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    patch: Size = (kernel.shape[2], kernel.shape[3])
    classed, distilled = "cls_token" in state, "dist_token" in state
    registers = state["reg_token"].shape[1] if "reg_token" in state else 0
    hidden, packed = _mlp(state)
    pre_norm, quick = "norm_pre.weight" in state, False
    num_heads, assumed = _heads(state, width, num_heads)
    pooled = "map" if "attn_pool.latent" in state else "token" if classed and "fc_norm.weight" not in state else "avg"
    kwargs: dict[str, object] = {
        "patch_size": patch[0] if patch[0] == patch[1] else patch,
        **{"embed_dim": width, "depth": depth, "num_heads": num_heads, "mlp_ratio": _ratio(hidden, width)},
        **{"qkv_bias": "blocks.0.attn.qkv.bias" in state, "global_pool": pooled},
    }
    size = _SIZES.get((width, depth), "")
    if distilled:
        names = [f"deit_{size}_distilled_patch{patch[0]}_[0-9][0-9][0-9]"]
        generic, prefix = "deit_tiny_distilled_patch16_224", 2
        del kwargs["global_pool"]
        no_embed_class = False
    else:
        scaled = "blocks.0.ls1.gamma" in state
        prefix = int(classed) + registers
        kwargs |= {"class_token": classed, "reg_tokens": registers, "pre_norm": pre_norm, **_blocks(state, packed)}
        names = _names(size, patch[0], registers, scaled, pre_norm, pooled, classed)
        quick = pre_norm and re.search("openai|quickgelu", hint.lower()) is not None
        if quick:  # OpenAI's own weights need it, others' do not
            names = [name for name in names if "quickgelu" in name]
        generic = "vit_giant_patch14_dinov2" if packed else "vit_tiny_patch16_224"
    if stages is not None:
        name, stride = _hybrid(stages)
        names, generic, patch = [f"{name}_*"], f"{name}_224", (patch[0] * stride, patch[1] * stride)
    tokens = state["pos_embed"].shape[1]
    grid, no_embed_class = _grid(tokens, prefix, no_embed_class, registers > 0, said_grid)
    if not distilled:
        kwargs["no_embed_class"] = no_embed_class
    native = (grid[0] * patch[0], grid[1] * patch[1])
    tag = closest_tag(names, hint, classes_in(state), native, half) if patch[0] == patch[1] else ""
    base = tag.split(".")[0] if tag else generic
    pre_logits = state["pre_logits.weight"].shape[0] if "pre_logits.weight" in state else 0
    norm_eps, activation = _defaults(base, kwargs)
    if pre_norm and not tag:  # CLIP's
        norm_eps, activation = 1e-5, "quick_gelu" if quick else activation
    assumed += ("norm_eps", "activation", *["pool"] * (kwargs.get("global_pool") == "token"))
    assumed += ("grid",) if said_grid is None else ()
    arch = Architecture(base, kwargs, pre_logits, norm_eps=norm_eps, activation=activation)
    return Inferred(arch, tag, patch, grid, () if half else assumed, _channels(state))


def _positioned(state: State) -> None:
    """Refuse networks with rotary positions, which are in no tensor: built as a plain ViT they would see no places.

    Without position embeddings it is one (DINOv3, RoPE-ViT). So is CLIP's norm before the blocks with a pool of
    attention behind them (the Perception Encoder), which has both kinds of positions. Raises CheckpointError.
    """
    both = "norm_pre.weight" in state and "attn_pool.latent" in state
    if "pos_embed" not in state or both or any(name.startswith("rope") for name in state):
        raise CheckpointError(
            "Its positions are rotary (DINOv3, RoPE-ViT, Perception Encoder), which no tensor describes.",
            "learned position embeddings, or a config.json beside the file that names the network.",
            "Put the config.json of its hub page beside it, or name the model: timm:NAME.",
        )


def _mlp(state: State) -> tuple[int, bool]:
    """Return the hidden width of the first block's MLP, and whether it is gated: both halves in one matrix.

    Raises CheckpointError for blocks of another kind.
    """
    hidden, back = (state.get(f"blocks.0.mlp.fc{i}.weight") for i in (1, 2))
    if hidden is None or back is None or "blocks.0.attn.qkv.weight" not in state:
        raise CheckpointError(
            "Its blocks have no 'attn.qkv' or no 'mlp.fc1', 'mlp.fc2'.",
            "timm's VisionTransformer.",
            _ANOTHER,
        )
    return hidden.shape[0], back.shape[1] * 2 == hidden.shape[0]


def _blocks(state: State, gated: bool) -> dict[str, object]:
    """Return timm's arguments for the norms and scales that the tensors show."""
    own = {"fc_norm": "fc_norm.weight" in state, "qk_norm": "blocks.0.attn.q_norm.weight" in state}
    if "blocks.0.ls1.gamma" in state:
        return own | {"init_values": 1e-5}
    # The gated network that stands in for an unknown name has layer scale; 0 takes it away.
    return own | ({"init_values": 0.0} if gated else {})


def _hybrid(stages: tuple[int, ...]) -> tuple[str, int]:
    """Return timm's name for a ViT on a ResNet of these units a stage, and the ResNet's stride."""
    if stages not in _HYBRIDS:
        raise CheckpointError(f"No hybrid with {list(stages)} ResNet units a stage is known.")
    return _HYBRIDS[stages], 4 * 2 ** max(0, len(stages) - 1)


def _heads(state: State, width: int, known: int) -> tuple[int, tuple[str, ...]]:
    """Return the attention heads, and whether they are assumed: known, told by a norm of queries, else usual."""
    if known and width % known:
        raise CheckpointError(f"A width of {width} cannot be split into {known} heads.")
    if known:
        return known, ()
    norm = state.get("blocks.0.attn.q_norm.weight")
    if norm is not None:
        return width // int(norm.shape[0]), ()
    return _HEADS.get(width, max(1, width // 64)), ("num_heads",)


def _defaults(base: str, kwargs: Mapping[str, object]) -> tuple[float, str]:
    """Return a timm function's default epsilon and activation; "" for an activation that has no name in timm."""
    net = meta_network(base, **{**kwargs, "depth": 1})
    act = net.blocks[0].mlp.act
    word = next((word for word, kind in ACTIVATIONS.items() if type(act) is kind), "")
    if getattr(act, "approximate", "none") == "tanh":
        word = "gelu_tanh"
    return float(net.blocks[0].norm1.eps), word


def _channels(state: State) -> int:
    """Return the channels of the images that the first convolution reads."""
    return int(next(state[name] for name in FIRST_CONVOLUTIONS if name in state).shape[1])


def _names(
    size: str, patch: int, registers: int, scaled: bool, pre_norm: bool, pooled: str, classed: bool
) -> list[str]:
    """Patterns of timm names with these traits, the likeliest first."""
    side, stem = "[0-9][0-9][0-9]", f"{size}_patch{patch}"
    if registers:
        return [f"vit_{stem}_reg{registers}_dinov2"]
    if scaled:
        return [f"vit_{stem}_dinov2"] if patch == 14 else [f"deit3_{stem}_{side}"]
    if pre_norm:
        return [f"vit_{stem}_clip_{side}", f"vit_{stem}_clip_quickgelu_{side}"]
    if pooled == "map":
        return [f"vit_{stem}_siglip_{side}"]
    if not classed:
        return [f"vit_{stem}_siglip_gap_{side}", f"vit_{stem}_gap_{side}"]
    return [f"vit_{stem}_{side}", f"deit_{stem}_{side}", f"flexivit_{size}"]


def _grid(
    tokens: int, prefix: int, no_embed_class: bool | None, registers: bool, declared: Size | None
) -> tuple[Size, bool]:
    """Split a count of position embeddings into prefix and grid: the one said, else a square."""
    both = (True, False) if registers else (False, True)
    for bare in (no_embed_class,) if no_embed_class is not None else both if prefix else (False,):
        count = tokens if bare else tokens - prefix
        square = (isqrt(max(0, count)),) * 2
        grid = declared or square
        if count > 0 and grid[0] * grid[1] == count:
            return grid, bool(bare)
    form = "no square grid" if declared is None else f"no grid of {declared[0]}x{declared[1]}"
    raise CheckpointError(
        f"Its {tokens} position embeddings ({prefix} prefix tokens) form {form}.",
        "a square grid, one that is said, or a file that says its own (a vitft run, a folder with config.json).",
        "Say it with --set 'grid=[ROWS,COLUMNS]', or put a config.json with pretrained_cfg.input_size beside the file.",
    )


def _resnet(state: State, hint: str) -> Inferred:
    units = stage_units(state, r"stages\.(\d+)\.blocks\.(\d+)\.")
    if units not in _RESNETS or any("running_mean" in name for name in state):
        raise CheckpointError(
            f"A ResNet-v2 with {list(units)} units a stage is no BiT model.",
            "BiT's R50, R101 and R152, with group norm.",
            _ANOTHER,
        )
    stem = state["stem.conv.weight"].shape[0]
    name = f"resnetv2_{_RESNETS[units]}x{stem // 64}_bit"
    kwargs: dict[str, object] = {}
    if stem % 64 or not timm.is_model(name):
        name = f"resnetv2_{_RESNETS[units]}x1_bit"
        channels = [state[f"stages.{i}.blocks.0.conv3.weight"].shape[0] for i in range(len(units))]
        kwargs = {"stem_chs": stem, "channels": channels}
        if not timm.is_model(name):
            kwargs, name = {}, ""
    if not name:
        raise CheckpointError(f"No BiT model has a stem of {stem} channels.")
    tag = closest_tag([name], hint, classes_in(state), None, True)
    return Inferred(Architecture(name, kwargs), tag, (32, 32), None, (), _channels(state))


def geometry(net: Any, size: Size) -> tuple[Size, Size, Size]:
    """Return (patch, grid, pixels used) of a network; a ResNet counts as stride 32 and uses every pixel."""
    embed: Any = getattr(net, "patch_embed", None)
    grid = getattr(embed, "grid_size", None)
    if grid is None:
        return (32, 32), (-(-size[0] // 32), -(-size[1] // 32)), size
    patch = tuple(embed.patch_size)
    ratio = getattr(embed, "feature_ratio", None)
    if ratio is not None:  # a hybrid's ResNet pads, so every pixel counts
        return (patch[0] * ratio[0], patch[1] * ratio[1]), tuple(grid), size
    return patch, tuple(grid), (grid[0] * patch[0], grid[1] * patch[1])


def classes_in(state: State) -> int:
    """Return how many classes the head among some tensors has; 0 where there is none."""
    heads = (state[name] for name in ("head.weight", "head.fc.weight") if name in state)
    return next((int(head.shape[0]) for head in heads), 0)


def _ratio(hidden: int, width: int) -> float:
    """Return a ratio that timm's int(width * ratio) turns back into `hidden`."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width
