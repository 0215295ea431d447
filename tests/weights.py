"""Small networks drawn for the tests of checkpoints, and what their files are held to: timm's own logits."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from vitft.errors import CheckpointError
from vitft.models.build import build
from vitft.settings import Settings

AT32 = Settings(resolution=32)
SHAPE = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2, "num_classes": 5}
State = dict[str, Tensor]


def drawn(seed: int, name: str = "vit_tiny_patch16_224", **kwargs: Any) -> Any:
    """Draw a small network whose every tensor is of normal numbers."""
    torch.manual_seed(seed)
    net = timm.create_model(name, **{**SHAPE, **kwargs})
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    return net.eval()


def under(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def logits(net: nn.Module) -> Tensor:
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        answer: Tensor = net.eval()(images)
    return answer


def opened(model: Path | str) -> Any:
    return build(str(model), None, AT32)


def is_network(model: Path | str, net: nn.Module) -> Any:
    built = opened(model)
    torch.testing.assert_close(logits(built.net), logits(net), atol=1e-5, rtol=1e-5)
    return built.info


def refused(model: Path | str, *words: str, kind: type[CheckpointError] = CheckpointError) -> str:
    with pytest.raises(kind) as caught:
        opened(model)
    assert type(caught.value) is kind
    assert len(caught.value.lines) <= 3
    for word in words:
        assert word in str(caught.value), str(caught.value)
    return str(caught.value)


A, B, C = (drawn(seed) for seed in (1, 2, 3))
a, b, c = (net.state_dict() for net in (A, B, C))


def config_of(name: str = "vit_tiny_patch16_224") -> dict[str, Any]:
    args = {key: value for key, value in SHAPE.items() if key != "num_classes"}
    cfg = {"input_size": [3, 32, 32], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "num_classes": 5}
    return {"architecture": name, "num_classes": 5, "model_args": args, "pretrained_cfg": cfg}


def hf_names(state: State, prefix: str = "vit.", version: int = 4) -> State:
    """Write the transformers library's names for a plain ViT: of its files, or (5) of its networks since version 5."""
    out: State = {}
    if version == 4:
        layers, parts = "encoder.layer", [f"attention.attention.{part}" for part in ("query", "key", "value")]
        plain = {"attn.proj": "attention.output.dense", "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}
    else:
        layers, parts = "layers", [f"attention.{part}_proj" for part in "qkv"]
        plain = {"attn.proj": "attention.o_proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    plain |= {"norm1": "layernorm_before", "norm2": "layernorm_after"}
    tops = {"cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings"}
    tops |= {
        f"patch_embed.proj.{kind}": f"embeddings.patch_embeddings.projection.{kind}" for kind in ("weight", "bias")
    }
    tops |= {f"norm.{kind}": f"layernorm.{kind}" for kind in ("weight", "bias")}
    for name, tensor in state.items():
        words = name.split(".")
        if words[0] == "head":
            out[f"classifier.{words[-1]}"] = tensor
        elif words[0] != "blocks":
            out[prefix + tops[name]] = tensor
        else:
            layer, part, kind = f"{prefix}{layers}.{words[1]}.", ".".join(words[2:-1]), words[-1]
            pieces = dict(zip(parts, tensor.chunk(3), strict=True)) if part == "attn.qkv" else {plain[part]: tensor}
            out |= {f"{layer}{one}.{kind}": piece.clone() for one, piece in pieces.items()}
    return out
