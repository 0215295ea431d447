"""How much memory a fit takes, by a rule, and how many images a forward pass fit on a device."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from vitft import device as devices
from vitft import machine
from vitft.settings import Checkpointing, Settings

MOST_TOKENS = 65536
"""Of a forward pass on a card. An H200 gained 22 % from 12,600 to 50,400 (B/16, 224 px), 2 % from 36,900 to 73,900."""

_CPU_TOKENS = 3200  # on two cores Ti/16 at 224 px is fastest with 8 to 16 images; 64 are a fifth slower
_SPARE = 0.92  # of the room: the rest is for pieces between allocations and for what passes
_MOST_EVALUATED = 256
_LIKE = (768, 197, 12)  # width, tokens and depth of B/16 at 224 px stand for what is no ViT


@dataclass(frozen=True)
class Shape:
    """What decides how much memory a network takes.

    Attributes:
        parameters: head included.
        patches: of an image; 0 = there are none.
        width, tokens, depth: D, N (prefix tokens included) and L; B/16's for what is no ViT.
        hidden: inputs of an MLP's last layer.
        gated: the MLP multiplies two hidden layers.
        scaled: each branch is scaled by learned factors.
    """

    parameters: int
    patches: int
    width: int
    tokens: int
    depth: int
    hidden: int
    gated: bool = False
    scaled: bool = False


def shape(net: Any) -> Shape:
    """Return the shape of a network, which may lack storage."""
    parameters = sum(p.numel() for p in net.parameters())
    blocks, embed = getattr(net, "blocks", None), getattr(net, "patch_embed", None)
    grid, patches = getattr(embed, "grid_size", None), getattr(embed, "num_patches", None) or 0
    width, tokens, depth = _LIKE
    if blocks is None or grid is None:
        return Shape(parameters, patches, width, tokens, depth, hidden=4 * width)
    width, first = int(net.embed_dim), blocks[0]
    mlp = getattr(first, "mlp", None)
    hidden = int(getattr(getattr(mlp, "fc2", None), "in_features", 4 * width))
    return Shape(
        parameters,
        patches,
        width,
        tokens=grid[0] * grid[1] + int(getattr(net, "num_prefix_tokens", 0)),
        depth=len(blocks),
        hidden=hidden,
        gated=hasattr(mlp, "fc1_g") or getattr(getattr(mlp, "fc1", None), "out_features", hidden) == 2 * hidden,
        scaled=any(name in ("ls1.gamma", "gamma_1") for name, _ in first.named_parameters()),
    )


@dataclass(frozen=True)
class Need:
    """Bytes of a fit.

    Attributes:
        fixed: weights, gradients, optimiser, average, and the weights once more in bf16.
        image: what one image of a forward pass keeps for the backward pass, with its pixels.
        checkpointed: the same where only the blocks' inputs are kept and one block is computed again at a time.
    """

    fixed: int
    image: int
    checkpointed: int


def need(shape: Shape, trained: int, settings: Settings, precision: str) -> Need:
    """Return the bytes that a fit needs.

    Args:
        trained: parameters that learn.
        settings: with the resolution in pixels.
        precision: "float32" or "bf16".
    """
    state = 4 * (1 + (2 if settings.optimizer == "adamw" else 1) + bool(settings.ema))
    fixed = (4 + 2 * (precision == "bf16")) * shape.parameters + state * trained
    height, width = settings.size
    pixels = 3 * height * width * 8 * (1 + bool(settings.mixup))
    block = shape.tokens * _kept(shape, settings, precision)
    if settings.method == "linear":
        return Need(fixed, pixels + block, pixels + block)
    stream = 4 * shape.tokens * shape.width
    whole = pixels + stream + shape.depth * block
    return Need(fixed, whole, min(whole, pixels + stream + shape.depth * stream + block))


def _kept(shape: Shape, settings: Settings, precision: str) -> int:
    """Return the bytes that a block keeps of a token for the backward pass.

    A layer keeps its input where its weight learns, and nothing for it where that is frozen; the activation and the
    attention keep theirs whatever learns. A frozen network keeps nothing: what stays is one block at work.
    """
    half, d = (2 if precision == "bf16" else 4), shape.width
    stream = 4 * 2 * d  # inputs of the norms, float32 in any precision
    attention = half * 4 * d  # queries, keys, values, their answer
    activation = half * shape.hidden * (3 if shape.gated else 1)
    if settings.method == "bias":
        inputs = 0
    elif settings.method == "lora":
        targets = set(settings.lora_targets)
        inputs = d * bool(targets & {"qkv", "q", "k", "v"}) + d * ("fc1" in targets) + shape.hidden * ("fc2" in targets)
    else:
        inputs = 2 * d + shape.hidden + 2 * d * shape.scaled
    return stream + attention + activation + half * inputs


def room(device: torch.device) -> int:
    """Return the bytes that this process may still take on a device, its own unused ones included."""
    if device.type == "cuda":
        own = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + own
    devices.forget()  # else what the last fit left counts as taken
    return machine.memory()


@dataclass(frozen=True)
class Plan:
    """How a fit uses its device.

    Attributes:
        micro_batch: images a forward pass.
        checkpoint: activations are computed again in the backward pass.
        fixed: bytes whatever the micro-batch.
        memory: bytes at the peak.
        room: bytes that there are.
    """

    micro_batch: int
    checkpoint: bool
    fixed: int
    memory: int
    room: int

    @property
    def fits(self) -> bool:
        return self.memory <= self.room


@dataclass(frozen=True)
class Wish:
    """What a user has fixed: images a forward pass, 0 = by rule; whether activations are computed again, or by rule."""

    micro_batch: int = 0
    checkpoint: Checkpointing = "auto"


def plan(shape: Shape, needed: Need, room: int, batch: int, kind: str, wish: Wish) -> Plan:
    """Choose images a forward pass, and whether activations are computed again: where not one image fits otherwise.

    On a CPU about 3,200 tokens are fastest. Elsewhere as many images as fit, up to `MOST_TOKENS`; the largest divisor
    of the batch from half of that on, where there is one, so that all forward passes are alike.

    Args:
        batch: images an update, of one process.
        kind: of device.
    """
    left = _SPARE * room - needed.fixed
    checkpoint = wish.checkpoint == "on" or (
        wish.checkpoint == "auto" and needed.checkpointed < needed.image and left < needed.image
    )
    image = needed.checkpointed if checkpoint else needed.image
    micro = min(batch, wish.micro_batch or _fastest(shape, kind, max(1, int(left // image)), batch))
    return Plan(micro, checkpoint, needed.fixed, needed.fixed + micro * image, room)


def _fastest(shape: Shape, kind: str, fit: int, batch: int) -> int:
    if kind == "cpu":
        return max(4, _CPU_TOKENS // shape.patches) if shape.patches else 16
    most = max(1, min(fit, MOST_TOKENS // shape.tokens, batch))
    return next((n for n in range(most, (most - 1) // 2, -1) if batch % n == 0), most)


def planned(
    net: nn.Module, settings: Settings, device: torch.device, precision: str, wish: Wish, processes: int = 1
) -> Plan:
    """Plan a fit of a network that is built, its trained parameters chosen. What it takes already counts as room."""
    of = shape(net)
    trained = sum(p.numel() for p in net.parameters() if p.requires_grad)
    there = sum(p.nbytes for p in net.parameters() if p.device == device)
    batch = -(-settings.batch_size // processes)
    return plan(of, need(of, trained, settings, precision), room(device) + there, batch, device.type, wish)


def evaluation_batch(net: nn.Module, device: torch.device, micro_batch: int = 0) -> int:
    """Return images a forward pass in evaluation, where nothing is kept for a backward pass.

    Args:
        micro_batch: of the training before it, on a CPU; 0 = there was none.
    """
    if device.type == "cuda":
        most = min(_MOST_EVALUATED, MOST_TOKENS // shape(net).tokens)
        return 1 << max(0, most.bit_length() - 1)
    if micro_batch:
        return min(_MOST_EVALUATED, 4 * micro_batch)
    return 64 if device.type == "mps" else 16
