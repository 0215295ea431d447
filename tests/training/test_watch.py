"""`--val-every`: val is looked at beside the training, which does not notice; test never is."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from tests.command import vitft
from tests.protocol.test_protocol import draw, job
from vitft.data.sources.image_folder import ImageFolder
from vitft.errors import Interrupted, ProtocolBreach
from vitft.evaluation.network import open_network
from vitft.images.batches import eval_batches
from vitft.progress import Hooks
from vitft.protocol import run as units_run
from vitft.protocol.guard import Guard
from vitft.protocol.jobs import Runtime
from vitft.protocol.run import run_unit
from vitft.protocol.units import final_units, tune_units
from vitft.training.state import Metrics


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VITFT_CACHE", str(tmp_path / "cache"))


def lines(run: Path) -> list[dict]:
    (file,) = run.glob("units/*/*/metrics.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def weights(run: Path) -> dict[str, bytes]:
    (file,) = run.glob("units/*/*/weights.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(file).items()}


KEYS = ("step", "loss", "lr", "grad_norm")

# What a look could disturb: averages put in place, drawn depth, LoRA's modules, a frozen network in evaluation mode.
SETTINGS = [
    {},
    {"ema": 0.5, "optimizer": "adamw", "mixup": 0.4},
    {"drop_path": 0.3, "method": "lora", "crop": "inception"},
    {"method": "linear"},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_training_does_not_notice_a_look_at_val(tmp_path, settings):
    data = draw(tmp_path / "d", ("train", "val", "test"))
    j, _ = job(data, overrides={"lr": 0.1, "steps": 5, **settings})
    unit = final_units(j, [])[0]
    results = [
        run_unit(unit, tmp_path / name, Runtime(device="cpu", micro_batch=3, val_every=every))
        for name, every in (("plain", 0), ("watched", 2))
    ]
    assert weights(tmp_path / "plain") == weights(tmp_path / "watched")
    plain, watched = lines(tmp_path / "plain"), lines(tmp_path / "watched")
    assert plain == [{key: line[key] for key in KEYS} for line in watched]
    assert [line["step"] for line in watched if "val_top1" in line] == [2, 4, 5]  # and after the last one
    assert results[0].metrics == results[1].metrics and results[0].protocol == results[1].protocol
    answers = [next((tmp_path / n).glob("units/*/*/predictions.parquet")).read_bytes() for n in ("plain", "watched")]
    assert answers[0] == answers[1]


def test_what_is_written_is_what_the_saved_network_answers_on_val(tmp_path):
    data = draw(tmp_path / "d", ("train", "val", "test"))
    j, _ = job(data, overrides={"lr": 0.1, "steps": 3, "ema": 0.5})
    run_unit(final_units(j, [])[0], tmp_path / "run", Runtime(device="cpu", val_every=2))
    last = lines(tmp_path / "run")[-1]
    (unit,) = (tmp_path / "run").glob("units/*/*")
    network = open_network(str(unit), {}, device="cpu", precision="float32")
    val = ImageFolder(data, "d").open("val")
    logits = torch.zeros(len(val), 3)
    network.net.eval()
    with torch.no_grad():
        for rows, images in eval_batches(val, network.preprocess, 8, torch.device("cpu"), 1, Hooks()):
            logits[np.asarray(rows)] = network.net(images)
    labels = torch.from_numpy(val.labels)
    assert last["val_n"] == 24
    assert last["val_top1"] == (logits.argmax(1) == labels).double().mean().item()
    assert last["val_loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)


@pytest.mark.parametrize("stop_at", [2, 5])  # in the middle, and after the last update
def test_a_look_that_a_signal_ends_is_done_again_and_nothing_else_changes(tmp_path, monkeypatch, stop_at):
    data = draw(tmp_path / "d", ("train", "val", "test"))
    j, _ = job(data, overrides={"lr": 0.1, "steps": 5})
    unit = final_units(j, [])[0]
    run_unit(unit, tmp_path / "whole", Runtime(device="cpu", val_every=2))
    real, seen, signum = units_run.predict, [0], [0]

    def stopping(*args, **kwargs):
        signum[0] = 15 * (seen[-1] == stop_at)
        return real(*args, **kwargs)

    hooks = Hooks(step=lambda report: seen.append(report.step), signal=lambda: signum[0])
    run = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(units_run, "predict", stopping)
        with pytest.raises(Interrupted):
            run_unit(unit, run, Runtime(device="cpu", val_every=2), hooks)
    assert len(lines(run)) == stop_at and "val_top1" not in lines(run)[-1]
    run_unit(unit, run, Runtime(device="cpu", val_every=2))
    assert lines(run) == lines(tmp_path / "whole") and weights(run) == weights(tmp_path / "whole")


def test_a_final_unit_sees_val_only_where_it_does_not_train_on_it_and_never_test(tmp_path):
    source = ImageFolder(draw(tmp_path / "d", ("train", "val", "test"), 2), "d")
    j, _ = job(tmp_path / "d")
    final = Guard(source, final_units(j, [])[0])
    final.open("train")
    assert final.watch() is not None and final.opened == ["train", "val"]
    with pytest.raises(ProtocolBreach):
        final.open("val")
    with pytest.raises(ProtocolBreach, match="before its training"):
        final.open("test")
    tune = Guard(source, tune_units(j)[0])
    tune.open("train")
    val = tune.watch()
    with pytest.raises(ProtocolBreach, match="before its training"):
        tune.open("val")
    tune.trained()
    assert tune.open("val") is val
    with pytest.raises(ProtocolBreach, match="a second time"):
        tune.open("val")
    joined, _ = job(tmp_path / "d", shots="full")  # final: train+val
    assert Guard(source, final_units(joined, [])[0]).watch() is None
    none, _ = job(draw(tmp_path / "e", ("train", "test"), 4))
    assert Guard(ImageFolder(tmp_path / "e", "e"), final_units(none, [])[0]).watch() is None
    stands, _ = job(draw(tmp_path / "f", ("train", "val"), 4))  # val is its test
    assert Guard(ImageFolder(tmp_path / "f", "f"), final_units(stands, [])[0]).watch() is None


def test_without_val_it_is_said_and_a_sweep_has_it_of_dev(tmp_path):
    data = draw(tmp_path / "d", ("train", "test"), 10)
    tiny = ["-m", "vit-mini", "--steps", "2", "-b", "4", "-r", "32", "--device", "cpu", "--val-every", "1"]

    plain = vitft("finetune", data, *tiny, "-o", tmp_path / "run").stderr
    assert "has no val that the final run does not train on" in plain and "val_top1" not in str(lines(tmp_path / "run"))
    assert "start anew with --overwrite" in vitft("finetune", data, *tiny, "-o", tmp_path / "run").stderr
    swept = vitft("sweep", data, *tiny, "--lr", "0.01,0.1", "-o", tmp_path / "s").stderr
    assert "the runs that are compared have it" in swept and "step 1: " in swept
    tuned = list((tmp_path / "s").glob("units/*/tune-*/metrics.jsonl"))
    assert len(tuned) == 2 and all("val_top1" in line for file in tuned for line in file.read_text().splitlines())


def test_lines_are_amended_before_and_after_they_lie_on_disk(tmp_path):
    file = tmp_path / "metrics.jsonl"
    with Metrics(file, keep=0) as metrics:
        metrics.add({"step": 1})
        metrics.amend({"x": 0.5})
        metrics.add({"step": 2})
        metrics.flush()
        assert file.read_text() == '{"step": 1, "x": 0.5}\n{"step": 2}\n'
        metrics.amend({"x": 1.0})
        metrics.add({"step": 3})
    with Metrics(file, keep=2) as metrics:
        assert metrics.last == {"step": 2, "x": 1.0}
        metrics.amend({"y": 2.0})
        metrics.add({"step": 3})
    assert file.read_text() == '{"step": 1, "x": 0.5}\n{"step": 2, "x": 1.0, "y": 2.0}\n{"step": 3}\n'
