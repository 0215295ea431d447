"""The tables of `vitft runs`: settings and numbers of all runs, and the progress of one run's units."""

from collections.abc import Sequence
from dataclasses import asdict

from vitft.report.table import Column, Row, Table, Value
from vitft.results.listing import TELLING, Run, UnitState

_TITLES = {"resolution": "px", "batch_size": "batch", "per_class": "per class", "from_scratch": "from scratch"}
_ALWAYS = ("lr", "resolution")


def table(runs: Sequence[Run]) -> Table:
    """Return a row a run; other settings than lr and pixels have a column where they differ between runs of a task."""
    from vitft.report.single import model_title  # numpy comes with it

    settings = [key for key in TELLING if key in _ALWAYS or _differs(runs, key)]
    columns = (
        Column("task", "task"),
        Column("model", "model"),
        Column("recipe", "recipe"),
        *(Column(key, _TITLES.get(key, key)) for key in settings),
        Column("top1", "top-1", "percent"),
        Column("ci95", "95 %", "interval"),
        Column("n", "n", "count"),
        Column("seeds", "seeds"),
        Column("changed", "changed", "path"),
        Column("folder", "folder", "path"),
    )
    rows = []
    for run in runs:
        state = " (damaged)" if run.damaged else "" if run.complete else " (unfinished)"
        cells: dict[str, Value] = {key: run.settings.get(key) for key in settings}
        cells |= {"task": run.task + state, "model": model_title(run.model), "recipe": run.recipe, "top1": run.top1}
        cells |= {"ci95": run.ci95, "n": run.n, "seeds": ", ".join(map(str, run.seeds))}
        rows.append(Row(cells | {"changed": run.changed, "folder": run.folder}))
    return Table("", columns, tuple(rows))


def _differs(runs: Sequence[Run], key: str) -> bool:
    seen: dict[str, set[str | None]] = {}
    for run in runs:
        if run.settings:
            seen.setdefault(run.task, set()).add(run.settings.get(key))
    return any(len(values) > 1 for values in seen.values())


def status(units: Sequence[UnitState]) -> Table:
    """Return a row a unit of a run."""
    columns = (
        Column("unit", "unit"),
        Column("status", "status"),
        Column("step", "step", "count"),
        Column("top1", "top-1", "percent"),
        Column("changed", "changed"),
    )
    return Table("", columns, tuple(Row(asdict(unit)) for unit in units))
