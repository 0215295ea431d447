"""One pass of images through a network, with all that pictures of it need taken on the way."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vitft.inspection import attention as attending
from vitft.inspection.attention import Tokens
from vitft.models.methods import blocks_of
from vitft.results.inspection import SHOWN_IMAGES

_TOKENS = 2048
"""Patch tokens that layers are compared on, evenly spread over all images."""


@dataclass
class Observed:
    """What was taken, over images in their order.

    Attributes:
        logits: (images, K); empty without a head.
        distance: (images, layers, heads) pixels.
        rollout, last: (k, rows, columns), of the first images.
        norms: (images, layers, rows * columns) of patch tokens after each block.
        features: (images, rows, columns, D), of the last layer with its norm.
        layers: (layers, n, D), patch tokens after each block (of a ResNet: each stage's feature map).
    """

    logits: list[NDArray[np.float32]] = field(default_factory=list)
    distance: list[NDArray[np.float32]] = field(default_factory=list)
    rollout: list[NDArray[np.float32]] = field(default_factory=list)
    last: list[NDArray[np.float32]] = field(default_factory=list)
    norms: list[NDArray[np.float32]] = field(default_factory=list)
    features: list[NDArray[np.float32]] = field(default_factory=list)
    layers: list[list[NDArray[np.float32]]] = field(default_factory=list)


def observe(net: Any, batches: Iterable[Tensor], n: int, tokens: Tokens) -> Observed:
    """Run a network over all images once, in float32, and take what `Observed` holds.

    Args:
        net: in evaluation mode.
        batches: (B, 3, H, W) each.
        n: images, all in all.
        tokens: how its tokens lie.
    """
    observed = Observed()
    each = max(1, -(-_TOKENS // n))  # tokens of an image, rounded up: the same ones for every network of this grid
    for batch in batches:
        maps = _Maps(tokens)
        after: dict[int, Tensor] = {}
        with torch.inference_mode(), attending.recorded(net, maps.add), _outputs(net, after):
            features = net.forward_features(batch)
            if getattr(net, "num_classes", 0):
                observed.logits.append(_numpy(net.forward_head(features)))
        if maps.distance:
            observed.distance.append(_numpy(torch.stack(maps.distance, 1)))
            room = SHOWN_IMAGES - sum(map(len, observed.rollout))
            if room > 0 and maps.rollout is not None and maps.last is not None:
                observed.rollout.append(_numpy(attending.read(maps.rollout[:room], tokens)))
                observed.last.append(_numpy(attending.read(maps.last[:room], tokens)))
        layers = [_patches(after[i], tokens) for i in sorted(after)]
        if maps.distance or all(layer.shape[1] == tokens.count - tokens.prefix for layer in layers):
            observed.norms.append(_numpy(torch.stack([layer.norm(dim=-1) for layer in layers], 1)))
        observed.layers.append([_numpy(_some(layer, each)) for layer in layers])
        grid = _patches(features, tokens)
        observed.features.append(_numpy(grid).reshape(len(batch), *tokens.grid, -1))
    return observed


class _Maps:
    """The attention of one batch, reduced layer by layer: whole maps of all layers would not fit."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self.distance: list[Tensor] = []
        self.rollout: Tensor | None = None
        self.last: Tensor | None = None

    def add(self, _: int, attention: Tensor) -> None:
        if attention.ndim != 4 or attention.shape[-2:] != (self.tokens.count, self.tokens.count):
            return
        self.distance.append(attending.mean_distance(attention, self.tokens))
        self.rollout = attending.rolled(self.rollout, attention)
        self.last = attention.float().mean(1)


@contextmanager
def _outputs(net: Any, after: dict[int, Tensor]) -> Iterator[None]:
    """Put what each block (or stage) gives into `after`, by its number from 0."""
    with ExitStack() as stack:
        for index, part in enumerate(blocks_of(net)):

            def hook(_: nn.Module, __: object, out: Tensor, index: int = index) -> None:
                after[index] = out

            stack.callback(part.register_forward_hook(hook).remove)
        yield


def _patches(out: Tensor, tokens: Tokens) -> Tensor:
    """Return (B, n, D) of patch tokens, or of the places of a feature map (B, D, h, w)."""
    return out.flatten(2).transpose(1, 2) if out.ndim == 4 else out[:, tokens.prefix :]


def _some(layer: Tensor, each: int) -> Tensor:
    """Return (B * m, D): m tokens of each image, evenly spread."""
    count = layer.shape[1]
    chosen = torch.linspace(0, count - 1, min(each, count), device=layer.device).round().long()
    return layer[:, chosen].flatten(0, 1)


def _numpy(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.float().cpu().numpy()
