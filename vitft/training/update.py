"""One update of a network: the gradient of the effective batch, the optimiser, the average."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from vitft import compiling
from vitft.device import forward_in
from vitft.group import ALONE, Group
from vitft.images.preprocess import UNIFORMS
from vitft.models.methods import ParameterGroups
from vitft.progress import Hooks
from vitft.settings import Settings
from vitft.training import checkpointing, parallel, randomness
from vitft.training.inputs import Source, soft_targets
from vitft.training.state import State


class Stopped(Exception):
    """A signal came between two micro-batches; the weights are those of the last whole update."""

    @property
    def signum(self) -> int:
        """The signal's number."""
        return int(self.args[0])


class Fit:
    """The moving parts of one run: weights, optimiser, average, running statistics, and how far it is.

    Args:
        net: trained in place.
        groups: parameter groups, each with "params", "lr_scale" and "weight_decay".
        seed: of order, augmentation and mixup.
        group: the processes that share each effective batch; all of them hold the same weights, or parts of them.

    Attributes:
        step: updates done.
        first_loss, last_loss: of the first update and of the latest that was read; NaN before them. `read` sets them.
        in_parts: the weights lie in parts on the processes (see `parallel`).
    """

    def __init__(
        self, net: nn.Module, groups: ParameterGroups, settings: Settings, seed: int, group: Group = ALONE
    ) -> None:
        self.settings, self.seed, self.group = settings, seed, group
        self.parameters: list[nn.Parameter] = [p for g in groups for p in g["params"]]
        self.in_parts = any(parallel.in_parts(p) for p in self.parameters)
        # One kernel for all parameters, where there is one: on cards, and for whole tensors.
        self.fused = all(p.is_cuda for p in self.parameters) and not self.in_parts
        self.optimizer = _optimizer(groups, settings, self.fused)
        self.average = [p.detach().clone() for p in self.parameters] if settings.ema else []
        self.buffers = _buffers(net)
        self.step = 0
        self.first_loss = self.last_loss = math.nan

    def gradients(
        self, source: Source, micro_batch: int, precision: str, hooks: Hooks, show: Callable[[int], None] | None = None
    ) -> Tensor:
        """Accumulate the gradient of the mean loss over the effective batch, clipped.

        Args:
            show: called after each micro-batch with the images of the effective batch that are done.

        Returns:
            (2,) float64 on the device: that loss, and the gradient's norm. Whoever reads them waits for all that was
            queued; here nobody does.

        Whatever it raises, in all processes at once, no gradient is left behind and the running statistics are what
        they were.
        """
        before = [b.clone() for b in self.buffers]
        try:
            problem, total = None, torch.zeros((), dtype=torch.float64)
            try:
                total = self._accumulate(source, source.whole or micro_batch, precision, hooks, show)
            except Exception as error:
                problem = error
            self.group.agree(problem)
            self._sum(total)
            norm = nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm or math.inf)
            norm = parallel.whole(norm.detach())
            return torch.stack([total.to(norm.device), norm.double()])
        except BaseException:
            self.optimizer.zero_grad(set_to_none=True)
            _copy(before, self.buffers)
            raise

    def _accumulate(
        self, source: Source, size: int, precision: str, hooks: Hooks, show: Callable[[int], None] | None
    ) -> Tensor:
        """Compute the gradient of this process's share; return its share of the mean loss."""
        total = torch.zeros((), dtype=torch.float64, device=self.parameters[0].device)
        parts = self._parts(size)
        done = 0
        # FSDP takes the mean over the processes where the sum is meant.
        scale = self.group.size if self.in_parts else 1
        for n, (x, targets) in enumerate(self._micro_batches(source, parts, hooks), 1):
            if self.in_parts:
                parallel.last_of(source.network, n == len(parts))
            # The backward pass, too: it may compute blocks again.
            with compiling.usual(len(x), 0 if source.whole else size):
                with forward_in(x.device, precision, again=checkpointing.on(source.network)):
                    logits = source.network(x)
                loss = F.cross_entropy(logits.float(), targets, reduction="sum") / self.settings.batch_size
                (loss * scale if scale > 1 else loss).backward()
            total = total + loss.detach().double()
            done += len(x)
            if show is not None:
                show(done * self.group.size)
        return total

    def _parts(self, size: int) -> list[slice]:
        """Cut this process's share of the effective batch; slices from its end on hold nothing that counts."""
        batch, share = self.settings.batch_size, self.group.share(self.settings.batch_size)
        parts = [slice(a, min(a + size, share.stop)) for a in range(share.start, share.stop, size)]
        if self.in_parts:
            # Whoever holds a part must give it as often as the others ask for it.
            most = math.ceil(math.ceil(batch / self.group.size) / size)
            parts += [slice(batch, batch + 1)] * (most - len(parts))
        return parts

    def _sum(self, total: Tensor) -> None:
        """Sum loss and gradients over the processes; running statistics are those of process 0."""
        if self.group.size == 1:
            return
        if not self.in_parts:
            used = torch.tensor([p.grad is not None for p in self.parameters], dtype=torch.int64)
            if self.settings.batch_size < self.group.size:  # who had no image knows no gradient
                self.group.sum([used])
            trained = [p for p, there in zip(self.parameters, used.tolist(), strict=True) if there]
            for p in trained:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            self.group.sum([p.grad for p in trained if p.grad is not None])
        self.group.sum([total])
        if self.buffers:
            _copy(self.group.from_first([b.detach() for b in self.buffers]), self.buffers)

    def _micro_batches(self, source: Source, parts: list[slice], hooks: Hooks) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs and soft targets (B, K) of each part of the effective batch, mixed up where that is on.

        A part past its end is its first image with targets of 0, whose loss and gradient are 0.
        """
        settings, labels, batch = self.settings, source.labels, self.settings.batch_size
        indices = randomness.order(self.seed, len(labels), self.step, batch)
        rows = randomness.uniforms(self.seed, self.step, batch, UNIFORMS)
        # Mixup pairs position p with batch - 1 - p: a pairing that no micro-batch boundary can change.
        weight = randomness.mixup_weight(self.seed, self.step, settings.mixup) if settings.mixup else 1.0
        partner = np.arange(batch)[::-1]
        at = [np.arange(batch)[p] if p.start < batch else np.zeros(1, dtype=np.int64) for p in parts]
        inputs = source.batches([indices[p] for p in at], [rows[p] for p in at])
        others: Iterator[Tensor] = iter(())
        if settings.mixup:
            others = source.batches([indices[partner[p]] for p in at], [rows[partner[p]] for p in at])
        for micro, (part, p, x) in enumerate(zip(parts, at, inputs, strict=True)):
            if signum := hooks.signal():
                raise Stopped(signum)
            targets = self._targets(source, indices[p])
            if settings.mixup:
                x = weight * x + (1 - weight) * next(others)
                targets = weight * targets + (1 - weight) * self._targets(source, indices[partner[p]])
            if settings.drop_path:
                torch.manual_seed(randomness.torch_seed(self.seed, self.step, micro + (self.group.rank << 20)))
            if micro == len(parts) - 1 and source.streams and self.step + 1 < settings.steps:
                # What the next update begins with is decoded while this one ends.
                next_ = np.concatenate(at[:2])
                rows = randomness.uniforms(self.seed, self.step + 1, batch, UNIFORMS)
                source.soon(randomness.order(self.seed, len(labels), self.step + 1, batch)[next_], rows[next_])
            yield x, targets if part.start < batch else torch.zeros_like(targets)

    def _targets(self, source: Source, indices: NDArray[np.int64]) -> Tensor:
        return soft_targets(source, indices, self.settings.label_smoothing)

    def update(self, lr: float) -> None:
        """Make one update with the gradients there are."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
            if self.settings.optimizer == "sgd" and group["decay"]:
                with torch.no_grad():
                    torch._foreach_mul_([parallel.local(p) for p in group["params"]], 1 - group["lr"] * group["decay"])
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            own = [parallel.local(p.detach()) for p in self.parameters]
            torch._foreach_lerp_([parallel.local(a) for a in self.average], own, 1 - self.settings.ema)
        self.step += 1

    def read(self, step: int, loss: float) -> None:
        """Record the loss of an update; updates come in order."""
        self.first_loss = loss if step == 1 else self.first_loss
        self.last_loss = loss

    def use_average(self) -> None:
        """Put the averaged weights in place of the last ones, where they are averaged."""
        if self.average:
            _copy([parallel.local(a) for a in self.average], [parallel.local(p) for p in self.parameters])

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the averaged weights in place for a while, where they are averaged; the own ones come back bit by bit."""
        own = [p.detach().clone() for p in self.parameters] if self.average else []
        self.use_average()
        try:
            yield
        finally:
            if own:
                _copy(own, self.parameters)

    def state(self) -> State:
        """Return everything that `load` needs; the tensors are the run's own, not copies.

        It is whole, whatever the processes hold: any number of them goes on from it.
        """
        state = {
            "step": self.step,
            "first_loss": self.first_loss,
            "last_loss": self.last_loss,
            "parameters": [p.detach() for p in self.parameters],
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "buffers": self.buffers,
        }
        return {key: parallel.whole(value) for key, value in state.items()}

    def load(self, saved: State) -> None:
        """Go on from a state that `state` has returned."""
        self.step, self.first_loss, self.last_loss = saved["step"], saved["first_loss"], saved["last_loss"]
        parallel.copy_into(saved["parameters"], self.parameters)
        parallel.copy_into(saved["average"], self.average)
        _copy(saved["buffers"], self.buffers)
        optimizer = self._in_parts(saved["optimizer"])
        own = [{**group, "fused": self.optimizer.defaults["fused"]} for group in optimizer["param_groups"]]
        self.optimizer.load_state_dict({**optimizer, "param_groups": own})

    def _in_parts(self, optimizer: State) -> State:
        """Return an optimiser's whole state in the parts of the parameters it belongs to."""
        if not self.in_parts:
            return optimizer
        state = {
            i: {k: parallel.part_of(v, self.parameters[i]) if v.ndim else v for k, v in of_parameter.items()}
            for i, of_parameter in optimizer["state"].items()
        }
        return {**optimizer, "state": state}


def _optimizer(groups: ParameterGroups, settings: Settings, fused: bool) -> torch.optim.Optimizer:
    groups, how = [dict(g) for g in groups], fused or None  # None: torch's own way
    if settings.optimizer == "sgd":
        # Decay is applied by Fit.update, decoupled from the gradient, so that it means the same for both optimisers.
        return torch.optim.SGD([{**g, "weight_decay": 0.0, "decay": g["weight_decay"]} for g in groups],
                               lr=settings.lr, momentum=settings.momentum, fused=how)  # fmt: skip
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(settings.momentum, 0.999), fused=how)


def _buffers(net: nn.Module) -> list[Tensor]:
    """Return the buffers that a forward pass in training changes: running statistics of batch normalisation."""
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    return [buffer for norm in norms for buffer in norm.buffers()]


def _copy(values: Sequence[Tensor], into: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for target, value in zip(into, values, strict=True):
            target.copy_(value)
