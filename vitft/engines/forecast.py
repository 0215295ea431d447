"""How long a suite takes on many devices: the loop that hands units out, over a clock that is played. No torch."""

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from vitft.engines.dispatch import End, dispatch
from vitft.engines.plan import Plan
from vitft.errors import UsageError
from vitft.progress import Hooks
from vitft.protocol.units import Job, Scheme, Unit
from vitft.results.folders import collect
from vitft.results.parts import Phase
from vitft.results.schema import UnitResult
from vitft.settings import Scalar


@dataclass(frozen=True)
class Measured:
    """What the units of one task took.

    Attributes:
        tune, final: seconds of one unit on one device, the mean of those that are stored; 0.0 = nothing is tuned.
        points: of the sweep; 1 where nothing is tuned.
        result: of one of its units.
    """

    task: str
    tune: float
    final: float
    points: int
    result: UnitResult


@dataclass(frozen=True)
class Forecast:
    """What a suite takes on so many devices, in seconds.

    Attributes:
        units: fits.
        work: of all units, one after the other.
        wall: by handing out the longest way to a job's end first.
        floor: no number of devices is faster: the longest way, a tune unit and a final one of the same task.
        longest: the task of that way.
        devices: as asked for.
        kinds: of device, that the units were measured on.
    """

    units: int
    work: float
    wall: float
    floor: float
    longest: str
    devices: int
    kinds: tuple[str, ...]

    @property
    def bound(self) -> float:
        """No order of the units is faster on so many devices."""
        return max(self.floor, self.work / self.devices)


def measured(folders: Sequence[Path]) -> list[Measured]:
    """Return the seconds of the finished units below run folders, by task.

    Raises:
        UsageError: none of them is finished, or a task has no final unit (exit code 2).
    """
    results = [result for folder in folders for result in collect(folder).values()]
    found = []
    for task in dict.fromkeys(result.task for result in results):
        seconds: dict[Phase, list[float]] = {"tune": [], "final": []}
        for result in results:
            if result.task == task:
                seconds[result.phase].append(result.timing.seconds * (result.timing.processes or 1))
        if not seconds["final"]:
            continue
        tune = fmean(seconds["tune"]) if seconds["tune"] else 0.0
        points = len({str(r.point) for r in results if r.task == task and r.phase == "tune"})
        one = next(r for r in results if r.task == task and r.phase == "final")
        found.append(Measured(task, tune, fmean(seconds["final"]), max(1, points), one))
    if not found:
        names = "', '".join(map(str, folders))
        raise UsageError(
            f"No final unit is finished in '{names}'.",
            "run folders of vitft, measured on the kind of device that is asked about.",
            "Run one task, or one model, first: vitft vtab --tasks dtd -o DIR",
        )
    return found


def forecast(tasks: Sequence[Measured], *, devices: int, models: int, seeds: int) -> Forecast:
    """Play a suite of these tasks, each with every model and seed, on `devices` that take one unit each."""
    by_task = {one.task: one for one in tasks}
    jobs = [_job(one, model, seeds) for model in range(models) for one in tasks]

    def seconds(unit: Unit) -> float:
        of = by_task[unit.job.task]
        return of.tune if unit.phase == "tune" else of.final

    played = Played(seconds, devices)
    plan = PlayedPlan(jobs, tasks[0].result, played)
    dispatch(plan, played, Hooks(), lambda job: by_task[job.task].final)
    way = {one.task: (one.tune if one.points > 1 else 0.0) + one.final for one in tasks}
    work = sum((one.tune * one.points if one.points > 1 else 0.0) + seeds * one.final for one in tasks) * models
    longest = max(way, key=lambda task: way[task])
    kinds = tuple(sorted({one.result.env.device or one.result.settings.device_kind for one in tasks}))
    return Forecast(plan.counts()[1], work, played.now, way[longest], longest, devices, kinds)


def _job(one: Measured, model: int, seeds: int) -> Job:
    points: list[Scalar] = [float(i + 1) for i in range(one.points)]
    return Job(
        task=one.task,
        name=f"{one.task} of model {model}",
        model=str(model),
        model_sha256="",
        recipe=one.result.recipe,
        recipe_digest="",
        settings=one.result.recipe_settings,
        scheme=Scheme("train", "val", "train", "test"),
        sweep={"lr": points} if one.points > 1 else {},
        seeds=tuple(range(seeds)),
    )


@dataclass
class Played:
    """Devices whose units take as long as they are said to, by a clock of their own.

    Attributes:
        now: seconds since the beginning.
        finished: id of each unit that is done -> how often.
    """

    seconds: Callable[[Unit], float]
    devices: int
    now: float = 0.0
    finished: Counter[str] = field(default_factory=Counter)
    _running: list[tuple[float, int, Unit]] = field(default_factory=list)
    _number: int = 0

    def room(self) -> int:
        return self.devices - len(self._running)

    def submit(self, unit: Unit) -> None:
        self._number += 1
        heapq.heappush(self._running, (self.now + self.seconds(unit), self._number, unit))

    def wait(self) -> list[End]:
        self.now, _, unit = heapq.heappop(self._running)
        self.finished[unit.id] += 1
        return [End(unit, "done")]

    def stop(self) -> None:
        self._running.clear()


class PlayedPlan(Plan):
    """A plan whose units are finished when a played clock says so; nothing is on the disk.

    Args:
        stand_in: stands for the result of each unit.
    """

    def __init__(self, jobs: Sequence[Job], stand_in: UnitResult, played: Played) -> None:
        super().__init__(jobs, Path())
        self._stand_in, self._played = stand_in, played

    def result(self, unit: Unit) -> UnitResult | None:
        if unit.id not in self._finished and unit.id in self._played.finished:
            self._finished[unit.id] = self._stand_in.model_copy(update={"point": unit.point})
        return self._finished.get(unit.id)
