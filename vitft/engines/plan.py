"""What of several jobs is finished, what can run now, what failed; read from the disk, never only remembered."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vitft.catalog.tasks import by_name
from vitft.errors import CheckpointError, DiskFull, NonFiniteLoss, UsageError, VitftError
from vitft.protocol.units import Job, Unit, counts, final_units, points, tune_units
from vitft.results.files import write_json
from vitft.results.folders import LOST, finished_unit, lost_unit, unit_folder
from vitft.results.schema import Lost, UnitResult, to_json
from vitft.words import clock


@dataclass
class Plan:
    """The units of some jobs and what became of them.

    Attributes:
        failed: job name -> why, in one line; filled by `fail`.
        succeeded: whether a unit has come to its end in this process.
    """

    jobs: Sequence[Job]
    folder: Path
    failed: dict[str, str] = field(default_factory=dict)
    succeeded: bool = False
    _finished: dict[str, UnitResult] = field(default_factory=dict)
    _lost: dict[str, Lost | None] = field(default_factory=dict)
    _numbers: dict[str, int] = field(default_factory=dict)
    _tuning: dict[str, list[Unit]] = field(default_factory=dict)
    _finals: dict[str, list[Unit]] = field(default_factory=dict)

    def result(self, unit: Unit) -> UnitResult | None:
        if unit.id not in self._finished:
            result = finished_unit(self.folder, unit.id)
            if result is None:
                return None
            self._finished[unit.id] = result
        return self._finished[unit.id]

    def needed(self, unit: Unit) -> UnitResult:
        """Return the result of a finished unit."""
        result = self.result(unit)
        assert result is not None, unit.id
        return result

    def lost(self, unit: Unit) -> Lost | None:
        """Return why a unit of a grid came to nothing, None where it did not."""
        if unit.id not in self._lost:
            self._lost[unit.id] = lost_unit(self.folder, unit.id) if unit.job.grid else None
        return self._lost[unit.id]

    def lose(self, unit: Unit, error: NonFiniteLoss) -> None:
        """Remember that a unit of a grid diverged; the other points go on without its own."""
        lost = Lost(point=unit.point, seed=unit.seed, why=error.lines[0])
        write_json(unit_folder(self.folder, unit.id) / LOST, to_json(lost))
        self._lost[unit.id] = lost

    def over(self, unit: Unit) -> bool:
        """Tell whether there is nothing more to do for a unit: a point that lost a seed needs no other one."""
        seeds = (replace(unit, seed=seed) for seed in unit.job.seeds if unit.job.grid)
        return self.result(unit) is not None or any(self.lost(one) is not None for one in seeds)

    def scored(self, job: Job) -> list[UnitResult]:
        """Return the results that a choice is made on, of the points that have all of theirs.

        Raises:
            NonFiniteLoss: no point has.
        """
        units = final_units(job, []) if job.on == "test" else tune_units(job)
        gone = [lost.point for unit in units if (lost := self.lost(unit)) is not None]
        whole = [self.needed(unit) for unit in units if unit.point not in gone]
        if units and not whole:
            raise NonFiniteLoss(
                f"Each of the {len(points(job))} settings diverged: no number is left to choose by.",
                "",
                "Try smaller values of lr, or more warmup_steps.",
            )
        return whole

    def units(self, job: Job) -> tuple[list[Unit], list[Unit]]:
        """Return the tune units and, as soon as those are finished, the final units. Raises as `scored`."""
        if job.name not in self._tuning:
            self._tuning[job.name] = tune_units(job)
        tuning = self._tuning[job.name]
        if job.name not in self._finals:
            if not all(self.over(unit) for unit in tuning):
                return tuning, []
            self._finals[job.name] = final_units(job, self.scored(job) if tuning else [])
        return tuning, self._finals[job.name]

    def ready(self) -> list[Unit]:
        """Return the units that can run now, in the order of the jobs."""
        return [unit for job in self.jobs for unit in self.ready_of(job)]

    def ready_of(self, job: Job) -> list[Unit]:
        """Return the units of a job that can run now."""
        if job.name in self.failed:
            return []
        tuning, finals = self.units(job)
        return [unit for unit in (finals or tuning) if not self.over(unit)]

    def fail(self, unit: Unit, error: VitftError, note: Callable[[str], None]) -> None:
        """Give up the job of a unit that failed; the others go on.

        Raises:
            UsageError, DiskFull, CheckpointError: it would stop every other unit too.
        """
        unusable = isinstance(error, CheckpointError) and not self.succeeded
        if unusable or isinstance(error, UsageError | DiskFull):
            raise error
        self.give_up(unit, error.lines[0])
        note(f"{unit.title} failed: {' '.join(error.lines)}")

    def give_up(self, unit: Unit, why: str) -> None:
        """Count a unit's job as failed."""
        self.failed[unit.job.name] = why

    def done(self) -> bool:
        return not self.ready()

    def _number(self, job: Job) -> int:
        if job.name not in self._numbers:
            self._numbers[job.name] = sum(counts(job))
        return self._numbers[job.name]

    def counts(self) -> tuple[int, int]:
        """Return (units finished, units in all); those of a failed job count as finished."""
        done = total = 0
        for job in self.jobs:
            tuning, finals = self.units(job)
            of_job = self._number(job)
            total += of_job
            finished = sum(self.over(unit) for unit in tuning + finals)
            done += of_job if job.name in self.failed else finished
        return done, total

    def begun(self) -> tuple[float, float]:
        """Return the arguments of `eta` for a start at this moment."""
        return time.monotonic(), self.work()[0]

    def eta(self, began: float, before: float) -> float | None:
        """Return the seconds left, from the work done since `began`, when `before` was done already; None at first."""
        done, total = self.work()
        share = (done - before) / max(1.0, total - before)
        return (time.monotonic() - began) * (1 / share - 1) if share > 0 else None

    def time_left(self, began: float, before: float) -> str:
        """Return a few words on when all units will be done, "" where there is one or nothing to go by."""
        left = self.eta(began, before)
        return f"; whole suite ETA {clock(left)}" if left is not None and self.counts()[1] > 1 else ""

    def work(self) -> tuple[float, float]:
        """Return (work done, work in all), in images weighed by their area; a training step counts three times."""
        done = total = 0.0
        for job in self.jobs:
            tuning, finals = self.units(job)
            each = cost(job)
            total += each * self._number(job)
            whole = job.name in self.failed
            done += each * sum(whole or self.over(unit) for unit in tuning + finals)
        return done, total


def cost(job: Job) -> float:
    """Return the work of one unit, in images weighed by their area; a training step counts three times."""
    s = job.settings
    area = 1.0 if isinstance(s.resolution, str) else float(s.size[0] * s.size[1])
    task = by_name(job.name)
    test = task.count("test") if task else 0
    return area * (3 * s.steps * s.batch_size + test)
