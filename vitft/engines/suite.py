"""A suite as jobs: which tasks are ready, which folder they share, what they will cost, what came of them. No torch."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vitft.catalog.models import MODELS
from vitft.catalog.suites import Suite
from vitft.catalog.tasks import TASKS
from vitft.data.find import UNTUNED, WHOLE, find
from vitft.errors import DataError, UsageError
from vitft.models import places
from vitft.prepare.inventory import Row, inventory
from vitft.protocol import unchanged
from vitft.protocol.jobs import make, model_sha256
from vitft.protocol.look import look
from vitft.protocol.units import Job, told, tune_units
from vitft.recipes import Recipe
from vitft.results.folders import collect, default_folder, slug
from vitft.results.schema import UnitResult

# Patch and native size of a file that no alias names, for the estimate only.
_PATCH, _NATIVE = 16, 224


@dataclass(frozen=True)
class Asked:
    """What the user asked for; everything in it but the tasks, the seeds and the data's place decides the numbers.

    Attributes:
        shots: training examples a task; 0 = all.
    """

    suite: Suite
    tasks: tuple[str, ...]
    model: str
    recipe: Recipe
    overrides: Mapping[str, Any]
    data_dir: Path | None
    seeds: tuple[int, ...]
    shots: int

    def identity(self) -> dict[str, Any]:
        """Return what must be equal for the same folder to be gone on with; more tasks or seeds only add units."""
        sha256 = model_sha256(self.model)
        return {
            "kind": "suite",
            "suite": self.suite.name,
            "shots": self.shots,
            "model": told(self.model, sha256),
            "model_sha256": sha256,
            "recipe": self.recipe.name,
            "recipe_digest": self.recipe.digest(self.overrides),
            "overrides": json.loads(json.dumps(dict(self.overrides))),
            "data_dir": str(self.data_dir or ""),
        }

    def folder(self) -> Path:
        """Return the run folder without --output."""
        identity = self.identity()
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
        sha, known = identity["model_sha256"], self.model in MODELS
        name = self.model if known or not sha else Path(identity["model"]).stem
        of_suite = self.suite.name + ("" if self.shots else "-full")
        return default_folder(of_suite, slug(name), sha[:8], self.recipe.name, digest)


def availability(asked: Asked) -> tuple[list[Row], dict[str, str]]:
    """Return a row for each task asked for, and task -> why it cannot run."""
    rows = inventory(asked.data_dir, asked.tasks, "1000" if asked.shots else "full")
    needed = WHOLE["1000" if asked.shots else "full"]
    missing = {}
    for row in rows:
        if row.status not in ("ready", "built-in"):
            missing[row.task] = f"no data: {row.status}"
        elif not needed <= set(row.splits) and not (asked.shots and set(row.splits) >= UNTUNED):
            missing[row.task] = f"no split {', '.join(sorted(needed - set(row.splits)))} in {row.where}"
    return rows, missing


@dataclass(frozen=True)
class Planned:
    """What is to be run.

    Attributes:
        jobs: one for each task that can run, in the suite's order.
        missing: task -> why it cannot run, in one line.
        notes: what the user should know of the data.
    """

    jobs: tuple[Job, ...]
    missing: Mapping[str, str]
    notes: tuple[str, ...] = ()


def plan(asked: Asked, missing: Mapping[str, str]) -> Planned:
    """Plan each task asked for, except those in `missing`, and look at names and labels of all their splits.

    Raises:
        UnknownName, RecipeError: exit code 2.
    """
    jobs, missing, notes = [], dict(missing), []
    for task in asked.tasks:
        if task in missing:
            continue
        try:
            job, source = make(
                task,
                model=asked.model,
                recipe=asked.recipe,
                overrides=asked.overrides,
                data_dir=asked.data_dir,
                shots="1000" if asked.shots else "full",
                seeds=asked.seeds,
            )
            notes += [f"{task}: {line}" for line in look(job, source)]
        except DataError as error:
            missing[task] = error.lines[0].rstrip(".")
        else:
            jobs.append(job)
    return Planned(tuple(jobs), missing, tuple(notes))


def hold(asked: Asked, folder: Path, tasks: Iterable[str], note: Callable[[str], None]) -> None:
    """Compare the data of tasks with what the run in `folder` began with. Raises as `unchanged.hold`."""
    for task in tasks:
        try:
            source = find(task, asked.data_dir, "1000" if asked.shots else "full")
        except DataError:
            note(f"The data of '{task}' was not compared with what the stored result was measured on: it is not here.")
            continue
        unchanged.hold(folder, source, note)


def shard(tasks: Sequence[str], text: str) -> tuple[str, ...]:
    """Return the tasks of shard "I/N", I from 1: every Nth, so that large tasks are spread. Raises UsageError."""
    first, _, second = text.partition("/")
    if not (first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second)):
        raise UsageError(f"Shard '{text}' is not of the form I/N.", "Legal: 1/4, 2/4, 3/4 and 4/4 for four machines.")
    return tuple(tasks[int(first) - 1 :: int(second)])


@dataclass(frozen=True)
class Estimate:
    """A rough cost, before anything runs.

    Attributes:
        units: fits to run, tuning included.
        train_images: images through a training step.
        test_images: images of the evaluations.
        flops: floating-point operations of all of it, by the rule of `estimate`.
    """

    units: int
    train_images: int
    test_images: int
    flops: float


def estimate(asked: Asked, jobs: Sequence[Job]) -> Estimate:
    """Return a rough cost: a forward pass is parameters x patches multiply-accumulates, a training step three of them.

    The rule leaves the attention products out (a tenth at 224 px, a fifth at 384), counts frozen layers as trained,
    and takes official test counts; a file that says nothing of its patches is taken for patches of 16.
    """
    units = train = test = 0
    flops = 0.0
    for job in jobs:
        tuning = len(tune_units(job))
        fits = tuning + len(job.seeds)
        images = job.settings.steps * job.settings.batch_size * fits
        sizes = _sizes(job.name)
        tested = len(job.seeds) * sizes.get("test", 0) + tuning * sizes.get("val200" if asked.shots else "val", 0)
        macs = _macs(asked.model, job.settings.resolution)
        units, train, test = units + fits, train + images, test + tested
        flops += 2 * macs * (3 * images + tested)
    return Estimate(units, train, test, flops)


def _sizes(task: str) -> dict[str, int]:
    entry = next(t for t in TASKS if t.name == task)
    return {name: sum(piece.stop - piece.start for piece in pieces) for name, pieces in entry.splits.items()}


def _macs(model: str, resolution: Any) -> float:
    alias = MODELS.get(model)
    file = Path(places.split(model)[0]) if alias is None else alias.file
    parameters, patch, native = 86e6, _PATCH, _NATIVE
    if alias and alias.params:
        parameters, patch, native = 1e6 * alias.params, alias.patch_size, alias.resolution
    elif file is not None and file.is_file():
        parameters = file.stat().st_size / 4
        patch, native = _recorded(file)
    if resolution in ("native", "higher"):
        resolution = native * (12 / 7 if resolution == "higher" else 1)
    height, width = resolution if isinstance(resolution, list | tuple) else (resolution, resolution)
    return float(parameters * (height / patch) * (width / patch))


def _recorded(file: Path) -> tuple[int, int]:
    """Return patch and native side from the record vitft leaves in its own weight files, else the usual ones."""
    try:
        with file.open("rb") as weights:
            head = json.loads(weights.read(int.from_bytes(weights.read(8), "little")))
        record = json.loads(head["__metadata__"]["vitft"])["model"]
        return record["patch"][0], record["native"][0]
    except (OSError, ValueError, KeyError, TypeError, MemoryError, OverflowError):
        return _PATCH, _NATIVE


def finals(asked: Asked, folder: Path) -> list[UnitResult]:
    """Return the results of the final units in a folder that belong to this suite and these seeds."""
    found = collect(folder)
    return [r for r in found if r.phase == "final" and r.task in asked.suite.tasks and r.seed in asked.seeds]


def with_tasks(asked: Asked, tasks: tuple[str, ...]) -> Asked:
    """Return the same request for other tasks."""
    return replace(asked, tasks=tasks)
