"""Multiply-accumulates of one forward pass."""

import copy
from dataclasses import dataclass
from typing import Any

import timm
import torch

from vitft.catalog.compute import vit_macs
from vitft.models.memory import Shape, shape
from vitft.models.meta import meta_network
from vitft.results.checkpoint import CheckpointInfo, Size
from vitft.settings import Settings


def macs(net: Any, size: Size) -> float:
    """Count multiply-accumulates for one image of `size` pixels: a closed form for plain ViTs, else by tracing.

    The trace runs on a copy without storage, so it is exact, cheap and touches nothing. Attention is two products in
    it: which of torch's fused kernels are counted at all differs between its versions.
    """
    embed: Any = getattr(net, "patch_embed", None)
    plain = type(net).__name__ == "VisionTransformer" and type(embed).__name__ == "PatchEmbed"
    first: Any = net.blocks[0] if plain else None
    if first is not None and type(first.mlp).__name__ == "Mlp" and net.attn_pool is None:
        kernel = embed.proj.weight
        patches = embed.grid_size[0] * embed.grid_size[1]
        return vit_macs(
            depth=len(net.blocks),
            width=net.embed_dim,
            hidden=first.mlp.fc1.out_features,
            tokens=patches + net.num_prefix_tokens,
            patches=patches,
            patch_inputs=kernel[0].numel(),
            classes=max(0, int(net.num_classes)),
        )
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # Parameters and buffers are copied without their storage.
    tensors = [*net.parameters(), *net.buffers()]
    ghost = copy.deepcopy(net, {id(tensor): tensor.detach().to("meta") for tensor in tensors}).eval()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        ghost(torch.empty(1, 3, *size, device="meta"))
    return float(counter.get_total_flops()) / 2


def train_flops(settings: Settings, macs: float, computed: int) -> float:
    """Return about how many operations a fit takes: a MAC is two, a backward pass is two forward passes.

    Args:
        macs: of one forward pass of one image.
        computed: images of which a frozen network's features are computed once; 0 where each update sends images
            through it.
    """
    images = settings.steps * settings.batch_size
    return 2 * macs * (computed or images) if settings.method == "linear" else 6 * macs * images


@dataclass(frozen=True)
class Counted:
    """A network in numbers: multiply-accumulates of one forward pass of one image, and what decides its memory."""

    macs: float
    shape: Shape


def counted(info: CheckpointInfo, size: Size, classes: int) -> Counted:
    """Count a checkpoint's network at a size, built without its weights, which need not be there."""
    arch = info.architecture
    sized = timm.get_pretrained_cfg(arch.name)
    at = {"img_size": size} if sized is not None and sized.fixed_input_size else {}
    net = meta_network(arch.name, **{**arch.kwargs, "num_classes": classes, **at})
    return Counted(macs(net, size), shape(net))
