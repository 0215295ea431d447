"""Where vitft prints: results on stdout, everything else on stderr."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType

from vitft.progress import Hooks, StepReport

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

FORMATS = ("text", "json")


def stdout() -> Console:
    """Return a console for results; as wide as the terminal, or 100 columns in a pipe."""
    return Console(width=None if sys.stdout.isatty() else 100, highlight=False)


def stderr() -> Console:
    """Return a console for messages."""
    return Console(stderr=True, highlight=False)


def emit(payload: Any, renderable: RenderableType, fmt: str = "text") -> None:
    """Print a result: JSON alone for "json", else the rich renderable (a plain string is printed as it is)."""
    if fmt == "json":
        sys.stdout.write(json.dumps(payload, indent=1, allow_nan=False) + "\n")
        sys.stdout.flush()
    elif isinstance(renderable, str):
        sys.stdout.write(renderable.rstrip("\n") + "\n")
    else:
        stdout().print(renderable)


def note(text: str) -> None:
    """Print one line to stderr."""
    stderr().print(text, markup=False, soft_wrap=True)


@contextmanager
def display() -> Iterator[Hooks]:
    """Show what long work does: bars on a terminal, plain lines in a pipe. Signals are the caller's affair."""
    if stderr().is_terminal:
        with _bars() as hooks:
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


@contextmanager
def _bars() -> Iterator[Hooks]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[info]}"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=stderr(),
        transient=True,
    )
    with progress:
        yield _bar_hooks(progress)


def _bar_hooks(progress: "Progress") -> Hooks:
    tasks: dict[str, TaskID] = {}

    def bar(name: str, description: str, done: int, total: int, info: str = "") -> None:
        if name not in tasks:
            tasks[name] = progress.add_task(description, total=total, info=info)
        progress.update(tasks[name], description=description, completed=done, total=total, info=info)

    def drop(*names: str) -> None:
        for name in names:
            if name in tasks:
                progress.remove_task(tasks.pop(name))

    def unit(title: str, done: int, total: int) -> None:
        drop("step", "phase")
        bar("unit", title, done, total)

    def step(r: StepReport) -> None:
        drop("phase")
        bar("step", "  train", r.step, r.steps, f"loss {r.loss:.4f}  lr {r.lr:.2g}  {r.images_per_s:.1f} img/s")

    def phase(what: str, done: int, total: int) -> None:
        bar("phase", f"  {what}", done, total)
        if done >= total:
            drop("phase")

    return Hooks(unit=unit, step=step, phase=phase, note=lambda text: progress.console.print(f"  {text}", markup=False))


def _duration(seconds: float) -> str:
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{s:02}" if hours else f"{minutes}:{s:02}"
