"""Many results into one typed table: cells with intervals and marks, means that are never over holes."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from vitft.evaluation.contrasts import over_tasks
from vitft.evaluation.intervals import clipped, t_interval, wilson
from vitft.evaluation.significance import LEVEL
from vitft.report import layout, marks, views
from vitft.report.lines import Line, lines, name
from vitft.report.marks import Marks
from vitft.report.measured import Measured
from vitft.results.parts import Interval
from vitft.results.summary import By, Cell, Summary, SummaryColumn, SummaryRow, View


def summarise(
    numbers: Iterable[Measured],
    columns: Sequence[SummaryColumn] | None = None,
    by: By = "model",
    missing: Mapping[str, str] | None = None,
    view: View = "",
) -> Summary:
    """Return the table of some results.

    Args:
        numbers: see `gather`, or `measured.of_unit` and the like for results that are already loaded.
        columns: tasks and means in the order to show them; None = those that the results have (`layout.of_tasks`).
        by: what rows are called and ordered by. What stands in one row does not depend on it.
        missing: column -> why nothing has a number there.
        view: "" for all rows, or see `views.arranged`.

    Raises:
        UsageError: no rows answer what the view asks (exit code 2).
        DataDamaged: a file of predictions is (exit code 3).
    """
    chosen = views.arranged(view, lines(numbers, by))
    rows = chosen.rows
    name(rows, by)
    shown = {c: None for row in rows for c in (*row.of, *row.void)}
    values = [{c: fmean(one.top1 for one in own) for c, own in row.of.items()} for row in rows]
    if columns is None:
        drawn = layout.of_tasks(shown)
        columns = [c for c in drawn if not c.of or any(all(t in own for t in c.tasks) for own in values)]
    means = [c for c in columns if c.of]
    for own in values:
        own |= {c.key: mean(c, own) for c in means if all(t in own for t in c.tasks)}
    found = marks.of_columns(rows, [c.key for c in columns], values)
    marks.of_means(found, means, values)
    results = [_row(i, row, columns, values[i], found, missing or {}) for i, row in enumerate(rows)]
    made: list[SummaryRow] = []
    for i, row in enumerate(results):
        made.append(row)
        if i in chosen.pairs:
            made.append(views.difference(i, chosen.pairs[i], rows, columns, found))
    return Summary(
        by=by,
        view=view,
        columns=tuple(columns),
        rows=views.by_cost(made) if view == "compute" else tuple(made),
        tests=tuple(found.tests),
        compared=found.compared,
        notes=tuple(_notes(rows, results, columns, found)),
    )


def mean(column: SummaryColumn, values: Mapping[str, float]) -> float:
    """Return the mean that a column stands for; all its tasks must be there."""
    return fmean(fmean(values[task] for task in group) for group in column.of)


def interval(numbers: Sequence[Measured]) -> tuple[Interval | None, str]:
    """Return the interval of a cell and which it is: Wilson's on the images, or Student's t over the seeds."""
    if len(numbers) > 1:
        return clipped(t_interval([one.top1 for one in numbers])), f"Student's t over {len(numbers)} seeds"
    one = numbers[0]
    if one.correct is not None:
        return wilson(one.correct, one.n), "Wilson on the images"
    return (one.given, "as the result has it") if one.given else (None, "")


def _row(
    i: int,
    line: Line,
    columns: Sequence[SummaryColumn],
    values: Mapping[str, float],
    marks: Marks,
    missing: Mapping[str, str],
) -> SummaryRow:
    cells = {}
    for column in columns:
        key = column.key
        if key in line.of:
            cells[key] = _cell(line.of[key], values[key], marks, (i, key))
        elif column.of:
            cells[key] = _mean(column, values, marks, (i, key))
        else:
            cells[key] = Cell(why=line.void.get(key) or missing.get(key) or "not run")
    costs = [_sum(cells[c].flops for c in line.of if c in cells), _sum(cells[c].seconds for c in line.of if c in cells)]
    tuned = [_sum(one.cost[k] for one in line.tuning) if line.tuning else 0.0 for k in (0, 1)]
    flops, seconds = (None if a is None or b is None else a + b for a, b in zip(costs, tuned, strict=True))
    macs = {one.macs for one in line.numbers}
    return SummaryRow(
        label=line.label,
        what=line.what,
        cells=cells,
        differs=line.differs,
        notes=line.notes,
        flops=flops,
        seconds=seconds,
        macs_per_image=macs.pop() if len(macs) == 1 else None,
    )


def _cell(numbers: Sequence[Measured], value: float, marks: Marks, at: tuple[int, str]) -> Cell:
    ci95, of = interval(numbers)
    return Cell(
        value=value,
        n=numbers[0].n,
        seeds=tuple(one.seed for one in numbers if one.seed is not None),
        ci95=ci95,
        ci95_of=of,
        mark=marks.of.get(at, ""),
        least=marks.least.get(at),
        notes=tuple(dict.fromkeys(note for one in numbers for note in one.notes)),
        protocol=numbers[0].protocol,
        split_digest=numbers[0].split_digest,
        examples=numbers[0].what.examples,
        flops=_mean_of([one.cost[0] for one in numbers]),
        seconds=_mean_of([one.cost[1] for one in numbers]),
        macs_per_image=numbers[0].macs,
    )


def _mean(column: SummaryColumn, values: Mapping[str, float], marks: Marks, at: tuple[int, str]) -> Cell:
    holes = [task for task in column.tasks if task not in values]
    if holes:
        return Cell(why=f"no mean over holes: {', '.join(holes[:3])}{' ...' * (len(holes) > 3)}")
    ci95 = over_tasks([[values[task] for task in group] for group in column.of])
    return Cell(
        value=values[column.key],
        n=len(column.tasks),
        ci95=None if ci95 is None else clipped(ci95),
        ci95_of="" if ci95 is None else "bootstrap over tasks" + ", group by group" * (len(column.of) > 1),
        mark=marks.of.get(at, ""),
    )


def _sum(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return sum(v for v in known if v is not None) if known and None not in known else None


def _mean_of(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return fmean(known) if len(known) == len(values) else None


def _notes(
    lines: Sequence[Line], rows: Sequence[SummaryRow], columns: Sequence[SummaryColumn], marks: Marks
) -> list[str]:
    """Return the notes of the whole table: what intervals and marks mean, and what was not compared."""
    out = []
    titles = {c.key: c.title for c in columns}
    if marks.tests:
        kinds = ["exact McNemar"] * any(t.test.startswith("exact") for t in marks.tests)
        kinds += ["a t-test over images and seeds"] * any(t.test.startswith("t-test") for t in marks.tests)
        pairs = "1 pair" if marks.compared == 1 else f"all {marks.compared:,} pairs"
        out.append(
            f"* best of its column: separated from every other row by a paired test on the same images "
            f"({', '.join(kinds)}; Holm over {pairs}, {100 * LEVEL:g} %). ≈ not separated from the highest."
        )
    means = {c.key for c in columns if c.of}
    if any(cell.mark for row in rows for key, cell in row.cells.items() if key in means):
        out.append(
            "Means are compared over tasks, from six on: bootstrap interval and t-test of the differences, Holm."
        )
    for why in dict.fromkeys(marks.alone.values()):
        some = ", ".join(titles[c] for c, own in marks.alone.items() if own == why)
        out.append(f"Not compared ({why}): {some}.")
    single = any(len(own) == 1 for line in lines for own in line.of.values() if own[0].seed is not None)
    if marks.compared and single:
        out.append("With one seed a mark speaks of the images, not of other seeds.")
    if means:
        out.append("The interval of a mean is over tasks (bootstrap): it says how much it hangs on their choice.")
    return out
