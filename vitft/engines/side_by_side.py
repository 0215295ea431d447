"""One task with one model or several: planned, described, run one after the other. For finetune and sweep."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from vitft.catalog import tasks
from vitft.catalog.models import MODELS
from vitft.data.split import Counts, Opened, catalogued
from vitft.engines.single import How, in_folder
from vitft.errors import DataMissing, UsageError
from vitft.models import names
from vitft.progress import Hooks
from vitft.protocol import jobs as planning
from vitft.protocol.jobs import PlanOptions, Runtime, run_folder
from vitft.protocol.preflight import check_splits
from vitft.protocol.units import Job
from vitft.results.checkpoint import CheckpointInfo
from vitft.results.files import RESULT
from vitft.results.folders import beside
from vitft.results.schema import RunResult
from vitft.settings import CHECKPOINT_KEYS, Settings, checked

if TYPE_CHECKING:
    from vitft.models.checkpoint import Checkpoint
    from vitft.protocol.estimate import Estimate
    from vitft.training.speed import Speed

_KEPT = 4_000_000_000
"""Bytes of weights that stay in memory from before the first run until their own."""


class Models:
    """Checkpoints that are opened once: to be looked at before anything runs, then for their runs."""

    def __init__(self) -> None:
        self._opened: dict[tuple[object, ...], Checkpoint] = {}

    def infos(self, models: Sequence[str], fixed: Mapping[str, object]) -> list[CheckpointInfo]:
        """Return the facts of checkpoints; an alias's are known without its file.

        Args:
            fixed: a recipe's keys that the user has set.
        """
        own = checked({key: value for key, value in fixed.items() if key in CHECKPOINT_KEYS})
        return [names.alias_info(MODELS[model]) if model in MODELS else self.open(model, own).info for model in models]

    def open(self, model: str, settings: Settings) -> "Checkpoint":
        """Return a checkpoint as settings say it is; one that is not here comes without its weights.

        Raises as `loading.load`.
        """
        from vitft.models import loading
        from vitft.models.declared import Declared

        which = _which(model, settings)
        if which not in self._opened:
            checkpoint = loading.load(model, weights=False, declared=Declared.of(settings))
            kept = [*self._opened.values(), checkpoint]
            small = sum(tensor.nbytes for one in kept for tensor in one.state.values()) <= _KEPT
            self._opened[which] = checkpoint if small else replace(checkpoint, state={})
        return self._opened[which]

    def take(self, job: Job, *, again: bool) -> "Checkpoint | None":
        """Return a job's checkpoint where it is open with all that the job needs, and forget it unless `again`."""
        which = _which(job.model, job.settings)
        checkpoint = self._opened.get(which) if again else self._opened.pop(which, None)
        return checkpoint if checkpoint is not None and (checkpoint.state or job.from_scratch) else None


def _which(model: str, settings: Settings) -> tuple[object, ...]:
    return (model, *(getattr(settings, key) for key in CHECKPOINT_KEYS))


@dataclass(frozen=True)
class Planned:
    """What is to be run.

    Attributes:
        data: of all the jobs; in numbers alone where nothing is to be run and it is not here.
        folders: a run folder for each job.
    """

    data: Opened | Counts
    jobs: tuple[Job, ...]
    folders: tuple[Path, ...]
    models: Models = field(default_factory=Models)

    def notes(self) -> list[str]:
        """Return notes on the data, after a check of the names and labels of all its splits."""
        data = self.data
        if isinstance(data, Counts):
            counts = ", ".join(f"{split} {data.count(split):,}" for split in data.splits)
            return [f"the data of '{data.task}' is not here; these are the images of its official splits: {counts}"]
        return list(dict.fromkeys(line for job in self.jobs for line in check_splits(job, data)))

    def estimates(self, runtime: Runtime, speed: "Speed | None" = None) -> "list[Estimate]":
        """Return the estimate of each job, at a speed where it is known. Raises as `estimate`."""
        from vitft.protocol.estimate import estimate

        infos = [self.models.open(job.model, job.settings).info for job in self.jobs]
        return [estimate(job, self.data, runtime, info, speed) for job, info in zip(self.jobs, infos, strict=True)]

    def run(
        self,
        runtime: Runtime,
        how: How,
        watched: Callable[[Path], AbstractContextManager[Hooks]],
    ) -> list[RunResult]:
        """Run the jobs one after the other.

        Args:
            watched: a run's folder -> what shows its progress and catches signals.
        """
        assert isinstance(self.data, Opened), "in numbers alone where nothing is to be run"
        self._openable()
        results = []
        for i, (job, folder) in enumerate(zip(self.jobs, self.folders, strict=True), 1):
            opened = self.models.take(job, again=job.model in {later.model for later in self.jobs[i:]})
            results.append(in_folder(job, self.data, folder, runtime, how, partial(watched, folder), opened))
        return results

    def _openable(self) -> None:
        """Open all models before the first is trained, so that an error of the last does not come hours later."""
        if len({job.model for job in self.jobs}) < 2:
            return
        for job, folder in zip(self.jobs, self.folders, strict=True):
            if not (folder / RESULT).exists():
                self.models.open(job.model, job.settings)


def plan(
    task: str,
    models: Sequence[str],
    opened: Models,
    *,
    data_dir: Path | None,
    output: Path | None,
    with_scratch: bool = False,
    dry: bool = False,
    **options: Unpack[PlanOptions],
) -> Planned:
    """Plan the same for each model.

    Args:
        opened: where some of the models may be open already.
        with_scratch: each model from scratch, too.
        output: the run folder, or what holds those of several; None = where they follow from the rest.
        dry: nothing is to be run, so the official counts of a known task stand for data that is not here.

    Raises:
        As `jobs.opened` and `jobs.plan`; UsageError: a grid of a single setting.
    """
    data = _data(task, data_dir, dry)
    jobs: list[Job] = []
    for name in models:
        job = planning.plan(task, data, model=name, data_dir=data_dir, **options)
        jobs += [job, planning.drawn(job)] if with_scratch else [job]
    if options.get("axes") is not None and len(jobs[0].grid) < 2:
        raise UsageError(
            "There is one setting, and nothing to compare it with.",
            "several values of a key, e.g. --set lr=0.01,0.03 or -r 224,384.",
            "For a single setting run 'vitft finetune'.",
        )
    if output is None:
        folders = [run_folder(job) for job in jobs]
    else:
        words = ("pretrained", "scratch") if with_scratch else ("",)
        folders = [own / word for own in beside(output, models) for word in words]
    return Planned(data, tuple(jobs), tuple(folders), opened)


def _data(task: str, data_dir: Path | None, dry: bool) -> Opened | Counts:
    try:
        return planning.opened(task, data_dir)
    except DataMissing:
        known = tasks.by_name(tasks.canonical(task) or task)
        if known is None or not dry:
            raise
        return catalogued(known)
