"""DINOv3's own files: rotary positions whose periods they hold, under timm's names for its Eva networks."""

import re
from collections.abc import Mapping

import timm
import torch
from torch import Tensor

from vitft.errors import CheckpointError
from vitft.models.architecture import Inferred, classes_in
from vitft.models.tags import closest_tag
from vitft.results.checkpoint import Architecture

MODEL_TYPE = "dinov3_vit"
"""The transformers library's word for it."""

_PERIODS = "rope_embed.periods"
# (width, whether the MLP is gated) -> the size word of timm's names.
_SIZES = {
    (192, False): "tiny",
    (384, False): "small",
    (384, True): "small_plus",
    (768, False): "base",
    (1024, False): "large",
    (1280, True): "huge_plus",
    (4096, True): "7b",
}
_BASE = 100.0
"""Of the periods of rotary positions, of which a head has a quarter of its width: base^(i / their number)."""

# Its names -> timm's for the same tensors.
_RENAMED = (
    (r"^storage_tokens$", "reg_token"),
    (r"\.ls([12])\.gamma$", r".gamma_\1"),
    (r"\.mlp\.w1\.", ".mlp.fc1_g."),
    (r"\.mlp\.w2\.", ".mlp.fc1_x."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
)
# What no forward pass of an evaluation reads: of pre-training, or the periods and the mask of the keys' bias.
_UNREAD = re.compile(r"^(mask_token|local_cls_norm\..*|projectors\..*|rope_embed\..*)$|\.bias_mask$")

# The transformers library's names -> its own; query, key and value are joined below.
_TRANSFORMERS = (
    (r"^embeddings\.register_tokens$", "storage_tokens"),
    (r"^embeddings\.(cls_token|mask_token)$", r"\1"),
    (r"^embeddings\.patch_embeddings\.", "patch_embed.proj."),
    (r"^(?:model\.)?layer\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.attention\.([qkv])_proj\.", r".attn.\1."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
)


def is_own(state: Mapping[str, Tensor]) -> bool:
    """Tell whether tensors have DINOv3's own names, its rotary positions among them."""
    return "storage_tokens" in state and _PERIODS in state


def read(state: Mapping[str, Tensor], hint: str = "", heads: int | None = None) -> tuple[dict[str, Tensor], Inferred]:
    """Return timm's names for DINOv3's tensors, and the network that they show.

    Args:
        hint: the file's name; its words choose between tags of one shape.
        heads: where they are said; None = by the periods of rotary positions, which its owner's files hold.

    Raises:
        CheckpointError: no DINOv3, rotary positions of other periods, or a size that timm does not have.
    """
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if _UNREAD.search(name):
            continue
        for pattern, new in _RENAMED:
            name = re.sub(pattern, new, name)
        if not name.endswith(".attn.qkv.bias"):
            out[name] = tensor
            continue
        # Keys have no bias: the third of it that would be theirs is masked.
        query, _, value = tensor.chunk(3)
        out |= {name.replace("qkv.bias", "q_bias"): query, name.replace("qkv.bias", "v_bias"): value}
    biases = [name for name in out if name.endswith((".q_bias", ".v_bias"))]
    biased = any(bool(out[name].any()) for name in biases)  # the released ones learned none: zeros
    if not biased:
        out = {name: tensor for name, tensor in out.items() if name not in biases}
    mlp = any(f"blocks.0.mlp.{name}.weight" in out for name in ("fc1", "fc1_g"))
    if not mlp or not {"patch_embed.proj.weight", "blocks.0.norm1.weight"} <= set(out):
        first = ", ".join(list(state)[:3]) or "none"
        raise CheckpointError(f"Its tensors are no DINOv3 (first: {first}).", "all tensors of one, under its names.")
    if heads is None:
        heads = _heads(state[_PERIODS], len(out["patch_embed.proj.weight"]))
    return out, _inferred(out, heads, biased, hint)


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return DINOv3's own names for the tensors of the transformers library, which leaves the periods to its config."""
    gated = any(".mlp.gate_proj." in name for name in state)
    layers = {"gate": "w1", "up": "w2", "down": "w3"} if gated else {"up": "fc1", "down": "fc2"}
    patterns = (*_TRANSFORMERS, *((rf"\.mlp\.{theirs}_proj\.", f".mlp.{ours}.") for theirs, ours in layers.items()))
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for pattern, new in patterns:
            name = re.sub(pattern, new, name)
        out[name] = tensor
    for name in [name for name in out if name.endswith(".attn.q.weight")]:
        start = name.removesuffix("q.weight")
        weights = [out.pop(f"{start}{part}.weight") for part in "qkv"]
        biases = [out.pop(f"{start}{part}.bias", None) for part in "qkv"]
        out[f"{start}qkv.weight"] = torch.cat(weights)
        if any(bias is not None for bias in biases):
            zero = torch.zeros_like(weights[0][:, 0])
            out[f"{start}qkv.bias"] = torch.cat([zero if bias is None else bias for bias in biases])
    return out


def _heads(held: Tensor, width: int) -> int:
    """Return the heads that periods of rotary positions tell. Raises CheckpointError for others than DINOv3's."""
    quarter = held.numel()
    expected = _BASE ** (torch.arange(quarter, dtype=torch.float64) / quarter)
    if held.ndim != 1 or width % (4 * quarter) or not torch.allclose(held.double(), expected, rtol=0.01):
        raise CheckpointError(
            f"Its rotary positions have other periods than DINOv3's: {quarter} from {float(held.flatten()[0]):.3g} to "
            f"{float(held.flatten()[-1]):.3g}.",
            f"{_BASE:g}^(i/n), n a quarter of a head's width.",
        )
    return width // (4 * quarter)


def _inferred(state: Mapping[str, Tensor], heads: int, biased: bool, hint: str) -> Inferred:
    kernel = state["patch_embed.proj.weight"]
    width, patch = int(kernel.shape[0]), (int(kernel.shape[2]), int(kernel.shape[3]))
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    gated = "blocks.0.mlp.fc1_g.weight" in state
    name = f"vit_{_SIZES.get((width, gated), '?')}_patch{patch[0]}_dinov3" + "_qkvb" * biased
    if not timm.is_model(name) or patch[0] != patch[1]:
        sizes = ", ".join(f"{w}{' (gated)' * g}" for w, g in _SIZES)
        raise CheckpointError(
            f"It is a DINOv3 of width {width}{', gated,' * gated} that reads patches of {patch[0]}x{patch[1]}, which "
            f"timm {timm.__version__} does not have.",
            f"widths {sizes}, patches of 16x16.",
        )
    tag = closest_tag([name], hint, classes_in(state), None, False)
    arch = Architecture(name, {"depth": depth, "num_heads": heads, "global_pool": "avg"})
    return Inferred(arch, tag, patch, None, ("pool",), int(kernel.shape[1]))
