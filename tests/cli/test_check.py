"""`vitft recipes check`: held, outside, void and errored are told apart, by exit code, table, JSON and JUnit."""

import base64
import csv
import io
import json
import zlib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tests.weights import a, b
from vitft.cli.app import app

RECIPE = """
title = "t"
source = "s"
steps = 4
batch_size = 4
resolution = 32
lr = 0.01
warmup_steps = 1
"""
CLASSES = 5
TEST = 8
"""Test images of each class."""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for split, n in (("train", 4), ("test", TEST)):
        for c in range(CLASSES):
            folder = tmp_path / "data" / split / f"c{c}"
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = np.clip(rng.normal(50 * c, 60, (16, 16, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    torch.save(a, tmp_path / "a.pth")
    torch.save(b, tmp_path / "b.pth")
    return tmp_path


def expect(value: float, tolerance: float = 0.001, task: str = "./data", **more: object) -> str:
    fields = {"task": task, "model": "./a.pth", "value": value, "tolerance": tolerance, "source": "a test", **more}
    return "[[expect]]\n" + "\n".join(f"{key} = {json.dumps(v)}" for key, v in fields.items()) + "\n"


def written(name: str, *expects: str) -> str:
    Path(f"{name}.toml").write_text(RECIPE + "\n".join(expects))
    return f"./{name}.toml"


def vitft(*args: object) -> Any:
    return CliRunner().invoke(app, ["recipes", "check", *map(str, args), "--device", "cpu"], catch_exceptions=False)


def checked(*args: object) -> tuple[int, list[dict[str, Any]], str]:
    done = vitft(*args, "--format", "json")
    return done.exit_code, json.loads(done.stdout)["checks"] if done.stdout else [], done.stderr


def measured(model: str = "a") -> dict[str, Any]:
    """Run the recipe by the verb that runs recipes; a check must find the same number."""
    words = ["finetune", "./data", "--recipe", written("same"), "--model", f"./{model}.pth", "--device", "cpu"]
    words += ["--format", "json", "-o", f"finetuned-{model}"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    return json.loads(done.stdout)


def test_a_number_inside_its_tolerance_ends_with_0_and_a_raised_expectation_with_5():
    result = measured()
    top1, n = result["metrics"]["top1"], result["metrics"]["n"]
    assert n == CLASSES * TEST
    code, [found], _ = checked(written("r", expect(top1, device="cpu", n=n, protocol="")), "-o", "out")
    assert code == 0
    assert (found["outcome"], found["got"], found["n"], found["seeds"]) == ("held", top1, n, [0])
    assert found["ci95"] == result["metrics"]["ci95"]
    code, found_all, said = checked(written("r", expect(top1), expect(top1 + 0.1), expect(top1 - 0.1)), "-o", "out")
    assert code == 5
    assert [one["outcome"] for one in found_all] == ["held", "regressed", "outside"]
    assert "10.0 points below" in said and "10.0 points above" in said
    assert "Finished before" in said, "the same run answers three expectations, from disk"
    # At the tolerance itself a number is inside.
    code, [found], _ = checked(written("r", expect(top1 + 0.125, 0.125)), "-o", "out")
    assert (code, found["outcome"]) == (0, "held")
    code, [found], said = checked(written("r", expect(top1)), "-o", "out", "--overwrite")
    assert (code, found["outcome"]) == (0, "held") and "Finished before" not in said


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"device": "NVIDIA H200"}, "expected on NVIDIA H200, this is cpu"),
        ({"n": 7}, "expected of 7 images, these are 40"),
        ({"protocol": "0badcafe"}, "expected by protocol 0badcafe"),
        ({"split_digest": "0badcafe"}, "expected of the test split 0badcafe"),
    ],
)
def test_what_was_measured_elsewhere_or_on_other_data_is_void_and_fails_nothing(more: dict[str, Any], why: str):
    code, [found], said = checked(written("r", expect(0.99, **more)), "--junit", "j.xml")
    assert (code, found["outcome"]) == (0, "void")
    assert why in found["why"] and "1 of 1 void" in said
    assert ("got" in found) == ("device" not in more), "nothing is run for another device"
    [case] = ET.parse("j.xml").getroot().iter("testcase")
    assert [child.tag for child in case] == ["skipped", "system-out"]


