"""Fit a network to a split: the updates, and going on after an interruption."""

import math
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from vitft import device
from vitft.errors import DataError, DiskFull, NonFiniteLoss, OutOfMemory, PeerLost
from vitft.group import ALONE, Group, Parallel
from vitft.images.batches import Images
from vitft.images.fingerprints import encoded_digest
from vitft.models.memory import Wish, planned
from vitft.progress import Hooks, StepReport, interrupted
from vitft.settings import Settings
from vitft.training import inputs, parallel, state
from vitft.training.schedule import learning_rate
from vitft.training.update import Fit, Stopped
from vitft.training.watch import Watch


@dataclass(frozen=True)
class Compute:
    """How a fit computes; nothing here changes what it learns, but for rounding.

    Attributes:
        precision: "float32" or "bf16" (autocast; the weights stay float32).
        micro_batch: images a forward pass; 0 = by rule. The gradient is that of the effective batch in any case.
        state_seconds: least time between two saved states.
        group: the processes that share each effective batch; each reads the images of its share.
        parallel: "ddp" (each process holds the network), "fsdp" (a part of it) or "auto".
        watch: looks at held-out images beside the training of one process; None = nobody looks.
    """

    precision: str = "float32"
    micro_batch: int = 0
    state_seconds: float = 60.0
    group: Group = ALONE
    parallel: Parallel = "auto"
    watch: Watch | None = None


@dataclass(frozen=True)
class Fitted:
    """What a fit did.

    Attributes:
        steps: updates done, all in all.
        resumed_at: the update it went on from, 0 for a run in one piece.
        first_loss, last_loss: mean loss over the effective batch; ln K first, as the head is zero.
        micro_batch: images a forward pass, after any halving.
        seconds: of this process only; images: of all that work on it together, meanwhile.
        computed: images of which the features were computed once; 0 where each update sends images through.
        saving: seconds that the updates waited for states.
        state: the last state, perhaps still being written: enter it as a context around what follows the training.
    """

    steps: int
    resumed_at: int
    first_loss: float
    last_loss: float
    micro_batch: int
    seconds: float
    images: int
    computed: int
    saving: float
    state: state.Saver


def fit(
    net: nn.Module,
    images: Images,
    groups: list[dict[str, Any]],
    settings: Settings,
    *,
    seed: int,
    folder: Path,
    compute: Compute | None = None,
    hooks: Hooks | None = None,
) -> Fitted:
    """Train `net` in place for settings.steps updates; it holds the averaged weights afterwards where `ema` is on.

    Args:
        images: the training split; its labels are those of its split.
        groups: parameter groups, each with "params", "lr_scale" and "weight_decay" (see `models.methods`).
        folder: where metrics.jsonl and state.pt live; a state found there is gone on from, by any number of processes.

    Raises:
        NonFiniteLoss: with the step, the lr and the last finite loss.
        OutOfMemory: a single image does not fit.
        Interrupted: a signal came; the state was saved first.
        DiskFull: a state or a metric could not be written.
        PeerLost: another process is gone.
        What stops one process stops all of them.
    """
    compute, hooks = compute or Compute(), hooks or Hooks()
    group = compute.group
    states = _States(folder / "state.pt", _same_images(images, group, hooks), compute)
    trained, wish = net, Wish(compute.micro_batch)
    how = planned(net, settings, images.device, compute.precision, wish, group.size)
    if spread := parallel.choose(compute.parallel, how, settings, images.device, group):
        trained, groups = parallel.spread(net, groups, images.device, group)
    micro_batch = parallel.micro_batch(compute.micro_batch) if spread else group.from_first(how.micro_batch)
    run = Fit(trained, groups, settings, seed, group)
    micro_batch = states.go_on(run, min(settings.batch_size, micro_batch), hooks)
    start, began = run.step, time.monotonic()
    source = inputs.source(trained, images, settings, compute.precision, micro_batch, hooks, group)
    with state.Metrics(folder / "metrics.jsonl" if group.first else None, keep=start) as metrics:
        loop = _Loop(run, source, states, metrics, compute, hooks, micro_batch, spread)
        stopped = loop.to_the_end()
    if signum := group.agree(signum=stopped or hooks.signal())[0]:
        states.saver.wait()
        raise interrupted(signum)
    run.use_average()
    if spread:
        parallel.collect(trained, net, images.device)
    seconds = time.monotonic() - began - loop.watched
    return Fitted(
        run.step, start, run.first_loss, run.last_loss, loop.micro_batch, seconds,
        (run.step - start) * settings.batch_size, source.computed, states.seconds, states.saver,
    )  # fmt: skip


