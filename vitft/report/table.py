"""A table of results, before it becomes text, markdown, CSV, LaTeX or JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Value = str | int | float | tuple[float, float] | None

Sign = Literal["best", "tie"]

HOLE = "—"
"""What stands where a number should be and is not."""


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        key: name in CSV and JSON, e.g. "cifar100".
        title: head in text, markdown and LaTeX.
        kind: "percent" is held as a share in [0, 1] (float) and shown with one decimal; "interval" is a pair of
            shares; an int is a count in any column and shown with thousands separators. "prose" is text that a narrow
            terminal breaks at words; "path" is never broken: where it does not fit it stands on a line of its own.
        block: heading over neighbouring columns of the same block, which text never tears apart where they fit.
    """

    key: str
    title: str
    kind: Literal["text", "percent", "count", "interval", "prose", "path"] = "text"
    block: str = ""


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        cells: column key -> value; None and absent keys are holes. A str is shown as it stands in any column.
        kind: "result" was measured here, "published" by others, "detail" belongs to the row above it.
        marks: column key -> numbers (from 1) of the footnotes that belong to that cell.
        signs: column key -> "best" (separated by a test from all other rows) or "tie" (not separated from the highest).
    """

    cells: Mapping[str, Value]
    kind: Literal["result", "published", "detail"] = "result"
    marks: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    signs: Mapping[str, Sign] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """Columns, rows, footnotes and notes.

    Attributes:
        caption: what was measured, with which model and recipe.
        columns: the first one holds the rows' labels.
        footnotes: numbered from 1, as the marks of the rows have it.
        notes: what holds for the whole table, unnumbered.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    footnotes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Footnotes:
    """Numbers footnotes in the order of their first use; the same words get the same number."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, texts: Sequence[str]) -> tuple[int, ...]:
        """Return the numbers of these footnotes, adding the ones not yet there."""
        numbers = []
        for text in texts:
            if text not in self.texts:
                self.texts.append(text)
            numbers.append(self.texts.index(text) + 1)
        return tuple(numbers)


def span(interval: tuple[float, float] | None) -> str:
    """Return an interval of shares in percent by both its ends, as everywhere; "" where there is none."""
    return "" if interval is None else f"[{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def ends(label: str, over: str, intervals: Mapping[str, tuple[float, float] | None]) -> list[Row]:
    """Return intervals as two rows below a result, where columns are too narrow for both ends side by side.

    Args:
        label: key of the column of labels.
        over: what the intervals are over, e.g. "3 seeds"; "" = the images.
        intervals: column key -> interval.
    """
    known = {key: of for key, of in intervals.items() if of is not None}
    if not known:
        return []
    low: dict[str, Value] = {key: max(0.0, of[0]) for key, of in known.items()}
    high: dict[str, Value] = {key: min(1.0, of[1]) for key, of in known.items()}
    title = f"95 % low (over {over})" if over else "95 % low"
    return [Row({label: title, **low}, "detail"), Row({label: "95 % high", **high}, "detail")]


_SIGNS = {"best": "*", "tie": "≈"}


def signed(row: Row, column: Column) -> str:
    """Return a cell as text, without marks, with what the tests found of it."""
    sign = row.signs.get(column.key)
    return shown(row.cells.get(column.key), column) + (_SIGNS[sign] if sign else "")


def shown(value: Value, column: Column) -> str:
    """Return a cell as text, without marks: percentages with one decimal, "" for a hole."""
    if value is None:
        return ""
    if isinstance(value, tuple):
        return span(value)
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    return f"{100 * value:.1f}" if column.kind == "percent" else f"{value:g}"
