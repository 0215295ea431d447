"""The table of a suite for one model: the columns of its document, published rows below."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vitft.catalog.published import Published
from vitft.catalog.shots import number
from vitft.report.single import method_title, model_title
from vitft.report.table import HOLE, Column, Footnotes, Row, Table, Value, ends
from vitft.results.checkpoint import side
from vitft.results.schema import SuiteResult
from vitft.results.summary import SummaryColumn
from vitft.suites.suite import MEAN_OF_GROUPS, MEAN_OF_TASKS, Mean, Suite
from vitft.words import seed_list, sentence


@dataclass(frozen=True)
class PublishedRow:
    """Published rows that stand as one, such as those of two tables of one paper."""

    title: str
    rows: tuple[Published, ...]


def alone(rows: Iterable[Published]) -> list[PublishedRow]:
    """Return each published row as one of its own."""
    return [PublishedRow(row.title, (row,)) for row in rows]


def table(
    suite: Suite,
    data: SuiteResult,
    published: Sequence[PublishedRow] = (),
    keys: Sequence[str] | None = None,
) -> Table:
    """Return the table of a suite: a block a group, its mean, and the means over several of them.

    Args:
        suite: the same as for `summarise`.
        data: of `summarise`, or read from suite.json.
        published: rows to print below; their differences become footnotes.
        keys: the columns to show, besides those with a result; None = all. A mean is shown where all its columns are.
    """
    shown = {*(suite.keys if keys is None else keys), *data.tasks}
    columns = [Column("model", ""), *(Column(c.key, c.title, "percent", c.group) for c in suite_columns(suite, shown))]
    notes = Footnotes()
    rows = [_row(suite, data, shown, notes), *_interval(data)]
    if data.tasks:
        rows.append(Row({"model": "n test images", **{key: entry.n for key, entry in data.tasks.items()}}, "detail"))
    for row in published:
        cells: dict[str, Value] = {
            key: v for key, v in published_cells(suite, row).items() if key in {c.key for c in columns}
        }
        if cells:
            marks = {"model": notes.mark([one.origin for one in row.rows])}
            rows.append(Row({"model": row.title, **cells}, "published", marks))
    return Table(_caption(suite, data), tuple(columns), tuple(rows), tuple(notes.texts), _notes(suite, data))


def suite_columns(suite: Suite, shown: set[str]) -> list[SummaryColumn]:
    """Return the columns that a table of these columns of a suite has, means after what they are over."""
    columns: list[SummaryColumn] = []
    for group in suite.group_list:
        keys, counted = suite.groups[group.name], suite.counted(group.name)
        whole = shown.issuperset(keys)
        if group.columns_shown:
            own = (suite.column(key) for key in keys if key in shown)
            columns += [SummaryColumn(key=c.key, title=c.title, group=group.name) for c in own]
            if whole and group.mean:
                columns.append(SummaryColumn(key=group.name, title="mean", group=group.name, of=(counted,)))
        elif whole:
            block = next((mean.block for mean in suite.means if group.name in mean.of or {*keys} & {*mean.of}), "")
            columns.append(SummaryColumn(key=group.name, title=group.name, group=block, of=(counted,)))
    for mean in suite.means:
        if shown.issuperset(suite.mean_of(mean)):
            of = tuple(map(suite.counted, mean.of)) if mean.by == "groups" else (mean.of,)
            columns.append(SummaryColumn(key=mean.name, title=mean.title, group=mean.block, of=of))
    return columns


def _row(suite: Suite, data: SuiteResult, shown: set[str], notes: Footnotes) -> Row:
    footnotes = {key: lines for key, lines in data.footnotes.items() if key}
    marks = {key: notes.mark(lines) for key, lines in folded(suite, footnotes).items()}
    cells: dict[str, Value] = {key: entry.top1 for key, entry in data.tasks.items()}
    if cells:
        cells |= {key: HOLE for key in suite.keys if key not in cells}
        marks |= {t: notes.mark([why]) for t, why in data.missing.items() if why != "not run" and t in shown}
        cells |= {group: data.groups.get(group, HOLE) for group in suite.groups}
        cells |= {mean.name: _of(data, mean) for mean in suite.means}
    title = model_title(data.model) + (f", {method_title(data.method)}" if data.method else "")
    return Row({"model": title, **cells}, marks=marks)


def folded(suite: Suite, footnotes: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return the footnotes of columns, those of a group whose columns are not shown at its mean."""
    found = {key: list(lines) for key, lines in footnotes.items() if key in suite.keys}
    for group in (g for g in suite.group_list if not g.columns_shown):
        keys = suite.groups[group.name]
        lines = dict.fromkeys(line for key in keys for line in found.get(key, ()))
        having = {line: [suite.column(key).title for key in keys if line in found.get(key, ())] for line in lines}
        whole = len(suite.counted(group.name))
        found[group.name] = [
            line if len(titles) == whole else f"{', '.join(titles)}: {line}" for line, titles in having.items()
        ]
        for key in keys:
            found.pop(key, None)
    return {key: lines for key, lines in found.items() if lines}


