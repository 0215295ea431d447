"""`vitft runs curve`: what metrics.jsonl holds, as a table with bars, and every update for other programs."""

import csv
import io
import json
import shutil
from pathlib import Path
from statistics import fmean

import pytest
from statsmodels.stats.proportion import proportion_confint

from tests.command import vitft
from tests.protocol.test_protocol import draw


def rows(*args: object) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(vitft("runs", "curve", *args, "--format", "csv").stdout)))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("curve")
    data = draw(root / "d", ("train", "val", "test"), 4)
    tiny = ("-m", "vit-mini", "-b", 4, "--steps", 5, "-r", 32, "--device", "cpu", "--seeds", "0,1")
    vitft("finetune", data, *tiny, "--val-every", 2, "-o", root / "run")
    return root / "run"


def written(run: Path) -> dict[str, list[dict]]:
    files = {path.parent.name[-1]: path for path in run.glob("units/*/*/metrics.jsonl")}
    return {seed: [json.loads(line) for line in path.read_text().splitlines()] for seed, path in files.items()}


def test_csv_and_json_hold_every_update_of_every_seed(run):
    lines = written(run)
    found = rows(run)
    assert [(row["unit"], int(row["step"])) for row in found] == [(f"seed {s}", i) for s in "01" for i in range(1, 6)]
    for row in found:
        line = lines[row["unit"][-1]][int(row["step"]) - 1]
        assert (float(row["loss"]), float(row["lr"])) == (line["loss"], line["lr"])
        looked = int(row["step"]) in (2, 4, 5)
        assert bool(row["val_top1"]) is looked and (
            not looked or float(row["val_top1"]) == pytest.approx(100 * line["val_top1"])
        )
    told = json.loads(vitft("runs", "curve", run, "--format", "json").stdout)
    assert [one["updates"] for one in told["curves"]] == [lines["0"], lines["1"]]


def test_the_table_is_short_and_drawn(run):
    lines = written(run)
    text = vitft("runs", "curve", run, "--rows", 2).stdout
    body = [line.split() for line in text.splitlines() if line[:1].isdigit()]
    assert [cells[0] for cells in body] == ["3", "5"]
    losses = [fmean(line["loss"] for s in "01" for line in lines[s][part]) for part in (slice(0, 3), slice(3, 5))]
    assert [float(cells[1]) for cells in body] == pytest.approx(losses, abs=1e-4)
    assert [cells[2] for cells in body] == ["█" * round(20 * loss / max(losses)) for loss in losses]
    vals = [fmean(lines[s][i]["val_top1"] for s in "01") for i in (1, 4)]
    assert [float(cells[4]) for cells in body] == pytest.approx([100 * v for v in vals], abs=0.05)
    assert "mean of seed 0, seed 1: 5 updates, the loss a mean of 3 each" in text
    assert "█" not in vitft("runs", "curve", run, "--format", "latex").stdout
    (unit,) = run.glob("units/*/*-seed1")
    alone = vitft("runs", "curve", unit, "--format", "markdown").stdout
    low, high = proportion_confint(round(12 * lines["1"][-1]["val_top1"]), 12, method="wilson")
    assert f"[{100 * low:.1f}, {100 * high:.1f}]" in alone


def test_runs_of_before_unfinished_and_damaged_ones(run, tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    plain = [{k: v for k, v in line.items() if not k.startswith("val")} for line in written(run)["0"]]
    file = old / "metrics.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in plain) + '{"step": 6, "lo')  # being written
    text = vitft("runs", "curve", old).stdout
    assert "5 updates" in text and "No val accuracy was written; --val-every N does it." in " ".join(text.split())
    shutil.copytree(run, tmp_path / "begun")
    (tmp_path / "begun/result.json").unlink()
    several = vitft("runs", "curve", tmp_path / "begun", code=2).stderr
    assert "has several units" in several and "-seed0" in several
    file.write_text("no json\n" + json.dumps(plain[0]) + "\n")
    assert "is damaged in line 1" in vitft("runs", "curve", old, code=4).stderr
    assert "holds no metrics.jsonl" in vitft("runs", "curve", tmp_path, code=2).stderr
