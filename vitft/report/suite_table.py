"""The table of a suite: one model or several, the columns of its document, published rows below."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vitft.catalog.published import Published
from vitft.catalog.shots import number
from vitft.report.single import method_title, model_title, model_titles
from vitft.report.table import HOLE, Column, Footnotes, Row, Table, Value, ends
from vitft.results.checkpoint import side
from vitft.results.schema import SuiteResult
from vitft.suites.suite import MEAN_OF_GROUPS, MEAN_OF_TASKS, Mean, Suite


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
    models: Sequence[SuiteResult],
    published: Sequence[PublishedRow] = (),
    keys: Sequence[str] | None = None,
) -> Table:
    """Return the table of a suite: a block a group, its mean, and the means over several of them.

    Args:
        suite: the same as for `summarise`.
        models: of `summarise`, or read from suite.json; one a model.
        published: rows to print below; their differences become footnotes.
        keys: the columns to show, besides those with a result; None = all. A mean is shown where all its columns are.
    """
    shown = {*(suite.keys if keys is None else keys), *(key for data in models for key in data.tasks)}
    columns = _columns(suite, shown)
    notes = Footnotes()
    rows = []
    counts = [{key: entry.n for key, entry in data.tasks.items()} for data in models]
    alike = all(n == counts[0] for n in counts)
    for title, data, n in zip(_titles(models), models, counts, strict=True):
        rows += [_row(suite, title, data, shown, notes), *_interval(data), *[_count(n)] * (not alike)]
    rows += [_count(counts[0])] * alike
    for row in published:
        cells = _published(suite, row, {c.key for c in columns})
        if cells:
            marks = {"model": notes.mark([_origin(one) for one in row.rows])}
            rows.append(Row({"model": row.title, **cells}, "published", marks))
    rows = [row for row in rows if row.cells]
    return Table(_caption(suite, models), tuple(columns), tuple(rows), tuple(notes.texts), _notes(suite, models))


def _columns(suite: Suite, shown: set[str]) -> list[Column]:
    columns = [Column("model", "")]
    for group in suite.group_list:
        keys = suite.groups[group.name]
        if group.columns_shown:
            columns += [
                Column(c.key, c.title, "percent", group.name) for c in map(suite.column, keys) if c.key in shown
            ]
        if shown.issuperset(keys) and not group.columns_shown:
            block = next((mean.block for mean in suite.means if group.name in mean.of or {*keys} & {*mean.of}), "")
            columns.append(Column(group.name, group.name, "percent", block))
        elif shown.issuperset(keys) and group.mean:
            columns.append(Column(group.name, "mean", "percent", group.name))
    whole = (mean for mean in suite.means if shown.issuperset(suite.mean_of(mean)))
    return columns + [Column(mean.name, mean.title, "percent", mean.block) for mean in whole]


def _titles(models: Sequence[SuiteResult]) -> list[str]:
    names = [data.model or "" for data in models]
    short = [model_title(data.model) for data in models] if len(models) == 1 else model_titles(names)
    return [
        f"{name}, {method_title(data.method)}" if data.method else name
        for name, data in zip(short, models, strict=True)
    ]


def _row(suite: Suite, title: str, data: SuiteResult, shown: set[str], notes: Footnotes) -> Row:
    marks = {key: notes.mark(lines) for key, lines in data.footnotes.items() if key}
    cells: dict[str, Value] = {key: entry.top1 for key, entry in data.tasks.items()}
    if cells:
        cells |= {key: HOLE for key in suite.keys if key not in cells}
        marks |= {t: notes.mark([why]) for t, why in data.missing.items() if why != "not run" and t in shown}
        cells |= {group: data.groups.get(group, HOLE) for group in suite.groups}
        cells |= {mean.name: _of(data, mean) for mean in suite.means}
    return Row({"model": title, **cells}, marks=marks)


def _of(data: SuiteResult, mean: Mean) -> Value:
    known = {MEAN_OF_TASKS: data.mean_of_tasks, MEAN_OF_GROUPS: data.mean_of_groups, **(data.means or {})}
    value = known.get(mean.name)
    return HOLE if value is None else value


def _interval(data: SuiteResult) -> list[Row]:
    several = len(data.seeds) > 1
    spans = {key: entry.ci95_over_seeds or entry.ci95 for key, entry in data.tasks.items()}
    spans |= {name: over.ci95 for name, over in (data.over_seeds or {}).items()}
    return ends("model", f"{len(data.seeds)} seeds" * several, spans)


def _count(n: Mapping[str, int]) -> Row:
    return Row({"model": "n test images", **n} if n else {}, "detail")


def _published(suite: Suite, row: PublishedRow, columns: set[str]) -> dict[str, Value]:
    """Return what published rows say of a suite's columns: a number stands where the number of examples is the same."""
    cells: dict[str, Value] = {}

    def put(key: str, values: Mapping[str, float | None], name: str) -> None:
        value = values.get(name)
        if key in columns and value is not None:
            cells[key] = value / 100

    for one in row.rows:
        for column in suite.columns:
            if _same_examples(column.shots, one):
                put(column.key, dict(one.tasks), "imagenet_real" if column.real else column.task)
        for group, keys in suite.groups.items():
            if keys and _same_examples(suite.column(keys[0]).shots, one):
                put(group, dict(one.groups), group)
        means = {MEAN_OF_TASKS: one.mean_of_tasks, MEAN_OF_GROUPS: one.mean_of_groups}
        for mean in suite.means:
            if _same_examples(suite.column(suite.mean_of(mean)[0]).shots, one):
                put(mean.name, means, mean.name)
    return cells


