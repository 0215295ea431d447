"""Where vitft prints: results on stdout, everything else on stderr."""

import json
import math
import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from vitft import words
from vitft.errors import VitftError
from vitft.progress import Hooks, StepReport
from vitft.report.letters import visible

if TYPE_CHECKING:
    from vitft.report.table import Table

_UNCUT = 10_000


class _Console(Console):
    """A console that prints text as it is: brackets and colons mean nothing, and control characters of foreign names
    are visible signs."""

    def __init__(self, **how: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **how)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))

    def on_broken_pipe(self) -> None:
        """Leave a closed pipe to the command line; rich would end the program with 1."""
        raise


def stdout() -> Console:
    """Return a console for results; as wide as the terminal, or 100 columns in a pipe."""
    return _Console(width=None if sys.stdout.isatty() else 100)


def stderr() -> Console:
    """Return a console for messages."""
    return _Console(stderr=True)


def emit(payload: Any, renderable: RenderableType, fmt: str = "text") -> None:
    """Print a result: JSON alone for "json", else the rich renderable (a plain string is printed as it is)."""
    if fmt == "json":
        write(json.dumps(payload, indent=1, allow_nan=False) + "\n")
    elif isinstance(renderable, str):
        write((renderable if fmt == "csv" else visible(renderable)).rstrip("\n") + "\n")
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
    """Discard what streams still hold: Python would try to write it at its end, and complain."""
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

    if fmt == "text":
        text = formats.text(table, width(listing=listing))
    else:
        text = "" if fmt == "json" else formats.FORMATS[fmt](table)
    emit(payload, text, fmt)


def width(*, listing: bool = False) -> int:
    """Return how many columns a table may have; one whose rows are lines has all it needs where no terminal is."""
    return _UNCUT if listing and not sys.stdout.isatty() else stdout().width


def folded(text: str, columns: int | None = None) -> str:
    """Return lines broken at words to a width, by default stdout's; in a pipe they stay as they are."""
    columns = columns or width(listing=True)
    return "\n".join(
        textwrap.fill(line, max(20, columns), subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        for line in text.split("\n")
    )


def note(text: str, *, uncut: bool = False) -> None:
    """Print one line to stderr, on a terminal broken at words; `uncut`: it holds a command to be copied."""
    console = stderr()
    if console.is_terminal and not uncut:
        text = folded(text, console.width)
    console.print(text, soft_wrap=True)


@contextmanager
def display(quiet: bool = False) -> Iterator[Hooks]:
    """Show progress: bars on a terminal, plain lines in a pipe. Signals are left to the caller.

    Args:
        quiet: show no progress, only what the user should know.
    """
    if quiet:
        yield Hooks(note=_noted)
    elif stderr().is_terminal:
        from vitft.cli.bars import bars

        with bars(stderr()) as hooks:
            yield hooks
    else:
        yield lines()


def _noted(text: str) -> None:
    note(f"  {text}")


_FIRST_S, _EVERY_S = 5.0, 60.0
"""In a pipe: of each kind of work a line after so long, then one every so long."""


def lines(clock: Callable[[], float] = time.monotonic) -> Hooks:
    """Return callbacks that write plain lines: a title a unit, and of each kind of work a line a minute."""
    due_at: dict[str, float] = {}
    began: dict[str, tuple[float, int]] = {}

    def due(kind: str) -> bool:
        at = due_at.setdefault(kind, clock() + _FIRST_S)
        if clock() < at:
            return False
        due_at[kind] = clock() + _EVERY_S
        return True

    def unit(title: str, done: int, total: int) -> None:
        began.clear()
        note(f"[{done + 1}/{total}] {title}" if total > 1 else title)

    def step(r: StepReport) -> None:
        if due("step"):
            inside = f" (and {100 * r.part:.0f} % of the next)" if r.part else ""
            loss = "" if math.isnan(r.loss) else f"  loss {r.loss:.4f}"
            note(
                f"  step {r.step}/{r.steps}{inside}{loss}  lr {r.lr:.2g}  {r.images_per_s:.3g} images/s  "
                f"ETA {words.clock(r.seconds_left)}"
            )

    def phase(what: str, done: int, total: int) -> None:
        since, first = began.setdefault(what, (clock(), done))
        if due(what.split()[0]) and done < total:
            rate = (done - first) / max(1e-9, clock() - since)
            left = f"  {rate:.3g}/s  ETA {words.clock((total - done) / rate)}" if rate > 0 else ""
            note(f"  {what} {done}/{total}{left}")

    return Hooks(unit=unit, step=step, phase=phase, note=_noted)
