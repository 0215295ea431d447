"""Fit a network to a split: the updates, and going on after an interruption."""

import math
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn

from vitft import device
from vitft.compiling import Blocks
from vitft.device import Late
from vitft.errors import DiskFull, NonFiniteLoss, OutOfMemory, PeerLost
from vitft.group import ALONE, Group, Parallel
from vitft.images.batches import Images
from vitft.models.memory import Wish, planned
from vitft.models.methods import ParameterGroups
from vitft.progress import Hooks, StepReport, interrupted
from vitft.results.files import STATE, UPDATES
from vitft.settings import Checkpointing, Settings
from vitft.training import checkpointing, inputs, parallel, state
from vitft.training.saving import States, same_images
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
        watch: evaluates held-out images while one process trains; None = none.
        blocks: of the network, compiled or not; None = not to be checked.
        checkpoint: activations computed again in the backward pass, one block at a time; see `models.memory.plan`.
    """

    precision: str = "float32"
    micro_batch: int = 0
    state_seconds: float = 60.0
    group: Group = ALONE
    parallel: Parallel = "auto"
    watch: Watch | None = None
    blocks: Blocks | None = None
    checkpoint: Checkpointing = "auto"


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
        checkpointed: whether activations were computed again.
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
    checkpointed: bool
    state: state.Saver


def fit(
    net: nn.Module,
    images: Images,
    groups: ParameterGroups,
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
    states = States(folder / STATE, same_images(images, group, hooks), group, compute.state_seconds)
    trained, wish = net, Wish(compute.micro_batch, compute.checkpoint)
    how = planned(net, settings, images.device, compute.precision, wish, group.size)
    if spread := parallel.choose(compute.parallel, how, settings, images.device, group):
        trained, groups = parallel.spread(net, groups, images.device, group)
        if compute.blocks is not None:
            compute.blocks.give_up("the network lies in parts")
    micro_batch = parallel.micro_batch(compute.micro_batch) if spread else group.from_first(how.micro_batch)
    # What the rule says is of a whole network.
    again = compute.checkpoint == "on" if spread else group.from_first(how.checkpoint)
    again = checkpointing.begin(trained, compute.checkpoint == "on", hooks) if again else checkpointing.end(trained)
    run = Fit(trained, groups, settings, seed, group)
    micro_batch = states.go_on(run, min(settings.batch_size, micro_batch), hooks)
    start, began = run.step, time.monotonic()
    source = inputs.source(trained, images, settings, compute.precision, micro_batch, hooks, group)
    with state.Metrics(folder / UPDATES if group.first else None, keep=start) as metrics:
        reports = _Reports(run, metrics, hooks, Late(images.device))
        loop = _Loop(run, source, states, reports, compute, hooks, micro_batch, spread)
        stopped = loop.to_the_end()
    checkpointing.end(trained)
    if signum := group.agree(signum=stopped or hooks.signal())[0]:
        states.saver.wait()
        raise interrupted(signum)
    run.use_average()
    if spread:
        parallel.collect(trained, net, images.device)
    seconds = time.monotonic() - began - loop.watched
    return Fitted(
        run.step, start, run.first_loss, run.last_loss, loop.micro_batch, seconds,
        (run.step - start) * settings.batch_size, source.computed, states.seconds, again,
        states.saver,
    )  # fmt: skip


@dataclass(frozen=True)
class _Made:
    """An update that was made: its number, counted from 1, its rate, and when it began."""

    step: int
    lr: float
    began: float


@dataclass
class _Reports:
    """Losses and gradient norms of updates, read from a card while it computes later ones, and reported in order."""

    run: Fit
    metrics: state.Metrics
    hooks: Hooks
    late: Late[_Made]

    def flush(self, *, all: bool = False) -> None:
        """Report the updates whose numbers have arrived; with `all` wait for the others. Raises NonFiniteLoss."""
        settings = self.run.settings
        for made, values in self.late.arrived(all=all):
            loss, norm = values.tolist()
            _check_finite(self.run, made, loss, norm)
            self.run.read(made.step, loss)
            self.metrics.add({"step": made.step, "loss": loss, "lr": made.lr, "grad_norm": norm})
            speed = 1.0 / max(1e-9, self.late.seconds)
            report = StepReport(made.step, settings.steps, loss, made.lr, norm, speed * settings.batch_size, speed)
            self.hooks.step(report)


@dataclass
class _Loop:
    """The updates of a fit, with the reports, looks at val and saved states between them."""

    run: Fit
    source: inputs.Source
    states: States
    reports: _Reports
    compute: Compute
    hooks: Hooks
    micro_batch: int
    spread: bool
    watched: float = 0.0
    eager_checked: bool = False

    def to_the_end(self) -> int:
        """Make all updates and begin to write the last state; return the signal that ended them before, or 0."""
        group = self.compute.group
        self.reports.late.begin()
        try:
            self._look()  # where it was stopped in the middle of one
            while self.run.step < self.run.settings.steps:
                if not self._update():
                    continue
                self._look()
                if group.size == 1 and self.hooks.signal():  # several stop at their next agreement
                    break
                if self.states.wanted(self.run):
                    self._save()
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
        run = self.run
        made = _Made(run.step + 1, learning_rate(run.settings, run.step), time.monotonic())
        try:
            show = partial(self._part, made)
            values = run.gradients(self.source, self.micro_batch, self.compute.precision, self.hooks, show)
        except RuntimeError as error:
            self.micro_batch = _halved(self.micro_batch, error, self.hooks, self.spread)
            self.reports.late.begin()
            return False
        self._compiled()
        run.update(made.lr)
        self.reports.late.put(made, values)
        self.reports.flush()
        return True

    def _compiled(self) -> None:
        """Note once that blocks which were to be compiled run eagerly."""
        if not self.eager_checked and (blocks := self.compute.blocks) is not None:
            self.eager_checked = True
            if why := blocks.eager():
                self.hooks.note(f"The blocks run eagerly: {why}.")

    def _part(self, made: _Made, done: int) -> None:
        """Report the progress of an update that takes long."""
        run, seconds, batch = self.run, time.monotonic() - made.began, self.run.settings.batch_size
        if seconds < _PART_S or done >= batch:
            return
        speed, share, steps = done / seconds, done / batch, run.settings.steps
        self.hooks.step(StepReport(run.step, steps, run.last_loss, made.lr, math.nan, speed, speed / batch, part=share))

    def _look(self) -> None:
        """Look at val where that is due. Raises Stopped."""
        watch = self.compute.watch
        if watch is not None and watch.due(self.run):
            self.reports.flush(all=True)
            self.watched += watch.look(self.run, self.micro_batch, self.reports.metrics)
            self.reports.late.begin()

    def _save(self) -> None:
        """Begin to write a state, when all that led to it is known to be finite."""
        self.reports.flush(all=True)
        self.states.save(self.run, self.micro_batch, self.reports.metrics)
        self.reports.late.begin()

    def _last(self) -> None:
        self.reports.flush(all=True)
        self.states.last(self.run, self.micro_batch, self.reports.metrics)


_PART_S = 2.0
"""Seconds from which on the progress within an update is reported."""


def _check_finite(run: Fit, update: _Made, loss: float, norm: float) -> None:
    if math.isfinite(loss) and math.isfinite(norm):
        return
    raise NonFiniteLoss(
        f"The loss is {loss} (gradient norm {norm}) at step {update.step} of {run.settings.steps}, lr {update.lr:.3g}.",
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
