"""timm's tensors under the names of the transformers library, for folders like its own."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

_INNER = {
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "pos_embed": "embeddings.position_embeddings",
    "cls_token": "embeddings.cls_token",
    "dist_token": "embeddings.distillation_token",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def renamed(net: nn.Module, kind: str, heads: dict[str, str] | None = None) -> dict[str, Tensor]:
    """Return a timm ViT's tensors by the library's names; `heads`: timm's name of a head -> the library's."""
    heads = heads or {"head": "classifier"}
    state: dict[str, Tensor] = {}
    for name, tensor in net.state_dict().items():
        module, _, part = name.rpartition(".")
        if module in ("head", "head_dist"):
            if module in heads:
                state[f"{heads[module]}.{part}"] = tensor
            continue
        name = name.replace("blocks.", "encoder.layer.")
        name = spelled(name, _INNER)
        name = "layernorm." + name.removeprefix("norm.") if name.startswith("norm.") else name
        words = [f"attention.attention.{third}" for third in ("query", "key", "value")]
        state |= {f"{kind}.{own}": values for own, values in apart(name, tensor, words).items()}
    return state


def spelled(name: str, words: Mapping[str, str]) -> str:
    """Return a name with each word, timm's, in the library's place; in their order."""
    for ours, theirs in words.items():
        name = name.replace(ours, theirs)
    return name


def apart(name: str, tensor: Tensor, words: Sequence[str]) -> dict[str, Tensor]:
    """Return queries, keys and values under names of their own, any other tensor as it is."""
    if ".attn.qkv." not in name:
        return {name: tensor.contiguous()}
    return {name.replace("attn.qkv", word): third.clone() for word, third in zip(words, tensor.chunk(3), strict=True)}


def folder(path: Path, state: dict[str, Tensor], config: dict[str, Any], stamp: dict[str, Any] | None = None) -> Path:
    """Write a folder as the library's save_pretrained does; without `stamp` no preprocessor_config.json."""
    path.mkdir(parents=True, exist_ok=True)
    save_file(state, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(config))
    if stamp is not None:
        (path / "preprocessor_config.json").write_text(json.dumps(stamp))
    return path
