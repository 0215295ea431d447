"""Progress reports of long work, and the signal for it to stop."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from vitft.errors import REQUEUE, Interrupted


@dataclass(frozen=True)
class StepReport:
    """One finished update: `step` of `steps`, counted from 1; loss is the mean over the effective batch.

    The speeds are those of this update. A long update is reported while it goes on, too: `part` is the
    share of the next one that is done, and loss and grad_norm are those of the last whole one (NaN before it).
    """

    step: int
    steps: int
    loss: float
    lr: float
    grad_norm: float
    images_per_s: float
    steps_per_s: float
    part: float = 0.0

    @property
    def seconds_left(self) -> float:
        """Of the whole fit, at this speed."""
        return (self.steps - self.step - self.part) / max(1e-12, self.steps_per_s)


Progress = Callable[[str, int, int], None]
"""Called with (what, done, total) of work that takes long."""


def silent(*_: object) -> None:
    """Be a callback that does nothing."""


@dataclass(frozen=True)
class Hooks:
    """Callbacks of a run. All of them may be called often and must return quickly.

    Attributes:
        unit: (title, done, total) when a unit starts; done counts from 0.
        step: after each update.
        phase: (what, done, total) of anything else that takes long: decoding, features, evaluation. A report never
            raises: a supervisor passes on its workers' reports, and must let them save first.
        note: something the user should know, in one line.
        signal: the number of the signal that asked to stop, `errors.REQUEUE`, or 0.
    """

    unit: Progress = silent
    step: Callable[[StepReport], None] = silent
    phase: Progress = silent
    note: Callable[[str], None] = silent
    signal: Callable[[], int] = lambda: 0

    def stop_if_asked(self) -> None:
        """Raise Interrupted (exit code 130 or 143) when a signal has come; callers save their state first."""
        if signum := self.signal():
            raise interrupted(signum)


def noting_once(hooks: Hooks) -> Hooks:
    """Return hooks that pass each note on once, as a note on a checkpoint comes again with every unit."""
    noted: set[str] = set()

    def note(text: str) -> None:
        if text not in noted:
            noted.add(text)
            hooks.note(text)

    return replace(hooks, note=note)


def interrupted(signum: int) -> Interrupted:
    """Return the error for a run that a signal has stopped, its state saved."""
    why = "Stopped to be queued again" if signum == REQUEUE else "Interrupted"
    return Interrupted(signum, f"{why}; the state is saved.", action="Run the same command again to go on from here.")
