"""Bring one job to its number: tune on val, retrain, test once, over all seeds."""

import os
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

from vitft import results
from vitft.errors import DataError
from vitft.evaluation.intervals import clipped, t_interval
from vitft.progress import Hooks
from vitft.protocol import unchanged
from vitft.protocol.jobs import Runtime, source_of
from vitft.protocol.run import Warm, run_unit
from vitft.protocol.units import Job, Scheme, final_units, tune_units


def run_job(job: Job, scheme: Scheme, folder: Path, runtime: Runtime, hooks: Hooks | None = None) -> dict[str, Any]:
    """Run all units of a job in this process, then write and return the run's result.json.

    Raises:
        DataError: the data changed since one of its units was finished (exit code 3).
        Any VitftError of a unit; finished units stay, and the same call goes on from there.
    """
    hooks = hooks or Hooks()
    unchanged.hold(folder, source_of(job), hooks.note)
    warm = Warm()
    tuning = tune_units(job, scheme)
    total = len(tuning) + len(job.seeds)
    tuned = []
    for done, unit in enumerate(tuning):
        hooks.unit(unit.title, done, total)
        tuned.append(run_unit(unit, folder, runtime, hooks, warm))
    finals = []
    for done, unit in enumerate(final_units(job, scheme, tuned), len(tuning)):
        hooks.unit(unit.title, done, total)
        finals.append(run_unit(unit, folder, runtime, hooks, warm) | {"unit": unit.id})
    for name in ("weights.safetensors", "head.safetensors", "predictions.parquet"):
        _share(results.unit_folder(folder, finals[0]["unit"]) / name, folder / name)
    result = summary(finals, tuned)
    results.write_json(folder / "result.json", result)
    return result


def _share(file: Path, at: Path) -> None:
    """Show a unit's file in the run folder too, without a second copy where the file system can."""
    if not file.exists():
        return
    at.unlink(missing_ok=True)
    try:
        os.link(file, at)
    except OSError:
        shutil.copyfile(file, at)


def summary(finals: list[dict[str, Any]], tuned: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one result for the final units of a job: that of the one seed, or the mean over all seeds.

    Over several seeds `metrics.top1` is the mean, `ci95` Student's t interval over the seeds, clipped to [0, 1], and
    `correct` is absent: it belongs to a single run.

    Raises:
        DataError: the seeds were tested on different images (exit code 3).
    """
    if len({r["provenance"]["split_digest"] for r in finals}) > 1:
        raise DataError(
            f"The test images of '{finals[0]['task']}' changed between its seeds.",
            "Legal: one test set for all seeds; a mean over two says nothing.",
            "Start anew with --overwrite.",
        )
    result = dict(finals[0])
    result["provenance"] = {**result["provenance"], "overlap": results.worst_overlap(finals)}
    result["tuned"] = [{"point": t["point"], "top1": t["metrics"]["top1"], "n": t["metrics"]["n"]} for t in tuned]
    result["warnings"] = list(dict.fromkeys(w for r in finals for w in r.get("warnings", ())))
    if len(finals) > 1:
        values = [r["metrics"]["top1"] for r in finals]
        result["metrics"] = {
            "top1": fmean(values),
            "n": result["metrics"]["n"],
            "ci95": clipped(t_interval(values)),
            "ci95_of": "the mean over seeds",
        }
        result["seeds"] = {str(r["seed"]): r["metrics"] for r in finals}
        result["units"] = [r["unit"] for r in finals]
    return result
