"""Where vitft prints: results on stdout, everything else on stderr."""

import json
import os
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console, RenderableType

from vitft.errors import VitftError
from vitft.progress import Hooks, StepReport

if TYPE_CHECKING:
    from vitft.report.table import Table

FORMATS = ("text", "json")

_UNCUT = 10_000


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Let the command line end as in any pipe that is read no more; rich would end it with 1."""
        raise


def stdout() -> Console:
    """Return a console for results; as wide as the terminal, or 100 columns in a pipe."""
    return _Console(width=None if sys.stdout.isatty() else 100, highlight=False)


def stderr() -> Console:
    """Return a console for messages."""
    return _Console(stderr=True, highlight=False)


def emit(payload: Any, renderable: RenderableType, fmt: str = "text") -> None:
    """Print a result: JSON alone for "json", else the rich renderable (a plain string is printed as it is)."""
    if fmt == "json":
        write(json.dumps(payload, indent=1, allow_nan=False) + "\n")
    elif isinstance(renderable, str):
        write(renderable.rstrip("\n") + "\n")
    else:
        with _delivered():
            stdout().print(renderable)


def write(text: str) -> None:
    """Write to stdout at once. Raises VitftError where it takes no more, BrokenPipeError where nobody reads it."""
    with _delivered():
        sys.stdout.write(text)


@contextmanager
def _delivered() -> Iterator[None]:
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        silence(sys.stdout)
        raise VitftError(
            f"Cannot write to stdout: {error.strerror}.", "", "Send it elsewhere and run the same command again."
        ) from None


def silence(*streams: TextIO) -> None:
    """Send what is still to be written to nowhere: Python would try it again at its end and complain."""
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        for stream in streams:
            with suppress(OSError, ValueError):  # a stream of a test has no number
                os.dup2(nowhere.fileno(), stream.fileno())


def emit_table(payload: Any, table: "Table", fmt: str, *, listing: bool = False) -> None:
    """Print a result: its payload for "json", else its table in that format, as text as wide as the terminal.

    Args:
        listing: a row is a line where no terminal is, however long, so that a script can read it.
    """
    from vitft.report import formats

    text = formats.text(table, width(listing=listing)) if fmt == "text" else formats.FORMATS[fmt](table)
    emit(payload, text, fmt)


def width(*, listing: bool = False) -> int:
    """Return how many columns a table may have; one whose rows are lines has all it needs where no terminal is."""
    return _UNCUT if listing and not sys.stdout.isatty() else stdout().width


def note(text: str, *, uncut: bool = False) -> None:
    """Print one line to stderr, on a terminal broken at words; `uncut`: it holds a command to be copied."""
    console = stderr()
    if console.is_terminal and not uncut:
        text = textwrap.fill(
            text, max(20, console.width), subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
    console.print(text, markup=False, soft_wrap=True)


@contextmanager
def display() -> Iterator[Hooks]:
    """Show what long work does: bars on a terminal, plain lines in a pipe. Signals are the caller's affair."""
    if stderr().is_terminal:
        from vitft.cli.bars import bars

        with bars(stderr()) as hooks:
            yield hooks
    else:
        yield _lines()


def _lines(every_s: float = 5.0) -> Hooks:
    last = {"time": 0.0}

    def due(done: int, total: int) -> bool:
        now = time.monotonic()
        if done < total and now - last["time"] < every_s:
            return False
        last["time"] = now
        return True

    def unit(title: str, done: int, total: int) -> None:
        note(f"[{done + 1}/{total}] {title}" if total > 1 else title)

    def step(r: StepReport) -> None:
        if due(r.step, r.steps):
            eta = _duration((r.steps - r.step) / max(1e-9, r.steps_per_s))
            note(
                f"  step {r.step}/{r.steps}  loss {r.loss:.4f}  lr {r.lr:.2g}  {r.images_per_s:.1f} images/s  ETA {eta}"
            )

    def phase(what: str, done: int, total: int) -> None:
        if due(done, total):
            note(f"  {what} {done}/{total}")

    return Hooks(unit=unit, step=step, phase=phase, note=lambda text: note(f"  {text}"))


def _duration(seconds: float) -> str:
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{s:02}" if hours else f"{minutes}:{s:02}"
