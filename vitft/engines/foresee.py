"""Estimates of runs without starting them, and the downloads they need first."""

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from vitft.catalog import tasks
from vitft.catalog.models import MODELS
from vitft.data.split import Counts, Opened, Sized, catalogued
from vitft.engines.side_by_side import Models, Planned
from vitft.engines.suite import Leg
from vitft.engines.suite_plan import Prospect
from vitft.errors import DataError
from vitft.prepare.inventory import Row, inventory
from vitft.protocol.foreseen import Download, Foreseen
from vitft.protocol.jobs import Runtime, plan, source_of
from vitft.protocol.units import Job

if TYPE_CHECKING:
    from vitft.training.speed import Speed


def of_task(planned: Planned, runtime: Runtime, speed: "Speed | None") -> Foreseen:
    """Return the estimate of a fine-tune. Raises as `Planned.estimates`."""
    estimates = planned.estimates(runtime, speed)
    rows = tuple((job.model, job.recipe, of) for job, of in zip(planned.jobs, estimates, strict=True))
    known = isinstance(planned.data, Counts)
    absent = inventory(None, (planned.data.task,)) if known else []
    models = [job.model for job in planned.jobs if not job.from_scratch]
    return Foreseen(planned.jobs[0].name, rows, _downloads(models, absent), tuple(planned.notes()))


def first(prospects: Sequence[Prospect]) -> tuple[Job, Sized]:
    """Return a task of a suite, for a measurement that stands for all: one of which the data is here, if there is one.

    Raises:
        DataError: of no task the settings are known without its data.
    """
    for one in prospects:
        if one.leg.recipe is None:
            continue
        if one.planned.jobs:
            job = one.planned.jobs[0]
            return job, Opened(source_of(job))
        for name in one.planned.missing:
            with suppress(DataError):
                return _official(one.leg, name)
    raise _nothing()


def _nothing() -> DataError:
    return DataError("Nothing of it can be told without its data.", action="Run 'vitft data ls'.")


def of_suite(prospects: Sequence[Prospect], runtime: Runtime, speed: "Speed | None") -> Foreseen:
    """Return the estimate of a suite's fits; official counts stand for data that is not here.

    Raises as `estimate.total`; DataError: of no task the settings are known.
    """
    from vitft.protocol.estimate import total

    opened, rows, notes = Models(), [], list[str]()
    absent: dict[str, Row] = {}
    for one in prospects:
        counts: dict[str, Counts] = dict(one.planned.counts)
        jobs = [*one.planned.jobs]
        for name in one.planned.missing:
            row = next(row for row in one.rows if row.task == name)
            absent[name] = row
            try:
                job, data = _official(one.leg, name)
                counts[job.name] = data
                jobs.append(job)
            except DataError as error:
                notes.append(f"not in it: {name}, {error.lines[0].rstrip('.')}")
        notes += [f"{name}: {line}" for name, lines in one.planned.notes.items() for line in lines]
        if one.leg.recipe is None or not jobs:
            continue
        info = opened.open(one.leg.model, jobs[0].settings).info
        of = total([(job, counts[job.name]) for job in jobs], runtime, info, speed)
        rows.append((one.leg.model, one.leg.recipe.name, of))
    if not rows:
        raise _nothing()
    if absent:
        notes.insert(0, f"the data of {len(absent)} tasks is not here: these are the images of their official splits")
    models = [model for model, _, _ in rows]
    title = prospects[0].leg.suite.title
    return Foreseen(title, tuple(rows), _downloads(models, list(absent.values())), tuple(dict.fromkeys(notes)))


def _official(leg: Leg, name: str) -> tuple[Job, Counts]:
    """Plan a task from its official counts. Raises DataError where the recipe looks at images."""
    column, task = leg.tasks()[name], tasks.by_name(name)
    if task is None:
        raise DataError("no data of the user's own")
    data = catalogued(task, column.shots)
    return plan(column.task, data, **leg.options(column)), data


def _downloads(models: Sequence[str], absent: Sequence[Row]) -> tuple[Download, ...]:
    """Return the downloads: each file of weights and each owner's archive once."""
    downloads = {
        name: Download(name, _weights(name), f"vitft models fetch {name}") for name in models if not _here(name)
    }
    shared = {tasks.get(row.task).collection: row for row in absent}
    data = (Download(row.task, row.size, row.where) for row in shared.values() if row.status != "damaged")
    return (*downloads.values(), *data)


def _weights(name: str) -> int:
    return round(4e6 * MODELS[name].params)


def _here(name: str) -> bool:
    """Tell whether an alias's weights are on this machine; True for any other name, which is not looked up."""
    alias = MODELS.get(name)
    if alias is None or alias.file is not None:
        return True
    from vitft.models.hub import cached_tag

    return cached_tag(alias.timm) is not None
