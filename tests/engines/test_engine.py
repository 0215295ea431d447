"""The engine of one machine: a whole suite, workers and supervisors killed, failures that stop nobody else.

Workers are forked from this process, which has torch imported already; `test_vtab.py` starts real ones.
"""

import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as parquet
import pytest
from safetensors.torch import load_file

from tests import vtab_archive
from tests.forked_workers import forking
from vitft.catalog.tasks import VTAB
from vitft.data.sources.vtab_folder import VtabFolder
from vitft.engines import inline, local, worker
from vitft.errors import Interrupted, UsageError, VitftError
from vitft.progress import Hooks
from vitft.protocol import run as protocol
from vitft.protocol.jobs import Runtime, make
from vitft.protocol.warm import Warm
from vitft.report import suite as summary
from vitft.results.folders import collect, lock
from vitft.results.schema import UnitResult, to_json
from vitft.suites.document import load as suite_of

pytestmark = pytest.mark.xdist_group("engine")
RUNTIME = Runtime(device="cpu", save_weights=False, state_seconds=0.0, workers=1)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return vtab_archive.place(tmp_path_factory.mktemp("suite"))


def plan(place: Path, tasks=None, **changes):
    """Return jobs for these tasks (all 19); two of them tune their lr."""
    jobs = []
    for task in tasks or [t.name for t in VTAB]:
        rest = {"model": str(place / "tiny.safetensors"), "overrides": {}, "data_dir": place / "data", **changes}
        job, _ = make(task, recipe=vtab_archive.tiny(), **rest)
        jobs.append(job)
    return jobs


