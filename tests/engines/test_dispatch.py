"""Units handed out: each done once, the longest first, whatever is lost; and how long that takes, told before."""

import heapq
import json
import random

import pytest

from tests import typed
from vitft.cli.app import app
from vitft.engines.dispatch import TRIES, End, dispatch
from vitft.engines.forecast import Measured, Played, PlayedPlan, forecast
from vitft.errors import CheckpointError, DataDamaged, Interrupted, VitftError
from vitft.progress import Hooks
from vitft.protocol.units import Job, Scheme, Unit
from vitft.results.reading import parse
from vitft.results.schema import UnitResult, to_json
from vitft.settings import Settings

SCHEME = Scheme("train", "val", "train", "test")


def job(name: str, points: int = 4, seeds: int = 5) -> Job:
    sweep: dict = {"lr": [10.0**-i for i in range(points)]} if points > 1 else {}
    return Job(name, name, "m", "", "r", "", Settings(), SCHEME, sweep=sweep, seeds=tuple(range(seeds)))


def result(task: str, total_s: float = 1.0, **fields: object) -> UnitResult:
    metrics = {"top1": 0.5, "correct": 1, "n": 2, "ci95": [0.0, 1.0]}
    said = {"phase": "final", "seed": 0, "method": "full", "recipe": "r", "model": "m", "metrics": metrics, **fields}
    rest = {"protocol": {**typed.PROTOCOL, "id": "p", "resolution": [32, 32]}, "checkpoint": typed.CHECKPOINT}
    timing = {"evaluate_s": 1.0, "total_s": total_s}
    provenance = {"source": "drawn", "split_digest": "d"}
    whole = {**typed.REST, **rest, "task": task, "timing": timing, "provenance": provenance, **said}
    return parse({**whole, "schema_version": 2, "class_names": []}, UnitResult, "a result")


class Losing(Played):
    """A played cluster that loses 1 % of its units half-way, and a node of eight devices at a moment."""

    def __init__(self, seconds, devices: int, node_lost_at: float) -> None:
        super().__init__(seconds, devices)
        self.chance, self.node_lost_at, self.lost = random.Random(5), node_lost_at, 0
        self.losing: set[int] = set()

    def submit(self, unit: Unit) -> None:
        super().submit(unit)
        if self.chance.random() < 0.01:
            self.losing.add(self._number)

    def wait(self) -> list[End]:
        if self.devices == 64 and self._running[0][0] > self.node_lost_at:
            self.devices, self.now = 56, self.node_lost_at
            gone, self._running = self._running[:8], self._running[8:]
            heapq.heapify(self._running)
            self.lost += len(gone)
            return [End(unit, "lost", why="its node is gone") for _, _, unit in gone]
        number = self._running[0][1]
        if number not in self.losing:
            return super().wait()
        self.now, _, unit = heapq.heappop(self._running)
        self.lost += 1
        return [End(unit, "lost", why="killed")]


def test_19_tasks_of_10_models_on_64_devices_that_fail(monkeypatch):
    chance = random.Random(1)
    seconds = {f"task{i}": chance.lognormvariate(6.0, 0.7) for i in range(19)}
    jobs = [job(f"task{i}/model{m}") for m in range(10) for i in range(19)]

    def cost(of: Job) -> float:
        return seconds[of.name.split("/")[0]]

    work = sum(cost(of) * (4 + 5) for of in jobs)
    node_lost_at = work / 64 / 3
    cluster = Losing(lambda unit: cost(unit.job), 64, node_lost_at)
    notes: list[str] = []
    plan = PlayedPlan(jobs, result("digits"), cluster)
    dispatch(plan, cluster, Hooks(note=notes.append), cost)
    done = cluster.finished
    assert len(done) == 10 * 19 * (4 + 5) and set(done.values()) == {1}
    assert not plan.failed
    assert cluster.lost > 8 and len(notes) == cluster.lost
    # 64 devices until the node is lost, 56 from then on; and no way through a task is shorter than two units of it.
    bound = max(node_lost_at + (work - 64 * node_lost_at) / 56, 2 * max(seconds.values()))
    assert bound <= cluster.now <= 1.1 * bound


def test_the_longest_way_goes_first_and_finals_follow_their_tuning():
    times = {"a": 1.0, "b": 5.0, "c": 3.0}
    played = Played(lambda unit: times[unit.job.name], 1)
    order: list[str] = []
    plan = PlayedPlan([job("a", 2, 1), job("b", 1, 1), job("c", 2, 1)], result("a"), played)
    hooks = Hooks(unit=lambda title, done, total: order.append(f"{title.split(',')[0].split(' (')[0]} {done}/{total}"))
    dispatch(plan, played, hooks, lambda of: times[of.name])
    assert order == ["c: tune 0/7", "c: tune 1/7", "b: final 2/7", "c: final 3/7", "a: tune 4/7", "a: tune 5/7",
                     "a: final 6/7"]  # fmt: skip
    assert played.now == 3 * 3.0 + 5.0 + 3 * 1.0


