"""The table of a suite, derived from the results of its units: group means, both overall means, holes, footnotes."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from vitft.catalog.published import Published
from vitft.catalog.suites import Suite
from vitft.catalog.tasks import TASKS
from vitft.data.sources import own_split
from vitft.errors import UsageError
from vitft.models.checkpoint import assumptions
from vitft.recipes import digest
from vitft.report import said
from vitft.report.single import method_title, model_title
from vitft.report.table import HOLE, Column, Footnotes, Row, Table, Value, ends
from vitft.results.checkpoint import side
from vitft.results.schema import (
    OverSeeds,
    SuiteCheckpoint,
    SuiteProtocol,
    SuiteResult,
    SuiteTask,
    UnitResult,
    worst_overlap,
)

# What may differ between the tasks of one suite, because the recipe itself varies it by task, size or images.
_BY_TASK = {"id", "resolution", "resize", "interpolation", "antialias", "selection", "chosen_by_pixels"}


def summarise(
    suite: Suite,
    results: Sequence[UnitResult],
    *,
    shots: int = 1000,
    seeds: Sequence[int] | None = None,
    failed: Mapping[str, str] | None = None,
) -> SuiteResult:
    """Return what `suite.json` holds; a mean over a hole is absent, never a mean over what happens to be there.

    Args:
        suite: its tasks and groups.
        results: results of final units, one a task and seed; those of tasks outside the suite are refused.
        shots: training examples a task; 0 = all.
        seeds: that every task must have; None = those that any task has.
        failed: task -> why there is no result, in one line.

    Raises:
        UsageError: the results are not of one model, recipe and protocol, and must not be averaged (exit code 2).
    """
    finals = [r for r in results if r.phase == "final"]
    by_task: dict[str, dict[int, UnitResult]] = {}
    for result in finals:
        if result.task not in suite.tasks:
            raise UsageError(f"'{result.task}' is no task of the suite '{suite.name}'.")
        by_task.setdefault(result.task, {})[result.seed] = result
    _one_protocol(finals)
    wanted = tuple(sorted({r.seed for r in finals} if seeds is None else {*seeds}))
    whole = {t: by_task[t] for t in suite.tasks if t in by_task and all(s in by_task[t] for s in wanted)}
    tasks = {task: _task([of_seed[s] for s in wanted]) for task, of_seed in whole.items()}
    first = finals[0] if finals else None
    return SuiteResult(
        suite=suite.name,
        shots=shots,
        model=first.model if first else None,
        checkpoint=_weights(finals),
        recipe=first.recipe if first else None,
        method=first.method if first else None,
        resolutions={t: entry.resolution for t, entry in tasks.items()},
        seeds=wanted,
        protocol=_shared(finals),
        tasks=tasks,
        **_means(suite, {t: entry.top1 for t, entry in tasks.items()}),
        complete=len(tasks) == len(suite.tasks),
        missing={t: (failed or {}).get(t, "not run") for t in suite.tasks if t not in tasks},
        over_seeds=_over_seeds(suite, whole, wanted) if len(wanted) > 1 else None,
        footnotes=footnotes(tasks),
    )


def _weights(finals: Sequence[UnitResult]) -> SuiteCheckpoint:
    if not finals:
        return SuiteCheckpoint()
    info = finals[0].checkpoint
    return SuiteCheckpoint(
        timm_name=info.timm_name, sha256=info.sha256, notes=_common_notes(finals), assumptions=assumptions(info)
    )


def _shared(finals: Sequence[UnitResult]) -> SuiteProtocol:
    """Return what the protocols of all tasks share, with the id of all of them where it is one."""
    shared = _protocol(finals[0]) if finals else {}
    ids = {r.protocol.id for r in finals}
    return SuiteProtocol(id=ids.pop() if len(ids) == 1 else digest(shared), **shared)


def _protocol(result: UnitResult) -> dict[str, Any]:
    return result.protocol.model_dump(mode="json", exclude=_BY_TASK)


def footnotes(tasks: Mapping[str, SuiteTask]) -> dict[str, tuple[str, ...]]:
    """Return task -> what must be said beside its number; "" -> what holds for all of them."""
    own: dict[str, list[str]] = {}
    for task, entry in tasks.items():
        p = entry.provenance
        lines = []
        if not p.reference:
            lines.append(own_split.footnote(p.why))
        official = next((t.splits["test"] for t in TASKS if t.name == task), ())
        count = sum(piece.stop - piece.start for piece in official)
        if "of the official" in p.why:
            pass  # said already
        elif p.completeness == "partial" and (entry.n != count or p.train_official is None):
            lines.append("partial: not all test images" if entry.n != count else "partial: fewer training images")
        elif entry.n != count:
            lines.append(f"{entry.n:,} test images, officially {count:,}")
        if p.completeness == "declared":
            lines.append("counts are those its manifest declares")
        if "re-encoded" in p.source:
            lines.append("images re-encoded as JPEG")
        lines += entry.warnings
        own[task] = lines
    common = [line for line in next(iter(own.values()), []) if len(own) > 1 and all(line in x for x in own.values())]
    # What vitft found out itself stands beside each number, in the formats without notes too.
    told = {
        task: (*(line for line in lines if line not in common), *said.of_data(tasks[task].provenance))
        for task, lines in own.items()
    }
    return {"": tuple(common), **{task: lines for task, lines in told.items() if lines}}


def table(
    suite: Suite, data: SuiteResult, published: Sequence[Published] = (), tasks: Sequence[str] | None = None
) -> Table:
    """Return the table of a suite in three blocks of tasks and a block of both overall means.

    Args:
        suite: the same as for `summarise`.
        data: of `summarise`, or read from suite.json.
        published: rows to print below; their differences become footnotes.
        tasks: the columns to show, besides those with a result; None = all. A mean is shown where all its tasks are.
    """
    shown = {*(suite.tasks if tasks is None else tasks), *data.tasks}
    columns = [Column("model", "")]
    for group, names in suite.groups.items():
        columns += [Column(t, suite.titles[t], "percent", group) for t in names if t in shown]
        columns += [Column(group, "mean", "percent", group)] * shown.issuperset(names)
    if shown.issuperset(suite.tasks):
        columns.append(Column("mean_of_tasks", "mean of tasks", "percent", "all"))
        columns.append(Column("mean_of_groups", "mean of groups", "percent", "all"))

    notes = Footnotes()
    marks: dict[str, tuple[int, ...]] = {t: notes.mark(x) for t, x in data.footnotes.items() if t}
    cells: dict[str, Value] = {t: entry.top1 for t, entry in data.tasks.items()}
    if cells:
        cells |= {t: HOLE for t in suite.tasks if t not in cells}
        marks |= {t: notes.mark([why]) for t, why in data.missing.items() if why != "not run" and t in shown}
        cells |= {g: data.groups.get(g, HOLE) for g in suite.groups}
        for name, mean in (("mean_of_tasks", data.mean_of_tasks), ("mean_of_groups", data.mean_of_groups)):
            cells[name] = HOLE if mean is None else mean
    title = f"{model_title(data.model)}, {method_title(data.method)}"
    rows = [Row({"model": title, **cells}, marks=marks), *_details(data)]
    for row in published:
        if not shown & row.tasks.keys() and not shown.issuperset(suite.tasks):
            continue
        origin = f"{row.source}; {row.protocol_text}." + (f" Differs: {', '.join(row.differs)}." if row.differs else "")
        values = {t: v / 100 for t, v in {**row.tasks, **row.groups}.items()}
        for name, mean in (("mean_of_tasks", row.mean_of_tasks), ("mean_of_groups", row.mean_of_groups)):
            if mean is not None:
                values[name] = mean / 100
        rows.append(Row({"model": row.title, **values}, "published", {"model": notes.mark([origin])}))
    return Table(_caption(suite, data), tuple(columns), tuple(rows), tuple(notes.texts), _notes(suite, data))


def _caption(suite: Suite, data: SuiteResult) -> str:
    short = any(entry.provenance.train_official is not None for entry in data.tasks.values())
    most = "up to " * short
    shots = f"{most}{data.shots:,} training examples a task" if data.shots else "all training data"
    seeds = f"seed{'s' * (len(data.seeds) > 1)} {', '.join(map(str, data.seeds))}"
    sides = sorted({side(size) for size in data.resolutions.values()})
    size = f"{', '.join(sides)} px, " if sides else ""
    name = "VTAB-1k" if suite.name == "vtab" and data.shots == 1000 else suite.title
    protocol = data.protocol.id
    return f"{name}: top-1 in percent; recipe {data.recipe}, {size}{shots}, {seeds}, protocol {protocol}"


def _notes(suite: Suite, data: SuiteResult) -> tuple[str, ...]:
    lines = [f"All tasks: {line}." for line in data.footnotes.get("", ())]
    assumed = [data.checkpoint.assumptions] if data.checkpoint.assumptions else []
    lines += [f"{note[0].upper()}{note[1:]}." for note in (*data.checkpoint.notes, *assumed)]
    if data.missing:
        done = len(data.tasks)
        lines.append(f"Incomplete: {done} of {len(suite.tasks)} tasks; a mean over a hole is not given.")
    else:
        lines.append(
            "Mean of tasks weighs every task alike, mean of groups every group; papers print one or the other."
        )
    return tuple(lines)


def _details(data: SuiteResult) -> list[Row]:
    tasks = data.tasks
    if not tasks:
        return []
    several = len(data.seeds) > 1
    spans = {task: entry.ci95_over_seeds if several else entry.ci95 for task, entry in tasks.items()}
    spans |= {name: over.ci95 for name, over in (data.over_seeds or {}).items()}
    return [
        *ends("model", f"{len(data.seeds)} seeds" * several, spans),
        Row({"model": "n test images", **{t: e.n for t, e in tasks.items()}}, "detail"),
    ]


def _task(of_seed: Sequence[UnitResult]) -> SuiteTask:
    values = [r.metrics.top1 for r in of_seed]
    first = of_seed[0]
    return SuiteTask(
        top1=fmean(values),
        n=first.metrics.n,
        seeds={str(r.seed): r.metrics.top1 for r in of_seed},
        resolution=first.protocol.resolution,
        point=first.point,
        protocol_id=first.protocol.id,
        provenance=first.provenance.model_copy(update={"overlap": worst_overlap(of_seed)}),
        warnings=tuple(dict.fromkeys(w for r in of_seed for w in r.warnings)),
        ci95=first.metrics.ci95 if len(of_seed) == 1 else None,
        ci95_over_seeds=_t(values) if len(of_seed) > 1 else None,
    )


def _means(suite: Suite, top1: Mapping[str, float]) -> dict[str, Any]:
    groups = {
        group: fmean(top1[t] for t in names) for group, names in suite.groups.items() if all(t in top1 for t in names)
    }
    means: dict[str, Any] = {"groups": groups}
    if len(groups) == len(suite.groups):
        means["mean_of_tasks"] = fmean(top1[t] for t in suite.tasks)
        means["mean_of_groups"] = fmean(groups.values())
    return means


def _over_seeds(
    suite: Suite, whole: Mapping[str, Mapping[int, UnitResult]], seeds: Sequence[int]
) -> dict[str, OverSeeds]:
    """Return, for every mean there is, its value for each seed and Student's t interval over them."""
    per_seed = []
    for seed in seeds:
        means = _means(suite, {t: r[seed].metrics.top1 for t, r in whole.items()})
        per_seed.append({**means.pop("groups"), **means})
    return {
        name: OverSeeds(
            seeds={str(s): m[name] for s, m in zip(seeds, per_seed, strict=True)},
            ci95=_t([m[name] for m in per_seed]),
        )
        for name in per_seed[0]
    }


