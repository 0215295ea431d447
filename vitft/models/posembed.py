"""Position embeddings on another grid, patch embeddings of another patch size."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vitft.results.checkpoint import Size

Mode = Literal["bilinear", "bicubic"]


def resize(embedding: Tensor, source: Size, target: Size, prefix: int, mode: Mode) -> Tensor:
    """Resample the grid part of position embeddings; prefix tokens keep theirs.

    "bilinear" is the paper's code: corners stay corners (`scipy.ndimage.zoom(order=1)`), here in float64.
    "bicubic" is timm's: half-pixel centres, antialiased, float32.

    Args:
        embedding: (1, prefix + h * w, D).
        source: its grid (h, w).
        target: the wanted grid (H, W).
        prefix: class, distillation and register tokens that come first.
        mode: see above.

    Returns:
        (1, prefix + H * W, D) in the dtype given.
    """
    if embedding.shape[1] != prefix + source[0] * source[1]:
        raise ValueError(f"{embedding.shape[1]} position embeddings are not {prefix} + {source[0]}x{source[1]}")
    if source == target:
        return embedding
    head, grid = embedding[:, :prefix], embedding[:, prefix:]
    grid = grid.reshape(1, *source, -1).permute(0, 3, 1, 2)
    if mode == "bilinear":
        grid = F.interpolate(grid.double(), size=target, mode="bilinear", align_corners=True)
    else:
        grid = F.interpolate(grid.float(), size=target, mode="bicubic", antialias=True)
    grid = grid.permute(0, 2, 3, 1).flatten(1, 2).to(embedding.dtype)
    return torch.cat([head, grid], dim=1)


def resize_patch(weight: Tensor, target: Size) -> Tensor:
    """Give a patch embedding another patch size by the pseudo-inverse of the image resize (FlexiViT, section 3.4).

    A patch and its bilinear upscaling then give the same token, exactly; downscaling is the least-squares answer.
    Resizing twice loses: always start from the file's own kernel.

    Args:
        weight: (D, C, h, w).
        target: (H, W).

    Returns:
        (D, C, H, W) in the dtype given.
    """
    source = (weight.shape[2], weight.shape[3])
    if source == target:
        return weight
    basis = torch.eye(source[0] * source[1], dtype=torch.float64).reshape(-1, 1, *source)
    # Row i: how basis pixel i spreads over the resized image. tf's bilinear: half-pixel centres, no antialias.
    matrix = F.interpolate(basis, size=target, mode="bilinear", align_corners=False).flatten(1)
    solved = torch.linalg.pinv(matrix) @ weight.double().flatten(2).permute(2, 0, 1).flatten(1)
    kernel: Tensor = solved.reshape(*target, *weight.shape[:2]).permute(2, 3, 0, 1).contiguous()
    return kernel.to(weight.dtype)


def describe(source: Size, target: Size, mode: Mode) -> str:
    """Return a note on what was resized: 'position embeddings 14x14 -> 24x24 (bilinear)'; empty where nothing was."""
    if source == target:
        return ""
    return f"position embeddings {source[0]}x{source[1]} -> {target[0]}x{target[1]} ({mode})"
