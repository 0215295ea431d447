"""Which of a file's networks is used is said by every verb, on screen and in its result, and can be asked for."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tests.weights import a, b
from vitft.cli.app import app
from vitft.evaluation.network import open_network

NOTE = "'model_ema' is used, not 'model'"
FAST = ("--device", "cpu", "--precision", "float32")


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VITFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "300")
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in "vwxyz":
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for i in range(2):
                Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    torch.save({"model": b, "model_ema": a}, tmp_path / "x.pth")
    return tmp_path


def vitft(*args: object) -> tuple[str, Any]:
    """Run twice, for the text on screen and for the JSON."""
    out = []
    for form in ("text", "json"):
        done = CliRunner().invoke(app, [str(arg) for arg in (*args, "--format", form)])
        assert done.exit_code == 0, done.output
        out.append(done)
    assert NOTE in json.dumps(json.loads(out[1].stdout))
    return " ".join(out[0].output.split()), json.loads(out[1].stdout)


@pytest.mark.parametrize(
    "args",
    [
        ("finetune", "data", "-m", "x.pth", "--steps", 2, "-b", 4, "-o", "run", "--micro-batch", 4, *FAST),
        ("eval", "x.pth", "data", *FAST),
        ("fewshot", "data", "-m", "x.pth", "--per-class", 1, "--seeds", "0,1", *FAST),
        ("predict", "x.pth", "data/test/v/0.png", *FAST),
        ("models", "show", "x.pth"),
    ],
    ids=lambda args: args[0],
)
def test_every_verb_says_which_weights_it_uses(args):
    text, _ = vitft(*args)
    assert NOTE in text
    assert "x.pth::model" in text


def test_another_is_another_run_and_has_other_features(places):
    flags = ("--steps", 2, "-b", 4, "-o", "run", *FAST)
    vitft("finetune", "data", "-m", "x.pth", *flags)
    assert NOTE in json.dumps(json.loads((places / "run" / "result.json").read_text()))
    done = CliRunner().invoke(app, ["finetune", "data", "-m", "x.pth::model", *map(str, flags)])
    assert done.exit_code == 2
    assert "x.pth::model here" in done.output
    parts = [open_network(name, {}, device="cpu").made_of for name in ("x.pth", "x.pth::model")]
    assert parts[0] != parts[1]
