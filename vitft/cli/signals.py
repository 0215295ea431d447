"""What asks a run to stop: signals and a time limit. It saves its state at the next micro-batch and ends by itself."""

import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType

from vitft.cli import console
from vitft.errors import REQUEUE, UsageError
from vitft.progress import Hooks
from vitft.words import listed


@dataclass
class _Requeue:
    """When this command is to stop and be queued again: the clock's time, or that a signal has come."""

    deadline: float | None = None
    asked: bool = False
    signals: tuple[signal.Signals, ...] = ()

    def __call__(self) -> int:
        late = self.deadline is not None and time.monotonic() >= self.deadline
        return REQUEUE if self.asked or late else 0


_requeue = _Requeue()


def requeue(max_time: str, names: str) -> None:
    """Stop this command, with exit code 75, after a time or by a signal; from now on, as a start may take long.

    Args:
        max_time: as `seconds` reads it, "" = none.
        names: of signals, e.g. "USR2,TERM".

    Raises:
        UsageError: no such time or signal (exit code 2).
    """
    _requeue.asked = False
    _requeue.deadline = time.monotonic() + seconds(max_time) if max_time else None
    _requeue.signals = tuple(_numbers(names))
    for number in _requeue.signals:
        signal.signal(number, lambda *_: setattr(_requeue, "asked", True))


def seconds(text: str) -> float:
    """Turn "90m", "7h30m", "1:30:00" or Slurm's "1-12:00:00" into seconds. Raises UsageError."""
    units = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    clock = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", text)
    found = clock or units
    if not text or found is None:
        raise UsageError(f"--max-time '{text}' is no time.", "45m, 7h30m, 2d, 7:30:00, 1-12:00:00.")
    days, hours, minutes, secs = (int(word or 0) for word in found.groups())
    return 60.0 * (60 * (24 * days + hours) + minutes) + secs


def _numbers(names: str) -> list[signal.Signals]:
    legal = ("USR1", "USR2", "TERM", "HUP", "ALRM")
    words = [word.upper().removeprefix("SIG") for word in listed(names)]
    if wrong := [word for word in words if word not in legal]:
        raise UsageError(f"--requeue-signals '{wrong[0]}' cannot be taken.", f"{', '.join(legal)}.")
    return [signal.Signals[f"SIG{word}"] for word in words]


@contextmanager
def watched(quiet: bool = False) -> Iterator[Hooks]:
    """Show what long work does, unless it should be quiet, and let signals and the time limit stop it."""
    with console.display(quiet) as hooks, caught() as signum:
        yield replace(hooks, signal=signum)


@contextmanager
def caught(quiet: bool = False) -> Iterator[Callable[[], int]]:
    """Catch SIGINT and SIGTERM while the block runs; yield a function that tells the number of the one that came, or 0.

    What `requeue` has set counts, too, and a signal that it took stays its own.

    Args:
        quiet: say nothing, as another process does.

    A second signal of either kind ends the program at once, as it would have without vitft.
    """
    received = 0

    def handler(signum: int, _frame: FrameType | None) -> None:
        nonlocal received
        if received:
            for s, old in previous.items():
                signal.signal(s, old)
            signal.raise_signal(signum)
            return
        received = signum
        if quiet:
            return
        sys.stderr.write("\nStopping: the state is being saved (once more to end at once) ...\n")

    taken = [s for s in (signal.SIGINT, signal.SIGTERM) if s not in _requeue.signals]
    previous = {s: signal.signal(s, handler) for s in taken}
    try:
        yield lambda: received or _requeue()
    finally:
        for s, old in previous.items():
            signal.signal(s, old)
