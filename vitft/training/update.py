"""One update of a network: the gradient of the effective batch, the optimiser, the average."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from vitft.device import autocast
from vitft.images.preprocess import UNIFORMS
from vitft.progress import Hooks
from vitft.settings import Settings
from vitft.training import randomness
from vitft.training.inputs import Source


class Stopped(Exception):
    """A signal came between two micro-batches; the weights are those of the last whole update."""


class Fit:
    """The moving parts of one run: weights, optimiser, average, running statistics, and how far it is.

    Args:
        net: trained in place.
        groups: parameter groups, each with "params", "lr_scale" and "weight_decay".
        seed: of order, augmentation and mixup.

    Attributes:
        step: updates done.
        first_loss, last_loss: of the first and the latest update; NaN before them.
    """

    def __init__(self, net: nn.Module, groups: list[dict[str, Any]], settings: Settings, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.parameters: list[nn.Parameter] = [p for g in groups for p in g["params"]]
        self.optimizer = _optimizer(groups, settings)
        self.average = [p.detach().clone() for p in self.parameters] if settings.ema else []
        self.buffers = _buffers(net)
        self.step = 0
        self.first_loss = self.last_loss = math.nan

    def gradients(
        self, source: Source, micro_batch: int, precision: str, hooks: Hooks, tell: Callable[[int], None] | None = None
    ) -> tuple[float, float]:
        """Accumulate the gradient of the mean loss over the effective batch, clipped; return that loss and its norm.

        Args:
            tell: called after each micro-batch with the images of the effective batch that are done.

        Whatever it raises, no gradient is left behind and the running statistics are what they were.
        """
        before = [b.clone() for b in self.buffers]
        try:
            total: Tensor | float = 0.0
            done = 0
            for x, targets in self._micro_batches(source, source.whole or micro_batch, hooks):
                with autocast(x.device, precision):
                    logits = source.network(x)
                loss = F.cross_entropy(logits.float(), targets, reduction="sum") / self.settings.batch_size
                loss.backward()
                total = total + loss.detach().double()
                done += len(x)
                if tell is not None:
                    tell(done)
            norm = nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm or math.inf)
            # Both are read at once: on a GPU each reading waits for all that was queued.
            both: list[float] = torch.stack([torch.as_tensor(total, device=norm.device), norm.double()]).tolist()
        except BaseException:
            self.optimizer.zero_grad(set_to_none=True)
            _copy(before, self.buffers)
            raise
        return both[0], both[1]

    def _micro_batches(self, source: Source, size: int, hooks: Hooks) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs and soft targets (B, K) of the effective batch, `size` at a time, mixed up where that is on."""
        settings, labels, batch = self.settings, source.labels, self.settings.batch_size
        indices = randomness.order(self.seed, len(labels), self.step, batch)
        rows = randomness.uniforms(self.seed, self.step, batch, UNIFORMS)
        parts = [slice(a, min(a + size, batch)) for a in range(0, batch, size)]
        # Mixup pairs position p with batch - 1 - p: a pairing that no micro-batch boundary can change.
        weight = randomness.mixup_weight(self.seed, self.step, settings.mixup) if settings.mixup else 1.0
        partner = np.arange(batch)[::-1]
        inputs = source.batches([indices[p] for p in parts], [rows[p] for p in parts])
        others: Iterator[Tensor] = iter(())
        if settings.mixup:
            others = source.batches([indices[partner[p]] for p in parts], [rows[partner[p]] for p in parts])
        for micro, (part, x) in enumerate(zip(parts, inputs, strict=True)):
            if hooks.signal():
                raise Stopped
            targets = self._targets(source, indices[part])
            if settings.mixup:
                x = weight * x + (1 - weight) * next(others)
                targets = weight * targets + (1 - weight) * self._targets(source, indices[partner[part]])
            if settings.drop_path:
                torch.manual_seed(randomness.torch_seed(self.seed, self.step, micro))
            yield x, targets

    def _targets(self, source: Source, indices: NDArray[np.int64]) -> Tensor:
        where = torch.from_numpy(np.ascontiguousarray(indices)).to(source.labels.device)
        onehot = F.one_hot(source.labels[where], source.num_classes).float()
        smoothing = self.settings.label_smoothing
        return onehot * (1 - smoothing) + smoothing / source.num_classes if smoothing else onehot

    def update(self, lr: float, loss: float) -> None:
        """Make one update with the gradients there are."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
            if self.settings.optimizer == "sgd" and group["decay"]:
                with torch.no_grad():
                    for p in group["params"]:
                        p.mul_(1 - group["lr"] * group["decay"])
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        for a, p in zip(self.average, self.parameters, strict=bool(self.average)):
            a.lerp_(p.detach(), 1 - self.settings.ema)
        self.first_loss = loss if self.step == 0 else self.first_loss
        self.last_loss = loss
        self.step += 1

    def use_average(self) -> None:
        """Put the averaged weights in place of the last ones, where they are averaged."""
        if self.average:
            _copy(self.average, self.parameters)

    def state(self) -> dict[str, Any]:
        """Return everything that `load` needs; the tensors are the run's own, not copies."""
        return {
            "step": self.step,
            "first_loss": self.first_loss,
            "last_loss": self.last_loss,
            "parameters": [p.detach() for p in self.parameters],
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "buffers": self.buffers,
        }

    def load(self, saved: dict[str, Any]) -> None:
        """Go on from a state that `state` has returned."""
        self.step, self.first_loss, self.last_loss = saved["step"], saved["first_loss"], saved["last_loss"]
        _copy(saved["parameters"], self.parameters)
        _copy(saved["average"], self.average)
        _copy(saved["buffers"], self.buffers)
        self.optimizer.load_state_dict(saved["optimizer"])


def _optimizer(groups: list[dict[str, Any]], settings: Settings) -> torch.optim.Optimizer:
    groups = [dict(g) for g in groups]
    if settings.optimizer == "sgd":
        # Decay is applied by Fit.update, decoupled from the gradient, so that it means the same for both optimisers.
        return torch.optim.SGD([{**g, "weight_decay": 0.0, "decay": g["weight_decay"]} for g in groups],
                               lr=settings.lr, momentum=settings.momentum)  # fmt: skip
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(settings.momentum, 0.999))


def _buffers(net: nn.Module) -> list[Tensor]:
    """Return what a forward pass in training changes: the running statistics of batch normalisation."""
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    return [buffer for norm in norms for buffer in norm.buffers()]


def _copy(values: Sequence[Tensor], into: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for target, value in zip(into, values, strict=True):
            target.copy_(value)
