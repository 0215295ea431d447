"""SIGINT and SIGTERM ask a run to stop; the run saves its state at the next micro-batch and ends by itself."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType

from vitft.cli import console
from vitft.progress import Hooks


@contextmanager
def watched(quiet: bool = False) -> Iterator[Hooks]:
    """Show what long work does, unless it should be quiet, and let both signals stop it."""
    with console.display(quiet) as hooks, caught() as signum:
        yield replace(hooks, signal=signum)


@contextmanager
def caught(quiet: bool = False) -> Iterator[Callable[[], int]]:
    """Catch both signals while the block runs; yield a function that tells the number of the one that came, or 0.

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

    previous = {s: signal.signal(s, handler) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: received
    finally:
        for s, old in previous.items():
            signal.signal(s, old)
