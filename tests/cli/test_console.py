"""What is printed while work goes on, and what becomes of it where stdout takes no more."""

import io
import itertools
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from typer.testing import CliRunner

from vitft.cli import bars, console
from vitft.cli.app import _open_streams, app
from vitft.progress import StepReport


def drawn(width: int) -> list[str]:
    """Return the lines that a run shows in a terminal of this width."""
    terminal = Console(width=width, force_terminal=True, file=io.StringIO(), color_system=None, legacy_windows=False)
    with Progress(bars._Line(), console=terminal, auto_refresh=False) as progress:
        hooks = bars.hooks(progress)
        hooks.unit("cifar100 with vit-b16, lr 0.003, seed 0, final; whole suite ETA 1:23:45", 3, 19)
        hooks.step(StepReport(1204, 10000, 2.3456, 0.00123, 1.0, 1234.5, 2.0))
        with terminal.capture() as shown:
            terminal.print(progress.get_renderable())
        hooks.phase("decode cifar100 train800val200", 20032, 50000)
        with terminal.capture() as decoding:
            terminal.print(progress.get_renderable())
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", f"{shown.get()}\n{decoding.get()}")
    return [line.rstrip() for line in plain.splitlines() if line.strip()]


@pytest.mark.parametrize("width", [200, 120, 80, 72, 60])
def test_numbers_are_whole_however_narrow_the_terminal(width):
    unit, step, *_, phase = drawn(width)
    assert max(map(len, (unit, step, phase))) <= width
    assert "3/19" in unit and "ETA" in unit
    for number in ("1204/10000", "loss 2.3456", "1234.5 img/s", "ETA 1:13:18"):  # 8796 steps at 2 a second
        assert number in step, step
    assert "20032/50000" in phase and "ETA" in phase
    assert ("━" in step) == (width >= 72)
    assert "━" in unit or width < 60
    assert ("lr 0.0012" in step) == (width >= 120)
    assert "…" not in step
    assert unit.startswith("cifar100") and "ETA 1:23:45  " in unit


def told_in_a_pipe(monkeypatch, events):
    """Return (time, line) of what a pipe shows of events at times, in seconds."""
    now, said = [0.0], []
    monkeypatch.setattr(console, "note", lambda text, **_: said.append((now[0], text)))
    hooks = console.lines(lambda: now[0])
    for at, kind, *rest in events:
        now[0] = at
        getattr(hooks, kind)(*rest)
    return said


def test_a_pipe_has_a_rate_and_an_eta_within_20_s_and_then_a_line_a_minute(monkeypatch):
    steps = [(float(t), "step", StepReport(t, 1000, 1.5, 0.01, 1.0, 64.0, 1.0)) for t in range(1, 1001)]
    said = told_in_a_pipe(monkeypatch, [(0.0, "unit", "digits: final, seed 0", 0, 1), *steps])
    assert said[0] == (0.0, "digits: final, seed 0")
    times = [at for at, _ in said[1:]]
    assert times[0] <= 20 and min(b - a for a, b in itertools.pairwise(times)) >= 60
    assert len(times) == 1 + 994 // 60
    assert said[1][1].split("  ")[-2:] == ["64 images/s", "ETA 0:16:34"]  # 994 steps at one a second
    decoding = [(float(t), "phase", "decode digits train", 50 * t, 50_000) for t in range(1, 100)]
    said = told_in_a_pipe(monkeypatch, decoding)
    assert said[0][0] <= 20 and said[0][1].endswith("50/s  ETA 0:16:34") and len(said) == 2


def test_an_update_that_takes_an_hour_is_told_of_while_it_goes_on(monkeypatch):
    nan = float("nan")
    parts = [(2.0 * n, "step", StepReport(0, 100, nan, 0.01, nan, 4.0, 4 / 512, part=8 * n / 512)) for n in range(1, 9)]
    ((at, line),) = told_in_a_pipe(monkeypatch, parts)
    assert at == 8.0 and "step 0/100 (and 6 % of the next)" in line and "loss" not in line  # 32 of 512 images
    assert "4 images/s" in line and "ETA 3:33:" in line  # 100 steps of 512 images at 4 a second are 12,800 s


