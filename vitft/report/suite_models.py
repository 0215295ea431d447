"""A suite for several models: one row a model, its best marked by paired tests, published rows below."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vitft.catalog.published import UNRELEASED
from vitft.report import measured
from vitft.report.layout import REAL
from vitft.report.suite_table import PublishedRow, folded, part_lines, published_cells, suite_columns
from vitft.report.summary import summarise
from vitft.results.schema import Measured as Result
from vitft.results.summary import Cell, Summary, SummaryRow
from vitft.suites.suite import Column, Suite


def models(
    suite: Suite,
    results: Mapping[str, Mapping[str, Mapping[Path, Result]]],
    why: Mapping[str, str],
    keys: Sequence[str],
    published: Sequence[PublishedRow] = (),
) -> Summary:
    """Return the table of a suite with a row a model.

    Args:
        results: model -> column -> folder -> result.
        why: column -> why none of them has a number there.
        keys: the columns to show, besides those with a result.
        published: rows below.

    Raises:
        DataDamaged: a file of predictions is (exit code 3).
    """
    numbers = [
        one
        for model, of_columns in results.items()
        for column in suite.columns
        for place, result in of_columns.get(column.key, {}).items()
        for one in _of_column(model, column, result, place)
    ]
    columns = suite_columns(suite, {*keys, *(one.column for one in numbers)})
    made = summarise(numbers, columns, missing=why)
    of_model = [[one for one in numbers if dict(one.row)["model"] == model] for model in results]
    own = [_with_notes(suite, row, of) for row, of in zip(made.rows, filter(None, of_model), strict=True)]
    rows = [_published(suite, row, {c.key for c in columns}) for row in published]
    notes = (*made.notes, *part_lines(suite))
    return made.model_copy(
        update={
            "title": f"{suite.title}: top-1 in percent",
            "rows": (*own, *(row for row in rows if row.cells)),
            "notes": notes,
        }
    )


def _of_column(model: str, column: Column, result: Result, place: Path) -> Iterator[measured.Measured]:
    """Yield what a result says of one column, as a number of the model's row."""
    for one in measured.of_any(result, place):
        fits = (one.column == REAL) == column.real
        if column.run == "fewshot":
            fits = one.what.examples == f"{column.per_class} a class"
        if fits:
            yield replace(one, column=column.key, row=(("model", model),), file=str(place))


def _with_notes(suite: Suite, row: SummaryRow, numbers: Sequence[measured.Measured]) -> SummaryRow:
    """Return a row with the notes of columns that are not shown moved to their group's mean."""
    by_column: dict[str, list[str]] = {}
    for one in numbers:
        by_column.setdefault(one.column, []).extend(one.notes)
    notes = folded(suite, {key: tuple(dict.fromkeys(lines)) for key, lines in by_column.items()})
    hidden = {group.name for group in suite.group_list if not group.columns_shown}
    cells = {
        key: cell.model_copy(update={"notes": tuple(notes[key])}) if key in hidden and key in notes else cell
        for key, cell in row.cells.items()
    }
    return row.model_copy(update={"cells": cells})


def _published(suite: Suite, row: PublishedRow, shown: set[str]) -> SummaryRow:
    cells = {key: Cell(value=round(v, 8)) for key, v in published_cells(suite, row).items() if key in shown}
    differs = dict.fromkeys(text for one in row.rows for text in one.differs)
    return SummaryRow(
        label=row.title,
        kind="published",
        cells=cells,
        differs=tuple(text for text in differs if text != UNRELEASED),
        source="; ".join(dict.fromkeys(f"{one.source}; {one.protocol_text}" for one in row.rows)),
        reproducible=UNRELEASED not in differs,
    )
