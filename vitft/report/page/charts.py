"""Where the marks of a chart lie, for the template to draw: plain numbers in the units of its view box."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vitft.results.summary import Summary

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
class Tick:
    """A number beside an axis, and where."""

    at: float
    text: str


@dataclass(frozen=True)
class Point:
    x: float
    y: float
    label: str


@dataclass(frozen=True)
class Chart:
    """A chart with two axes: points, or one line."""

    points: tuple[Point, ...]
    line: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
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


def by_compute(summary: Summary) -> Chart | None:
    """Return `compute` as a chart with a logarithmic axis."""
    found = compute(summary)
    if found is None:
        return None
    return _chart([(math.log10(flops), 100 * value, label) for flops, value, label in found[1]], logarithmic=True)


def compute(summary: Summary) -> tuple[str, list[tuple[float, float, str]]] | None:
    """Return (training FLOPs, accuracy in [0, 1], row) and whose accuracy it is; None where fewer than two rows know.

    It is that of the last mean that two rows have, else of the last task.
    """
    means, rest = ([c for c in summary.columns if bool(c.of) == mean] for mean in (True, False))
    for column in (*reversed(means), *reversed(rest)):
        known = [
            (row.flops, value, row.label)
            for row in summary.rows
            if row.flops and column.key in row.cells and (value := row.cells[column.key].value) is not None
        ]
        if len(known) > 1:
            return column.title, known
    return None


def losses(file: Path) -> list[tuple[float, float]]:
    """Return (update, loss) of metrics.jsonl, averaged into few points; none for one update or a damaged file."""
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        rows = [(float(line["step"]), float(line["loss"])) for line in lines]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    rows = [(step, loss) for step, loss in rows if math.isfinite(loss)]
    if len(rows) < 2:
        return []
    chunk = -(-len(rows) // _POINTS)
    parts = [rows[i : i + chunk] for i in range(0, len(rows), chunk)]
    return [(sum(s for s, _ in p) / len(p), sum(v for _, v in p) / len(p)) for p in parts]


def curve(file: Path) -> Chart | None:
    """Return the loss of metrics.jsonl by update; None where `losses` finds none."""
    rows = [(step, loss, "") for step, loss in losses(file)]
    return _chart(rows, joined=True) if rows else None


def _chart(rows: Sequence[tuple[float, float, str]], *, logarithmic: bool = False, joined: bool = False) -> Chart:
    xs, ys = [row[0] for row in rows], [row[1] for row in rows]
    x_low, x_high = _span(xs)
    y_low, y_high = _span([*ys, *([0.0] if joined else [])])

    def place(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - _LEFT - _RIGHT)
        down = HEIGHT - _BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - _TOP - _BOTTOM)
        return round(across, 1), round(down, 1)

    points = [Point(*place(x, y), label) for x, y, label in rows]
    x_ticks = tuple(
        Tick(place(x, y_low)[0], f"{10**x:.0e}".replace("e+", "e").replace("e0", "e") if logarithmic else f"{x:g}")
        for x in (_powers(x_low, x_high) if logarithmic else _ticks(x_low, x_high, 4))
    )
    y_ticks = tuple(Tick(place(x_low, y)[1], f"{y:g}") for y in _ticks(y_low, y_high, 5))
    line = " ".join(f"{p.x},{p.y}" for p in points) if joined else ""
    return Chart(() if joined else tuple(points), line, x_ticks, y_ticks)


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


def _powers(low: float, high: float) -> list[float]:
    """Return logarithms of round numbers between two: 1, 2 and 5 of each power of ten, or powers alone."""
    steps = (1, 2, 5) if high - low < 2 else (1,)
    found = [math.log10(m) + k for k in range(math.floor(low), math.ceil(high) + 1) for m in steps]
    return [x for x in found if low <= x <= high]
