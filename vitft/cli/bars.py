"""Progress bars that stay readable in a narrow terminal: numbers are whole, what matters least goes first."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress import Progress, ProgressColumn, Task, TaskID
from rich.text import Text

from vitft.progress import Hooks, StepReport
from vitft.words import clock

_LONGEST, _SHORTEST = 24, 6
_READABLE = 30
"""Columns of a title that a bar does not take from it."""


@contextmanager
def bars(console: Console) -> Iterator[Hooks]:
    """Show a bar for the units and one for the current phase while the block runs."""
    with Progress(_Line(), console=console, transient=True) as progress:
        yield hooks(progress)


def hooks(progress: Progress) -> Hooks:
    """Return the callbacks that move the bars."""
    tasks: dict[str, TaskID] = {}

    def bar(name: str, description: str, done: float, total: int, **fields: Any) -> None:
        if name not in tasks:
            tasks[name] = progress.add_task(description, total=total, completed=int(done), **fields)
        progress.update(tasks[name], description=description, completed=done, total=total, **fields)

    def drop(*names: str) -> None:
        for name in names:
            if name in tasks:
                progress.remove_task(tasks.pop(name))

    def unit(title: str, done: int, total: int) -> None:
        drop("step", "phase")
        bar("unit", title, done, total)

    def step(r: StepReport) -> None:
        drop("phase")
        bar("step", "  train", r.step + r.part, r.steps, report=r)

    def phase(what: str, done: int, total: int) -> None:
        bar("phase", f"  {what}", done, total)
        if done >= total:
            drop("phase")

    return Hooks(unit=unit, step=step, phase=phase, note=lambda text: progress.console.print(f"  {text}"))


def line(task: Task, width: int, stroke: str = "━") -> Text:
    """Return one bar in at most `width` columns.

    What does not fit goes in this order: the bar's length, the learning rate, the time passed, the middle of the
    title, and the bar only where the title would not be readable.
    """
    report = task.fields.get("report")
    whole = f"{int(task.total or 0)}"
    count = f"{int(task.completed):>{len(whole)}}/{whole}"
    remaining = task.time_remaining
    if remaining is None and report is not None:  # an update that takes minutes
        remaining = report.seconds_left
    spent, left = clock(task.elapsed), f"ETA {clock(remaining)}"
    pieces = [count, spent, left]
    if report is not None:
        loss = "loss -" if math.isnan(report.loss) else f"loss {report.loss:.4f}"
        speed = f"{report.images_per_s:.1f} img/s" if report.images_per_s >= 10 else f"{report.images_per_s:.2g} img/s"
        pieces = [count, loss, f"lr {report.lr:.2g}", speed, spent, left]
    title = task.description
    for lesser in ("lr ", spent):
        if len("  ".join([title, *pieces])) + _SHORTEST + 2 > width:
            pieces = [piece for piece in pieces if not piece.startswith(lesser)]
    after = "  ".join(pieces)
    room = width - len(after) - 4
    if room - min(len(title), _READABLE) < _SHORTEST:
        return Text(f"{_cut(title, width - len(after) - 2)}  {after}", no_wrap=True)
    title = _cut(title, room - _SHORTEST)
    long = min(room - len(title), _LONGEST)
    full = round(long * min(1.0, task.completed / task.total)) if task.total else 0
    drawn = Text.assemble((stroke * full, "bar.complete"), (stroke * (long - full), "bar.back"))
    return Text("  ", no_wrap=True).join([Text(title), drawn, Text(after)])


class _Line(ProgressColumn):
    """All of a task's columns in one, as only the whole line knows what fits."""

    def render(self, task: Task) -> "_Fitting":
        return _Fitting(task)


class _Fitting:
    def __init__(self, task: Task) -> None:
        self.task = task

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield line(self.task, options.max_width, "-" if options.ascii_only else "━")


def _cut(title: str, width: int) -> str:
    """Shorten in the middle: a unit's title begins with its task and ends with the time that the suite needs."""
    if len(title) <= width:
        return title
    end = max(0, width - 1) // 2
    return title[: max(0, width - 1 - end)] + "…" + title[len(title) - end :]
