"""Other spellings of a Vision Transformer's tensors -> timm's names."""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from vitft.errors import CheckpointError

# One tensor of each kind of network, by which it is found in a file.
ANCHORS = (
    "patch_embed.proj.weight",
    "stem.conv.weight",
    "embeddings.patch_embeddings.projection.weight",
    "embeddings.patch_embeddings.weight",
    "embeddings.patch_embedding.weight",
)

# DeiT-3's and DINOv2's own files, and old timm's.
_NEAR = {
    "gamma_1": "ls1.gamma",
    "gamma_2": "ls2.gamma",
    "mlp.w12.": "mlp.fc1.",
    "mlp.w3.": "mlp.fc2.",
    "pre_logits.fc.": "pre_logits.",
}

# The transformers library's ViT and its kin: the first pattern that fits a name counts. q, k and v are joined below.
_LAYER = r"^(?:encoder\.layers?|layers)\.(\d+)\."
_TRANSFORMERS = (
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (_LAYER + r"attention\.output\.dense\.", r"blocks.\1.attn.proj."),
    (_LAYER + r"attention\.attention\.(query|key|value)\.", r"blocks.\1.attn.\2."),
    (_LAYER + r"layernorm_before\.", r"blocks.\1.norm1."),
    (_LAYER + r"layernorm_after\.", r"blocks.\1.norm2."),
    (_LAYER + r"intermediate\.dense\.", r"blocks.\1.mlp.fc1."),
    (_LAYER + r"output\.dense\.", r"blocks.\1.mlp.fc2."),
    (r"^layernorm\.", "norm."),
    # as the library names them from its version 5 on, in memory and in adapters, and in CLIP
    (_LAYER + r"(?:attention\.o_proj|self_attn\.out_proj)\.", r"blocks.\1.attn.proj."),
    (_LAYER + r"(?:attention|self_attn)\.q_proj\.", r"blocks.\1.attn.query."),
    (_LAYER + r"(?:attention|self_attn)\.k_proj\.", r"blocks.\1.attn.key."),
    (_LAYER + r"(?:attention|self_attn)\.v_proj\.", r"blocks.\1.attn.value."),
    (_LAYER + r"mlp\.weights_in\.", r"blocks.\1.mlp.fc1."),
    (_LAYER + r"mlp\.(?:weights_out|down_proj)\.", r"blocks.\1.mlp.fc2."),
    (_LAYER + r"mlp\.", r"blocks.\1.mlp."),
    # its DINOv2
    (r"^embeddings\.register_tokens$", "register_tokens"),
    (_LAYER + r"(norm[12])\.", r"blocks.\1.\2."),
    (_LAYER + r"layer_scale([12])\.lambda1$", r"blocks.\1.ls\2.gamma"),
    # its CLIP and SigLIP
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"^embeddings\.class_embedding$", "cls_token"),
    (r"^pre_layrnorm\.", "norm_pre."),
    (r"^post_layernorm\.", "norm."),
    (_LAYER + r"layer_norm([12])\.", r"blocks.\1.norm\2."),
    (r"^head\.probe$", "attn_pool.latent"),
    (r"^head\.attention\.in_proj_", "attn_pool.qkv."),
    (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
    (r"^head\.layernorm\.", "attn_pool.norm."),
    (r"^head\.mlp\.", "attn_pool.mlp."),
    (r"^distillation_classifier\.", "head_dist."),
    (r"^(cls_)?classifier\.", "head."),
)


def heads_of_layout(names: Iterable[str]) -> int:
    """Return the attention heads that a training code's own names imply; 0 where they imply none.

    MoCo-v3 gives its small network 12 heads of 32, as it does its base one (of 64).
    """
    return 12 if any("base_encoder." in name or "momentum_encoder." in name for name in names) else 0


def timm_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return timm's names for tensors in a spelling that timm's own derives from.

    Raises CheckpointError for a patch embedding that is no convolution.
    """
    if ANCHORS[2] in state or ANCHORS[4] in state:
        return _from_transformers(state)
    out: dict[str, Tensor] = {}
    for name, tensor in _unchunked(state).items():
        for old, new in _NEAR.items():
            name = name.replace(old, new)
        out[name] = tensor
    out = _one_head(_registers(out))
    kernel = out.get("patch_embed.proj.weight")
    if kernel is not None and kernel.dim() != 4:
        raise CheckpointError(f"Its patch embedding has {kernel.dim()} dimensions, not 4.")
    return out


def _unchunked(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Number blocks through that were trained in chunks (blocks.CHUNK.BLOCK.*, as DINOv2 does)."""
    chunked = {name: m for name in state if (m := re.match(r"blocks\.(\d+)\.(\d+)\.", name))}
    if any(name.startswith("blocks.") and name not in chunked for name in state):
        return state
    places = sorted({(int(m[1]), int(m[2])) for m in chunked.values()})
    number = {place: i for i, place in enumerate(places)}
    return {
        f"blocks.{number[int(m[1]), int(m[2])]}.{name[m.end() :]}" if (m := chunked.get(name)) else name: tensor
        for name, tensor in state.items()
    }


def _from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename, join query, key and value, and leave the pooler out (a classifier reads the class token itself)."""
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.startswith(("pooler.", "embeddings.mask_token", "embeddings.position_ids")):
            continue
        out[renamed(name)] = tensor
    for name in ("cls_token", "pos_embed"):
        if name in out:
            out[name] = out[name].reshape(1, -1, out[name].shape[-1])  # (D,) and (N, D) in CLIP
    for name in [name for name in out if name.startswith("attn_pool.qkv.")]:
        query, *rest = out.pop(name).chunk(3)
        out |= {name.replace("qkv", "q"): query, name.replace("qkv", "kv"): torch.cat(rest)}
    for word, parts in (("attn.qkv", ("query", "key", "value")), ("mlp.fc1", ("gate_proj", "up_proj"))):
        room, whole = word.split(".")
        for name in [name for name in out if f".{room}.{parts[0]}." in name]:
            out[name.replace(parts[0], whole)] = torch.cat([out.pop(name.replace(parts[0], part)) for part in parts])
    return _one_head(_registers(out))


def renamed(name: str) -> str:
    """Return timm's name for one of the transformers library, any other as it is; query, key and value stay apart."""
    for pattern, new in _TRANSFORMERS:
        name = re.sub(pattern, new, name)
    return name


def _registers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add DINOv2's position of the class token to the token itself where there are registers, as timm's form has it."""
    if "register_tokens" in state and "pos_embed" in state and "cls_token" in state:
        state["reg_token"] = state.pop("register_tokens")
        state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
        state["pos_embed"] = state["pos_embed"][:, 1:]
    return state


def _one_head(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take DeiT's distillation token for a register where no head reads it: one classifier reads the class token."""
    if "dist_token" in state and "head.weight" in state and "head_dist.weight" not in state:
        state["reg_token"] = state.pop("dist_token")
    return state
