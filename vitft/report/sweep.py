"""The table of a sweep: a row a setting, with its score on what the choice was made on; the chosen one is tested."""

from collections.abc import Mapping, Sequence

from vitft.protocol.grid import Takes
from vitft.protocol.units import Job
from vitft.report import said
from vitft.report.single import footnotes, model_title, row_names
from vitft.report.table import HOLE, Column, Footnotes, Row, Table, Value
from vitft.results import choice
from vitft.results.schema import Comparison, RunResult
from vitft.settings import Scalar


def table(results: Sequence[RunResult], compared: Sequence[Comparison] = ()) -> Table:
    """Return one row a setting, for one model after the other, each with its own choice.

    Args:
        results: of `vitft sweep`, of one task.
        compared: of the models' chosen settings on the same images, named as `single.row_names` does.
    """
    first = results[0]
    several = len(results) > 1
    keys = list(dict.fromkeys(key for result in results for point in _points(result) for key in point))
    where = choice.made_on(first.protocol.selection, first.recipe_settings.dev_fraction)
    columns = [Column("model", "model")] * several
    columns += [Column(key, "px" if key == "resolution" else key) for key in keys]
    columns += _scores("val", where)
    columns += [] if choice.on_test(first) else _scores("test", first.provenance.split)
    notes = Footnotes()
    rows = [row for result in results for row in _rows(result, notes)]
    names = row_names(results)
    told = [f"{name}: {line}" if several else line for name, line in zip(names, map(_chosen, results), strict=True)]
    if choice.on_test(first):
        told.append(
            f"The choice was made on {first.provenance.split} itself: the best number is too high by it, and is "
            "comparable with none that was chosen on val or dev, as it is without --on test."
        )
    told += [said.paired_line(pair, pair.a, pair.b) for pair in compared]
    return Table(_caption(results), (*columns, Column("chosen", "")), tuple(rows), tuple(notes.texts), tuple(told))


def planned(jobs: Sequence[Job], takes: Sequence[Takes], folders: Sequence[str]) -> Table:
    """Return the grid before it runs: a row a setting, and below how many runs, steps and images that is."""
    job = jobs[0]
    columns = [Column(key, "px" if key == "resolution" else key) for key in job.sweep]
    columns += [Column("steps_a_run", "steps a run", "count")] * ("steps" not in job.sweep)
    columns += [Column("images_a_run", "images a run", "count")]
    rows = []
    for point in job.grid:
        steps = point.settings.steps
        rows.append(
            Row({**_words(point.values), "steps_a_run": steps, "images_a_run": steps * point.settings.batch_size})
        )
    where = choice.made_on(job.scheme.tune_val, job.settings.dev_fraction)
    notes = []
    for one, cost, folder in zip(jobs, takes, folders, strict=True):
        runs = f"{cost.tested} runs, all of them tested on {one.scheme.test}: the choice will have seen it"
        if one.on == "val":
            runs = f"{cost.compared} runs compared on {where}, then the chosen one, {cost.tested} to test"
        most = "up to " * (one.on == "val" and len({p.settings.steps * p.settings.batch_size for p in one.grid}) > 1)
        notes.append(
            f"{model_title(one.model)}: {runs}; {most}{cost.steps:,} steps, {cost.train_images:,} training images, "
            f"{cost.eval_images:,} to evaluate. It would go to {folder}"
        )
    seeds = f"seed{'s' * (len(job.seeds) > 1)} {', '.join(map(str, job.seeds))}"
    caption = f"{job.name}: {len(job.grid)} settings, {seeds}, recipe {job.recipe}. Nothing was run."
    return Table(caption, tuple(columns), tuple(rows), notes=tuple(notes))


def _caption(results: Sequence[RunResult]) -> str:
    first = results[0]
    n = len(first.tuned) + len({str(one.point) for one in first.lost})
    of = f"{n} settings of {model_title(first.model)}" if len(results) == 1 else f"{n} settings each"
    seeds = f"mean of seeds {', '.join(first.seeds)} (t interval)" if first.seeds else f"seed {first.seed}"
    ids = ", ".join(dict.fromkeys(result.protocol.id for result in results))
    return f"{first.task}: {of}, recipe {first.recipe}; top-1 in percent, {seeds}, protocol {ids}"


def _scores(key: str, where: str) -> list[Column]:
    return [
        Column(key, "top-1", "percent", where),
        Column(f"{key}_ci95", "95 %", "interval", where),
        Column(f"{key}_n", "n", "count", where),
    ]


def _rows(result: RunResult, notes: Footnotes) -> list[Row]:
    rows = []
    for one in result.tuned:
        cells: dict[str, Value] = {"model": model_title(result.model), **_words(one.point)}
        cells |= _cells("val", one.top1, one.ci95, one.n)
        marks = {"val": notes.mark([f"{text[0].upper()}{text[1:]}." for text in one.warnings[:1]])}
        if one.point == result.point:
            cells["chosen"] = "chosen"
            at = "val" if choice.on_test(result) else "test"
            cells |= _cells(at, result.metrics.top1, result.metrics.ci95, result.metrics.n)
            marks[f"{at}_n"] = notes.mark(footnotes(result))
        rows.append(Row(cells, marks=marks))
    for gone in {str(one.point): one for one in result.lost}.values():
        cells = {"model": model_title(result.model), **_words(gone.point), "val": HOLE}
        rows.append(Row(cells, marks={"val": notes.mark([f"Seed {gone.seed}: {gone.why}"])}))
    return rows


def _cells(key: str, top1: float, interval: tuple[float, float] | None, n: int) -> dict[str, Value]:
    return {key: top1, f"{key}_ci95": interval, f"{key}_n": n}


def _words(point: Mapping[str, Scalar]) -> dict[str, Value]:
    return {key: choice.value(key, found).removesuffix(" px") for key, found in point.items()}


def _chosen(result: RunResult) -> str:
    line = choice.line(result)
    return f"{line[0].upper()}{line[1:]}."


def _points(result: RunResult) -> list[dict[str, Scalar]]:
    return [*(one.point for one in result.tuned), *(one.point for one in result.lost)]
