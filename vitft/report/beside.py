"""Published rows for a table of many results, with what differs from the rows measured here."""

from collections.abc import Sequence

from vitft.catalog import published
from vitft.catalog.published import UNRELEASED, Published
from vitft.catalog.tasks import GROUPS, VTAB, group
from vitft.data import official
from vitft.errors import UnknownName, UsageError
from vitft.results.summary import Cell, Described, Summary, SummaryColumn, SummaryRow

_ALIASES = {"vtab-2019": "vtab-resnet"}
_SHOWN = 2


def rows(names: Sequence[str]) -> tuple[Published, ...]:
    """Return the published rows of some groups, by their names. Raises UnknownName (exit code 2)."""
    legal = tuple(dict.fromkeys((*_ALIASES, *published.groups())))
    for name in names:
        if name not in legal:
            raise UnknownName("group of published numbers", name, legal)
    tags = dict.fromkeys(_ALIASES.get(name, name) for name in names)
    return tuple(row for tag in tags for row in published.in_group(tag))


def add(summary: Summary, extra: Sequence[Published]) -> Summary:
    """Return a table with published rows below its own, of those numbers that its columns have.

    A number is shown where a row measured here has that task with as many training examples (1,000, or all of them; a
    network as it is has none); VTAB's means only in a column of the same tasks.

    Raises:
        UsageError: none of them has a number for these columns (exit code 2).
    """
    own = [row for row in summary.rows if row.kind == "result"]
    made = [row for row in (_row(one, summary.columns, own) for one in extra) if row.cells]
    if not made:
        raise UsageError(
            "None of the published rows has a number for these tasks with these training examples.",
            fact=f"Tasks here: {', '.join(c.key for c in summary.columns if not c.of)}.",
            action=f"Other groups: {', '.join(published.groups())}.",
        )
    return summary.model_copy(update={"rows": (*summary.rows, *made)})


PAPER = ("vit-paper",)
"""The groups whose points stand behind one's own where accuracy is drawn against operations."""


def behind(summary: Summary) -> list[SummaryRow]:
    """Return the paper's rows that have numbers for a table's columns, then those that it shows already."""
    own = [row for row in summary.rows if row.kind == "result"]
    shown = [row for row in summary.rows if row.kind == "published"]
    paper = [_row(one, summary.columns, own) for one in rows(PAPER)]
    return [*(row for row in paper if row.cells and row not in shown), *shown]


def _row(one: Published, columns: Sequence[SummaryColumn], measured: Sequence[SummaryRow]) -> SummaryRow:
    wanted = {"1,000"} if one.shots else {"all", ""}
    cells = {}
    for column in columns:
        keys = column.tasks or (column.key,)
        here = [row for row in measured if all(_has(row, key, wanted) for key in keys)]
        value = _value(one, column)
        if value is not None and here:
            cells[column.key] = Cell(value=round(value / 100, 6))
    what = Described(
        model=one.model,
        pretraining=one.pretraining,
        method=one.method,
        resolutions=((one.resolution, one.resolution),) if one.resolution else (),
        examples=f"{one.shots:,}" if one.shots else "all" if one.recipes != ("",) else "",
        selected=one.selected or "not said",
    )
    return SummaryRow(
        label=one.title,
        kind="published",
        what=what,
        cells=cells,
        differs=_differs(one, measured, set(cells)),
        source=f"{one.source}; {one.protocol_text}",
        reproducible=UNRELEASED not in one.differs,
    )


def _has(row: SummaryRow, key: str, examples: set[str]) -> bool:
    cell = row.cells.get(key)
    return cell is not None and cell.value is not None and cell.examples in examples


def _value(one: Published, column: SummaryColumn) -> float | None:
    """Return a published percentage; a mean only where it is over the very tasks of the column."""
    if not column.of:
        return one.tasks.get(column.key)
    vtab = tuple(task.name for task in VTAB)
    if len(column.of) > 1:
        return one.mean_of_groups if set(column.tasks) == set(vtab) else None
    if set(column.tasks) == set(vtab):
        return one.mean_of_tasks
    same = (name for name in GROUPS if set(column.tasks) == {task.name for task in group(name)})
    return one.groups.get(next(same, ""))


def _differs(one: Published, measured: Sequence[SummaryRow], keys: set[str]) -> tuple[str, ...]:
    """Return in what a published row differs from every row measured here, then its own known differences."""
    near = [row for row in measured if any(row.cells[k].value is not None for k in keys if k in row.cells)]
    differences = []
    if one.weights and not any(row.what.timm_name in one.weights for row in near):
        differences.append("other weights")
    if not any(row.what.recipe in one.recipes for row in near):
        differences.append("another recipe")
    if not any(row.what.method in (one.method, "as it is") for row in near):
        differences.append(f"method {one.method}")
    side = one.resolution
    if side and not any((side, side) in row.what.resolutions for row in near):
        differences.append(f"{side} px")
    differences += _parts(near, keys)
    return (*differences, *(text for text in one.differs if text != UNRELEASED))


def _parts(near: Sequence[SummaryRow], keys: set[str]) -> list[str]:
    """Note columns evaluated here on fewer test images than the official ones, of which a published number is."""
    differences = []
    for key in sorted(keys):
        whole = official.counts(key, "test")
        here = {n for row in near if (n := row.cells[key].n) is not None}
        if whole and not here & {*whole}:
            differences.append(f"all {whole[0]:,} test images of {key}, not {min(here):,}")
    more = [f"and of {len(differences) - _SHOWN} more tasks"] if len(differences) > _SHOWN else []
    return [*differences[:_SHOWN], *more]