def answers(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Return metrics, losses and predictions of all units: what must be bit-equal."""
    found = {}
    for file in sorted(folder.glob("units/*/*/result.json")):
        result = json.loads(file.read_text())
        predictions = file.parent / "predictions.parquet"
        table = parquet.read_table(predictions).to_pydict() if predictions.exists() else None
        found[str(file.parent.relative_to(folder))] = (result["metrics"], result["loss"], table)
    return found


def finals(folder: Path) -> dict[str, list[UnitResult]]:
    """Return data set -> results of its final units."""
    found: dict[str, list[UnitResult]] = {}
    for result in collect(folder).values():
        if result.phase == "final":
            found.setdefault(result.task, []).append(result)
    return found


@pytest.fixture(scope="module")
def whole(place):
    """Run all 19 tasks once, uninterrupted, while a spy notes which split of which task is opened."""
    log = place / "opened"

    def spy() -> None:
        real = VtabFolder.open

        def opened(self: VtabFolder, split: str):
            with log.open("a") as file:
                file.write(f"{self.task} {split}\n")
            return real(self, split)

        VtabFolder.open = opened  # type: ignore[method-assign]

    told = []
    failed = local.run(
        plan(place), place / "whole", RUNTIME, hooks=Hooks(unit=lambda *unit: told.append(unit)), launch=forking(spy)
    )
    return failed, told, log.read_text().splitlines()


def test_all_19_tasks_come_to_a_table(place, whole):
    failed, told, _ = whole
    assert not failed
    results = finals(place / "whole")
    assert {*results} == {task.name for task in VTAB}
    assert [(done, total) for _, done, total in told] == [(i, 23) for i in range(23)]
    data = to_json(summary.summarise(suite_of("vtab"), {task: {place / task: r[0]} for task, r in results.items()}))
    assert data["complete"]
    assert {entry["n"] for entry in data["tasks"].values()} == {vtab_archive.COUNTS["test"]}
    assert data["mean_of_tasks"] == pytest.approx(sum(e["top1"] for e in data["tasks"].values()) / 19)
    notes = data["footnotes"][""]
    assert "images re-encoded as JPEG" in notes
    assert "counts are those its manifest declares" in notes
    tuned = Counter(unit.parts[-2] for unit, r in collect(place / "whole").items() if r.phase == "tune")
    assert tuned == dict.fromkeys(vtab_archive.SWEPT, 2)
    heads = list((place / "whole" / "units").rglob("head.safetensors"))
    assert len(heads) == 19 and not list((place / "whole").rglob("weights.safetensors"))
    assert {name for head in heads for name in load_file(head)} == {"head.weight", "head.bias"}
    # One worker did it all, and kept its network: its log has a single start.
    assert len((place / "whole" / "logs" / "pids").read_text().split()) == 1


def test_test_is_opened_once_and_last(whole):
    *_, opened = whole
    for task in VTAB:
        splits = [line.split()[1] for line in opened if line.split()[0] == task.name]
        assert splits.count("test") == 1
        assert splits[-1] == "test"
        # Each split is opened once by the one warm worker, whatever the number of units.
        tuning = ["train800", "val200"] if task.name in vtab_archive.SWEPT else []
        assert splits == [*tuning, "train800val200", "test"]


def test_killed_ten_times_at_random_the_table_is_the_same(place, whole):
    """Kill five workers and five supervisors, each time after another few units, somewhere inside the next one."""
    folder, chance = place / "killed", random.Random(7)

    def supervisor() -> int:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = int(bool(local.run(plan(place), folder, RUNTIME, launch=forking())))
            finally:
                os._exit(code)
        return pid

    def finished() -> int:
        return len(list(folder.glob("units/*/*/result.json")))

    victims = [True, False] * 5
    chance.shuffle(victims)
    pid = supervisor()
    for kill, whole_supervisor in enumerate(victims):
        until = time.monotonic() + 60
        while finished() < 2 * kill:
            assert time.monotonic() < until, f"no progress after kill {kill}"
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.15))
        if whole_supervisor:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            pid = supervisor()
        else:
            pids = (folder / "logs" / "pids").read_text().split()
            try:
                os.kill(int(pids[-1]), signal.SIGKILL)
            except ProcessLookupError:
                continue
    assert finished() < 23
    _, status = os.waitpid(pid, 0)
    if os.waitstatus_to_exitcode(status):
        # Two kills met the same unit under one supervisor: it is given up there, and the same call takes it up again.
        assert not local.run(plan(place), folder, RUNTIME, launch=forking())
    assert answers(folder) == answers(place / "whole")
    assert not list(folder.glob("units/**/state.pt"))


def test_two_workers_give_the_same_numbers(place, whole):
    tasks = ["svhn", *vtab_archive.SWEPT]
    failed = local.run(plan(place, tasks), place / "two", RUNTIME, devices=("cpu", "cpu"), launch=forking())
    assert not failed
    assert len((place / "two" / "logs" / "pids").read_text().split()) == 2
    expected = answers(place / "whole")
    assert {k: v for k, v in expected.items() if k.split("/")[1] in tasks} == answers(place / "two")


def test_one_unit_after_the_other_here_gives_the_same_numbers(place, whole, tmp_path):
    """Run them as torchrun's processes do, each of which takes part in every unit."""
    vtab_archive.draw(tmp_path / "data", {"train800": 4, "val200": 2, "test": 2})
    (tmp_path / "data/eurosat/images/val200/000001.jpg").write_bytes(b"\xff\xd8 no image")
    tasks, told = ["svhn", *vtab_archive.SWEPT], list[tuple[int, int]]()
    jobs = plan(place, tasks)
    (broken,) = plan(place, ["eurosat"], data_dir=tmp_path / "data")
    hooks = Hooks(unit=lambda _, done, total: told.append((done, total)))
    failed = inline.run([broken, *jobs], tmp_path / "run", RUNTIME, hooks=hooks)
    assert {*finals(tmp_path / "run")} == {*tasks}
    assert list(failed) == ["eurosat"]
    expected = answers(place / "whole")
    assert {k: v for k, v in expected.items() if k.split("/")[1] in tasks} == answers(tmp_path / "run")
    assert told[0] == (0, 8) and told[-1] == (7, 8)
    with pytest.raises(UsageError, match="share each unit"):
        inline.run(jobs, tmp_path / "run", RUNTIME, devices=("cpu",))


def test_a_unit_that_kills_its_workers_is_given_up_and_the_others_go_on(place):
    def dies() -> None:
        real = protocol.run_unit

        def run_unit(unit, *args, **kwargs):
            if unit.job.name == "dmlab":
                os.kill(os.getpid(), signal.SIGKILL)
            return real(unit, *args, **kwargs)

        protocol.run_unit = run_unit

    jobs = plan(place, ["dmlab", "svhn"])
    failed = local.run(jobs, place / "dies", RUNTIME, launch=forking(dies))
    assert [*finals(place / "dies")] == ["svhn"]
    assert "died 2 times (signal SIGKILL)" in failed["dmlab"]
    local.run(jobs, place / "dies", RUNTIME, launch=forking())
    assert [*finals(place / "dies")] == ["dmlab", "svhn"]


def test_a_failed_task_does_not_stop_the_others(place, tmp_path):
    vtab_archive.draw(tmp_path / "data", {"train800": 4, "val200": 2, "test": 2})
    (tmp_path / "data/dtd/images/val200/000001.jpg").write_bytes(b"\xff\xd8 no image")
    notes: list[str] = []
    jobs = plan(place, ["dtd", "svhn"], data_dir=tmp_path / "data")
    failed = local.run(jobs, tmp_path / "run", RUNTIME, hooks=Hooks(note=notes.append), launch=forking())
    assert [*finals(tmp_path / "run")] == ["svhn"]
    assert "000001.jpg" in failed["dtd"]
    assert any("failed" in note for note in notes)


def test_what_would_stop_every_unit_stops_at_once(place):
    jobs = plan(place, ["dtd", "svhn"])
    runtime = Runtime(device="cuda:77", save_weights=False)
    with pytest.raises(UsageError, match="cuda:77") as caught:
        local.run(jobs, place / "nowhere", runtime, launch=forking())
    assert caught.value.exit_code == 2
    with pytest.raises(VitftError, match="ends before it can work"):
        local.run(jobs, place / "nowhere", RUNTIME, launch=forking(lambda: os._exit(3)))


def test_a_signal_saves_and_the_same_call_goes_on(place, whole):
    steps: list[int] = []
    hooks = Hooks(step=lambda report: steps.append(report.step), signal=lambda: 15 if steps else 0)
    jobs = plan(place, ["svhn", "dtd"])
    with pytest.raises(Interrupted) as caught:
        local.run(jobs, place / "stopped", RUNTIME, hooks=hooks, launch=forking())
    assert caught.value.exit_code == 143
    pid = int((place / "stopped/logs/pids").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert len(answers(place / "stopped")) < 4
    local.run(jobs, place / "stopped", RUNTIME, launch=forking())
    expected = answers(place / "whole")
    assert {k: v for k, v in expected.items() if k.split("/")[1] in ("svhn", "dtd")} == answers(place / "stopped")
    # A finished plan starts no worker.
    local.run(jobs, place / "stopped", RUNTIME, launch=lambda log: pytest.fail("started a worker for nothing"))


@pytest.mark.parametrize(("signum", "killed"), [(15, 1), (75, 0)])
def test_a_state_of_a_minute_is_waited_for_where_the_run_is_queued_again(place, monkeypatch, signum, killed):
    """A queue kills half a minute after SIGTERM, but leaves minutes to a command that asks to be queued again."""
    now: list[float] = [0.0]
    kills: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda _: now.append(now.pop() + 1))
    monkeypatch.setattr(local, "time", clock)
    out, other = os.pipe()
    worker = SimpleNamespace(
        stdin=io.StringIO(),
        stdout=os.fdopen(out),
        poll=lambda: 0 if now[0] > 60 else None,
        wait=lambda: 0,
        kill=lambda: kills.append(now[0]),
    )
    hooks = Hooks(signal=lambda: signum)
    with pytest.raises(Interrupted):
        local.run(plan(place, ["svhn"]), place / f"saving-{signum}", RUNTIME, hooks=hooks, launch=lambda _: worker)
    os.close(other)
    assert len(kills) == killed and now[0] >= 20


def test_a_unit_waits_for_the_worker_before_it_and_stops_meanwhile(tmp_path, monkeypatch):
    ran, stop = [], worker.Stop()
    monkeypatch.setattr(protocol, "run_unit", lambda unit, *_: ran.append(unit.id))
    unit: Any = SimpleNamespace(id="dtd/final")
    held = lock(tmp_path / "units" / "dtd" / "final")

    def run(after: Callable[[], object]) -> Any:
        timer = threading.Timer(0.3, after)
        timer.start()
        event, _ = worker.run_one(unit, tmp_path, RUNTIME, Warm(), print, stop)
        timer.join()
        return event

    held.__enter__()
    assert run(lambda: setattr(stop, "signum", 15)) is None and not ran
    stop.signum = 0
    assert run(lambda: held.__exit__(None, None, None)) == {"event": "done", "unit": unit.id} and ran == [unit.id]
    monkeypatch.setattr(worker, "LEASE_S", 0.1)
    with lock(tmp_path / "units" / "dtd" / "final"):
        assert run(lambda: None)["event"] == "failed"


def test_the_supervisor_needs_no_torch():
    code = "import sys, vitft.engines.local; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_seeds_that_were_tested_on_different_images_have_no_mean(tmp_path):
    from tests.layouts import refused
    from tests.protocol.test_protocol import draw, job
    from vitft.engines.inline import summary
    from vitft.errors import DataError
    from vitft.protocol.jobs import Runtime
    from vitft.protocol.run import run_unit
    from vitft.protocol.units import final_units

    j, _ = job(draw(tmp_path / "d", per_class=2), overrides={"lr": 0.1, "steps": 1}, seeds=(0, 1))
    units = final_units(j, [])
    done = [run_unit(unit, tmp_path / "run", Runtime(device="cpu")) for unit in units]
    mean = summary(units, done, [])
    assert mean.metrics.top1 == pytest.approx(sum(r.metrics.top1 for r in done) / 2) and mean.metrics.correct is None
    assert mean.seeds is not None and list(mean.seeds) == ["0", "1"] and mean.units == tuple(u.id for u in units)
    other = done[1].model_copy(update={"provenance": done[1].provenance.model_copy(update={"split_digest": "x"})})
    refused(lambda: summary(units, [done[0], other], []), "changed between its seeds", kind=DataError)
    alone = summary(units[:1], done[:1], [])
    assert alone.seeds is None and alone.units is None and alone.metrics == done[0].metrics
