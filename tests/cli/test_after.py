"""After a run: what its last lines say, its worst mistakes, and what it is called in tables."""

import csv
import io
import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.cli.test_cli import images
from tests.command import vitft
from vitft.evaluation import predictions
from vitft.report.single import model_title, model_titles


def tune(data: Path, out: Path, *args: object):
    return vitft("finetune", data, "-m", "vit-mini", "--steps", 2, "-b", 4, "--device", "cpu", "-o", out, *args)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of one model in folders whose names say nothing, and the data."""
    root = tmp_path_factory.mktemp("after")
    data = images(root / "my data")
    told = tune(data, root / "0f3a 9c").stderr
    tune(data, root / "77be12", "-r", 40, "--seeds", "3,4")
    return root, data, told


def test_a_finetune_ends_with_what_to_do_next(runs):
    root, data, told = runs
    run = root / "0f3a 9c"
    after = told.split("Run folder: ")[1].splitlines()[1:]
    assert len(after) == 2
    words = shlex.split(after[0].removeprefix("Next: "))
    assert words[:4] == ["vitft", "predict", str(run), "IMAGE...,"] and words[4:] == [
        "vitft",
        "runs",
        "mistakes",
        str(run),
    ]
    assert f"timm.create_model('local-dir:{run}', pretrained=True)" in after[1]
    shown = {"run.json", "result.json", "weights.safetensors", "config.json", "predictions.parquet"}
    assert shown <= {path.name for path in run.iterdir()}
    vitft("predict", words[2], data / "test" / "a" / "0.png")
    assert "Next:" not in tune(data, run, "--format", "json").stderr


def test_mistakes_come_worst_first_with_their_files(runs, tmp_path):
    logits = np.log(
        np.array([[8, 1, 1], [1, 7, 2], [1, 8, 1], [1, 1, 98], [6, 1, 3]], dtype=np.float32)
        / [[10], [10], [10], [100], [10]]
    )
    labels = np.array([0, 0, 0, 1, 2])
    predictions.save(tmp_path / "predictions.parquet", list("vwxyz"), labels, logits, ("ant", "bee", "a cat"))
    table = vitft("runs", "mistakes", tmp_path, "--format", "csv").stdout
    rows = [row[:5] for row in csv.reader(io.StringIO(table)) if len(row) > 4]
    assert [row[:3] for row in rows[1:]] == [
        ["y", "bee", "a cat"], ["x", "ant", "bee"], ["w", "ant", "bee"], ["z", "a cat", "ant"],
    ]  # fmt: skip
    found = json.loads(vitft("runs", "mistakes", tmp_path, "--top", 2, "--format", "json").stdout)
    assert (found["n"], found["wrong"], len(found["mistakes"])) == (5, 4, 2)
    assert found["mistakes"][0]["confidence"] == pytest.approx(0.98, abs=1e-6)
    assert found["mistakes"][1]["truth_confidence"] == pytest.approx(0.1, abs=1e-6)
    text = vitft("runs", "mistakes", tmp_path, "--top", 1).stdout
    assert "4 of 5" in text and "98.0" in text and "bee" in text and "  x  " not in text

    root = runs[0]
    several = vitft("runs", "mistakes", root / "77be12")
    assert "answers of seed 3" in several.stderr and "units/" in several.stderr
    refused = vitft("runs", "mistakes", root, code=2).stderr
    assert "no predictions.parquet" in refused and "eval -o" in refused


def test_mistakes_need_no_torch(tmp_path):
    predictions.save(tmp_path / "predictions.parquet", ["k"], np.array([0]), np.zeros((1, 2), np.float32), "ab")
    code = (
        "import sys\nfrom vitft.cli.app import app\n"
        f"app(['runs', 'mistakes', {str(tmp_path)!r}], standalone_mode=False)\nassert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "0 of 1" in done.stdout


def test_runs_are_called_by_model_and_recipe(runs, tmp_path):
    root, data, _ = runs
    a, b = root / "0f3a 9c", root / "77be12"
    assert model_title(str(a)) == model_title(str(a / "weights.safetensors")) == "vit-mini (quick)"
    assert model_titles([str(a), "x/y/net.safetensors"]) == ["vit-mini (quick)", "net.safetensors"]
    assert model_titles([str(a), str(b)]) == ["vit-mini (quick), 32 px", "vit-mini (quick), 40 px"]
    shown = vitft("eval", a, b, data, "--device", "cpu").stdout
    assert "vit-mini (quick), 32 px - vit-mini (quick), 40 px, seed 4:" in shown.replace("\n", " ")
    assert "0f3a" not in shown and "77be12" not in shown
    # A run that began with a run; its result says the classes, and an evaluation's files too.
    again = vitft("finetune", data, "-m", b, "--steps", 1, "-b", 4, "--device", "cpu", "-o", tmp_path / "again")
    assert "vit-mini (quick), fine-tuned" in again.stdout and "77be12" not in again.stdout
    vitft("eval", data, "-m", a, "--device", "cpu", "-o", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "result.json").read_text())["class_names"] == ["a", "b", "c"]
    assert set(predictions.load(tmp_path / "out" / "predictions.parquet").label_names) == {"a", "b", "c"}
