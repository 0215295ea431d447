"""What is trained: everything, the head, head and biases, or head and LoRA; and how each part is stepped."""

import math
import re
from typing import Any, assert_never

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitft.errors import UsageError
from vitft.settings import Settings

# Position and token embeddings have two or three dimensions but are no matrices: they do not decay.
_TOKENS = ("pos_embed", "cls_token", "reg_token", "dist_token", "latent")


class LoraLinear(nn.Linear):
    """A linear layer W with a trainable update of low rank: y = W x + b + scale * B (A x).

    Attributes:
        lora_a: (rank, in), Kaiming-uniform; lora_b: (out, rank), zero, so that at first nothing changes.
    """

    def __init__(self, base: nn.Linear, rank: int, scale: float, generator: torch.Generator) -> None:
        super().__init__(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.scale = scale
        bound = math.sqrt(3.0 / base.in_features)
        a = torch.empty(rank, base.in_features).uniform_(-bound, bound, generator=generator)
        self.lora_a = nn.Parameter(a.to(base.weight))
        self.lora_b = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        self.train(base.training)

    def forward(self, input: Tensor) -> Tensor:
        update = F.linear(F.linear(input, self.lora_a), self.lora_b)
        return F.linear(input, self.weight, self.bias) + self.scale * update

    def merged(self) -> Tensor:
        """Return W + scale * B A, (out, in)."""
        return self.weight + self.scale * (self.lora_b @ self.lora_a)


def apply(net: nn.Module, settings: Settings, *, seed: int = 0) -> None:
    """Choose the trained parameters in place; `lora` also puts its layers into every block's attention.

    Args:
        net: a built network.
        settings: its method, lora_rank and lora_alpha.
        seed: of LoRA's A matrices.

    Raises:
        UsageError: LoRA on a network without attention layers it can change.
    """
    heads = set(head_names(net))
    match settings.method:
        case "full":
            trained = {name for name, _ in net.named_parameters()}
        case "linear":
            trained = heads
        case "bias":
            trained = heads | {name for name, _ in net.named_parameters() if name.endswith("bias")}
        case "lora":
            _insert(net, settings.lora_rank, settings.lora_alpha / settings.lora_rank, seed)
            trained = heads | {name for name, _ in net.named_parameters() if ".lora_" in name}
        case _:
            assert_never(settings.method)
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name in trained)


def merge(net: nn.Module) -> None:
    """Fold every LoRA update into its weight, in place; the network is then as it was before `apply`, but trained."""
    with torch.no_grad():
        for name, module in list(net.named_modules()):
            if isinstance(module, LoraLinear):
                plain = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None, device="meta")
                plain.weight, plain.bias = nn.Parameter(module.merged()), module.bias
                plain.train(module.training)
                net.set_submodule(name, plain)


def merged_state(net: nn.Module) -> dict[str, Tensor]:
    """Return the weights under timm's names, LoRA folded in; the network stays as it is."""
    state = {name: tensor for name, tensor in net.state_dict().items() if not name.endswith((".lora_a", ".lora_b"))}
    with torch.no_grad():
        for name, module in net.named_modules():
            if isinstance(module, LoraLinear):
                state[f"{name}.weight"] = module.merged()
    return state


def head_names(net: nn.Module) -> frozenset[str]:
    """Return the names of the classifier's parameters; none where the network has no head."""
    heads = net.get_classifier()  # type: ignore[operator]
    own = {id(p) for head in (heads if isinstance(heads, tuple) else (heads,)) for p in head.parameters()}
    return frozenset(name for name, parameter in net.named_parameters() if id(parameter) in own)


def parameter_groups(net: nn.Module, settings: Settings) -> list[dict[str, Any]]:
    """Group the trained parameters for the optimiser.

    Weight decay falls on matrices and convolutions alone. With layer decay d the head steps at the full rate, the
    last of L blocks at d, the first at d^L, the embeddings at d^(L + 1); a ResNet's stages count as its blocks.

    Returns:
        Groups with "params", "names", "weight_decay" and "lr_scale".
    """
    heads = head_names(net)
    layers = _layers(net)
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in net.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = layers + 1 if name in heads else _layer(name, layers)
        decays = parameter.ndim >= 2 and name.rsplit(".", 1)[-1] not in _TOKENS
        group = groups.setdefault(
            (layer, decays) if settings.layer_decay < 1 else (0, decays),
            {
                "params": [],
                "names": [],
                "weight_decay": settings.weight_decay if decays else 0.0,
                "lr_scale": settings.layer_decay ** (layers + 1 - layer),
            },
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def _layers(net: nn.Module) -> int:
    blocks = getattr(net, "blocks", None)
    if blocks is None:
        blocks = getattr(net, "stages", None)
    return len(blocks) if blocks is not None else 0


def _layer(name: str, layers: int) -> int:
    """Return 0 for embeddings and stems, 1.. for blocks or stages, layers + 1 for what follows them."""
    found = re.match(r"(?:blocks|stages)\.(\d+)\.", name)
    if found:
        return int(found[1]) + 1
    early = ("patch_embed", "stem", "norm_pre", *_TOKENS[:4])
    return 0 if layers and name.startswith(early) else layers + 1


def _insert(net: nn.Module, rank: int, scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    found = 0
    for name, module in list(net.named_modules()):
        owner, _, leaf = name.rpartition(".")
        if re.search(r"(^|\.)blocks\.\d+\.attn\.(qkv|proj|[qkv]_proj)$", name) is None:
            continue
        if type(module) is not nn.Linear or _bypassed(net.get_submodule(owner), leaf):
            continue
        net.set_submodule(name, LoraLinear(module, rank, scale, generator))
        found += 1
    if not found:
        raise UsageError(
            f"Method 'lora' finds no attention layers in this {type(net).__name__}.",
            "Legal: Vision Transformers; for a ResNet full, bias or linear.",
        )


def _bypassed(attention: nn.Module, leaf: str) -> bool:
    """Tell whether the attention reads the layer's weight past its forward (EVA's fused bias)."""
    fused = getattr(attention, "q_bias", None) is not None and not getattr(attention, "qkv_bias_separate", False)
    return leaf == "qkv" and fused
