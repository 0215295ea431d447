"""The engine over Ray: the numbers of the local engine, whoever is killed."""

import json
import os
import platform
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import vtab_archive
from tests.engines.test_engine import RUNTIME, answers, plan
from tests.forked_workers import forking
from tests.processes import free_port
from vitft.cli.app import app
from vitft.engines import local
from vitft.engines import ray as engine
from vitft.engines.events import failed
from vitft.errors import DataMissing, Interrupted, NonFiniteLoss, UsageError
from vitft.progress import Hooks
from vitft.versions import versions

pytest.importorskip("ray", reason="needs the extra 'ray', which is not installed")
pytestmark = pytest.mark.xdist_group("engine")
TASKS = ["svhn", "dmlab", *vtab_archive.SWEPT]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return vtab_archive.place(tmp_path_factory.mktemp("ray"))


@pytest.fixture(scope="module")
def whole(place):
    """Run the tasks by the local engine."""
    assert not local.run(plan(place, TASKS), place / "local", RUNTIME, launch=forking())
    return answers(place / "local")


def apart(work: Callable[[], Any], folder: Path) -> Any:
    """Return what `work` returns in a forked process: Ray leaves threads behind, which later forks would meet."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            torch.save(work(), folder / "apart.pt")
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    return torch.load(folder / "apart.pt", weights_only=False)


def units_at_work() -> list[int]:
    """Return the worker processes of this one's Ray that run a unit; each calls itself by it."""
    parents, units = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            pid = int(folder.name)
            parents[pid] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if (folder / "cmdline").read_bytes().startswith(b"ray::_unit"):
                units.append(pid)

    def ours(pid: int) -> bool:
        return pid == os.getpid() or (pid in parents and ours(parents[pid]))

    return [pid for pid in units if ours(pid)]


def run_and_kill(place: Path) -> tuple[list[int], list[str], list[int], dict[str, str]]:
    """Run the tasks while up to five of their workers are killed; return those, notes, steps and what failed."""
    folder, chance, over = place / "killed", random.Random(3), threading.Event()
    killed: list[int] = []

    def killer() -> None:
        while len(killed) < 5 and not over.wait(chance.uniform(0.2, 1.0)):
            for pid in chance.sample(found := units_at_work(), min(1, len(found))):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    notes: list[str] = []
    steps: list[int] = []
    threading.Thread(target=killer, daemon=True).start()
    hooks = Hooks(note=notes.append, step=lambda r: steps.append(r.step))
    failed = engine.run(plan(place, TASKS), folder, RUNTIME, devices=("cpu", "cpu"), hooks=hooks)
    over.set()
    if failed:  # one unit was hit three times
        failed = engine.run(plan(place, TASKS), folder, RUNTIME, devices=("cpu", "cpu"))
    return killed, notes, steps, dict(failed)


def test_workers_killed_at_random_the_numbers_are_those_of_the_local_engine(place, whole, tmp_path):
    killed, notes, steps, failed = apart(lambda: run_and_kill(place), tmp_path)
    assert killed
    assert any("its worker was lost" in note for note in notes)
    assert steps  # progress is seen
    assert not failed
    assert answers(place / "killed") == whole


def run_and_stop(place: Path) -> tuple[int, int]:
    """Stop a run by a signal and go on; return the exit code and how many units were done then."""
    told: list[str] = []
    hooks = Hooks(unit=lambda title, done, total: told.append(title), signal=lambda: 15 if len(told) > 3 else 0)
    with pytest.raises(Interrupted) as caught:
        engine.run(plan(place, TASKS), place / "stopped", RUNTIME, devices=("cpu", "cpu"), hooks=hooks)
    assert not units_at_work()
    done = len(answers(place / "stopped"))
    engine.run(plan(place, TASKS), place / "stopped", RUNTIME, devices=("cpu", "cpu"))
    return caught.value.exit_code, done


def test_a_signal_saves_and_the_same_call_goes_on(place, whole, tmp_path):
    code, done = apart(lambda: run_and_stop(place), tmp_path)
    assert code == 143 and done < len(whole)
    assert answers(place / "stopped") == whole