@dataclass
class _Loop:
    """The updates of a fit, one after the other, and what is told, looked at and saved between them."""

    run: Fit
    source: inputs.Source
    states: "_States"
    metrics: state.Metrics
    compute: Compute
    hooks: Hooks
    micro_batch: int
    spread: bool
    watched: float = 0.0

    def to_the_end(self) -> int:
        """Make all updates and begin to write the last state; return the signal that ended them before, or 0."""
        group = self.compute.group
        try:
            self._look()  # where it was stopped in the middle of one
            while self.run.step < self.run.settings.steps:
                if not self._update():
                    continue
                self._look()
                if group.size == 1 and self.hooks.signal():  # several stop at their next agreement
                    break
                if self.states.wanted(self.run):
                    self.states.save(self.run, self.micro_batch, self.metrics)
            self._last()
        except Stopped as stop:
            self._last()
            return stop.signum
        except PeerLost:
            if not self.spread:  # a part alone is no state
                self._last()
                self.states.saver.wait()
            raise
        except DiskFull as error:
            group.agree(error)  # the others are on their way to their next agreement
            raise
        return 0

    def _update(self) -> bool:
        """Make one update; False where memory ran out and the micro-batch was halved instead."""
        run, settings = self.run, self.run.settings
        lr, began = learning_rate(settings, run.step), time.monotonic()
        try:
            tell = partial(self._part, lr, began)
            loss, norm = run.gradients(self.source, self.micro_batch, self.compute.precision, self.hooks, tell)
        except RuntimeError as error:
            self.micro_batch = _halved(self.micro_batch, error, self.hooks, self.spread)
            return False
        _check_finite(run, lr, loss, norm)
        run.update(lr, loss)
        self.metrics.add({"step": run.step, "loss": loss, "lr": lr, "grad_norm": norm})
        speed = 1.0 / max(1e-9, time.monotonic() - began)
        self.hooks.step(StepReport(run.step, settings.steps, loss, lr, norm, speed * settings.batch_size, speed))
        return True

    def _part(self, lr: float, began: float, done: int) -> None:
        """Tell of an update that goes on, where it takes long."""
        run, seconds, batch = self.run, time.monotonic() - began, self.run.settings.batch_size
        if seconds < _PART_S or done >= batch:
            return
        speed, share = done / seconds, done / batch
        report = StepReport(run.step, run.settings.steps, run.last_loss, lr, math.nan, speed, speed / batch, part=share)
        self.hooks.step(report)

    def _look(self) -> None:
        """Look at val where that is due. Raises Stopped."""
        if self.compute.watch is not None:
            self.watched += self.compute.watch.look(self.run, self.micro_batch, self.metrics)

    def _last(self) -> None:
        self.states.last(self.run, self.micro_batch, self.metrics)


_PART_S = 2.0
"""Seconds from which on an update is told of before its end."""


def _same_images(images: Images, group: Group, hooks: Hooks) -> str:
    """Return what tells this training set from another: another image under the same name is another one.

    Raises:
        DataError: another process sees other images.
    """
    with group.together():
        identity = f"{images.split.digest} {encoded_digest(images.split, hooks)}"
    if other := [rank for rank, theirs in enumerate(group.all(identity)) if theirs != group.from_first(identity)]:
        raise DataError(
            f"Process {other[0]} sees other training images than process 0.",
            "the same data on all machines.",
            "Compare what --data-dir holds there.",
        )
    return identity


