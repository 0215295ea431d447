"""One job in its run folder: finished before, gone on with, or begun. No torch until something is run."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vitft.data.split import Opened
from vitft.engines.surroundings import slurm_faults
from vitft.progress import Hooks
from vitft.protocol import unchanged
from vitft.protocol.jobs import Runtime, resolution_note, watch_note
from vitft.protocol.preflight import check_splits
from vitft.protocol.units import Job
from vitft.results.files import RESULT
from vitft.results.folders import claim, lock, nothing_left_behind
from vitft.results.reading import load
from vitft.results.schema import RunResult

if TYPE_CHECKING:
    from vitft.models.checkpoint import Checkpoint


@dataclass(frozen=True)
class How:
    """How a run treats its folder.

    Attributes:
        resume, overwrite: see `results.folders.claim`.
        note: called with each line that the user should read before anything runs.
    """

    resume: bool
    overwrite: bool
    note: Callable[[str], None]


def in_folder(
    job: Job,
    source: Opened,
    folder: Path,
    runtime: Runtime,
    how: How,
    watched: Callable[[], AbstractContextManager[Hooks]],
    opened: "Checkpoint | None" = None,
) -> RunResult:
    """Run a job in its folder; a finished one answers at once.

    Args:
        source: of the job's data.
        watched: opens what shows progress and catches signals while the job runs.
        opened: the job's checkpoint, where it is open already.

    Raises:
        UsageError: another run lives in the folder, or is at work there (exit code 2).
        See also `unchanged.hold` and `inline.run_job`.
    """
    note = how.note
    with lock(folder, note=note, watched=watched), nothing_left_behind(folder):
        claim(folder, job.identity(), overwrite=how.overwrite, resume=how.resume)
        finished = load(folder / RESULT, RunResult)
        if finished is not None:
            unchanged.hold(folder, source, note)
            note("Finished before: this is the stored result; nothing was run or looked at again.")
            if runtime.val_every:
                note("--val-every writes while a run trains: start anew with --overwrite.")
            return finished
        for line in check_splits(job, source):
            note(f"Note: {line}.")
        for line in slurm_faults(os.environ, runtime.device):
            note(f"WARNING: {line}.")
        with watched() as hooks:
            note(f"vitft {job.name} with {job.model}, recipe {job.recipe} -> {folder}")
            for line in filter(None, (resolution_note(job), watch_note(job, runtime))):
                note(line)
            from vitft.engines import together
            from vitft.engines.inline import run_job
            from vitft.protocol.estimate import estimate, in_lines
            from vitft.protocol.warm import Warm

            warm = Warm(source=source, group=together.group())
            info = warm.checkpoint(job, job.settings, opened).info
            for line in in_lines(job, source, estimate(job, source, runtime, info), info):
                note(line)
            return run_job(job, source, folder, runtime, hooks, warm)
