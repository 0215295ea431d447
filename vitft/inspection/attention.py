"""Attention as a network computes it: its maps, how far they reach, and what they carry to the class token."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vitft.models.architecture import geometry
from vitft.results.checkpoint import Size


@dataclass(frozen=True)
class Tokens:
    """How a network's tokens lie: prefix tokens (class, distillation, registers) first, then the grid row by row.

    Attributes:
        grid: (rows, columns) of patches.
        patch: (height, width) of a patch in pixels.
        readers: how many of the prefix tokens the head reads, from the first; 0 where it reads the patches.
        reading: those tokens in words, for pictures.
    """

    prefix: int
    grid: Size
    patch: Size
    readers: int
    reading: str

    @property
    def count(self) -> int:
        return self.prefix + self.grid[0] * self.grid[1]


def tokens_of(net: Any, size: Size) -> Tokens:
    """Return how the tokens of a built network lie at `size` pixels."""
    patch, grid, _ = geometry(net, size)
    prefix = int(getattr(net, "num_prefix_tokens", 0))
    pool = getattr(net, "global_pool", "")
    if pool == "token" and getattr(net, "dist_token", None) is not None:
        readers, reading = 2, "class and distillation token"
    elif pool == "token" and prefix:
        readers, reading = 1, "class token"
    elif pool == "map":
        readers, reading = 0, "mean over patch tokens (the head pools by attention, not by a class token)"
    else:
        readers, reading = 0, "mean over patch tokens (the head reads no class token)"
    return Tokens(prefix, grid, patch, readers, reading)


def layers(net: nn.Module) -> list[nn.Module]:
    """Return the attention of each block, first to last; none where a block has no one map over all tokens."""
    blocks = getattr(net, "blocks", None)
    if not isinstance(blocks, nn.Module):
        return []
    found = [
        [
            m
            for m in block.modules()
            if hasattr(m, "fused_attn") and isinstance(getattr(m, "attn_drop", None), nn.Module)
        ]
        for block in blocks.children()
    ]
    return [own[0] for own in found] if all(len(own) == 1 for own in found) else []


@contextmanager
def recorded(net: nn.Module, on_map: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Call `on_map(layer, (B, heads, N, N))` with each block's attention while the network runs.

    Fused kernels never form the map, so they are switched off meanwhile; the answers differ by rounding.
    """
    with ExitStack() as stack:
        for index, layer in enumerate(layers(net)):
            stack.callback(setattr, layer, "fused_attn", layer.fused_attn)
            layer.fused_attn = False  # type: ignore[assignment]
            drop: Any = layer.attn_drop

            def hook(_: nn.Module, __: object, out: Tensor, index: int = index) -> None:
                on_map(index, out)

            stack.callback(drop.register_forward_hook(hook).remove)
        yield


def distances(tokens: Tokens) -> Tensor:
    """Return (n, n): pixels between the centres of every two patches."""
    rows, columns = (torch.arange(n, dtype=torch.float32) * p for n, p in zip(tokens.grid, tokens.patch, strict=True))
    points = torch.cartesian_prod(rows, columns)
    return torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")


def mean_distance(attention: Tensor, tokens: Tokens) -> Tensor:
    """Return (B, heads): how many pixels away a patch looks, on average over its attention and over all patches.

    Prefix tokens have no place: their rows and columns are dropped, and what is left of a row is made to sum to 1. A
    patch that looks at nothing but prefix tokens is left out.

    Args:
        attention: (B, heads, N, N), rows are queries.
        tokens: how they lie.
    """
    patches = attention[..., tokens.prefix :, tokens.prefix :].float()
    total = patches.sum(-1)
    far = (patches * distances(tokens).to(patches.device)).sum(-1) / total
    return torch.where(total > 0, far, torch.nan).nanmean(-1)


def rolled(before: Tensor | None, attention: Tensor) -> Tensor:
    """Return the rollout after one more layer, (B, N, N): heads averaged, the identity added, multiplied on the left.

    After Abnar and Zuidema (2020), which the ViT paper follows (D.8).

    Args:
        before: of the layers below; None for the first.
        attention: (B, heads, N, N).
    """
    mean = attention.float().mean(1)
    step = (mean + torch.eye(mean.shape[-1], device=mean.device)) / 2
    step = step / step.sum(-1, keepdim=True)
    return step if before is None else step @ before


def read(matrix: Tensor, tokens: Tokens) -> Tensor:
    """Return (B, rows, columns): what the tokens that the head reads take from each patch; sums to 1 where it can.

    Args:
        matrix: (B, N, N) of attention, rollout or relevance.
        tokens: how they lie; where the head reads the patches, their rows are averaged.
    """
    rows = matrix[:, : tokens.readers] if tokens.readers else matrix[:, tokens.prefix :]
    taken = rows.mean(1)[:, tokens.prefix :]
    total = taken.sum(-1, keepdim=True)
    return (taken / torch.where(total > 0, total, 1.0)).reshape(-1, *tokens.grid)
