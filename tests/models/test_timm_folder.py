"""A run's folder in plain timm: `timm.create_model("local-dir:RUN")` and timm's own transform give the run's answers.

What is left between the two: vitft resizes with torch's tensor operation and rounds once, timm with Pillow, which
rounds after each axis. A pixel differs by a level or two of 256, which moves a probability by less than 0.03 here; on
the run's own pixels timm's network answers as the run did.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.data import create_transform, resolve_data_config  # type: ignore[attr-defined]

from tests import reference
from tests.command import invoked as vitft
from vitft.evaluation import predictions
from vitft.images.preprocess import deterministic
from vitft.models.timm_folder import _transform
from vitft.results.reading import load
from vitft.results.schema import RunResult
from vitft.settings import Preprocess

LEVELS = 0.03


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return reference.draw(tmp_path_factory.mktemp("drawn"))


def tuned(drawn: Path, run: Path, *args: object) -> str:
    done = vitft(
        "finetune", drawn / "data", "-m", drawn / "model", "-o", run, "--device", "cpu", "--steps", 20, "-b", 8,
        "--lr", 0.1, "--set", "warmup_steps=1", *args,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    return done.stderr


def by_timm(run: Path, data: Path) -> tuple[list[str], torch.Tensor, torch.Tensor]:
    """Answer every test image with nothing but timm and the folder: from timm's pixels, and from the run's."""
    # Before 1.0.27 timm took a folder's safetensors for a pickle; its network and transform are tried all the same.
    reads = tuple(int(part) for part in timm.__version__.split(".")[:3]) >= (1, 0, 27)
    net = timm.create_model(f"local-dir:{run}", pretrained=reads).eval()
    if not reads:
        net.load_state_dict(load_file(run / "weights.safetensors"))
    transform = create_transform(**resolve_data_config({}, model=net))
    pp = load(run / "result.json", RunResult).preprocess
    mean, std = np.array(pp.mean, np.float32), np.array(pp.std, np.float32)
    files = sorted((data / "test").rglob("*.png"))
    answers = []
    for file in files:
        image = Image.open(file).convert("RGB")
        theirs = transform(image)
        levels = (theirs.permute(1, 2, 0).numpy() * std + mean) * 255
        ours = deterministic(np.array(image), pp)
        assert np.abs(levels - ours).max() < 1.01 + (pp.interpolation == "bicubic")
        own = torch.from_numpy((ours / np.float32(255) - mean) / std).permute(2, 0, 1)
        with torch.no_grad():
            answers.append(net(torch.stack([theirs, own])).softmax(1))
    both = torch.stack(answers)
    return [f"{file.parent.name}/{file.name}" for file in files], both[:, 0], both[:, 1]


@pytest.mark.parametrize(
    "args",
    [
        ("-r", 48, "--set", "resize=squash"),
        ("-r", "32x48", "--set", "resize=squash", "--set", "interpolation=bicubic"),
        ("-r", 50, "--set", "resize=squash"),
        ("-r", 48, "--set", "resize=squash", "--set", "gelu=tanh", "--set", "normalise=imagenet"),
        ("-r", 48, "--method", "lora", "--lr", 0.3),
        ("-r", 48, "--set", "resize=checkpoint", "--set", "activation=quick_gelu"),
        ("-r", 48, "--set", "resize=squash", "--set", "activation=gelu"),
        ("-r", 56, "--set", "resize=squash-crop", "--set", "activation=gelu", "--set", "gelu=tanh"),
    ],
)
def test_timm_alone_gives_the_runs_answers(drawn, tmp_path, args):
    run = tmp_path / "run"
    tuned(drawn, run, *args)
    keys, chances, on_its_pixels = by_timm(run, drawn / "data")
    saved = predictions.load(run / "predictions.parquet")
    order = [next(i for i, key in enumerate(saved.keys) if key.endswith(name)) for name in keys]
    assert len(set(order)) == len(saved.keys) == 5
    ours = np.zeros(chances.shape)
    np.put_along_axis(ours, saved.top5, saved.probabilities, axis=1)
    np.testing.assert_allclose(ours[order], chances.numpy(), atol=LEVELS)
    np.testing.assert_allclose(ours[order], on_its_pixels.numpy(), atol=1e-5)
    assert np.ptp(ours, axis=0).max() > 0.1, "answers that are all alike would show nothing"
    config = json.loads((run / "config.json").read_text())
    assert config["label_names"] == list("abc") == json.loads((run / "result.json").read_text())["class_names"]
    assert config["vitft"]["differs"] == []
    # One copy of the weights, and vitft takes the folder as the run that it is.
    assert len({file.stat().st_ino for file in run.rglob("*.safetensors")}) == 1
    evaluated = vitft("eval", drawn / "data", "-m", run, "--format", "json", "--device", "cpu")
    result = json.loads(evaluated.stdout)
    assert result["checkpoint"]["kind"] == "run"
    assert result["metrics"]["top1"] == json.loads((run / "result.json").read_text())["metrics"]["top1"]


def test_what_timm_cannot_do_is_said(drawn, tmp_path):
    told = tuned(drawn, tmp_path / "eps", "--set", "norm_eps=0.1", "-r", 24)
    assert "No config.json" in told and "epsilon 0.1 here" in told and "timm cannot load this folder" in told
    assert not list((tmp_path / "eps").rglob("config.json"))
    odd = tmp_path / "odd"
    told = tuned(drawn, odd, "-r", 48, "--set", "resize=squash-crop", "--set", "antialias=false")
    [differs] = {tuple(json.loads(f.read_text())["vitft"]["differs"]) for f in odd.rglob("config.json")}
    assert "antialias" in differs[0] and "a pixel aside" in differs[1] and "antialias" in told
    # Weights that go take their description with them, and so does a run begun anew without.
    vitft("runs", "clean", "--weights", odd)
    assert not list(odd.rglob("config.json"))
    assert "kept no weights" in vitft("eval", drawn / "data", "-m", odd).stderr
    told = tuned(drawn, tmp_path / "none", "-r", 24, "--no-save-weights")
    assert not list((tmp_path / "none").rglob("config.json")) and "--save-weights" in told


@pytest.mark.parametrize(
    "pp",
    [
        Preprocess((h, w), resize=resize, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), before=before, **how)  # type: ignore[arg-type]
        for h, w in ((48, 48), (224, 224), (384, 384), (42, 63), (100, 100))
        for resize, before, how in (
            ("squash", None, {}),
            ("squash-crop", None, {"interpolation": "bicubic"}),
            ("resize-small", None, {}),
            ("checkpoint", None, {"crop_pct": 0.9, "interpolation": "bicubic"}),
            ("checkpoint", None, {"crop_pct": 0.95, "crop_mode": "squash"}),
            ("checkpoint", (h + 10, w + 10), {"crop_mode": "squash"}),
        )
    ],
    ids=lambda pp: f"{pp.resize}-{pp.size}",
)
def test_timms_transform_makes_the_pixels_of_an_evaluation(pp):
    said, differs = _transform(pp)
    coarse = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((301, 301 if pp.resize == "resize-small" else 211), Image.Resampling.BICUBIC)
    ours = deterministic(np.array(image), pp).astype(int)
    made = create_transform((3, *pp.size), mean=pp.mean, std=pp.std, **said)(image)
    theirs = (made * 255).round().permute(1, 2, 0).numpy().astype(int)
    assert ours.shape == theirs.shape
    if differs:
        assert pp.resize != "squash" and (pp.resize == "resize-small" or "aside" in differs[0] or "gives" in differs[0])
    else:
        assert np.abs(ours - theirs).max() <= 1 + (pp.interpolation == "bicubic")