def _t(values: Sequence[float]) -> tuple[float, float]:
    from vitft.evaluation.intervals import t_interval

    return t_interval(values)


def _common_notes(results: Sequence[UnitResult]) -> tuple[str, ...]:
    """Return what every task's network was noted for: which of a file's weights it has, above all."""
    first = results[0].checkpoint.notes if results else ()
    return tuple(note for note in first if all(note in r.checkpoint.notes for r in results))


def _one_protocol(results: Sequence[UnitResult]) -> None:
    """Refuse to put unlike results into one table."""
    for what, of in (
        ("model", lambda r: (r.model, r.checkpoint.sha256)),
        ("method", lambda r: r.method),
        ("protocol", _protocol),
    ):
        for result in results[1:]:
            _alike(what, of(results[0]), of(result), results[0].task, result.task)
    seen: dict[str, UnitResult] = {}
    for result in results:
        other = seen.setdefault(result.task, result)
        digests = [r.provenance.split_digest[:12] for r in (other, result)]
        _alike("test images", digests[0], digests[1], other.task, result.task)
        _alike("protocol", other.protocol.id, result.protocol.id, result.task, result.task)


def _alike(what: str, a: Any, b: Any, task_a: str, task_b: str) -> None:
    if a != b:
        raise UsageError(
            f"Results of unlike {what} do not belong in one table: {a!r} ({task_a}) and {b!r} ({task_b}).",
            "Legal: one model, one method, one recipe with the same overrides.",
            "Give each its own --output.",
        )
