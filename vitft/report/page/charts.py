"""Positions of a chart's marks for the template to draw, in the units of its view box."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vitft.catalog.compute import of_paper
from vitft.results.summary import Summary, SummaryColumn, SummaryRow

WIDTH, HEIGHT = 360.0, 200.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 10.0, 10.0, 30.0
_POINTS = 120
"""Points of a learning curve; a longer one is averaged into as many."""


@dataclass(frozen=True)
class Bar:
    """One number of a task: shares in percent of the width."""

    label: str
    value: float
    low: float | None
    high: float | None
    mark: str


@dataclass(frozen=True)
class Bars:
    """One task's numbers."""

    title: str
    group: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Known:
    """A row's accuracy in [0, 1] and the operations that it took."""

    label: str
    flops: float
    value: float
    source: str = ""


@dataclass(frozen=True)
class Spent:
    """Accuracy against operations: the rows of a table, and published ones behind them by their pretraining data."""

    title: str
    own: tuple[Known, ...]
    behind: tuple[tuple[str, tuple[Known, ...]], ...] = ()


@dataclass(frozen=True)
class Tick:
    """A number beside an axis, and where."""

    at: float
    text: str


@dataclass(frozen=True)
class Point:
    """A mark and the number beside it, "" for none; `known` is what it stands for."""

    x: float
    y: float
    number: str = ""
    known: Known | None = None


@dataclass(frozen=True)
class Series:
    """Published points of one kind; `mark` is the word of its shape."""

    name: str
    mark: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Chart:
    """A chart with two axes: numbered points with others behind them, or one line."""

    points: tuple[Point, ...]
    line: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    behind: tuple[Series, ...] = ()
    title: str = ""
    width: float = WIDTH
    height: float = HEIGHT
    left: float = _LEFT
    bottom: float = HEIGHT - _BOTTOM


def bars(summary: Summary) -> list[Bars]:
    """Return each task's and each mean's numbers with their intervals, in the order of the table."""
    out = []
    for column in summary.columns:
        own = [
            Bar(
                row.label,
                100 * cell.value,
                100 * cell.ci95[0] if cell.ci95 else None,
                100 * cell.ci95[1] if cell.ci95 else None,
                cell.mark,
            )
            for row in summary.rows
            if row.kind != "difference" and (cell := row.cells.get(column.key)) is not None and cell.value is not None
        ]
        if own:
            out.append(Bars(column.title, column.group, tuple(own)))
    return out


def training(summary: Summary) -> Spent | None:
    """Return accuracy against training FLOPs; None where fewer than two rows have the same tasks and know them.

    The accuracy is that of the last mean over all tasks of two rows, else of their one task: a row's FLOPs are those of
    all its tasks. The paper's own axis is another: core-days of pretraining, which no result of a fine-tune holds.
    """
    means, rest = ([c for c in summary.columns if bool(c.of) == mean] for mean in (True, False))
    tasks = {c.key for c in rest}
    for column in (*reversed(means), *reversed(rest)):
        known = []
        for row in summary.rows:
            cell, has = (
                row.cells.get(column.key),
                {k for k, c in row.cells.items() if c.value is not None and k in tasks},
            )
            if row.flops and cell is not None and cell.value is not None and has == {*(column.tasks or (column.key,))}:
                known.append(Known(row.label, row.flops, cell.value))
        if len(known) > 1:
            return Spent(_named(column), tuple(known))
    return None


def _named(column: SummaryColumn) -> str:
    return f"{column.group}: {column.title}" if column.group else column.title


def an_image(summary: Summary, published: Sequence[SummaryRow]) -> list[tuple[str, Spent]]:
    """Return accuracy against FLOPs of one image, by column, for each that published plain ViTs have a number for.

    Published networks are counted by a closed form from what they are called (`catalog.compute`); what is no plain
    ViT, or was evaluated at a size that its source does not tell, has no point.
    """
    out = []
    for column in summary.columns:
        own = tuple(
            Known(row.label, 2 * cell.macs_per_image, cell.value)
            for row in summary.rows
            if row.kind == "result"
            and (cell := row.cells.get(column.key)) is not None
            and cell.value is not None
            and cell.macs_per_image
        )
        kinds: dict[str, dict[Known, None]] = {}
        for row in published:
            side = row.what.resolutions[0][0] if row.what.resolutions else 0
            macs, theirs = of_paper(row.what.model, side), row.cells.get(column.key)
            if macs is not None and theirs is not None and theirs.value is not None:
                known = Known(f"{row.what.model}, {side} px", 2 * macs, theirs.value, row.source.partition(";")[0])
                kinds.setdefault(row.what.pretraining, {})[known] = None
        if own and kinds:
            behind = tuple((kind, tuple(sorted(of, key=lambda k: k.flops))) for kind, of in kinds.items())
            out.append((column.key, Spent(_named(column), own, behind)))
    return out


_SHAPES = ("circle", "square", "triangle", "diamond")