def test_junit_keeps_the_outcomes_apart_and_a_failed_run_does_not_hide_a_red_one():
    gone = expect(0.5, task="./gone")
    recipe = written("r", expect(0.99), expect(0.5, 0.5), expect(0.5, device="cuda"), gone)
    done = vitft(recipe, "--junit", "deep/j.xml", "--format", "csv", "-o", "out")
    assert done.exit_code == 5
    suite = ET.parse("deep/j.xml").getroot().find("testsuite")
    assert suite is not None
    assert {k: suite.get(k) for k in ("tests", "failures", "errors", "skipped")} == {
        "tests": "4", "failures": "1", "errors": "1", "skipped": "1",
    }  # fmt: skip
    assert all(case.get("classname") == "r" and float(case.get("time") or -1) >= 0 for case in suite)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert sorted(row["outcome"] for row in rows) == ["errored", "held", "regressed", "void"]
    # Without a red one the error's own code counts: 3 for data that is not there.
    code, [found], said = checked(written("r", gone))
    assert (code, found["outcome"]) == (3, "errored") and "error: " in said and "gone" in found["why"]


def test_every_format_says_what_was_got_and_expected():
    recipe = written("r", expect(0.9, 0.3))
    for form in ("text", "markdown", "csv", "latex"):
        done = vitft(recipe, "-o", "out", "--format", form)
        assert "90" in done.stdout and "a test" in done.stdout, form
        assert done.exit_code == 5


def test_model_overrides_what_the_recipe_names():
    _, [found], _ = checked(written("r", expect(0.5, 0.5)), "--model", "./b.pth")
    assert found["model"] == "./b.pth" and found["got"] == measured("b")["metrics"]["top1"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("quick",), "Recipe 'quick' expects no number."),
        (("quik",), "Did you mean 'quick'?"),
        (("./none.toml",), "No recipe file"),
    ],
)
def test_mistakes_end_with_2(args: tuple[str, ...], said: str):
    done = vitft(*args)
    assert done.exit_code == 2 and said in done.stderr


def test_an_unknown_task_is_told_before_anything_is_run():
    done = vitft(written("r", expect(0.5, 0.5), expect(0.5, task="dtdd")), "-o", "out")
    assert done.exit_code == 2 and "Did you mean 'dtd'" in done.stderr
    assert not Path("out").exists()


def test_a_baseline_holds_another_seed_and_turns_red_for_worse_answers():
    recipe = written("r")
    first = (recipe, "--task", "./data", "--model", "./a.pth", "--baseline", "base.json")
    code, found, said = checked(*first, "--update")
    assert code == 0 and "Wrote base.json: 1 of 1" in said
    assert [one["outcome"] for one in found] == ["written"] and found[0]["seeds"] == [0, 1, 2]
    assert Path("base.json").stat().st_size < 5000
    stored = json.loads(Path("base.json").read_text())["entries"][0]["current"]
    for flags, folder in zip(stored["flags"], sorted(Path(found[0]["folder"]).glob("units/*/final-*")), strict=True):
        table = pq.read_table(folder / "predictions.parquet").to_pydict()
        bits = np.unpackbits(np.frombuffer(zlib.decompress(base64.b64decode(flags["correct"])), np.uint8))
        right = [best[0] == label for best, label in zip(table["top5"], table["label"], strict=True)]
        assert list(bits[: len(right)]) == right

    code, [held], _ = checked(recipe, "--baseline", "base.json", "--junit", "j.xml")
    assert (code, held["outcome"], held["seeds"], held["model"]) == (0, "held", [3, 4, 5], "./a.pth")
    assert held["expected"] == pytest.approx(np.mean([_share(one, stored["n"]) for one in stored["flags"]]))
    assert held["drop"] == pytest.approx(held["expected"] - held["got"]) and held["p_holm"] == held["p"]

    # What answers everything rightly makes the same runs red: a baseline that was better on every image.
    perfect = base64.b64encode(zlib.compress(b"\xff" * 5)).decode()
    entry = {**stored, "flags": [{"seed": seed, "correct": perfect} for seed in range(3)]}
    both = {"schema_version": 2, "kind": "baseline", "entries": [{"current": entry, "oldest": stored}]}
    Path("better.json").write_text(json.dumps(both))
    code, [now, oldest], said = checked(recipe, "--baseline", "better.json", "--junit", "j.xml")
    assert (code, now["outcome"], oldest["outcome"]) == (5, "regressed", "held")
    assert oldest["against"] == "oldest" and now["p_holm"] == pytest.approx(2 * now["p"])
    assert "points below the baseline" in said
    tags = [[child.tag for child in case] for case in ET.parse("j.xml").getroot().iter("testcase")]
    assert tags == [["failure", "system-out"], ["system-out"]]
    code, [now, _], _ = checked(recipe, "--baseline", "better.json", "--margin", 100)
    assert (code, now["outcome"]) == (0, "held"), "a margin that nothing exceeds"


