"""The summary of a suite, derived from its results: means, holes, footnotes; as `suite.json` holds it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from vitft.catalog.shots import number
from vitft.catalog.tasks import by_name
from vitft.data.sources import own_split
from vitft.errors import UsageError
from vitft.evaluation.intervals import t_interval
from vitft.models.checkpoint import assumptions
from vitft.recipes import digest
from vitft.report import sentences
from vitft.results.parts import Interval
from vitft.results.schema import (
    EvalResult,
    FewshotResult,
    Measured,
    OverSeeds,
    SuiteCheckpoint,
    SuiteProtocol,
    SuiteResult,
    SuiteTask,
    UnitResult,
    worst_overlap,
)
from vitft.suites.suite import MEAN_OF_GROUPS, MEAN_OF_TASKS, Column, Suite

# What may differ between the tasks of one suite, because the recipe itself varies it by task, size or images.
_BY_TASK = {"id", "resolution", "resize", "interpolation", "antialias", "selection", "chosen_by_pixels"}


def summarise(
    suite: Suite,
    results: Mapping[str, Mapping[Path, Measured]],
    *,
    seeds: Sequence[int] | None = None,
    failed: Mapping[str, str] | None = None,
) -> SuiteResult:
    """Return the content of `suite.json`; a mean over a hole is absent, never a mean over the rest.

    Args:
        suite: its columns, groups and means.
        results: column -> final results by their folders, one a seed where there are seeds.
        seeds: that every column must have that is trained; None = those that any has.
        failed: column -> why there is no result, in one line.

    Raises:
        UsageError: the results of a part are not of one model, recipe and protocol, and must not be averaged, or those
            of different parts not of one model (exit code 2).
    """
    final = {key: [r for r in own.values() if getattr(r, "phase", "final") == "final"] for key, own in results.items()}
    for column in suite.columns:
        for other in (r.task for r in final.get(column.key, ()) if not column.own and r.task != column.task):
            raise UsageError(f"'{other}' is no task of the column '{column.key}' of the suite '{suite.name}'.")
    scored = {c.key: _scores(c, final[c.key]) for c in suite.columns if final.get(c.key)}
    found = {key: one for key, one in scored.items() if one.values}
    failed = {**dict.fromkeys(scored.keys() - found.keys(), _NO_REAL), **(failed or {})}
    finals = [r for c in suite.columns for r in final.get(c.key, ()) if isinstance(r, UnitResult)]
    parts = [[r for c in part.columns for r in final.get(c.key, ())] for part in suite.parts()]
    for part in parts:
        _one_protocol(part)
    everything = [r for part in parts for r in part]
    for result in everything[1:]:
        _alike("model", _who(everything[0]), _who(result), everything[0].task, result.task)
    wanted = tuple(sorted({r.seed for r in finals} if seeds is None else {*seeds}))
    whole = {key: one for key, one in found.items() if one.seed_free or all(s in one.values for s in wanted)}
    tasks = {key: _task(one, wanted, len(parts) > 1) for key, one in whole.items()}
    values = {key: one.of(wanted) for key, one in whole.items()}
    trained = [r.recipe for r in finals]
    methods = {r.method for r in finals}
    shots = {c.shots for c in suite.columns}
    return SuiteResult(
        suite=suite.name,
        shots=number(only) if len(shots) == 1 and (only := shots.pop()) is not None else None,
        model=everything[0].model if everything else None,
        checkpoint=_weights(everything),
        recipe=", ".join(dict.fromkeys(trained)) or None,
        method=methods.pop() if len(methods) == 1 else None,
        resolutions={t: entry.resolution for t, entry in tasks.items()},
        seeds=wanted,
        protocol=_shared([part for part in parts if part]),
        tasks=tasks,
        **_means(suite, {t: entry.top1 for t, entry in tasks.items()}),
        complete=len(tasks) == len(suite.columns),
        missing={t: failed.get(t, "not run") for t in suite.keys if t not in tasks},
        over_seeds=_over_seeds(suite, values, wanted) if len(wanted) > 1 and finals else None,
        footnotes=footnotes(tasks),
    )


_NO_REAL = "no ReaL labels: the test images do not have the official file names"


def _who(result: Measured) -> tuple[str, str]:
    return result.model, result.checkpoint.sha256


@dataclass(frozen=True)
class _Scores:
    """A column's accuracies.

    Attributes:
        first: one of its results, for what all of them share.
        values: seed -> accuracy; of an evaluation one that has no seed.
        n: images; ci95: of a single value; over: of the mean over seeds.
    """

    column: Column
    results: Sequence[Measured]
    values: Mapping[int, float]
    n: int
    ci95: Interval

    @property
    def first(self) -> Measured:
        return self.results[0]

    @property
    def seed_free(self) -> bool:
        """Whether it is trained by no seed: an evaluation, or few-shot, which draws by seeds of its own."""
        return not isinstance(self.first, UnitResult)

    def of(self, seeds: Sequence[int]) -> list[float]:
        """Return an accuracy for each seed; where there is none for each of them, their mean for all."""
        if all(seed in self.values for seed in seeds):
            return [self.values[seed] for seed in seeds]
        return [fmean(self.values.values())] * len(seeds)


def _scores(column: Column, results: Sequence[Measured]) -> _Scores:
    first = results[0]
    if isinstance(first, FewshotResult):
        row = next(r for r in first.rows if r.per_class == column.per_class)
        return _Scores(column, results, dict(zip(row.seeds, row.values, strict=True)), row.n, row.ci95)
    answered = [r for r in results if isinstance(r, UnitResult | EvalResult)]
    metrics = [(r.seed if isinstance(r, UnitResult) else 0, r.metrics) for r in answered]
    values = {seed: m.real_top1 if column.real else m.top1 for seed, m in metrics}
    one = metrics[0][1]
    n, ci95 = (one.real_n, one.real_ci95) if column.real else (one.n, one.ci95)
    known = {seed: value for seed, value in values.items() if value is not None}
    return _Scores(column, results, known, n or 1, ci95 or (0.0, 1.0))


def _weights(results: Sequence[Measured]) -> SuiteCheckpoint:
    if not results:
        return SuiteCheckpoint()
    info = results[0].checkpoint
    return SuiteCheckpoint(
        timm_name=info.timm_name, sha256=info.sha256, notes=_common_notes(results), assumptions=assumptions(info)
    )


def _shared(parts: Sequence[Sequence[Measured]]) -> SuiteProtocol:
    """Return the fields that the protocols of all columns share, with their id where that is one."""
    if len(parts) > 1:
        return SuiteProtocol(id=digest({"parts": [_shared([part]).id for part in parts]}))
    results = parts[0] if parts else ()
    shared = _protocol(results[0]) if results else {}
    ids = {r.protocol.id for r in results}
    known = {k: v for k, v in shared.items() if k in SuiteProtocol.model_fields}
    return SuiteProtocol(id=ids.pop() if len(ids) == 1 else digest(shared), **known)


def _protocol(result: Measured) -> dict[str, Any]:
    shared = result.protocol.model_dump(mode="json", exclude=_BY_TASK)
    if isinstance(train := shared.get("train"), dict) and train["first"] is None:
        del train["first"]  # the digest is over the words of results before there was such a key
    return shared


def footnotes(tasks: Mapping[str, SuiteTask]) -> dict[str, tuple[str, ...]]:
    """Return column -> footnotes of its number; "" -> those of all of them."""
    own = {key: [*_of_split(key, entry), *entry.warnings] for key, entry in tasks.items()}
    common = [line for line in next(iter(own.values()), []) if len(own) > 1 and all(line in x for x in own.values())]
    # What vitft found out itself stands beside each number, in the formats without notes too.
    by_task = {
        key: (*(line for line in lines if line not in common), *sentences.of_data(tasks[key].provenance))
        for key, lines in own.items()
    }
    return {"": tuple(common), **{key: lines for key, lines in by_task.items() if lines}}


def _of_split(key: str, entry: SuiteTask) -> list[str]:
    """Return what is not official about a column's data; nothing for a data set of the user's own."""
    p, known = entry.provenance, by_name(entry.task or key)
    lines = [] if p.reference or (known is None and not p.why) else [own_split.footnote(p.why)]
    count = known.count("test") if known else entry.n
    whole = entry.n == count or entry.labels == "real"
    if known is None or "of the official" in p.why:
        pass  # nothing to hold it against, or said already
    elif p.completeness == "partial" and (not whole or p.train_official is None):
        lines.append("partial: fewer training images" if whole and not entry.run else "partial: not all test images")
    elif not whole:
        lines.append(f"{entry.n:,} test images, officially {count:,}")
    if p.completeness == "declared":
        lines.append("counts are those its manifest declares")
    if "re-encoded" in p.source:
        lines.append("images re-encoded as JPEG")
    return lines


def _task(one: _Scores, seeds: Sequence[int], several: bool) -> SuiteTask:
    first, column = one.first, one.column
    values = list(one.values.values()) if one.seed_free else [one.values[seed] for seed in seeds]
    unit = first if isinstance(first, UnitResult) else None
    units = [r for r in one.results if isinstance(r, UnitResult)]
    provenance = first.provenance
    if unit is not None:
        provenance = provenance.model_copy(update={"overlap": worst_overlap(units)})
    shown = {str(seed): value for seed, value in one.values.items() if one.seed_free or seed in seeds}
    return SuiteTask(
        task=None if first.task == column.key else first.task,
        run=None if column.run == "finetune" else column.run,
        labels="real" if column.real else None,
        recipe=unit.recipe if unit is not None and several else None,
        top1=fmean(values),
        n=one.n,
        seeds={} if column.run == "eval" else shown,
        resolution=first.protocol.resolution,
        point=unit.point if unit is not None else {},
        protocol_id=first.protocol.id,
        provenance=provenance,
        warnings=tuple(dict.fromkeys(w for r in one.results for w in _warnings(r))),
        ci95=one.ci95 if len(values) == 1 else None,
        ci95_over_seeds=t_interval(values) if len(values) > 1 else None,
    )


def _warnings(result: Measured) -> tuple[str, ...]:
    if isinstance(result, EvalResult):
        return (result.stamp,) if result.stamp else ()
    return result.warnings if isinstance(result, UnitResult) else result.stamps


def _means(suite: Suite, top1: Mapping[str, float]) -> dict[str, Any]:
    """Return every mean whose columns all have a number, as SuiteResult has them."""
    of_group = {name: suite.counted(name) for name in suite.groups}
    whole = {
        name: fmean(top1[k] for k in keys) for name, keys in of_group.items() if keys and all(k in top1 for k in keys)
    }
    shown = {group.name for group in suite.group_list if group.mean or not group.columns_shown}
    means: dict[str, float] = {}
    for mean in suite.means:
        over = whole if mean.by == "groups" else top1
        if all(word in over for word in mean.of):
            means[mean.name] = fmean(over[word] for word in mean.of)
    known = {name: means.pop(name) for name in (MEAN_OF_TASKS, MEAN_OF_GROUPS) if name in means}
    return {"groups": {g: m for g, m in whole.items() if g in shown}, **known, **({"means": means} if means else {})}


def _over_seeds(suite: Suite, values: Mapping[str, Sequence[float]], seeds: Sequence[int]) -> dict[str, OverSeeds]:
    """Return, for every mean there is, its value for each seed and Student's t interval over them."""
    per_seed: list[dict[str, float]] = []
    for i in range(len(seeds)):
        means = _means(suite, {key: of_seed[i] for key, of_seed in values.items()})
        per_seed.append({**means.pop("groups"), **means.pop("means", {}), **means})
    return {
        name: OverSeeds(
            seeds={str(s): m[name] for s, m in zip(seeds, per_seed, strict=True)},
            ci95=t_interval([m[name] for m in per_seed]),
        )
        for name in per_seed[0]
    }