def against(spent: Spent) -> Chart:
    """Place accuracy against operations, the latter on a logarithmic axis."""
    every = [*spent.own, *(known for _, own in spent.behind for known in own)]
    frame = _Frame([math.log10(one.flops) for one in every], [100 * one.value for one in every])

    def point(one: Known, number: str = "") -> Point:
        return Point(*frame.place(math.log10(one.flops), 100 * one.value), number, one)

    behind = tuple(
        Series(name, _SHAPES[i % len(_SHAPES)], tuple(map(point, own))) for i, (name, own) in enumerate(spent.behind)
    )
    points = tuple(point(one, str(i)) for i, one in enumerate(spent.own, 1))
    x_ticks = tuple(Tick(frame.place(x, frame.y_low)[0], short(10**x)) for x in powers(frame.x_low, frame.x_high))
    return Chart(points, "", x_ticks, frame.y_ticks(), behind, spent.title)


@dataclass(frozen=True)
class Learning:
    """A fit by updates: (update, loss), averaged into few points, and (update, accuracy on val in percent)."""

    losses: tuple[tuple[float, float], ...] = ()
    looks: tuple[tuple[float, float], ...] = ()


def learning(file: Path) -> Learning:
    """Read metrics.jsonl; what has one update, or is damaged before its last line, teaches nothing."""
    try:
        text = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return Learning()
    for lines in (text, text[:-1]):  # the last one may be being written
        try:
            found = json.loads(f"[{','.join(lines)}]")  # one call: a page reads a million lines
            rows = [(float(line["step"]), float(line["loss"])) for line in found]
            looks = [(float(line["step"]), 100 * float(line["val_top1"])) for line in found if "val_top1" in line]
            break
        except (ValueError, KeyError, TypeError):
            continue
    else:
        return Learning()
    rows = [(step, loss) for step, loss in rows if math.isfinite(loss)]
    chunk = -(-len(rows) // _POINTS) or 1
    parts = [rows[i : i + chunk] for i in range(0, len(rows), chunk)]
    means = tuple((sum(s for s, _ in p) / len(p), sum(v for _, v in p) / len(p)) for p in parts)
    return Learning(means if len(means) > 1 else (), tuple(looks) if len(looks) > 1 else ())


def curve(rows: Sequence[tuple[float, float]]) -> Chart | None:
    """Place a learning curve as a line, from 0 on; None where there is none."""
    if not rows:
        return None
    frame = _Frame([x for x, _ in rows], [0.0, *(y for _, y in rows)])
    line = " ".join("{},{}".format(*frame.place(x, y)) for x, y in rows)
    x_ticks = tuple(
        Tick(frame.place(x, frame.y_low)[0], f"{x:g}")
        for x in _ticks(frame.x_low, frame.x_high, 4)
        if x == round(x)  # there is no half update
    )
    return Chart((), line, x_ticks, frame.y_ticks())


def short(count: float, digits: int = 2) -> str:
    """Write a large number in so many digits: 2e12, 1.9e12."""
    number, _, power = f"{count:.{digits - 1}e}".partition("e")
    return f"{number.rstrip('0').rstrip('.') if digits == 2 else number}e{int(power)}"


class _Frame:
    """The ranges of both axes, and where a point of them lies."""

    def __init__(self, xs: Sequence[float], ys: Sequence[float]) -> None:
        self.x_low, self.x_high = _span(xs)
        self.y_low, self.y_high = _span(ys)

    def place(self, x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (x - self.x_low) / (self.x_high - self.x_low) * (WIDTH - _LEFT - _RIGHT)
        down = HEIGHT - _BOTTOM - (y - self.y_low) / (self.y_high - self.y_low) * (HEIGHT - _TOP - _BOTTOM)
        return round(across, 1), round(down, 1)

    def y_ticks(self) -> tuple[Tick, ...]:
        return tuple(Tick(self.place(self.x_low, y)[1], f"{y:g}") for y in _ticks(self.y_low, self.y_high, 5))


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = 0.05 * (high - low) or max(0.5, 0.05 * abs(high))
    return low - room * (low != 0), high + room


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Return round numbers between two ends."""
    rough = (high - low) / most
    base = 10.0 ** math.floor(math.log10(rough))
    step = next(base * k for k in (1, 2, 5, 10) if base * k >= rough)
    first = math.ceil(low / step)
    return [round(k * step, 10) for k in range(first, math.floor(high / step) + 1)]


def powers(low: float, high: float) -> list[float]:
    """Return logarithms of round numbers between two: powers of ten, or as many between them as are needed."""
    found: list[float] = []
    for steps in ((1.0,), (1.0, 2.0, 5.0), tuple(1 + k / 2 for k in range(18)), tuple(1 + k / 10 for k in range(90))):
        found = [math.log10(m) + k for k in range(math.floor(low), math.ceil(high) + 1) for m in steps]
        found = [x for x in found if low <= x <= high]
        if len(found) > 2:
            break
    return found[:: -(-len(found) // 7)]
