"""Stopping to be queued again: by the clock, by a signal; and what a queue's array asks for."""

import json
import os
import re
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from vitft.cli import signals
from vitft.cli.app import app
from vitft.errors import UsageError
from vitft.results import folders
from vitft.training import update

DIGITS = ["finetune", "digits", "--limit", "24", "-b", "8", "-r", "32", "--set", "crop=none", "--device", "cpu"]


@pytest.fixture(autouse=True)
def _signals():
    before = {s: signal.getsignal(s) for s in (signal.SIGUSR2, signal.SIGTERM, signal.SIGUSR1)}
    yield
    signals.requeue("", "")
    for number, handler in before.items():
        signal.signal(number, handler)


def vitft(*words: object) -> int:
    with pytest.raises(SystemExit) as caught:
        app([str(word) for word in words])
    return caught.value.code or 0  # type: ignore[return-value]


def test_times_as_people_and_slurm_write_them():
    expected = {"90m": 5400, "7h30m": 27000, "2d": 172800, "1d2h3m4s": 93784, "7:30:00": 27000, "1-12:00:00": 129600}
    assert {text: signals.seconds(text) for text in expected} == expected
    for text in ("90", "1:30", "h", "1h 30m", "-5m", "1:3:00", ""):
        with pytest.raises(UsageError, match="is no time"):
            signals.seconds(text)


def test_a_time_limit_saves_ends_with_75_and_the_same_command_goes_on(tmp_path, monkeypatch, capsys):
    done: list[float] = []
    real = update.Fit.update
    with monkeypatch.context() as patch:  # a clock that ticks once an update
        patch.setattr(update.Fit, "update", lambda self, lr: (done.append(lr), real(self, lr)))
        patch.setattr(signals, "time", SimpleNamespace(monotonic=lambda: float(len(done))))
        assert vitft(*DIGITS, "--steps", 12, "-o", tmp_path / "run", "--max-time", "5s") == 75
    err = capsys.readouterr().err
    assert "Stopped to be queued again; the state is saved." in err
    begun = len(Path(next((tmp_path / "run").glob("units/*/*/metrics.jsonl"))).read_text().splitlines())
    assert begun == 5
    with monkeypatch.context() as patch:
        patch.setenv("SLURM_STEP_ID", "0")
        patch.setenv("SLURM_CPUS_PER_TASK", "9999")
        assert vitft(*DIGITS, "--steps", 12, "-o", tmp_path / "run", "--max-time", "1h") == 0
    err = capsys.readouterr().err
    assert f"Going on from step {begun} of 12" in err and "WARNING: this task is bound to" in err
    assert vitft(*DIGITS, "--steps", 12, "-o", tmp_path / "whole") == 0
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("run", "whole")]
    assert results[0]["metrics"] == results[1]["metrics"] and results[0]["loss"] == results[1]["loss"]


@pytest.mark.parametrize(
    ("names", "sent", "code"),
    [("USR2", signal.SIGUSR2, 75), ("USR2", signal.SIGTERM, 143), ("usr1,SIGTERM", signal.SIGTERM, 75)],
)
def test_signals_of_a_queue_save_and_end_with_75(tmp_path, monkeypatch, names, sent, code):
    from vitft.protocol import frozen

    real = frozen.fit

    def fit(*args, **kwargs):
        os.kill(os.getpid(), sent)
        return real(*args, **kwargs)

    monkeypatch.setattr(frozen, "fit", fit)
    assert vitft(*DIGITS, "--steps", 3, "-o", tmp_path / "run", "--requeue-signals", names) == code


def test_waiting_for_another_ends_with_75_too(tmp_path, monkeypatch, capsys):
    """A shard at work is waited for without end, and what Slurm has started again for two minutes."""
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda s: now.append(now.pop() + s))
    monkeypatch.setattr(signals, "time", clock)
    monkeypatch.setattr(folders, "time", clock)
    suite = ["vtab", "--suite", "mini", "--steps", 1, "--device", "cpu", "-o", tmp_path / "suite", "--max-time", "9s"]
    with folders.lock(tmp_path / "suite/shards/1-of-2"):
        assert vitft(*suite) == 75
    assert "waiting for its end" in capsys.readouterr().err and 9 <= now[0] < 10
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with folders.lock(tmp_path / "run"):
        assert vitft(*DIGITS, "-o", tmp_path / "run", "--max-time", "9s") == 75
    assert 18 <= now[0] < 20
    assert not (tmp_path / "suite/run.json").exists() and not (tmp_path / "run/run.json").exists()


def test_mistakes_are_told_at_once(tmp_path, capsys):
    assert vitft(*DIGITS, "-o", tmp_path / "run", "--max-time", "soon") == 2
    assert "--max-time 'soon' is no time." in capsys.readouterr().err
    assert vitft(*DIGITS, "-o", tmp_path / "run", "--requeue-signals", "USR2,KILL") == 2
    assert "'KILL' cannot be taken" in capsys.readouterr().err
    assert vitft("vtab", "--suite", "mini", "--shard", "0/3") == 2
    assert re.search(r"--array=1-4, each index below MaxArraySize", capsys.readouterr().err)
    assert not (tmp_path / "run").exists()
