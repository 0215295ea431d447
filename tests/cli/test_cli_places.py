"""`vitft runs`, `vitft doctor` and `vitft recipes cp`: what lies where, and what of it is damaged."""

import errno
import json
import os
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vitft.cli.app import app
from vitft.results import listing
from vitft.results.files import write_json
from vitft.results.folders import lock

RESULT = {"metrics": {"top1": 0.5}}


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    for name in ("RUNS", "CACHE"):
        monkeypatch.setenv(f"VITFT_{name}", str(tmp_path / name.lower()))
    monkeypatch.delenv("VITFT_DATA", raising=False)


def vitft(*args: object, code: int = 0):
    found = CliRunner().invoke(app, [str(a) for a in args], catch_exceptions=False)
    assert found.exit_code == code, found.output
    assert "Traceback" not in found.stderr and len(found.stderr.splitlines()) <= 3
    return found


def run(folder: Path, result: object = RESULT, **more: object) -> Path:
    write_json(folder / "run.json", {"kind": "finetune", "name": "insects", "model": "vit-mini", "recipe": "q"})
    if result is not None:
        write_json(folder / "result.json", result)
    return folder


# --- runs ------------------------------------------------------------------------------------------------------------


def test_a_listed_folder_can_be_given_back_whole(tmp_path):
    long = run(tmp_path / "runs" / ("a-rather-long-name-" * 5) / "vit-mini-412a5d07" / "quick-01234567")
    (line,) = vitft("runs", "ls").stdout.splitlines()[2:]
    assert line.endswith(f"  {long}")
    write_json(long / "units" / ("unit-" * 30) / "seed-0" / "result.json", RESULT)
    assert ("unit-" * 30 + "/seed-0") in vitft("runs", "status", line.split()[-1]).stdout


@pytest.mark.parametrize(
    ("file", "text"),
    [("run.json", "{"), ("result.json", "{}"), ("result.json", "[1]"), ("result.json", '{"metrics": 3}'),
     ("suite.json", "{")],
)  # fmt: skip
def test_one_damaged_run_does_not_hide_the_others(tmp_path, file, text):
    good, bad = run(tmp_path / "runs" / "good"), run(tmp_path / "runs" / "bad", result=None)
    if file == "suite.json":
        write_json(bad / "run.json", {"kind": "suite", "suite": "mini"})
    (bad / file).write_text(text)
    listed = {Path(r["folder"]).name: r for r in json.loads(vitft("runs", "ls", "--format", "json").stdout)["runs"]}
    assert listed[good.name]["top1"] == 0.5 and listed[good.name]["damaged"] == ""
    assert str(bad / file) in listed[bad.name]["damaged"]
    shown = vitft("runs", "ls")
    assert "(damaged)" in shown.stdout and f"'{bad / file}'" in shown.stderr
    assert str(bad / file) in vitft("runs", "status", bad, code=4).stderr


def test_a_damaged_unit_is_named(tmp_path):
    folder = run(tmp_path / "r", result=None)
    write_json(folder / "units" / "insects" / "seed-0" / "result.json", {"task": "insects"})
    assert "seed-0/result.json' is damaged" in vitft("runs", "status", folder, code=4).stderr


def test_a_folder_that_is_not_there_is_said(tmp_path):
    assert "nothere" in vitft("runs", "ls", tmp_path / "nothere", code=2).stderr
    assert "No runs in" in vitft("runs", "ls").stdout


def test_who_is_at_work_is_asked_without_writing(tmp_path, monkeypatch):
    """On a file system that cannot be written every open for writing fails."""
    folder = run(tmp_path / "r")
    with lock(folder):
        real = Path.open

        def read_only(self: Path, mode: str = "r", *args: object, **kwargs: object):
            if set(mode) & set("wax+"):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))
            return real(self, mode, *args, **kwargs)

        monkeypatch.setattr(Path, "open", read_only)
        assert listing.at_work(folder)
    assert not listing.at_work(folder)
    assert json.loads(vitft("runs", "status", folder, "--format", "json").stdout)["at_work"] is False


# --- doctor ----------------------------------------------------------------------------------------------------------


def doctor(code: int) -> dict:
    return json.loads(vitft("doctor", "--format", "json", code=code).stdout)


def test_doctor_tells_the_folders_that_are_used(tmp_path):
    facts = doctor(0)
    assert facts["VITFT_DATA"].startswith(f"{tmp_path / 'cache' / 'data'} (")
    assert facts["VITFT_CACHE"].startswith(f"{tmp_path / 'cache'} (")


@pytest.mark.parametrize("there", [True, False])
def test_doctor_tells_which_library_a_cpus_linear_layers_take(monkeypatch, there):
    monkeypatch.setattr("vitft.products.by_onednn", lambda: there)
    assert ("threads, linear layers by oneDNN)" in doctor(0)["devices"]) is there


@pytest.mark.parametrize("name", ["RUNS", "CACHE", "DATA"])
@pytest.mark.parametrize("inside", ["", "inside/of/it"])
def test_a_file_where_a_folder_should_be_is_a_fault(tmp_path, monkeypatch, name, inside):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv(f"VITFT_{name}", str(tmp_path / "file" / inside))
    facts = doctor(1)
    assert f"VITFT_{name}" in facts["faults"] and "not a folder" in facts[f"VITFT_{name}"]


# --- recipes cp ------------------------------------------------------------------------------------------------------


def test_a_recipe_is_copied_whole_or_not_at_all(tmp_path, monkeypatch):
    copy = tmp_path / "q.toml"
    assert "there is no folder" in vitft("recipes", "cp", "quick", tmp_path / "none" / "q.toml", code=2).stderr
    assert not (tmp_path / "none").exists()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        said = vitft("recipes", "cp", "quick", copy, code=1).stderr
    assert "the disk is full" in said and "--output" not in said
    assert list(tmp_path.iterdir()) == []
    vitft("recipes", "cp", "quick", copy)
    assert copy.read_text() == (Path(sys.modules["vitft"].__file__).parents[1] / "recipes" / "quick.toml").read_text()
    assert "exists" in vitft("recipes", "cp", "linear", copy, code=2).stderr
