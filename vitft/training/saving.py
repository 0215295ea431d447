"""When a running fit saves its state, and whether what lies there is gone on from."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from vitft.errors import DataError
from vitft.group import Group
from vitft.images.batches import Images
from vitft.images.fingerprints import encoded_digest
from vitft.progress import Hooks
from vitft.training import state
from vitft.training.state import State
from vitft.training.update import Fit


def same_images(images: Images, group: Group, hooks: Hooks) -> str:
    """Return a digest of the training set: it changes with any image, even under the same name.

    Raises:
        DataError: another process sees other images.
    """
    with group.together():
        identity = f"{images.split.digest} {encoded_digest(images.split, hooks)}"
    if other := group.unlike(identity):
        raise DataError(
            f"Other training images are seen by {other} than by process 0.",
            "the same data on all machines.",
            "Compare what --data-dir holds there.",
        )
    return identity


@dataclass
class States:
    """The states of one fit on disk: whether one is due, and the way back."""

    path: Path
    split: str
    group: Group
    state_seconds: float
    resumed_at: int = 0
    seconds: float = 0.0
    _last: float = field(default_factory=time.monotonic)
    _cost: float = 0.0

    def __post_init__(self) -> None:
        self.saver = state.Saver(self.path)

    def go_on(self, run: Fit, micro_batch: int, hooks: Hooks) -> int:
        """Bring a run to where its state was saved, and return the micro-batch it was computed with."""
        group = self.group
        saved = group.from_first(self._usable(hooks) if group.first else None)
        if saved is None:
            return micro_batch
        run.load(saved)
        self.resumed_at = run.step
        hooks.note(f"Going on from step {run.step} of {run.settings.steps}.")
        return int(saved["micro_batch"])

    def _usable(self, hooks: Hooks) -> State | None:
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
        wait = state.interval(self.state_seconds, self._cost)
        return time.monotonic() - self._last >= wait and (not self.saver.busy or not wait)

    def wanted(self, run: Fit) -> bool:
        """Tell whether a state is due amid a run; where the weights lie in parts all processes give theirs."""
        group = self.group
        due = group.first and self.due()
        due = group.agree(due=due)[1] if run.in_parts else due
        return due and run.step < run.settings.steps

    def save(self, run: Fit, micro_batch: int, metrics: state.Metrics) -> None:
        """Begin to write the state; the metrics it counts on are on disk first. Process 0 writes, of all parts."""
        self._last = time.monotonic()
        whole = {**run.state(), "split": self.split, "micro_batch": micro_batch}
        if self.group.first:
            metrics.flush()
            self.saver.save(whole)
        self._cost = time.monotonic() - self._last
        self.seconds += self._cost

    def last(self, run: Fit, micro_batch: int, metrics: state.Metrics) -> None:
        """Begin to write the state a fit ends with: evaluation may be long, and it need not wait for the file."""
        if run.step > self.resumed_at or run.step == 0:
            self.save(run, micro_batch, metrics)