def _common_notes(results: Sequence[Measured]) -> tuple[str, ...]:
    """Return the notes that all tasks' checkpoints share, such as which of a file's weights were taken."""
    first = results[0].checkpoint.notes if results else ()
    return tuple(note for note in first if all(note in r.checkpoint.notes for r in results))


def _one_protocol(results: Sequence[Measured]) -> None:
    """Refuse to put unlike results into one table."""
    for what, of in (("model", _who), ("method", _method), ("protocol", _protocol)):
        for result in results[1:]:
            _alike(what, of(results[0]), of(result), results[0].task, result.task)
    seen: dict[str, Measured] = {}
    for result in results:
        other = seen.setdefault(result.task, result)
        digests = [r.provenance.tested(r.task)[:12] for r in (other, result)]
        _alike("test images", digests[0], digests[1], other.task, result.task)
        _alike("protocol", other.protocol.id, result.protocol.id, result.task, result.task)


def _method(result: Measured) -> str:
    return result.method if isinstance(result, UnitResult) else result.kind


def _alike(what: str, a: Any, b: Any, task_a: str, task_b: str) -> None:
    if a != b:
        raise UsageError(
            f"Results of unlike {what} do not belong in one table: {a!r} ({task_a}) and {b!r} ({task_b}).",
            "one model, one method, one recipe with the same overrides.",
            "Give each its own --output.",
        )