def test_the_command_killed_and_started_again_runs_no_finished_unit_twice(place, tmp_path, monkeypatch):
    monkeypatch.setattr(local, "start_process", forking())
    recipe = tmp_path / "tiny.toml"
    recipe.write_text('title = "t"\nsource = "tests"\nsteps = 2\nbatch_size = 4\nlr = 0.01\nresolution = 32\n')
    words = ["vtab", "--recipe", recipe, "--model", place / "tiny.safetensors", "--device", "cpu", "--data-dir"]
    words += [place / "data", "--tasks", "svhn,dmlab,dtd,eurosat,clevr_count", "--devices", "cpu,cpu"]

    def finished(folder: Path) -> dict[str, float]:
        return {p.parent.name: p.stat().st_mtime_ns for p in folder.glob("units/*/*/result.json")}

    by_ray = [sys.executable, "-m", "vitft", *map(str, [*words, "-o", tmp_path / "ray", "--engine", "ray"])]
    command = subprocess.Popen(by_ray, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 240
    while not finished(tmp_path / "ray"):
        assert time.monotonic() < until and command.poll() is None
        time.sleep(0.02)
    command.kill()
    command.wait()
    before = finished(tmp_path / "ray")
    again = subprocess.run(by_ray, check=False, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    after = finished(tmp_path / "ray")
    assert {name: after[name] for name in before} == before
    with pytest.raises(SystemExit) as caught:
        app([*map(str, [*words, "-o", tmp_path / "local"])])
    assert not caught.value.code
    tables = [json.loads((tmp_path / name / "suite.json").read_text()) for name in ("ray", "local")]
    assert tables[0]["tasks"] == tables[1]["tasks"]
    assert len(tables[0]["tasks"]) == 5


def test_mistakes_are_told_before_anything_runs(place, monkeypatch):
    jobs = plan(place, ["svhn"])
    with pytest.raises(UsageError, match="several kinds"):
        engine.run(jobs, place / "no", RUNTIME, devices=("cpu", "cuda:0"))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UsageError, match="No Ray cluster answers"):
        engine.run(jobs, place / "no", RUNTIME)


def test_what_ray_prints_stays_off_stdout(place, monkeypatch, capsys):
    def connected(ray: object, at_once: int) -> None:
        sys.stdout.write("(raylet) state-dump")
        raise UsageError("no cluster")

    monkeypatch.setattr(engine, "_connected", connected)
    with pytest.raises(UsageError, match="no cluster"):
        engine.run(plan(place, ["svhn"]), place / "no", RUNTIME)
    assert capsys.readouterr().out == ""


def test_a_head_that_is_gone_ends_the_command_with_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "_HEAD_S", 0.2)
    monkeypatch.setattr(engine, "_HEAD_EVERY_S", 0.05)
    engine._watch_head("", threading.Event())  # this machine alone: there is none
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(tmp_path / "err", os.O_WRONLY | os.O_CREAT), 2)
        engine._watch_head(f"127.0.0.1:{free_port()}", threading.Event())
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    said = (tmp_path / "err").read_text()
    assert said.startswith("error: The head of the Ray cluster at 127.0.0.1:") and "Start the cluster again" in said


def test_a_machine_with_another_program_is_refused_by_name(monkeypatch):
    theirs = {**versions(), "timm": "0.4.12"}
    with pytest.raises(UsageError, match=rf"{platform.node()} has another program .*: timm \S+, not 0\.4\.12\."):
        engine._unit("", {}, {}, 0, None, theirs)


def test_an_error_of_another_machine_names_it():
    event = failed("a/b", DataMissing("No folder 'x'.", "one.", "Look."))
    assert engine._on(event, platform.node()) == event
    elsewhere = engine._on(event, "head")
    assert elsewhere is not None
    assert elsewhere["lines"] == [f"No folder 'x' (on {platform.node()}).", "Legal: one.", "Look."]
    assert (elsewhere["error"], elsewhere["unit"]) == ("DataMissing", "a/b")
    diverged = failed("a/b", NonFiniteLoss("Step 3."))
    assert engine._on(diverged, "head") == diverged  # stored, and the same anywhere
