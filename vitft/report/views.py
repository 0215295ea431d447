"""Ready views of many results: which rows a question needs, in which order, and which differences answer it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vitft.errors import UsageError
from vitft.evaluation.contrasts import contrast, over_tasks
from vitft.report.lines import Line
from vitft.report.marks import Marks
from vitft.results.summary import Cell, SummaryColumn, SummaryRow, View

SCRATCH = "none"
"""The pretraining data of a network from random weights."""

_ORDER = (SCRATCH, "CIFAR-10", "ImageNet-1k", "ImageNet-1k, no labels", "ImageNet-12k", "ImageNet-21k")
_OF_WEIGHTS = ("model", "normalise", "GELU")


@dataclass(frozen=True)
class Arranged:
    """Rows for a view, and row -> the row that it is compared with."""

    rows: list[Line]
    pairs: Mapping[int, int]


def arranged(view: View, rows: list[Line]) -> Arranged:
    """Choose and order the rows of a view.

    - pretraining: one architecture and protocol, weights from different data; compared with the first of them.
    - scratch: weights and random ones of the same architecture and protocol.
    - compute: all rows, ordered by training FLOPs (`by_cost`).

    Raises:
        UsageError: no rows answer the question (exit code 2).
    """
    if view == "pretraining":
        return _pretraining(rows)
    if view == "scratch":
        return _scratch(rows)
    return Arranged(rows, {})


def by_cost(rows: Sequence[SummaryRow]) -> tuple[SummaryRow, ...]:
    """Return rows ordered by their training FLOPs; those without come last."""
    return tuple(sorted(rows, key=lambda row: (row.flops is None, row.flops or 0.0)))


def difference(i: int, j: int, rows: Sequence[Line], columns: Sequence[SummaryColumn], marks: Marks) -> SummaryRow:
    """Return row i minus row j: with an interval where their answers are stored, and over tasks for the means."""
    cells: dict[str, Cell] = {}
    tops = [{c: sum(one.top1 for one in own) / len(own) for c, own in rows[k].of.items()} for k in (i, j)]
    for column in columns:
        if column.of:
            if all(task in top for top in tops for task in column.tasks):
                groups = [[tops[0][task] - tops[1][task] for task in group] for group in column.of]
                value = sum(sum(g) / len(g) for g in groups) / len(groups)
                interval = over_tasks(groups)
                of = "bootstrap over tasks" if interval else ""
                cells[column.key] = Cell(value=value, n=len(column.tasks), ci95=interval, ci95_of=of)
        elif column.key in tops[0] and column.key in tops[1]:
            cells[column.key] = _cell(column.key, i, j, rows, tops[0][column.key] - tops[1][column.key], marks)
    return SummaryRow(label=f"difference from {rows[j].label}", kind="difference", cells=cells)


def _cell(column: str, i: int, j: int, rows: Sequence[Line], value: float, marks: Marks) -> Cell:
    a, b = rows[i].of[column], rows[j].of[column]
    flags = marks.flags.get(column, {})
    if i not in flags or j not in flags or a[0].split_digest != b[0].split_digest:
        return Cell(value=value, n=a[0].n if a[0].split_digest == b[0].split_digest else None)
    both = contrast(flags[i], flags[j], [one.seed for one in a] == [one.seed for one in b])
    return Cell(value=value, n=a[0].n, ci95=both.ci95, ci95_of=f"paired: {both.test}")


def _basis(line: Line) -> tuple[object, ...]:
    """Return the fields that rows share which differ in their weights only."""
    return line.what.architecture, tuple(pair for pair in line.first.row if pair[0] not in _OF_WEIGHTS)


def _groups(rows: Sequence[Line]) -> list[list[Line]]:
    groups: dict[tuple[object, ...], list[Line]] = {}
    for line in rows:
        groups.setdefault(_basis(line), []).append(line)
    return list(groups.values())


def _pretraining(rows: Sequence[Line]) -> Arranged:
    kept = [group for group in _groups(rows) if len({line.what.pretraining for line in group}) > 1]
    if not kept:
        some = ", ".join(dict.fromkeys(f"{r.what.model} ({r.what.pretraining or 'unknown'})" for r in rows))
        raise UsageError(
            "No architecture here has results from weights of different pretraining data by the same protocol.",
            fact=f"Here: {some}.",
            action="Run the same command with another --model of that architecture.",
        )
    out: list[Line] = []
    pairs: dict[int, int] = {}
    for group in kept:
        group.sort(key=lambda r: _ORDER.index(r.what.pretraining) if r.what.pretraining in _ORDER else len(_ORDER))
        first = len(out)
        pairs |= {first + k: first for k in range(1, len(group))}
        out += group
    return Arranged(out, pairs)


def _scratch(rows: Sequence[Line]) -> Arranged:
    out: list[Line] = []
    pairs: dict[int, int] = {}
    for group in _groups(rows):
        scratch = [line for line in group if line.what.pretraining == SCRATCH]
        others = [line for line in group if line.what.pretraining != SCRATCH]
        if scratch and others:
            first = len(out)
            pairs |= {first + k: first for k in range(1, len(others) + 1)}
            out += [scratch[0], *others]
    if not out:
        raise UsageError(
            "No model here has results from its weights and from scratch by the same protocol.",
            fact=f"Here: {', '.join(dict.fromkeys(line.what.model for line in rows))}.",
            action="Run 'vitft finetune TASK --compare-scratch'.",
        )
    return Arranged(out, pairs)
