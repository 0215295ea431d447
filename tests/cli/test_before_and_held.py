"""`finetune --dry-run`, the line before a start, and `--min-top1`."""

import csv
import io
import json
import shutil

from tests.cli.test_cli import images
from tests.command import vitft
from vitft.catalog.models import MODELS
from vitft.models import loading

FLAGS = ("--steps", 2, "-b", 4, "--device", "cpu")


def test_a_dry_run_says_what_it_would_take_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("VITFT_RUNS", str(tmp_path / "runs"))
    data = images(tmp_path / "d")
    told = vitft("finetune", data, *FLAGS, "--seeds", "0,1", "--dry-run")
    assert "nothing was run" in told.stdout and f"It would go to {tmp_path / 'runs'}" in told.stderr
    (row,) = csv.DictReader(io.StringIO(vitft("finetune", data, *FLAGS, "--dry-run", "--format", "csv").stdout))
    assert (row["units"], row["steps"], row["train_images"]) == ("1", "2", "8")
    (plan,) = json.loads(vitft("finetune", data, *FLAGS, "--dry-run", "--format", "json").stdout)["plan"]
    assert {*plan["estimate"]} == {
        "resolution", "units", "steps", "train_images", "test_images", "flops", "seconds", "plan", "memory", "disk",
        "speed",
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


def test_a_dry_run_of_a_known_task_needs_no_data(tmp_path):
    here = ("--data-dir", tmp_path, "--recipe", "linear", "--dry-run")
    done = vitft("finetune", "pets", *here)
    assert "the data of 'oxford_iiit_pet' is not here" in done.stderr and "train 2,944, val 736" in done.stderr
    (plan,) = json.loads(vitft("finetune", "pets", *here, "--format", "json").stdout)["plan"]
    assert plan["estimate"]["test_images"] == 3669 + 5 * 368  # five values of lr, each on a tenth of train and val
    grid = vitft("sweep", "pets", *here, "--set", "lr=0.1,0.2")
    assert "is not here" in grid.stderr and "2 settings" in grid.stdout
    assert "No data for 'oxford_iiit_pet'" in vitft("finetune", "pets", *here[:-1], code=3).stderr
    assert "does not exist" in vitft("finetune", "pets", "--data-dir", tmp_path / "no", "--dry-run", code=3).stderr
    assert "does not exist" in vitft("finetune", tmp_path / "no", "--dry-run", code=3).stderr


def test_each_of_several_models_is_opened_once(tmp_path, monkeypatch):
    loads = []
    load = loading.load
    monkeypatch.setattr(loading, "load", lambda model, **how: loads.append(model) or load(model, **how))
    data, other = images(tmp_path / "d"), tmp_path / "other.npz"
    shutil.copy(MODELS["vit-mini"].file, other)
    done = vitft("finetune", data, *FLAGS, "-m", "vit-mini", "-m", other, "--compare-scratch", "-o", tmp_path / "r")
    assert "from scratch" in done.stdout and sorted(loads) == sorted(["vit-mini", str(other)])
