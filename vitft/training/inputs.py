"""Where training inputs come from: images through the network, or features of a frozen one computed once."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vitft import compiling
from vitft.device import forward_in, moved
from vitft.evaluation.features import before_head
from vitft.group import ALONE, Group
from vitft.images.batches import Images
from vitft.images.preprocess import UNIFORMS
from vitft.progress import Hooks
from vitft.settings import Settings


class Source(Protocol):
    """Gives inputs of `network` for positions of the training split.

    Attributes:
        labels: (N,) int64, on the device.
        whole: images a forward pass that are always right, 0 = the micro-batch that memory allows.
        computed: images of which features were computed once.
        streams: images are decoded each time, and can be begun with `soon`.
    """

    network: nn.Module
    num_classes: int
    labels: Tensor
    whole: int

    @property
    def computed(self) -> int: ...

    @property
    def streams(self) -> bool: ...

    def soon(self, indices: NDArray[np.int64], rows: NDArray[np.float64]) -> None: ...

    def batches(
        self, index_batches: list[NDArray[np.int64]], uniforms: list[NDArray[np.float64]]
    ) -> Iterator[Tensor]: ...


@dataclass
class ImageSource:
    """Images, cropped and flipped anew each step, for the whole network."""

    network: nn.Module
    num_classes: int
    labels: Tensor
    images: Images
    whole = 0
    computed = 0

    @property
    def streams(self) -> bool:
        return self.images.streams

    def soon(self, indices: NDArray[np.int64], rows: NDArray[np.float64]) -> None:
        self.images.soon(indices, rows)

    def batches(self, index_batches: list[NDArray[np.int64]], uniforms: list[NDArray[np.float64]]) -> Iterator[Tensor]:
        return self.images.batches(index_batches, uniforms)


@dataclass
class FeatureSource:
    """Features before the head: exact for a frozen network, as each image has one view, or two with flips."""

    network: nn.Module
    num_classes: int
    labels: Tensor
    whole: int  # features are cheap: all of a batch at once
    features: Tensor  # (views, N, D): as it is, mirrored
    streams = False

    def soon(self, indices: NDArray[np.int64], rows: NDArray[np.float64]) -> None:
        raise NotImplementedError("features are all there")

    @property
    def computed(self) -> int:
        return self.features.shape[0] * self.features.shape[1]

    def batches(self, index_batches: list[NDArray[np.int64]], uniforms: list[NDArray[np.float64]]) -> Iterator[Tensor]:
        for indices, rows in zip(index_batches, uniforms, strict=True):
            view = (rows[:, 0] < 0.5).astype(np.int64) if len(self.features) == 2 else np.zeros(len(rows), np.int64)
            where = [moved(torch.from_numpy(np.ascontiguousarray(a)), self.features.device) for a in (view, indices)]
            yield self.features[where[0], where[1]]


class FeatureClassifier(nn.Module):
    """A classifier of features: a linear layer, or BiT's convolution of one pixel, which wants them as an image."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head
        self.pixel = isinstance(head, nn.Conv2d)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head(features[:, :, None, None] if self.pixel else features)
        return logits.flatten(1)


def computes_once(net: nn.Module, settings: Settings) -> bool:
    """Tell whether only the head learns and each image has one view, or two: features can then be computed once.

    Two heads (distilled DeiT) read two features; they see the images themselves.
    """
    head = net.get_classifier()  # type: ignore[operator]
    return bool(settings.fixed_views) and isinstance(head, nn.Linear | nn.Conv2d)


def source(
    net: nn.Module,
    images: Images,
    settings: Settings,
    precision: str,
    micro_batch: int,
    hooks: Hooks,
    group: Group = ALONE,
) -> Source:
    """Return features computed once where only the head learns and the views can be counted, else images.

    Each process computes the features of its share, and gets those of the others.

    The network is put in training mode, or in evaluation mode where its weights are frozen.
    """
    num_classes = images.split.num_classes
    labels = torch.from_numpy(images.split.labels).to(images.device)
    linear = settings.method == "linear"
    net.train(not linear)
    head = net.get_classifier()  # type: ignore[operator]
    if not computes_once(net, settings):
        return ImageSource(net, num_classes, labels, images)
    n = len(images)
    views = []
    parts = [np.arange(a, min(a + micro_batch, n)) for a in range(0, n, micro_batch)]
    own = parts[group.rank :: group.size]
    for mirrored in (False, True)[: 1 + images.pp.flip]:
        rows = [np.full((len(p), UNIFORMS), 0.0 if mirrored else 0.9) for p in own]
        done, view = 0, torch.zeros(n, head.in_features if isinstance(head, nn.Linear) else head.in_channels)
        view = view.to(images.device)
        with group.together():
            for part, batch in zip(own, images.batches(own, rows), strict=True):
                hooks.stop_if_asked()
                with torch.no_grad(), forward_in(batch.device, precision), compiling.usual(len(batch), micro_batch):
                    view[part[0] : part[-1] + 1] = before_head(net, batch).float()
                done += len(batch)
                hooks.phase("features" + " (mirrored)" * mirrored, min(n, done * group.size), n)
        group.sum([view])
        views.append(view)
    return FeatureSource(FeatureClassifier(head), num_classes, labels, settings.batch_size, torch.stack(views))


def soft_targets(source: Source, indices: NDArray[np.int64], smoothing: float) -> Tensor:
    """Return (B, K) float32 targets of (B,) images, smoothed. No label is read back from a card to see its range."""
    labels = source.labels[moved(torch.from_numpy(np.ascontiguousarray(indices)), source.labels.device)]
    onehot = torch.zeros(len(labels), source.num_classes, device=labels.device)
    onehot.scatter_(1, labels[:, None], 1.0)
    return onehot * (1 - smoothing) + smoothing / source.num_classes if smoothing else onehot
