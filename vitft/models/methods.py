"""What is trained: everything, the head, head and biases, or head and LoRA; and how each part is stepped."""

import math
import re
from collections.abc import Sequence
from typing import Any, assert_never

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitft.errors import UsageError
from vitft.settings import Settings

# Position and token embeddings have two or three dimensions but are no matrices: they do not decay.
_LORA_STD = 0.02  # of `lora_init = "normal"`: timm's usual one, which NOAH's code gives its LoRA layers too
_TOKENS = ("pos_embed", "cls_token", "reg_token", "dist_token", "latent")


class LoraLinear(nn.Linear):
    """A linear layer W with trainable updates of low rank: y = W x + b + scale * B (A x), on some of its outputs.

    Attributes:
        parts: first output of each update; all have the same width, and the whole layer is one part.
        lora_a: (parts * rank, in), lora_b: (parts * width, rank), the updates one below the other; see
            `Settings.lora_init`.
    """

    def __init__(
        self,
        base: nn.Linear,
        settings: Settings,
        generator: torch.Generator,
        parts: Sequence[int] = (0,),
        width: int = 0,
    ) -> None:
        super().__init__(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.scale = settings.lora_alpha / settings.lora_rank
        self.parts, self.width = tuple(parts), width or base.out_features
        a = torch.empty(len(parts) * settings.lora_rank, base.in_features)
        b = torch.zeros(len(parts) * self.width, settings.lora_rank)
        if settings.lora_init == "normal":
            a.normal_(0.0, _LORA_STD, generator=generator)
            b.normal_(0.0, _LORA_STD, generator=generator)
        else:
            bound = 1 / math.sqrt(base.in_features)
            a.uniform_(-bound, bound, generator=generator)
        self.lora_a, self.lora_b = nn.Parameter(a.to(base.weight)), nn.Parameter(b.to(base.weight))
        self.train(base.training)

    def forward(self, input: Tensor) -> Tensor:
        out = F.linear(input, self.weight, self.bias)
        low = F.linear(input, self.lora_a).chunk(len(self.parts), dim=-1)
        updates = [F.linear(x, b) for x, b in zip(low, self.lora_b.chunk(len(self.parts)), strict=True)]
        if self.width == self.out_features:
            return out + self.scale * updates[0]
        whole = torch.zeros_like(out)
        for first, update in zip(self.parts, updates, strict=True):
            whole[..., first : first + self.width] = update
        return out + self.scale * whole

    def merged(self) -> Tensor:
        """Return W + scale * B A, (out, in)."""
        weight = self.weight.clone()
        n = len(self.parts)
        for first, a, b in zip(self.parts, self.lora_a.chunk(n), self.lora_b.chunk(n), strict=True):
            weight[first : first + self.width] += self.scale * (b @ a)
        return weight


def apply(net: nn.Module, settings: Settings, *, seed: int = 0) -> None:
    """Choose the trained parameters in place; `lora` also puts its layers into every block.

    Args:
        net: a built network.
        settings: its method and the `lora_` keys.
        seed: of LoRA's matrices.

    Raises:
        UsageError: LoRA on a network without layers it is to change.
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
            _insert(net, settings, seed)
            trained = heads | {name for name, _ in net.named_parameters() if ".lora_" in name}
        case _:
            assert_never(settings.method)
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name in trained)


def merged_state(net: nn.Module) -> dict[str, Tensor]:
    """Return the weights under timm's names, LoRA folded in; the network stays as it is."""
    state = {name: tensor for name, tensor in net.state_dict().items() if ".lora_" not in name}
    with torch.no_grad():
        for name, module in net.named_modules():
            if isinstance(module, LoraLinear):
                state[f"{name}.weight"] = module.merged()
    return state


def classifiers(net: Any) -> tuple[nn.Module, ...]:
    """Return a network's classifier; of a distilled DeiT both."""
    heads = net.get_classifier()
    return heads if isinstance(heads, tuple) else (heads,)


def blocks_of(net: nn.Module) -> list[nn.Module]:
    """Return a network's blocks, first to last; a ResNet's stages; none where it has neither."""
    blocks = getattr(net, "blocks", None)
    blocks = blocks if blocks is not None else getattr(net, "stages", None)
    return list(blocks.children()) if isinstance(blocks, nn.Module) else []


def head_names(net: nn.Module) -> frozenset[str]:
    """Return the names of the classifier's parameters; none where the network has no head."""
    own = {id(p) for head in classifiers(net) for p in head.parameters()}
    return frozenset(name for name, parameter in net.named_parameters() if id(parameter) in own)


ParameterGroups = list[dict[str, Any]]
"""As torch's optimisers take them: "params", and what is another for these than for the rest."""


def parameter_groups(net: nn.Module, settings: Settings) -> ParameterGroups:
    """Group the trained parameters for the optimiser.

    Weight decay falls on matrices and convolutions alone. With layer decay d the head steps at the full rate, the
    last of L blocks at d, the first at d^L, the embeddings at d^(L + 1); a ResNet's stages count as its blocks.

    Returns:
        Groups with "params", "names", "weight_decay" and "lr_scale".
    """
    heads = head_names(net)
    layers = len(blocks_of(net))
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in net.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = layers + 1 if name in heads else _layer(name, layers)
        decays = parameter.ndim >= 2 and name.rsplit(".", 1)[-1] not in _TOKENS
        rate, decay = settings.layer_decay ** (layers + 1 - layer), settings.weight_decay if decays else 0.0
        of = {"params": [], "names": [], "weight_decay": decay, "lr_scale": rate}
        group = groups.setdefault((rate, decays), of)
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def _layer(name: str, layers: int) -> int:
    """Return 0 for embeddings and stems, 1.. for blocks or stages, layers + 1 for what follows them."""
    match = re.match(r"(?:blocks|stages)\.(\d+)\.", name)
    if match:
        return int(match[1]) + 1
    early = ("patch_embed", "stem", "norm_pre", *_TOKENS)
    return 0 if layers and name.startswith(early) else layers + 1


_LORA_LAYERS = {
    "qkv": r"attn\.(qkv|[qkv]_proj)",
    **{part: rf"attn\.(qkv|{part}_proj)" for part in "qkv"},
    "proj": r"attn\.proj",
    "fc1": r"mlp\.(fc1(_[gx])?|w12|w1|w2)",
    "fc2": r"mlp\.(fc2|w3)",
}
"""Target -> names within a block: fused or separate attention inputs, plain or gated MLPs."""


def _insert(net: nn.Module, settings: Settings, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    missing = set(settings.lora_targets)
    for name, module in list(net.named_modules()):
        inside = re.search(r"(?:^|\.)blocks\.\d+\.(.+)$", name)
        meant = {t for t in settings.lora_targets if inside and re.fullmatch(_LORA_LAYERS[t], inside[1])}
        owner = net.get_submodule(name.rpartition(".")[0])
        if not meant or type(module) is not nn.Linear or not _forward_is_called(owner, module):
            continue
        missing -= meant
        fused = name.endswith(".qkv") and "qkv" not in meant
        width = module.out_features // 3 if fused else module.out_features
        parts = [i * width for i, part in enumerate("qkv") if part in meant] if fused else [0]
        net.set_submodule(name, LoraLinear(module, settings, generator, parts, width))
    if missing:
        raise UsageError(
            f"Method 'lora' finds no layers '{', '.join(sorted(missing))}' to change in this {type(net).__name__}.",
            "Vision Transformers, and lora_targets that they have; for a ResNet full, bias or linear.",
        )


def _forward_is_called(owner: nn.Module, module: nn.Module) -> bool:
    """Tell whether a layer's forward is called; EVA's attention, which reads weight and bias, is made to call it."""
    if getattr(owner, "q_bias", None) is None or getattr(owner, "qkv", None) is not module:
        return True
    if hasattr(owner, "qkv_bias_separate"):
        owner.qkv_bias_separate = True  # type: ignore[assignment]
    return hasattr(owner, "qkv_bias_separate")
