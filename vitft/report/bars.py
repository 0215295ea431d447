"""The numbers of a summary as bars for a terminal: task after task, with their intervals. No colour is needed."""

from vitft.report import summary_table
from vitft.report.table import span
from vitft.report.text import folded
from vitft.results.summary import Cell, Summary

_SHORTEST, _NUMBER = 14, 20
"""Columns of a bar and of its number; where labels leave less room, they stand above the bars."""
_SIGNS = {"best": "*", "tie": "≈", "": ""}


def bars(summary: Summary, width: int = 80) -> str:
    """Return each column's numbers as bars from 0 to 100 %, at most `width` columns wide."""
    rows = [row for row in summary.rows if row.kind != "difference"]
    longest = max((len(row.label) for row in rows), default=0)
    beside = longest if longest <= width - _SHORTEST - _NUMBER - 6 else 0
    drawn = summary_table.table(summary, details=False)
    lines = folded(drawn.caption, width)
    for column in summary.columns:
        cells = [(row.label, cell) for row in rows if (cell := row.cells.get(column.key)) and cell.value is not None]
        if not cells:
            continue
        counts = {cell.n for _, cell in cells if cell.n} if not column.of else set()
        head = f"{column.group}: {column.title}" if column.group else column.title
        lines += ["", f"{head}, n {counts.pop():,}" if len(counts) == 1 else head]
        for label, cell in cells:
            lines += [] if beside else folded(f"  {label}", width, "    ")
            lines.append(_line(label if beside else "", cell, beside, width, with_n=len(counts) > 1))
    lines += [
        "",
        *folded("█ up to the lower end of the 95 % interval, ▒ the interval; without one █ is the number.", width),
    ]
    lines += [line for note in drawn.notes for line in folded(note, width, "  ")]
    return "\n".join(lines) + "\n"


def _line(label: str, cell: Cell, beside: int, width: int, *, with_n: bool) -> str:
    """Return one bar with its number, its interval and, where the rows of a column differ in it, n."""
    assert cell.value is not None
    number = f"{100 * cell.value:.1f}{_SIGNS[cell.mark]}"
    after = " ".join(
        filter(None, [f"{number:<6}", span(cell.ci95), f"n {cell.n:,}" if with_n and cell.n else ""])
    ).rstrip()
    room = max(_SHORTEST, width - 2 - beside - 2 * bool(beside) - 2 - max(len(after), _NUMBER))
    low, high = cell.ci95 or (cell.value, cell.value)
    full, end = (round(room * min(1.0, max(0.0, share))) for share in (low, high))
    bar = "█" * full + "▒" * max(end - full, int(cell.ci95 is not None and full < room))
    return f"  {label:<{beside}}{'  ' * bool(beside)}{bar:<{room}}  {after}"