class Ends(Played):
    """Ends units as a list says, then well."""

    def __init__(self, ends: list[tuple]) -> None:
        super().__init__(lambda unit: 1.0, 1)
        self.ends = ends

    def wait(self) -> list[End]:
        (end,) = super().wait()
        if not self.ends:
            return [end]
        del self.finished[end.unit.id]
        how, error = self.ends.pop(0)
        return [End(end.unit, how, error, why="why")]


def run(ends: list[tuple], jobs: list[Job], signals: int = 0) -> tuple[PlayedPlan, Ends, list[str]]:
    played, notes = Ends(ends), list[str]()
    plan = PlayedPlan(jobs, result("a"), played)
    asked = iter([0] * signals + [15] * 99) if signals else iter([0] * 999)
    dispatch(plan, played, Hooks(note=notes.append, signal=lambda: next(asked)), lambda of: 1.0)
    return plan, played, notes


def test_what_is_lost_is_tried_again_and_given_up_at_last():
    jobs = [job("a", 1, 1), job("b", 1, 1)]
    plan, played, notes = run([("lost", None)] * (TRIES - 1), jobs)
    assert not plan.failed and len(played.finished) == 2
    assert len(notes) == TRIES - 1 and "its worker was lost (why)" in notes[0]
    plan, played, notes = run([("lost", None), ("done", None)][:1] * TRIES, jobs[:1])
    assert plan.failed == {"a": f"its worker was lost {TRIES} times (why)"}
    plan, _, notes = run([("memory", None)] * TRIES, jobs[:1])
    assert "memory ran out" in plan.failed["a"] and "Fewer at once" in notes[-1]


def test_what_fails_stops_its_task_alone_unless_it_would_stop_all():
    jobs = [job("a", 2, 2), job("b", 1, 1)]
    plan, played, _ = run([("failed", DataDamaged("An image is broken."))], jobs)
    assert plan.failed == {"a": "An image is broken."}
    assert len(played.finished) == 1  # b's; the other units of a are not begun
    with pytest.raises(CheckpointError):
        run([("failed", CheckpointError("No such file."))], jobs)
    with pytest.raises(VitftError, match="all machines of the cluster share"):
        run([("done", None)], jobs)
    with pytest.raises(Interrupted):
        run([], jobs, signals=2)


def test_the_estimate_of_a_suite_is_that_of_the_loop(tmp_path, capsys):
    for task, phase, seed, lr, total in (
        ("dtd", "tune", 0, 0.1, 100.0), ("dtd", "tune", 0, 0.01, 140.0), ("dtd", "final", 0, 0.1, 300.0),
        ("svhn", "final", 0, 0.1, 50.0), ("svhn", "final", 1, 0.1, 70.0),
    ):  # fmt: skip
        one = result(task, phase=phase, seed=seed, point={"lr": lr}, total_s=total)
        folder = tmp_path / "units" / task / f"{phase}-{lr}-seed{seed}"
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(to_json(one)))
    with pytest.raises(SystemExit) as caught:
        app(["estimate", "suite", str(tmp_path), "--gpus", "2", "--models", "1", "--seeds", "2", "--format", "json"])
    assert not caught.value.code
    found = json.loads(capsys.readouterr().out)
    # dtd: two points of 120 s side by side, then two seeds of 300 s; svhn, two of 60 s, fits nowhere but at the end.
    assert found["units"] == 6
    assert found["work"] == 2 * 120 + 2 * 300 + 2 * 60
    assert found["wall"] == 120 + 300 + 60
    assert (found["floor"], found["longest"]) == (420, "dtd")
    assert found["bound"] == 480
    with pytest.raises(SystemExit) as caught:
        app(["estimate", "suite", str(tmp_path / "units" / "none")])
    assert caught.value.code == 2
    assert "No final unit is finished" in capsys.readouterr().err


def test_many_devices_are_bound_by_the_longest_way():
    tasks = [Measured(f"t{i}", 10.0, 10.0 * (i + 1), 4, result("digits")) for i in range(19)]
    found = forecast(tasks, devices=10_000, models=10, seeds=5)
    assert found.units == 10 * 19 * 9
    assert found.wall == found.floor == found.bound == 10.0 + 190.0
    alone = forecast(tasks, devices=1, models=1, seeds=1)
    assert alone.wall == pytest.approx(alone.work)