def _same_examples(shots: str | None, row: Published) -> bool:
    return row.shots == (0 if shots is None else number(shots))


def _origin(row: Published) -> str:
    return f"{row.source}; {row.protocol_text}." + (f" Differs: {', '.join(row.differs)}." if row.differs else "")


def _caption(suite: Suite, models: Sequence[SuiteResult]) -> str:
    entries = [entry for data in models for entry in data.tasks.values()]
    short = any(entry.provenance.train_official is not None for entry in entries)
    first = models[0]
    shots = f"{'up to ' * short}{first.shots:,} training examples a task" if first.shots else "all training data"
    seeds = f"seed{'s' * (len(first.seeds) > 1)} {', '.join(map(str, first.seeds))}"
    sides = sorted({side(size) for data in models for size in data.resolutions.values()})
    size = f"{', '.join(sides)} px" if sides else ""
    name = "VTAB-1k" if suite.name == "vtab" and first.shots == 1000 else suite.title
    recipe = ", ".join(dict.fromkeys(data.recipe for data in models if data.recipe))
    protocols = ", ".join(dict.fromkeys(data.protocol.id for data in models))
    words = [f"recipe{'s' * (', ' in recipe)} {recipe}" * bool(recipe), size, shots * (first.shots is not None), seeds]
    return f"{name}: top-1 in percent; {', '.join(filter(None, [*words, f'protocol {protocols}']))}"


def _notes(suite: Suite, models: Sequence[SuiteResult]) -> tuple[str, ...]:
    lines = []
    for title, data in zip(_titles(models), models, strict=True):
        who = f"{title}: " * (len(models) > 1)
        own = [f"All tasks: {line}." for line in data.footnotes.get("", ())]
        assumed = [data.checkpoint.assumptions] if data.checkpoint.assumptions else []
        own += [f"{note[0].upper()}{note[1:]}." for note in (*data.checkpoint.notes, *assumed)]
        if data.missing:
            done = f"{len(data.tasks)} of {len(suite.columns)} tasks"
            own.append(f"Incomplete: {done}; a mean over a hole is not given.")
        lines += [f"{who}{line}" for line in own]
    names = {mean.name for mean in suite.means}
    if not any(data.missing for data in models) and names >= {MEAN_OF_TASKS, MEAN_OF_GROUPS}:
        lines.append(
            "Mean of tasks weighs every task alike, mean of groups every group; papers print one or the other."
        )
    lines += _recipes(suite)
    return tuple(dict.fromkeys(lines))


def _recipes(suite: Suite) -> list[str]:
    """Say which columns were made how, where the suite has several kinds."""
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
