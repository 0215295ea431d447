"""A suite's legs run: their folders held, what is finished left alone, fits by workers, measurements here."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING

from vitft.engines import choice, surroundings
from vitft.engines import suite as planning
from vitft.engines.suite import Leg, Planned
from vitft.errors import CheckpointError, UsageError
from vitft.progress import Hooks
from vitft.protocol.jobs import Runtime, resolution_note
from vitft.protocol.units import Job, fits
from vitft.results.folders import CLAIM_S, claim, lock, nothing_left_behind
from vitft.results.schema import Measured

if TYPE_CHECKING:
    from vitft.protocol.estimate import Estimate

Note = Callable[[str], None]


@dataclass(frozen=True)
class How:
    """How legs are run; nothing here changes a number.

    Attributes:
        devices: one worker each; empty = the runtime's device.
        shard: "I/N", or "" for the whole.
        resume, overwrite: see `results.folders.claim`.
        engine: who runs the units.
        note, watched: see `single.in_folder`.
    """

    runtime: Runtime
    note: Note
    watched: Callable[[], AbstractContextManager[Hooks]]
    devices: Sequence[str] = ()
    shard: str = ""
    resume: bool = True
    overwrite: bool = False
    engine: choice.Engine = "local"


@contextmanager
def held(legs: Sequence[Leg], how: How) -> Iterator[None]:
    """Claim the folders of all legs before any of them begins, and hold them.

    Raises:
        RunFolderOccupied, UsageError: another run lives in one, or is at work there (exit code 2).
        Interrupted: a signal came, or the time was up, while another was waited for.
    """
    with ExitStack() as all_:
        for leg in legs:
            all_.enter_context(_held(leg, how))
        yield


@contextmanager
def _held(leg: Leg, how: How) -> Iterator[None]:
    """Claim a run folder and hold it; shards hold a place of their own in it."""
    folder = leg.folder()
    if not how.shard:
        # Shards at work are waited for, but never to delete what they do.
        patient = how.resume and not how.overwrite
        on_shards = how.note if patient else None
        alone = lock(folder, wait=CLAIM_S * patient, on_shards=on_shards, note=how.note, watched=how.watched)
        with alone, nothing_left_behind(folder):
            claim(folder, leg.identity(), overwrite=how.overwrite, resume=how.resume)
            try:
                yield
            except (UsageError, CheckpointError):
                # The error says it all; the workers' logs add nothing.
                rmtree(folder / "logs", ignore_errors=True)
                raise
        return
    own = folder / "shards" / how.shard.replace("/", "-of-")
    with ExitStack() as place:
        with lock(folder, shards=False, wait=CLAIM_S, watched=how.watched):
            claim(folder, leg.identity(), overwrite=False, resume=True)
            place.enter_context(lock(own, note=how.note, watched=how.watched))
        yield


def run(leg: Leg, planned: Planned, how: How) -> dict[str, str]:
    """Run what of a leg is not finished, in a folder that is held; return data set -> why it failed.

    Args:
        leg: with the columns of the shard, where there is one.
        planned: jobs may be absent where everything was finished when it was looked.
    """
    note, folder = how.note, leg.folder()
    names = [name for name in leg.tasks() if name not in planned.missing]
    if not names:
        return {}  # nothing of it is this shard's
    others = [] if how.shard else [leg.name(leg.suite.column(key)) for key in planning.results(leg)]
    planning.hold(leg, dict.fromkeys([*names, *others]), note)
    left = planning.unfinished(leg, planned.missing)
    if not left:
        note("Finished before: these are the stored results; nothing was run or looked at again.")
        return {}
    asked = ",".join(how.devices) or how.runtime.device
    for text in surroundings.slurm_faults(os.environ, asked) if how.engine == "local" else ():
        note(f"WARNING: {text}.")
    if leg.recipe is None:
        from vitft.engines.measure import measure

        note(f"vitft {leg.suite.name} with {leg.model}, {leg.part.name}: tasks {len(left)} -> {folder}")
        with how.watched() as hooks:
            return measure(leg, left, how.runtime, how.devices, hooks)
    planned = planned if planned.jobs else planning.plan(leg, planned.missing)
    jobs = [job for job in planned.jobs if job.name in names]
    for name in names:
        for text in planned.notes.get(name, ()):
            note(f"Note: {name}: {text}.")
    what = f"tasks {len(jobs)}, fits {sum(len(fits(job)) for job in jobs)}"
    note(f"vitft {leg.suite.name} with {leg.model}, recipe {leg.recipe.name}: {what} -> {folder}")
    if of := estimate([job for job in jobs if job.name in left], planned, how, apart=True):
        from vitft.protocol.estimate import line

        note(line(of))
    for job in jobs:
        if text := resolution_note(job):
            note(f"{job.name}: {text}")
    with how.watched() as hooks:
        return dict(choice.run(how.engine, jobs, folder, how.runtime, how.devices, hooks))


def estimate(jobs: Sequence[Job], planned: Planned, how: How, *, apart: bool = False) -> "Estimate | None":
    """Return the estimate of a plan's jobs on the first device, one after the other; None without jobs.

    Raises as `protocol.estimate.total`, which `apart` is of.
    """
    if not jobs:
        return None
    from vitft.protocol.estimate import total  # with torch, which a wrong word must not wait for

    first = replace(how.runtime, device=(how.devices or (how.runtime.device,))[0])
    return total([(job, planned.counts[job.name]) for job in jobs], first, apart=apart)


@dataclass(frozen=True)
class Outcome:
    """What came of a leg.

    Attributes:
        results: column -> its results by their folders.
        why: column -> why it has none.
        failed: data set -> why it failed.
        left: data sets that are the other shards' to do.
    """

    leg: Leg
    results: Mapping[str, Mapping[Path, Measured]]
    why: Mapping[str, str]
    failed: Mapping[str, str]
    left: Sequence[str]


def outcome(leg: Leg, planned: Planned, failed: Mapping[str, str], shard: str) -> Outcome:
    """Read what there is of a leg after its run."""
    holes = {**planned.missing, **{name: f"failed: {text}" for name, text in failed.items()}}
    left = [name for name in planning.unfinished(leg, holes) if shard]
    holes |= dict.fromkeys(left, "left to the other shards")
    why = {c.key: holes[leg.name(c)] for c in leg.columns if leg.name(c) in holes}
    return Outcome(leg, planning.results(leg), why, failed, left)


def check_models(legs: Sequence[Leg], how: How | None = None) -> None:
    """Raise now what a run would raise of its models, and of the devices of `how`; nothing is planned or run.

    Raises:
        CheckpointError: see `models.loading.load` (exit code 4). UsageError: a device is not here (exit code 2).
    """
    from vitft import device as devices
    from vitft.models import loading
    from vitft.models.declared import Declared

    for model, leg in {leg.model: leg for leg in legs}.items():
        loading.load(model, weights=False, declared=Declared.within(leg.overrides))
    for device in (how.devices or (how.runtime.device,)) if how else ():
        devices.pick(device)