def _share(flags: dict[str, str], n: int) -> float:
    return float(np.unpackbits(np.frombuffer(zlib.decompress(base64.b64decode(flags["correct"])), np.uint8)).sum()) / n


def test_update_keeps_the_oldest_while_it_can_be_compared():
    recipe = written("r", expect(0.5, 0.5))
    base = ("--baseline", "ci", "--update")
    Path("ci").mkdir()
    assert checked(recipe, *base, "--seeds", "0")[0] == 0
    assert checked(recipe, *base, "--seeds", "1")[0] == 0
    [entry] = json.loads(Path("ci/baseline.json").read_text())["entries"]
    assert [entry[key]["flags"][0]["seed"] for key in ("current", "oldest")] == [1, 0]
    code, found, said = checked(recipe, "--baseline", "ci", "--seeds", "1")
    assert code == 0 and [one["against"] for one in found] == ["baseline", "oldest"]
    assert "seed 1 is one of the baseline's" in said and found[0]["drop"] == 0
    assert all("images only" in one["test"] for one in found)
    # Another test set: void for both, and a new baseline begins anew.
    (next(Path("data/test").glob("*/0.png"))).unlink()
    code, found, said = checked(recipe, "--baseline", "ci", "-o", "anew")
    assert code == 0 and [one["outcome"] for one in found] == ["void", "void"]
    assert "40 there, 39 here" in found[0]["why"] and "2 of 2 void" in said
    assert checked(recipe, *base, "--seeds", "0", "-o", "anew0")[0] == 0
    [entry] = json.loads(Path("ci/baseline.json").read_text())["entries"]
    assert entry["current"] == entry["oldest"] and entry["current"]["n"] == 39


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("--baseline", "no.json"), 2, "No baseline 'no.json'."),
        (("--update",), 2, "--baseline alone"),
        (("--margin", "1"), 2, "--baseline alone"),
        (("--baseline", "bad.json"), 4, "damaged"),
    ],
)
def test_mistakes_with_baselines_are_told(args: tuple[str, ...], code: int, said: str):
    Path("bad.json").write_text('{"entries": 3}')
    done = vitft(written("r", expect(0.5, 0.5)), *args)
    assert done.exit_code == code and said in done.stderr and len(done.stderr.splitlines()) <= 3


def test_a_baseline_says_nothing_of_what_it_does_not_hold():
    checked(written("r"), "--task", "./data", "--model", "./a.pth", "--baseline", "b.json", "--update", "--seeds", "0")
    code, [found], _ = checked(written("other", expect(0.5, 0.5)), "--baseline", "b.json")
    assert (code, found["outcome"]) == (0, "void") and "holds nothing of it" in found["why"]
