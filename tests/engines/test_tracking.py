"""Learning curves elsewhere: what a tracker gets is what metrics.jsonl holds, and a run does not die of it."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.command import invoked as vitft
from vitft.engines import tracking

TINY = ("finetune", "digits", "--steps", "3", "-b", "4", "--limit", "8", "--device", "cpu", "--set", "warmup_steps=1")


def curve(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for file in run.glob("units/*/*/metrics.jsonl") for line in file.read_text().splitlines()]


def top1(run: Path) -> float:
    value: float = json.loads((run / "result.json").read_text())["metrics"]["top1"]
    return value


def test_tensorboard_has_the_curve_of_the_run(tmp_path):
    reading = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard, which is not here"
    )
    run = tmp_path / "run"
    done = vitft(*TINY, "-o", run, "--track", "tensorboard")
    assert done.exit_code == 0, done.output
    [folder] = (run / "tensorboard").iterdir()
    events = reading.EventAccumulator(str(folder)).Reload()
    told = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    own = curve(run)
    assert len(own) == 3
    for tag, key in (("train/loss", "loss"), ("train/lr", "lr"), ("train/grad_norm", "grad_norm")):
        assert told[tag] == [(line["step"], pytest.approx(line[key], rel=1e-6)) for line in own]
    assert told["test/top1"] == [(3, pytest.approx(top1(run)))]
    untracked = tmp_path / "plain"
    assert vitft(*TINY, "-o", untracked).exit_code == 0
    assert curve(untracked) == own and not (untracked / "tensorboard").exists()


@pytest.fixture
def played(monkeypatch) -> dict[str, list[Any]]:
    """Play the libraries that are not here, and remember what they are told."""
    calls: dict[str, list[Any]] = {"begun": [], "logged": [], "ended": []}

    def log(values: Any, step: int) -> None:
        calls["logged"].append((step, values))

    named = SimpleNamespace(init=lambda **k: calls["begun"].append(k), log=log, finish=lambda: calls["ended"].append(1))
    mlflow = SimpleNamespace(
        set_experiment=lambda name: None, start_run=lambda run_name: calls["begun"].append({"name": run_name}),
        log_params=lambda p: None, log_metrics=log, end_run=lambda: calls["ended"].append(1),
    )  # fmt: skip
    for name, module in (("wandb", named), ("trackio", named), ("mlflow", mlflow)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(tracking, "find_spec", lambda _: True)
    return calls


@pytest.mark.parametrize("to", ["wandb", "trackio", "mlflow"])
def test_others_get_each_update_of_each_unit(tmp_path, played, to):
    run = tmp_path / "run"
    done = vitft(*TINY, "-o", run, "--track", to, "--seeds", "0,1")
    assert done.exit_code == 0, done.output
    assert [begun["name"] for begun in played["begun"]] == ["digits: final, seed 0", "digits: final, seed 1"]
    assert len(played["ended"]) == 2
    losses = [values["train/loss"] for _, values in played["logged"] if "train/loss" in values]
    assert sorted(losses) == pytest.approx(sorted(line["loss"] for line in curve(run)))
    assert [step for step, _ in played["logged"]] == [1, 2, 3, 1, 2, 3, 3]
    assert played["logged"][-1][1] == {"test/top1": top1(run)}


def test_a_tracker_that_fails_stops_no_run(tmp_path, played):
    def fails(*_: Any, **__: Any) -> None:
        raise ConnectionError("no network\nat all")

    sys.modules["wandb"].log = fails
    done = vitft(*TINY, "-o", tmp_path, "--track", "wandb")
    assert done.exit_code == 0
    assert done.stderr.count("--track wandb failed and is left alone: no network") == 1
    assert len(curve(tmp_path)) == 3


def test_an_absent_tracker_is_told_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", lambda _: None)
    done = vitft(*TINY, "-o", tmp_path / "x", "--track", "mlflow")
    assert done.exit_code == 2 and "vitft[mlflow]" in done.stderr and not (tmp_path / "x").exists()
