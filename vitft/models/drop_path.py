"""Drop path whose masks are drawn before the forward pass: nothing inside a block draws.

A block that draws for itself is compiled anew for each rate, and draws other numbers compiled than eagerly.
"""

from typing import Any

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn


class Drawn(nn.Module):
    """Multiplies a residual branch (B, ...) by its mask (B,): 0, or 1 / (1 - drop_prob)."""

    def __init__(self, drop_prob: float, scaled: bool) -> None:
        super().__init__()
        self.drop_prob, self.scaled = drop_prob, scaled
        self.mask = torch.ones(1)

    def draw(self, images: Tensor) -> None:
        """Draw the mask of a batch of images from torch's own generator, as timm's DropPath does."""
        keep = 1 - self.drop_prob
        self.mask = torch.empty(len(images), device=images.device).bernoulli_(keep)
        if keep > 0 and self.scaled:
            self.mask.div_(keep)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask.to(x.dtype).view(-1, *[1] * (x.ndim - 1)) if self.training else x


def draw_ahead(net: Any) -> Any:
    """Let a network's blocks draw their masks before each forward pass in training, in their order; return it."""
    blocks = getattr(net, "blocks", None)
    found = list(blocks.named_modules()) if isinstance(blocks, nn.Module) else []
    drawing = [(name, m) for name, m in found if isinstance(m, DropPath) and m.drop_prob]
    for name, module in drawing:
        net.set_submodule(f"blocks.{name}", Drawn(module.drop_prob, module.scale_by_keep))
    if drawing:
        net.register_forward_pre_hook(_draw)
    return net


def _draw(net: nn.Module, inputs: Any) -> None:
    if net.training:
        for module in net.modules():
            if isinstance(module, Drawn):
                module.draw(inputs[0])
