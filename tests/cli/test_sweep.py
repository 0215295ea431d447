"""`vitft sweep`: every setting of a grid compared on val, the best one tested; or all of it on test, which is said."""

import csv
import io
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from statistics import fmean

import pytest
from scipy import stats

from tests.command import vitft
from tests.protocol.test_protocol import draw
from vitft import recipes
from vitft.cli.axes import pieces
from vitft.data.sources.image_folder import ImageFolder
from vitft.engines import inline
from vitft.errors import Interrupted
from vitft.protocol.jobs import make

TINY = ("-m", "vit-mini", "--steps", 2, "-b", 4, "--device", "cpu")
GRID = ("--lr", "0.003,1.0", "-r", "32,40", "--seeds", "0,1")


def units(run: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(run.glob("units/*/*/result.json"))]


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return draw(tmp_path_factory.mktemp("sweep") / "d", ("train", "val", "test"), 4)


@pytest.fixture(scope="module")
def swept(data, tmp_path_factory) -> tuple[Path, dict, list[str]]:
    """A grid of two rates, two sizes and two seeds; which splits were opened, in their order."""
    run, opened = tmp_path_factory.mktemp("run") / "a", []
    real = ImageFolder.open
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageFolder, "open", lambda self, name: opened.append(name) or real(self, name))
        told = json.loads(vitft("sweep", data, *TINY, *GRID, "-o", run, "--format", "json").stdout)
    return run, told, opened


def test_every_setting_is_compared_on_val_with_every_seed_and_the_best_is_tested(swept):
    run, told, _ = swept
    tuned = [u for u in units(run) if u["phase"] == "tune"]
    finals = [u for u in units(run) if u["phase"] == "final"]
    grid = {(lr, px, seed) for lr in (0.003, 1.0) for px in (32, 40) for seed in (0, 1)}
    assert {(u["point"]["lr"], u["point"]["resolution"], u["seed"]) for u in tuned} == grid and len(tuned) == 8
    assert {u["provenance"]["split"] for u in tuned} == {"val"}
    for u in (*tuned, *finals):
        assert (u["recipe_settings"]["lr"], u["protocol"]["resolution"][0]) == tuple(u["point"].values())
        assert u["protocol"]["selection"] == "val, best top1 over seeds 0, 1, ties to the smaller lr"
    by_point: dict[tuple, list[float]] = {}
    for u in sorted(tuned, key=lambda u: u["seed"]):
        by_point.setdefault(tuple(u["point"].values()), []).append(u["metrics"]["top1"])
    best = max(by_point, key=lambda p: (fmean(by_point[p]), -p[0], -p[1]))
    assert tuple(told["point"].values()) == best
    assert [u["seed"] for u in finals] == [0, 1] and all(tuple(u["point"].values()) == best for u in finals)
    assert {u["provenance"]["split"] for u in finals} == {"test"}
    assert told["metrics"]["top1"] == pytest.approx(fmean(u["metrics"]["top1"] for u in finals))
    in_order = [(lr, px) for lr in (0.003, 1.0) for px in (32, 40)]
    assert [tuple(one["point"].values()) for one in told["tuned"]] == in_order and len(
        set(map(tuple, by_point.values()))
    ) > 1
    for one in told["tuned"]:
        values = by_point[tuple(one["point"].values())]
        assert one["top1"] == pytest.approx(fmean(values)) and list(one["seeds"].values()) == values
        low, high = stats.t.interval(0.95, 1, loc=fmean(values), scale=stats.sem(values) or 1e-12)
        assert one["ci95"] == pytest.approx([max(0, low), min(1, high)], abs=1e-6)
        assert one["n"] == 12


def test_test_is_opened_last_of_all(swept):
    _, _, opened = swept
    first = opened.index("test", opened.index("val") + 1) if opened.count("test") > 1 else opened.index("test")
    assert "test" in opened and first > 0  # its names are looked at before; images below
    order = Counter(opened)
    assert order["test"] == 1  # one process opens a split once, and the guard refuses its images before the end


def test_the_table_shows_what_differs_the_scores_and_the_choice(swept, data):
    run, told, _ = swept
    command = ("sweep", data, *TINY, *GRID, "-o", run)
    found = rows(vitft(*command, "--format", "csv").stdout)
    scores = [f"{at}{what}" for at in ("val", "test") for what in ("", "_ci95_low", "_ci95_high", "_n")]
    assert list(found[0]) == ["lr", "resolution", *scores, "chosen", "notes"]
    assert [(r["lr"], r["resolution"]) for r in found] == [(a, b) for a in ("0.003", "1") for b in ("32", "40")]
    chosen = [r for r in found if r["chosen"]]
    assert len(chosen) == 1 and float(chosen[0]["test"]) == pytest.approx(100 * told["metrics"]["top1"])
    assert [float(r["val"]) for r in found] == pytest.approx([100 * one["top1"] for one in told["tuned"]])
    assert all(not r["test"] for r in found if not r["chosen"])
    again = vitft(*command)
    assert "Finished before" in again.stderr
    words = " ".join(again.stdout.split())
    assert "Chosen on val, mean of seeds 0, 1: lr " in words and " over " in words
    for line in again.stdout.splitlines():
        assert len(line) <= 100


