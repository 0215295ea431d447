"""The command that the page names beside a number gives that number again."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.command import vitft
from tests.forked_workers import forking
from vitft.engines import local
from vitft.report.gather import gather
from vitft.report.lines import labels
from vitft.report.page import runs

TINY = ("-b", "4", "--device", "cpu", "--set", "warmup_steps=1")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for split, many in (("train", 5), ("val", 2), ("test", 3)):
        for name in ("a b", "c"):
            (root / split / name).mkdir(parents=True)
            for k in range(many):
                pixels = random.integers(0, 256, (24, 20, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{k}.png")
    return root


def told(folder: Path) -> list[tuple[str, float]]:
    """Return (command, top-1) of each number that the page of a folder shows."""
    numbers = gather([folder]).numbers
    return [(part.command, part.top1) for part in runs.parts(numbers, labels(numbers))]


@pytest.mark.parametrize(
    "args",
    [
        ("finetune", "PHOTOS", "--seeds", "0,1", "--steps", "3", *TINY, "--method", "lora",
         "--set", 'lora_targets=["qkv"]', "-r", "24x32"),
        ("finetune", "digits", "--from-scratch", "--per-class", "3", "--limit", "40", "--seed", "2", "--steps", "3",
         *TINY),
        ("sweep", "PHOTOS", "--set", "lr=0.01,0.3", "--seeds", "1", "--steps", "3", *TINY),
        ("vtab", "--suite", "mini", "--tasks", "mini-shapes", "--steps", "3", "--shots", "40", *TINY),
        ("suite", "ci", "--tasks", "mini-texture", "--steps", "3", "--seeds", "3", *TINY),
        ("fewshot", "digits", "--per-class", "1,3", "--seeds", "0,4", "--limit", "30", "-r", "40",
         "--classifier", "knn"),
        ("fewshot", "PHOTOS", "--per-class", "2", "--protocol", "big-vision"),
    ],
    ids=lambda args: args[0],
)  # fmt: skip
def test_it_gives_the_number_again(photos, tmp_path, monkeypatch, args):
    monkeypatch.setattr(local, "start_process", forking())
    vitft(*[photos if arg == "PHOTOS" else arg for arg in args], "-o", tmp_path / "first")
    found = told(tmp_path / "first")
    commands = {command for command, _ in found}
    assert len(commands) == 1 and "" not in commands
    words = shlex.split(commands.pop())
    assert words[:2] == ["vitft", args[0]]
    vitft(*words[1:], "-o", tmp_path / "again", *(("--device", "cpu") if "fewshot" not in args else ()))
    again = told(tmp_path / "again")
    assert [top1 for _, top1 in again] == [top1 for _, top1 in found] and len(found) > 0
    first, second = (gather([tmp_path / name]).numbers for name in ("first", "again"))
    assert [one.protocol for one in first] == [one.protocol for one in second]
    assert [one.split_digest for one in first] == [one.split_digest for one in second]


@pytest.mark.parametrize(
    "how",
    [
        (),
        ("-r", "40", "--resize", "squash", "--set", "interpolation=bicubic", "--limit", "3"),
        ("--resize", "checkpoint", "--crop-pct", "0.8", "--set", "normalise=half", "--set", "gelu=tanh"),
    ],
)
def test_an_evaluation_is_repeated_as_it_was(photos, tmp_path, how):
    vitft("finetune", photos, "--steps", "2", *TINY, "-o", tmp_path / "run")
    vitft("eval", photos, "-m", tmp_path / "run", *how, "-o", tmp_path / "first", "--device", "cpu")
    [(command, top1)] = told(tmp_path / "first")
    vitft(*shlex.split(command)[1:], "-o", tmp_path / "again", "--device", "cpu")
    first, again = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("first", "again"))
    assert again["metrics"] == first["metrics"] and again["protocol"] == first["protocol"]
    assert again["preprocess"] == first["preprocess"] and top1 == first["metrics"]["top1"]
