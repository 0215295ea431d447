"""Many linear heads on the same frozen features, trained as one: all of them in one product an update.

Each head is trained by its own rate, decay and seed, as `fit` trains it alone, and ends where that ends, up to the
rounding of sums that another kernel makes in another order.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitft.device import autocast
from vitft.images.preprocess import UNIFORMS
from vitft.settings import Settings
from vitft.training import randomness
from vitft.training.inputs import FeatureSource, soft_targets
from vitft.training.schedule import learning_rate

_MOST = 2e12
"""Operations of heads that are trained as one: seconds to minutes, as no state of them is saved meanwhile."""


@dataclass(frozen=True)
class TrainedHead:
    """A head after its training.

    Attributes:
        weight, bias: (K, D), (K,): averaged where the settings average.
        losses, norms: (steps,) mean loss of each update's batch, and the gradient's norm before clipping.
    """

    weight: Tensor
    bias: Tensor
    losses: list[float]
    norms: list[float]

    @property
    def finite(self) -> bool:
        """Whether every number of its training was one."""
        return all(map(math.isfinite, (*self.losses, *self.norms))) and bool(self.weight.isfinite().all())


def suitable(settings: Settings, heads: int, size: int) -> bool:
    """Tell whether so many heads of `size` weights are small enough to be trained as one, without a state."""
    return 6.0 * settings.steps * settings.batch_size * heads * size <= _MOST


def train(
    start: nn.Linear,
    source: FeatureSource,
    each: Sequence[tuple[Settings, int]],
    precision: str,
    on_update: Callable[[int], None],
) -> list[TrainedHead]:
    """Train a head for each (settings, seed); the settings differ in lr and weight_decay alone.

    Args:
        start: where each begins, a bias included; it is left as it is.
        on_update: called with the number of updates that are made; it may raise.
    """
    many = _Heads(start, source, each)
    steps = many.settings.steps
    losses, norms = [], []
    for step in range(steps):
        on_update(step)
        loss, norm = many.update(step, precision)
        losses.append(loss)
        norms.append(norm)
    curves = [torch.stack(values, dim=1).tolist() for values in (losses, norms)]
    return [TrainedHead(*one) for one in zip(*many.average, *curves, strict=True)]


class _Heads:
    """Weights (U, K, D) and biases (U, K) of U heads, and what the optimiser keeps of them."""

    def __init__(self, start: nn.Linear, source: FeatureSource, each: Sequence[tuple[Settings, int]]) -> None:
        n, device = len(each), start.weight.device
        self.settings, self.source, self.each = each[0][0], source, each
        self.weight = start.weight.detach().expand(n, -1, -1).clone().requires_grad_()
        self.bias = start.bias.detach().expand(n, -1).clone().requires_grad_()
        self.average = (self.weight.detach().clone(), self.bias.detach().clone())
        self._kept = [[torch.zeros_like(p) for _ in range(2)] for p in (self.weight, self.bias)]
        self._decay = torch.tensor([settings.weight_decay for settings, _ in each], device=device)
        self._seeds = list(dict.fromkeys(seed for _, seed in each))
        self._which = torch.tensor([self._seeds.index(seed) for _, seed in each], device=device)

    def update(self, step: int, precision: str) -> tuple[Tensor, Tensor]:
        """Make one update of all heads; return the losses and the norms of the gradients, (U,) each."""
        s = self.settings
        rates = torch.tensor([learning_rate(settings, step) for settings, _ in self.each], device=self.weight.device)
        x, targets = self._batches(step)
        with autocast(x.device, precision):
            logits = torch.baddbmm(self.bias[:, None], x, self.weight.transpose(1, 2))
        each = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(0, 1), reduction="none")
        losses = each.view(len(self.each), -1).sum(dim=1) / s.batch_size
        gradients = torch.autograd.grad(losses.sum(), (self.weight, self.bias))
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
        if s.clip_norm:
            share = (s.clip_norm / (norms + 1e-6)).clamp(max=1.0)
            gradients = tuple(g * _along(share, g) for g in gradients)
        with torch.no_grad():
            for p, g, kept, decayed in zip((self.weight, self.bias), gradients, self._kept, (True, False), strict=True):
                if decayed:
                    p.mul_(_along(1 - rates * self._decay, p))
                self._step(p, g, kept, rates, step + 1)
            for average, p in zip(self.average, (self.weight, self.bias), strict=True):
                average.lerp_(p, 1 - s.ema)  # without `ema` they are the weights
        return losses.detach(), norms

    def _step(self, p: Tensor, gradient: Tensor, kept: list[Tensor], rates: Tensor, n: int) -> None:
        """Move one parameter of all heads, by torch's own formulas of SGD with momentum and of AdamW."""
        s = self.settings
        first, second = kept
        if s.optimizer == "sgd":
            first.mul_(s.momentum).add_(gradient)
            p.sub_(_along(rates, p) * first)
            return
        first.lerp_(gradient, 1 - s.momentum)
        second.mul_(0.999).addcmul_(gradient, gradient, value=1 - 0.999)
        spread = second.sqrt().div_(math.sqrt(1 - 0.999**n)).add_(1e-8)
        p.sub_(_along(rates / (1 - s.momentum**n), p) * first / spread)

    def _batches(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the features (U, B, D) and the soft targets (U, B, K) of a step; heads of a seed share them."""
        s, source = self.settings, self.source
        xs, ys = [], []
        for seed in self._seeds:
            indices = randomness.order(seed, len(source.labels), step, s.batch_size)
            (x,) = source.batches([indices], [randomness.uniforms(seed, step, s.batch_size, UNIFORMS)])
            xs.append(x)
            ys.append(soft_targets(source, indices, s.label_smoothing))
        return torch.stack(xs)[self._which], torch.stack(ys)[self._which]


def _along(values: Tensor, of: Tensor) -> Tensor:
    """Return (U,) values as they multiply (U, ...)."""
    return values.to(of.dtype).view(-1, *[1] * (of.ndim - 1))
