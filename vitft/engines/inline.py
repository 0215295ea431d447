"""The engine of one job, in this process and those beside it: tune on val, retrain, test once; or a grid on test."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from vitft.data.split import Source
from vitft.engines import together
from vitft.engines.plan import Plan
from vitft.errors import DataError, Interrupted, NonFiniteLoss, PeerLost, UsageError, VitftError
from vitft.evaluation.intervals import clipped, t_interval
from vitft.evaluation.seeds import over_seeds
from vitft.progress import Hooks, noting_once
from vitft.protocol import unchanged
from vitft.protocol.jobs import Runtime
from vitft.protocol.run import run_unit
from vitft.protocol.units import Job, Unit, by_point, points, select
from vitft.protocol.warm import Warm
from vitft.results.files import RESULT, there, write_json
from vitft.results.folders import SHOWN, unit_folder
from vitft.results.schema import Lost, RunResult, Tuned, UnitResult, to_json, worst_overlap


def run_job(
    job: Job, source: Source, folder: Path, runtime: Runtime, hooks: Hooks | None = None, warm: Warm | None = None
) -> RunResult:
    """Run all units of a job in this process, then write and return the run's result.json.

    Args:
        source: of the job's data.
        warm: what of the data and the checkpoint is open already.

    Raises:
        DataError: the data changed since one of its units was finished (exit code 3).
        Any VitftError of a unit; finished units stay, and the same call goes on from there. Of a grid, a point whose
        training diverges is out of the choice instead.
    """
    hooks = noting_once(hooks or Hooks())
    unchanged.hold(folder, source, hooks.note)
    plan, warm = Plan((job,), folder), warm or Warm(source=source, group=together.group())
    while ready := plan.ready():
        unit = ready[0]
        hooks.unit(unit.title, *plan.counts())
        try:
            run_unit(unit, folder, runtime, hooks, warm)
        except NonFiniteLoss as error:
            if not _spared(unit):
                raise
            warm = Warm(source=source, group=warm.group)  # its network may hold anything
            plan.lose(unit, error)
            hooks.note(f"{unit.title}: {error.lines[0]} The other settings go on.")
    tuning, finals = plan.units(job)
    scored = plan.scored(job)
    if job.on == "test":
        finals = [unit for unit in finals if unit.point == select(scored).point]
    for name in SHOWN:
        _share(unit_folder(folder, finals[0].id) / name, folder / name)
    lost = [gone for unit in tuning or plan.units(job)[1] if (gone := plan.lost(unit)) is not None]
    result = summary(finals, [plan.needed(unit) for unit in finals], scored, lost)
    write_json(folder / RESULT, to_json(result))
    return result


def _spared(unit: Unit) -> bool:
    """Tell whether a run goes on where this unit diverges: it is one of several settings of a grid."""
    return bool(unit.job.grid) and (unit.phase == "tune" or unit.job.on == "test") and len(points(unit.job)) > 1


def run(
    jobs: Sequence[Job], folder: Path, runtime: Runtime, *, devices: Sequence[str] = (), hooks: Hooks | None = None
) -> Mapping[str, str]:
    """Bring every job to its result files, one unit after the other, each by all processes of torchrun.

    Args and errors are those of `local.run`; also:

    Raises:
        UsageError: `devices` are given, but each process has its own.
        PeerLost: a process is gone.
    """
    if devices:
        raise UsageError(
            "--devices shares units between workers; torchrun's processes share each unit.",
            "one of the two.",
            "Leave --devices out, or start without torchrun.",
        )
    hooks, plan = hooks or Hooks(), Plan(jobs, folder)
    warm, start = Warm(group=together.group()), plan.begun()
    while ready := plan.ready():
        hooks.unit(ready[0].title + plan.time_left(*start), *plan.counts())
        try:
            run_unit(ready[0], folder, runtime, hooks, warm)
            plan.succeeded = True
        except (Interrupted, PeerLost):
            raise
        except VitftError as error:
            warm = Warm(group=warm.group)  # a network that failed half-way may hold anything
            plan.fail(ready[0], error, hooks.note)
    return plan.failed


def _share(file: Path, at: Path) -> None:
    """Show a unit's file in the run folder too, without a second copy where the file system can."""
    if not there(file):
        return
    at.unlink(missing_ok=True)
    try:
        os.link(file, at)
    except OSError:
        shutil.copyfile(file, at)


def _seen(finals: Sequence[UnitResult], scored: Sequence[UnitResult]) -> Iterator[tuple[str, set[str]]]:
    """Yield digests, one of which all results of a job must have; of training images those of the same names."""
    for what, results in (("test", finals), ("val", scored)):
        seen = [r.provenance for r in results]
        yield what, {p.split_digest for p in seen}
        yield what, {p.images_digest for p in seen if p.images_digest}
        for names in {p.train_digest for p in seen}:
            yield "training", {p.train_images_digest for p in seen if p.train_digest == names and p.train_images_digest}


def summary(
    units: Sequence[Unit], finals: Sequence[UnitResult], scored: Sequence[UnitResult], lost: Sequence[Lost] = ()
) -> RunResult:
    """Return one result for the final units of a job: that of the one seed, or the mean over all seeds.

    Over several seeds `metrics.top1` is the mean, `ci95` Student's t interval over the seeds, clipped to [0, 1], and
    `correct` is absent: it belongs to a single run.

    Raises:
        DataError: seeds or settings were tested, or selected, on different images (exit code 3).
    """
    first = finals[0]
    for what, different in _seen(finals, scored):
        if len(different) > 1:
            raise DataError(
                f"The {what} images of '{first.task}' changed between its seeds or settings, or between machines.",
                f"one {what} set for all; a mean or a choice over two says nothing.",
                "Start anew with --overwrite.",
            )
    overlap = worst_overlap(finals)
    fields: dict[str, object] = {
        **{name: getattr(first, name) for name in UnitResult.model_fields},
        "provenance": first.provenance.model_copy(update={"overlap": overlap}),
        "warnings": tuple(dict.fromkeys(w for r in finals for w in r.warnings)),
        "unit": units[0].id,
        "tuned": tuple(_score(of_point) for of_point in by_point(scored)),
        "lost": tuple(lost),
    }
    if len(finals) > 1:
        fields |= {
            "metrics": over_seeds([r.metrics for r in finals]),
            "seeds": {str(r.seed): r.metrics for r in finals},
            "units": tuple(unit.id for unit in units),
        }
    return RunResult(**fields)


def _score(results: Sequence[UnitResult]) -> Tuned:
    """Return the score of one point, over its seeds."""
    first, values = results[0], [r.metrics.top1 for r in results]
    several = len(results) > 1
    return Tuned(
        point=first.point,
        top1=fmean(values),
        n=first.metrics.n,
        ci95=clipped(t_interval(values)) if several else first.metrics.ci95,
        seeds={str(r.seed): r.metrics.top1 for r in results} if several else None,
        warnings=tuple(dict.fromkeys(w for r in results for w in r.warnings)),
    )
