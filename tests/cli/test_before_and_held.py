"""`finetune --dry-run`, the line before a start, and `--min-top1`."""

import csv
import io
import json

from typer.testing import CliRunner

from tests.cli.test_cli import images
from vitft.cli.app import app

FLAGS = ("--steps", 2, "-b", 4, "--device", "cpu")


def vitft(*args: object, code: int = 0):
    done = CliRunner().invoke(app, [str(a) for a in args])
    assert done.exit_code == code, done.output
    return done


def test_a_dry_run_says_what_it_would_take_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("VITFT_RUNS", str(tmp_path / "runs"))
    data = images(tmp_path / "d")
    told = vitft("finetune", data, *FLAGS, "--seeds", "0,1", "--dry-run")
    assert "nothing was run" in told.stdout and f"It would go to {tmp_path / 'runs'}" in told.stderr
    (row,) = csv.DictReader(io.StringIO(vitft("finetune", data, *FLAGS, "--dry-run", "--format", "csv").stdout))
    assert (row["units"], row["steps"], row["train_images"]) == ("1", "2", "8")
    (plan,) = json.loads(vitft("finetune", data, *FLAGS, "--dry-run", "--format", "json").stdout)["plan"]
    assert {*plan["estimate"]} == {
        "resolution", "units", "steps", "train_images", "test_images", "flops", "seconds", "memory", "disk", "speed",
    }  # fmt: skip
    assert plan["estimate"]["steps"] == 2 and plan["settings"]["batch_size"] == 4 and plan["splits"]["test"] == "test"
    assert not (tmp_path / "runs").exists()
    assert "cuda" in vitft("finetune", data, "--device", "cuda:9", "--dry-run", code=2).stderr


def test_a_start_is_preceded_by_one_line_and_quiet_leaves_the_result(tmp_path):
    data = images(tmp_path / "d")
    said = vitft("finetune", data, *FLAGS, "-o", tmp_path / "r").stderr.splitlines()
    (line,) = [i for i, one in enumerate(said) if one.startswith("2 steps, 8 images to train on, ")]
    assert said[line - 1].startswith("vitft d with vit-mini") and "memory" in said[line] and "disk" in said[line]
    quiet = vitft("finetune", data, *FLAGS, "-o", tmp_path / "q", "-q")
    assert "final, seed 0" in " ".join(said) and "final, seed 0" not in quiet.stderr
    assert "vit-mini, fine-tuned" in quiet.stdout


def test_a_number_below_min_top1_ends_with_5_after_it_was_told(tmp_path):
    data, run = images(tmp_path / "d"), tmp_path / "r"
    done = vitft("finetune", data, *FLAGS, "-o", run, "--format", "json")
    top1 = 100 * json.loads(done.stdout)["metrics"]["top1"]
    assert top1 < 100
    again = ("finetune", data, *FLAGS, "-o", run)
    assert vitft(*again, "--min-top1", top1).exit_code == 0  # the stored run answers, and is held to it
    below = vitft(*again, "--min-top1", 100, code=5)
    assert "vit-mini, fine-tuned" in below.stdout and f"below --min-top1 100: vit-mini {top1:.2f}." in below.stderr
    assert "vit-mini" in vitft("eval", run, data, "--device", "cpu", "--min-top1", 100, code=5).stdout
    assert vitft("eval", run, data, "--device", "cpu", "--min-top1", 0).exit_code == 0
    assert vitft(*again, "--min-top1", 101, code=2).stdout == ""


def test_of_two_the_one_from_scratch_is_not_held_to_it(tmp_path):
    data = images(tmp_path / "d")
    two = ("finetune", data, *FLAGS, "--compare-scratch", "-o", tmp_path / "r")
    assert "from scratch" in vitft(*two, "--min-top1", 0).stdout
    assert vitft(*two, "--min-top1", 100, code=5).stderr.count("vit-mini ") == 1 + vitft(*two).stderr.count("vit-mini ")
