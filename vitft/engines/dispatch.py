"""Hand units to wherever there is room, those with the longest way to their job's end first; try again what was lost.

The engine of a cluster and its estimate are this one loop: the one over Ray, the other over a clock that is played.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from vitft.engines.plan import Plan
from vitft.errors import OutOfMemory, VitftError
from vitft.progress import Hooks
from vitft.protocol.units import Job, Unit

TRIES = 3
"""A unit that is lost so often with its worker is given up. A node may go, so may two; a third is the unit's own."""


@dataclass(frozen=True)
class End:
    """What became of a unit that was handed out.

    Attributes:
        how: "done"; "failed" by its own error; "lost" with its worker or its machine; "memory": its worker was ended
            as the machine's memory ran out; "stopped" as it was asked to.
        why: of what was lost, in a few words.
    """

    unit: Unit
    how: Literal["done", "failed", "lost", "memory", "stopped"]
    error: VitftError | None = None
    why: str = ""


class Pool(Protocol):
    """Where units run."""

    def room(self) -> int:
        """Return how many more units it takes now."""

    def submit(self, unit: Unit) -> None:
        """Begin a unit, or queue it."""

    def wait(self) -> Sequence[End]:
        """Return the units that have ended, after a moment at most."""

    def stop(self) -> None:
        """Let every unit save its state and end."""


def dispatch(plan: Plan, pool: Pool, hooks: Hooks, cost: Callable[[Job], float]) -> None:
    """Bring all units of a plan to their result files, but for those of jobs that fail.

    Args:
        cost: of one unit of a job, in any measure.

    Raises:
        Interrupted: a signal came; the units have saved their state (exit code 130 or 143).
        UsageError, DiskFull, CheckpointError: see `Plan.fail`.
    """
    overall = _Overall(plan)
    waiting, busy = {unit.id: unit for unit in plan.ready()}, dict[str, Unit]()
    lost: Counter[str] = Counter()
    while waiting or busy:
        for unit in _first(waiting, cost, pool.room()):
            busy[unit.id] = waiting.pop(unit.id)
            hooks.unit(*overall(unit))
            pool.submit(unit)
        for end in pool.wait():
            unit = busy.pop(end.unit.id)
            if _again(end, plan, lost, hooks):
                waiting[unit.id] = unit
            if unit.job.name in plan.failed:
                waiting = {i: other for i, other in waiting.items() if other.job.name != unit.job.name}
            else:
                waiting |= {u.id: u for u in plan.ready_of(unit.job) if u.id not in busy and u.id not in waiting}
        if hooks.signal():
            pool.stop()
            hooks.stop_if_asked()


class _Overall:
    """Title, time left and counts shown when a unit begins; of many units they are counted anew every hundredth."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._began, self._calls = plan, plan.begun(), 0
        self._every = max(1, plan.counts()[1] // 100)

    def __call__(self, unit: Unit) -> tuple[str, int, int]:
        if self._calls % self._every == 0:
            self._now = self._plan.time_left(*self._began), self._plan.counts()
        self._calls += 1
        eta, (done, total) = self._now
        return unit.title + eta, done, total


def _first(waiting: dict[str, Unit], cost: Callable[[Job], float], n: int) -> list[Unit]:
    def way(unit: Unit) -> float:
        return cost(unit.job) * (2 if unit.phase == "tune" else 1)  # a final unit follows

    return sorted(waiting.values(), key=way, reverse=True)[: max(0, n)]


def _again(end: End, plan: Plan, lost: Counter[str], hooks: Hooks) -> bool:
    """Take note of what became of a unit; return whether it is to be tried again."""
    unit = end.unit
    if end.how == "stopped" or plan.result(unit) is not None:  # a worker may be lost after it has written
        plan.succeeded = plan.succeeded or end.how == "done"
        return False
    if end.how == "done":
        raise VitftError(
            f"{unit.title} is said to be done, but '{plan.folder}' does not hold its result.",
            "a run folder that all machines of the cluster share.",
            "Give one with --output.",
        )
    if end.how == "failed":
        plan.fail(unit, end.error or VitftError(end.why), hooks.note)
        return False
    lost[unit.id] += 1
    short = end.how == "memory"
    if lost[unit.id] < TRIES:
        why = "the machine's memory ran out" if short else "its worker was lost"
        hooks.note(f"{unit.title}: {why} ({end.why}); it goes on from its state elsewhere.")
        return True
    if short:
        many = f"The machine's memory ran out {TRIES} times under it ({end.why})."
        plan.fail(unit, OutOfMemory(many, "", "Fewer at once (--devices), or machines with more memory."), hooks.note)
    else:
        plan.give_up(unit, f"its worker was lost {TRIES} times ({end.why})")
        hooks.note(f"{unit.title} is given up: its worker was lost {TRIES} times ({end.why}).")
    return False