def _of(data: SuiteResult, mean: Mean) -> Value:
    known = {MEAN_OF_TASKS: data.mean_of_tasks, MEAN_OF_GROUPS: data.mean_of_groups, **(data.means or {})}
    value = known.get(mean.name)
    return HOLE if value is None else value


def _interval(data: SuiteResult) -> list[Row]:
    several = len(data.seeds) > 1
    spans = {key: entry.ci95_over_seeds or entry.ci95 for key, entry in data.tasks.items()}
    spans |= {name: over.ci95 for name, over in (data.over_seeds or {}).items()}
    return ends("model", f"{len(data.seeds)} seeds" * several, spans)


def published_cells(suite: Suite, row: PublishedRow) -> dict[str, float]:
    """Return the cells of published rows in a suite's columns, where the number of examples is the same."""
    cells: dict[str, float | None] = {}
    for one in row.rows:
        for column in suite.columns:
            if _same_examples(column.shots, one):
                cells[column.key] = one.tasks.get(
                    "imagenet_real" if column.real else column.task, cells.get(column.key)
                )
        for group, keys in suite.groups.items():
            if _same_examples(suite.column(keys[0]).shots, one):
                cells[group] = one.groups.get(group, cells.get(group))
        means = {MEAN_OF_TASKS: one.mean_of_tasks, MEAN_OF_GROUPS: one.mean_of_groups}
        for mean in suite.means:
            if _same_examples(suite.column(suite.mean_of(mean)[0]).shots, one):
                cells[mean.name] = means.get(mean.name) or cells.get(mean.name)
    return {key: value / 100 for key, value in cells.items() if value is not None}


def _same_examples(shots: str | None, row: Published) -> bool:
    return row.shots == (0 if shots is None else number(shots))


def _caption(suite: Suite, data: SuiteResult) -> str:
    short = any(entry.provenance.train_official is not None for entry in data.tasks.values())
    shots = f"{'up to ' * short}{data.shots:,} training examples a task" if data.shots else "all training data"
    sides = sorted({side(size) for size in data.resolutions.values()})
    size = f"{', '.join(sides)} px" if sides else ""
    name = "VTAB-1k" if suite.name == "vtab" and data.shots == 1000 else suite.title
    recipe = f"recipe{'s' * (', ' in data.recipe)} {data.recipe}" if data.recipe else ""
    words = [recipe, size, shots * (data.shots is not None), seed_list(data.seeds), f"protocol {data.protocol.id}"]
    return f"{name}: top-1 in percent; {', '.join(filter(None, words))}"


def _notes(suite: Suite, data: SuiteResult) -> tuple[str, ...]:
    lines = [f"All tasks: {line}." for line in data.footnotes.get("", ())]
    assumed = [data.checkpoint.assumptions] if data.checkpoint.assumptions else []
    lines += [sentence(note) for note in (*data.checkpoint.notes, *assumed)]
    if data.missing:
        done = f"{len(data.tasks)} of {len(suite.columns)} tasks"
        lines.append(f"Incomplete: {done}; a mean over a hole is not given.")
    elif {mean.name for mean in suite.means} >= {MEAN_OF_TASKS, MEAN_OF_GROUPS}:
        lines.append(
            "Mean of tasks weighs every task alike, mean of groups every group; papers print one or the other."
        )
    return (*lines, *part_lines(suite))


def part_lines(suite: Suite) -> list[str]:
    """Return the columns of each part, a line each, where a suite has several parts."""
    parts = suite.parts()
    if len(parts) < 2:
        return []
    return [f"{part.name}: {', '.join(_titled(suite, [c.key for c in part.columns]))}." for part in parts]


def _titled(suite: Suite, keys: Sequence[str]) -> list[str]:
    """Name columns, whole groups by their name."""
    names: list[str] = []
    for key in keys:
        group = suite.group_of(key)
        whole = {*keys} >= {*suite.groups[group]} and len(suite.groups[group]) > 1
        names.append(group if whole else suite.column(key).title)
    return list(dict.fromkeys(names))