def test_a_killed_sweep_goes_on_to_the_same_table(swept, data, tmp_path, monkeypatch):
    run, _, _ = swept
    calls, real = [], inline.run_unit

    def killed(*args):
        calls.append(args)
        if len(calls) == 6:
            raise Interrupted(15, "Interrupted.")
        return real(*args)

    monkeypatch.setattr(inline, "run_unit", killed)
    command = ("sweep", data, *TINY, *GRID, "-o", tmp_path / "b")
    vitft(*command, code=143)
    assert len(units(tmp_path / "b")) == 5
    monkeypatch.setattr(inline, "run_unit", real)
    again = vitft(*command, "--format", "csv").stdout
    assert again == vitft("sweep", data, *TINY, *GRID, "-o", run, "--format", "csv").stdout
    other = vitft("sweep", data, *TINY, *GRID[:-1], "0,2", "-o", tmp_path / "b", code=2).stderr
    assert "holds another run" in other and "seeds" in other


def test_a_finished_sweep_answers_without_torch(swept, data):
    run, told, _ = swept
    words = [str(word) for word in ("sweep", data, *TINY, *GRID, "-o", run, "--format", "json")]
    code = (
        "import sys\nsys.modules['torch'] = None\nfrom typer.testing import CliRunner\n"
        "from vitft.cli.app import app\n"
        "done = CliRunner().invoke(app, sys.argv[1:], catch_exceptions=False)\n"
        "sys.stdout.write(done.stdout)\nsys.exit(done.exit_code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == told


def test_a_choice_on_test_is_called_that(data, tmp_path):
    command = ("sweep", data, *TINY, "--lr", "0.003,0.3", "--on", "test", "-o", tmp_path / "run")
    told = json.loads(vitft(*command, "--format", "json").stdout)
    assert told["protocol"]["selection"] == "test, best of 2 settings by top1 on the test split itself"
    assert {(u["phase"], u["provenance"]["split"]) for u in units(tmp_path / "run")} == {("final", "test")}
    best = max(told["tuned"], key=lambda one: (one["top1"], -one["point"]["lr"]))
    assert told["point"] == best["point"] and told["metrics"]["top1"] == best["top1"]
    words = " ".join(vitft(*command).stdout.split())
    assert "The choice was made on test itself: the best number is too high by it" in words
    assert "Chosen on test: lr" in words
    (cell,) = [row["d"] for row in rows(vitft("report", tmp_path / "run", "--format", "csv").stdout) if row["d"]][:1]
    assert float(cell) == pytest.approx(100 * told["metrics"]["top1"])
    plain = json.loads(vitft("finetune", data, *TINY, "--lr", 0.003, "--format", "json").stdout)
    assert plain["protocol"]["id"] != told["protocol"]["id"]


def test_a_setting_that_diverges_is_out_and_the_others_go_on(data, tmp_path):
    command = ("sweep", data, *TINY, "--lr", "0.003,1e30", "--seeds", "0,1", "--steps", 4, "-o", tmp_path / "run")
    first = vitft(*command)
    assert "The other settings go on" in first.stderr
    lost = list((tmp_path / "run").rglob("lost.json"))
    assert len(lost) == 1 and json.loads(lost[0].read_text())["point"] == {"lr": 1e30}
    assert "lr 0.003 (100.0); diverged: 1e+30" in " ".join(first.stdout.split())
    (tmp_path / "run" / "result.json").unlink()
    again = vitft(*command)
    assert again.stdout == first.stdout and "go on" not in again.stderr  # remembered, not tried again
    hopeless = vitft("sweep", data, *TINY, "--lr", "1e29,1e30", "--steps", 4, "-o", tmp_path / "none", code=1)
    assert "Each of the 2 settings diverged" in hopeless.stderr


def test_without_val_the_choice_is_made_on_the_end_of_train_and_finetune_says_so_too(tmp_path):
    mine = draw(tmp_path / "d", ("train", "test"), 10)
    recipe = tmp_path / "own.toml"
    recipe.write_text("steps = 2\nbatch_size = 4\nresolution = 32\nlr = 0.1\n[sweep]\nlr = [0.001, 0.01]\n")
    tuned = vitft("finetune", mine, "-m", "vit-mini", "--recipe", recipe, "-o", tmp_path / "a").stdout
    scores = {t["point"]["lr"]: 100 * t["top1"] for t in json.loads((tmp_path / "a/result.json").read_text())["tuned"]}
    best = max(scores, key=lambda lr: (scores[lr], -lr))
    other = next(lr for lr in scores if lr != best)
    said = f"dev (10 % of train): lr {best:g} ({scores[best]:.1f}) over {other:g} ({scores[other]:.1f})"
    assert f"Chosen on {said}" in " ".join(tuned.split()) or f"chosen on {said}" in " ".join(tuned.split())


def test_a_dry_run_counts_and_leaves_nothing(data, tmp_path):
    command = ("sweep", data, *TINY[:2], "--steps", "2,6", "-b", "4,8", "--seeds", "0,1,2", "-o", tmp_path / "run")
    told = json.loads(vitft(*command, "--dry-run", "--format", "json").stdout)
    assert (told["compared"], told["tested"]) == (12, 3)
    takes = told["estimate"]
    assert (takes["units"], takes["steps"]) == (15, 3 * (2 + 2 + 6 + 6) + 3 * 6)
    assert takes["train_images"] == 3 * (2 + 6) * (4 + 8) + 3 * 6 * 8
    assert takes["test_images"] == 15 * 12
    assert len(told["grid"]) == 4 and not (tmp_path / "run").exists()
    words = " ".join(vitft(*command, "--dry-run", "--on", "test").stdout.split())
    assert "12 runs, all of them tested on test: the choice will have seen it; 12 fits, 48 steps" in words


def test_several_models_are_each_chosen_and_compared(data, tmp_path):
    from safetensors.torch import save_file
    from timm import create_model

    save_file(create_model("test_vit", num_classes=5).state_dict(), tmp_path / "w.safetensors")
    models = ("-m", "vit-mini", "-m", tmp_path / "w.safetensors")
    command = ("sweep", data, *models, *TINY[2:], "--lr", "0.003,0.03", "-r", 32, "-o", tmp_path / "run")
    found = rows(vitft(*command, "--format", "csv").stdout)
    assert Counter(r["model"] for r in found) == {"vit-mini": 2, "w": 2}
    assert Counter(r["model"] for r in found if r["chosen"]) == {"vit-mini": 1, "w": 1}
    assert re.search(r"vit-mini, fine-tuned - w, fine-tuned: .*McNemar p", " ".join(vitft(*command).stdout.split()))


# --- what a grid is ---------------------------------------------------------------------------------------------------


def test_each_point_is_resolved_as_the_recipe_says_there(data):
    """A method's own table and its own sweep count at its points alone; a recipe's sweep multiplies the grid."""
    recipe = recipes.parse(
        {
            "steps": 10, "lr": 0.1, "warmup_steps": 2, "sweep": {"lr": [0.1, 0.2]},
            "method": {"lora": {"weight_decay": 0.5, "sweep": {"lora_alpha": [4.0, 8.0]}}},
        },
        "own",
    )  # fmt: skip
    rest = {"model": "vit-mini", "recipe": recipe, "overrides": {"batch_size": 4}}
    job, _ = make(str(data), **rest, axes={"method": ["full", "lora"], "steps": [10, 20]})
    points = [tuple(point.values.items()) for point in job.grid]
    assert len(points) == len(set(points)) == 2 * 2 + 2 * 2 * 2
    for point in job.grid:
        s = point.settings
        lora = s.method == "lora"
        assert s.weight_decay == (0.5 if lora else 0.0) and s.warmup_steps == s.steps // 5 and s.batch_size == 4
        assert ("lora_alpha" in point.values) is lora
        assert all(getattr(s, key) == value for key, value in point.values.items())
    alone, _ = make(str(data), **rest)
    assert not alone.grid and alone.identity()["kind"] == "finetune" and "on" not in alone.identity()
    fixed, _ = make(str(data), **{**rest, "overrides": {"lr": 0.3}}, axes={"steps": [10, 20]})
    assert [point.values for point in fixed.grid] == [{"steps": 10}, {"steps": 20}]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("0.1,0.2", ["0.1", "0.2"]),
        ("[1, 2], [3]", ["[1, 2]", "[3]"]),
        ('["q","v"],["qkv"]', ['["q","v"]', '["qkv"]']),
        ('"a,b",c', ['"a,b"', "c"]),
        ("7", ["7"]),
    ],
)
def test_a_list_is_one_value(text, parts):
    assert pieces(text) == parts