@dataclass
class _States:
    """The states of one fit on disk: whether one is due, and the way back."""

    path: Path
    split: str
    compute: Compute
    resumed_at: int = 0
    seconds: float = 0.0
    _last: float = field(default_factory=time.monotonic)
    _cost: float = 0.0

    def __post_init__(self) -> None:
        self.saver = state.Saver(self.path)

    def go_on(self, run: Fit, micro_batch: int, hooks: Hooks) -> int:
        """Bring a run to where its state was saved, and return the micro-batch it was computed with."""
        group = self.compute.group
        saved = group.from_first(self._usable(hooks) if group.first else None)
        if saved is None:
            return micro_batch
        run.load(saved)
        self.resumed_at = run.step
        hooks.note(f"Going on from step {run.step} of {run.settings.steps}.")
        return int(saved["micro_batch"])

    def _usable(self, hooks: Hooks) -> dict[str, Any] | None:
        saved = state.load(self.path)
        if saved is None and self.path.exists():
            hooks.note("The saved state is damaged; this unit starts from its beginning.")
        if saved is not None and saved["split"] != self.split:
            hooks.note(
                "The training images have changed since the state was saved; this unit starts from its beginning."
            )
            saved = None
        return saved

    def due(self) -> bool:
        """Tell whether to save now: saving holds up at most a twentieth of the time, however large the network."""
        wait = state.interval(self.compute.state_seconds, self._cost)
        return time.monotonic() - self._last >= wait and (not self.saver.busy or not wait)

    def wanted(self, run: Fit) -> bool:
        """Tell whether a state is due amid a run; where the weights lie in parts all processes give theirs."""
        group = self.compute.group
        due = group.first and self.due()
        due = group.agree(due=due)[1] if run.in_parts else due
        return due and run.step < run.settings.steps

    def save(self, run: Fit, micro_batch: int, metrics: state.Metrics) -> None:
        """Begin to write the state; the metrics it counts on are on disk first. Process 0 writes, of all parts."""
        self._last = time.monotonic()
        whole = {**run.state(), "split": self.split, "micro_batch": micro_batch}
        if self.compute.group.first:
            metrics.flush()
            self.saver.save(whole)
        self._cost = time.monotonic() - self._last
        self.seconds += self._cost

    def last(self, run: Fit, micro_batch: int, metrics: state.Metrics) -> None:
        """Begin to write the state a fit ends with: evaluation may be long, and it need not wait for the file."""
        if run.step > self.resumed_at or run.step == 0:
            self.save(run, micro_batch, metrics)


def _check_finite(run: Fit, lr: float, loss: float, norm: float) -> None:
    if math.isfinite(loss) and math.isfinite(norm):
        return
    raise NonFiniteLoss(
        f"The loss is {loss} (gradient norm {norm}) at step {run.step + 1} of {run.settings.steps}, lr {lr:.3g}.",
        fact=f"The last finite loss was {run.last_loss:.4f}." if math.isfinite(run.last_loss) else "",
        action=f"Try a smaller --lr (now {run.settings.lr:g}), more warmup_steps, or --precision float32.",
    )


def _halved(micro_batch: int, error: RuntimeError, hooks: Hooks, spread: bool = False) -> int:
    """Return half the micro-batch where memory ran out; any other error is raised again."""
    if not device.out_of_memory(error):
        raise error
    if spread:
        raise OutOfMemory(
            f"Out of memory at micro-batch {micro_batch}, the network in parts on the processes.",
            fact="Those cannot halve it together.",
            action="Start anew with a smaller --micro-batch, or with more processes.",
        ) from None
    if micro_batch == 1:
        raise OutOfMemory(
            "Out of memory with a single image at a time.",
            fact="Memory grows with the resolution, the network and, for AdamW and EMA, the optimiser's state.",
            action="Try a smaller -r, --method lora or linear, or --precision bf16.",
        ) from None
    device.forget()
    hooks.note(f"Out of memory at micro-batch {micro_batch}; going on with {micro_batch // 2}, same effective batch.")
    return micro_batch // 2