def test_quiet_shows_no_progress_but_what_one_should_know(capsys):
    with console.display(quiet=True) as hooks:
        hooks.unit("a", 0, 2)
        hooks.step(StepReport(1, 1, 1.0, 0.1, 1.0, 1.0, 1.0))
        hooks.phase("decode", 1, 2)
        hooks.note("the file says nothing of its mean")
    assert capsys.readouterr().err == "  the file says nothing of its mean\n"


# --- where stdout takes no more, and signals -------------------------------------------------------------------------


def vitft(*args: str, env: dict[str, str] | None = None, **streams: Any) -> tuple[int, str]:
    """Run the command as a process; return its exit code and what it said on stderr."""
    command = [sys.executable, "-m", "vitft", *args]
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, **streams}
    done = subprocess.run(command, env={**os.environ, **(env or {})}, text=True, timeout=100, check=False, **streams)
    return done.returncode, done.stderr or ""


@pytest.mark.parametrize("args", [("models", "ls"), ("models", "show", "vit-mini"), ("models", "ls", "--help")])
def test_a_full_stdout_is_one_clear_line(args):
    with Path("/dev/full").open("w") as full:
        code, said = vitft(*args, stdout=full)
    assert code == 1
    assert said.startswith("error: Cannot write") and "No space left on device" in said.splitlines()[0]
    assert len(said.splitlines()) <= 3 and "Traceback" not in said and "ignored" not in said


def test_a_closed_stdout_is_lived_with():
    command = [sys.executable, "-m", "vitft", "recipes", "show", "quick"]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command], capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_encoding_that_lacks_a_letter_shows_a_question_mark(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii", errors="strict"))
    _open_streams()
    console.emit(None, "top-1 ─ 4.5")
    assert raw.getvalue() == b"top-1 ? 4.5\n"


def test_what_stands_in_brackets_or_colons_is_printed(capsys):
    """Names are a user's: a class may be called [red] or :smile:."""
    table = Table("a [bold] head", box=None)
    table.add_row("pip install 'vitft[ray]' :smile: [/red]")
    console.emit(None, table)
    console.note("[red] is no colour :smile:")
    told = capsys.readouterr()
    assert [line.strip() for line in told.out.splitlines()] == [
        "a [bold] head", "pip install 'vitft[ray]' :smile: [/red]",
    ]  # fmt: skip
    assert told.err == "[red] is no colour :smile:\n"


@pytest.mark.parametrize(
    ("args", "broken"),
    [(("recipes", "show"), "stdout"), (("recipes", "show", "nope"), "stderr"), (("--help",), "stdout")],
)
def test_a_pipe_that_is_read_no_more_ends_with_141(args, broken):
    read, write = os.pipe()
    os.close(read)
    try:
        code, said = vitft(*args, **{broken: write})
    finally:
        os.close(write)
    assert code == 141 and said == ""


def test_an_interrupt_is_answered_while_the_first_imports_run(tmp_path):
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt\n")
    assert vitft("--help", env={"PYTHONPATH": str(tmp_path)}) == (130, "error: Interrupted.\n")
    installed = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["scripts"]
    assert installed == {"vitft": "vitft.__main__:main"}


@pytest.mark.parametrize("args", [("eval", "digits"), ("fewshot", "digits"), ("predict", "vit-mini", __file__)])
def test_an_interrupt_is_answered_in_every_verb(args, monkeypatch):
    def struck(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for module in ("several", "network"):  # the first has taken it from the second, and would keep this one
        monkeypatch.setattr(f"vitft.evaluation.{module}.open_network", struck)
    found = CliRunner().invoke(app, list(args))
    assert found.exit_code == 130 and found.stderr.endswith("error: Interrupted.\n")


@pytest.mark.parametrize("verb", ["finetune", "models ls"])
def test_a_wrong_option_names_the_help_of_its_own_verb(verb):
    found = CliRunner().invoke(app, [*verb.split(), "--format"])
    assert found.exit_code == 2 and f"Run 'vitft {verb} --help'" in found.stderr


def test_every_verb_that_shows_progress_can_be_quiet():
    folder = Path(console.__file__).parent
    assert not [file.name for file in folder.glob("*.py") if re.search(r"(display|watched)\(\)", file.read_text())]
