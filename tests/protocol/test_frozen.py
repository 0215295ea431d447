"""Heads that are trained as one end where each ends alone; features of a frozen network are computed once."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from tests.cli.test_cli import images
from tests.reference import rate
from vitft import recipes
from vitft.engines import inline
from vitft.engines.inline import run_job
from vitft.errors import NonFiniteLoss
from vitft.models import build as models
from vitft.progress import Hooks
from vitft.protocol import frozen
from vitft.protocol.jobs import Runtime, make
from vitft.protocol.units import alike, final_units, tune_units
from vitft.protocol.warm import Trained, Warm
from vitft.results.files import HEAD
from vitft.training import inputs
from vitft.training.fit import Compute, Fitted
from vitft.training.heads import TrainedHead

# One kernel makes a head's sums, another those of many, each its own on each processor: 6e-7 was seen on AMD's.
ROUNDING = 1e-5
CPU = Runtime(device="cpu", save_weights=False, micro_batch=3)
SWEEP = {"default_method": "linear", "steps": 12, "batch_size": 7, "resolution": 32, "lr": 0.1, "select_on": "dev",
         "dev_fraction": 0.4, "sweep": {"lr": [0.3, 0.03, 0.003]}}  # fmt: skip
CASES = {
    "sgd": {"momentum": 0.9, "clip_norm": 0.5, "warmup_steps": 3, "flip": True},
    "adamw": {"optimizer": "adamw", "label_smoothing": 0.1, "ema": 0.9, "flip": False, "clip_norm": 0.0,
              "sweep": {"lr": [0.03, 0.003], "weight_decay": [0.0, 0.3]}},
}  # fmt: skip


def planned(folder: Path, seeds: tuple[int, ...] = (0, 1, 5), **keys):
    recipe = recipes.parse({**SWEEP, **keys}, "r")
    data = str(folder if folder.exists() else images(folder))
    return make(data, model="vit-mini", recipe=recipe, overrides={}, seeds=seeds)


def seen(monkeypatch) -> Counter[str]:
    """Count the images that go through a network which is built from now on."""
    counted: Counter[str] = Counter()
    plain = models.build

    def build(*args, **more):
        built = plain(*args, **more)
        built.net.patch_embed.register_forward_pre_hook(lambda _, x: counted.update(images=len(x[0])))
        return built

    monkeypatch.setattr(models, "build", build)
    return counted


@pytest.mark.parametrize("keys", CASES.values(), ids=CASES)
def test_heads_trained_as_one_leave_what_each_leaves_alone(tmp_path, monkeypatch, keys):
    job, source = planned(tmp_path / "d", **keys)
    counted = seen(monkeypatch)
    joined = run_job(job, source, tmp_path / "joined", CPU)
    once = counted.pop("images")
    monkeypatch.setattr(inline, "Warm", lambda **given: Warm(alone=False, **given))
    alone = run_job(job, source, tmp_path / "alone", CPU)
    tuned, views = len(tune_units(job)), 1 + job.settings.flip
    n = {name: len(source.open(name)) for name in ("train", "test")}
    dev = 3  # of three classes with three images each the last one
    # The training part and dev once, all of train and test once; alone it is once a unit.
    assert once == views * (n["train"] - dev) + dev + views * n["train"] + n["test"]
    assert counted["images"] == tuned * (views * (n["train"] - dev) + dev) + 3 * (views * n["train"] + n["test"])
    assert [t.point for t in joined.tuned] == [t.point for t in alone.tuned] and len(joined.tuned) == tuned
    assert [t.top1 for t in joined.tuned] == [t.top1 for t in alone.tuned] and joined.seeds == alone.seeds
    folders = sorted(
        p.parent.relative_to(tmp_path / "alone") for p in (tmp_path / "alone").glob("units/*/*/result.json")
    )
    assert len(folders) == tuned + 3
    for folder in folders:
        one, other = (tmp_path / name / folder for name in ("joined", "alone"))
        assert {p.name for p in one.iterdir()} == {p.name for p in other.iterdir()}
        lines = [[json.loads(line) for line in (p / "metrics.jsonl").read_text().splitlines()] for p in (one, other)]
        assert [line["step"] for line in lines[0]] == list(range(1, 13))
        for a, b in zip(*lines, strict=True):
            assert a == pytest.approx(b, rel=ROUNDING, abs=ROUNDING)
        a, b = (json.loads((p / "result.json").read_text()) for p in (one, other))
        differ = {key for key in a if a[key] != b[key]}
        assert differ <= {"timing", "loss", "cost", "env"}, differ
        assert a["loss"] == pytest.approx(b["loss"], rel=ROUNDING) and a["cost"] == b["cost"]
    for unit in final_units(job, _results(tmp_path / "alone", job)):
        heads = [load_file(tmp_path / name / "units" / unit.id / HEAD) for name in ("joined", "alone")]
        for key in heads[0]:
            assert torch.allclose(heads[0][key], heads[1][key], rtol=ROUNDING, atol=ROUNDING), key
        places = (tmp_path / name / "units" / unit.id for name in ("joined", "alone"))
        tables = [pq.read_table(place / "predictions.parquet").to_pydict() for place in places]
        assert {k: v for k, v in tables[0].items() if "prob" not in k} == {
            k: v for k, v in tables[1].items() if "prob" not in k
        }


def _results(folder: Path, job):
    from vitft.results.folders import finished_unit

    return [finished_unit(folder, unit.id) for unit in tune_units(job)]


def test_answers_from_features_are_those_of_the_network_bit_by_bit(tmp_path):
    """The same head is asked about images, and about features that were computed in the same batches."""
    job, _ = planned(tmp_path / "d")
    settings = job.settings.at((32, 32), (8, 8))
    built = models.build(models.opening("vit-mini", settings), 3, settings)
    torch.manual_seed(0)
    torch.nn.init.normal_(built.net.get_classifier().weight)
    x = torch.randn(7, 3, 32, 32)
    batches = [(np.arange(4), x[:4]), (np.arange(4, 7), x[4:])]
    unit = tune_units(job)[0]
    with torch.inference_mode():
        expected = torch.cat([built.net.eval()(b) for _, b in batches])
        head, features = frozen.evaluated(unit, built.net, batches, (), 7, "float32", Warm())
        assert torch.equal(torch.cat([head(f) for _, f in features]), expected)


def test_a_head_that_diverges_says_so_by_itself_and_leaves_the_others(tmp_path):
    job, source = planned(tmp_path / "d", sweep={"lr": [0.1, 1e38, 0.01]}, clip_norm=0.0, momentum=0.0)
    told: list[str] = []
    with pytest.raises(NonFiniteLoss, match="lr"):
        run_job(job, source, tmp_path / "run", CPU, Hooks(phase=lambda what, *_: told.append(what)))
    assert "train 3 heads" in told
    assert len(list((tmp_path / "run").glob("units/*/*/result.json"))) == 1  # that before it


def test_units_are_alike_where_lr_decay_and_seed_alone_differ(tmp_path):
    job, _ = planned(tmp_path / "d", sweep={"lr": [0.1, 0.2], "steps": [3, 4]})
    tuned = tune_units(job)
    assert [len(alike(unit)) for unit in tuned] == [2] * 4 and all(unit in alike(unit) for unit in tuned)
    assert {unit.settings.steps for unit in alike(tuned[0])} == {tuned[0].settings.steps}
    recipe = recipes.parse({k: v for k, v in SWEEP.items() if k != "sweep"}, "r")

    def finals(**rest):
        job, _ = make(str(tmp_path / "d"), model="vit-mini", recipe=recipe, overrides={}, seeds=(0, 1), **rest)
        return len(alike(final_units(job, [])[0]))

    assert finals() == 2
    assert finals(per_class=2) == finals(from_scratch=True) == 1  # the seed draws other images, or another network


D = 16
SWEPT = {"sweep": {"lr": [0.3, 0.03]}, "batch_size": 7}


def test_a_head_that_was_trained_with_others_is_told_as_one_that_was_trained_alone(tmp_path):
    job, _ = planned(tmp_path / "d", momentum=0.5, warmup_steps=2, steps=3, schedule="linear")
    unit, linear = tune_units(job)[0], torch.nn.Linear(2, 3)
    head = TrainedHead(torch.rand(3, 2), torch.rand(3), [3.0, 2.0, 1.0], [0.3, 0.2, 0.1])
    own = tmp_path / "run" / "units" / "a" / "b"
    own.mkdir(parents=True)
    (own / "metrics.jsonl").write_text(2 * '{"step": 1, "loss": 9.0}\n')  # of a run before it
    warm = Warm(heads={own: Trained(head, 2.5, 77, 4)})
    told = frozen.fit_unit(
        unit, classified(linear), None, unit.settings, own, Compute(), Hooks(), warm  # type: ignore[arg-type]
    )  # fmt: skip
    expected = Fitted(3, 0, 3.0, 1.0, 4, 2.5, 3 * 7, 77, 0.0, False, told.state)
    assert told == expected and not warm.heads
    assert torch.equal(linear.weight, head.weight) and torch.equal(linear.bias, head.bias)
    lines = [json.loads(line) for line in (own / "metrics.jsonl").read_text().splitlines()]
    rates = [rate(unit.settings, t) for t in range(3)]
    keys = ("step", "loss", "lr", "grad_norm")
    expected = [
        dict(zip(keys, row, strict=True)) for row in zip((1, 2, 3), head.losses, rates, head.norms, strict=True)
    ]
    assert lines == [pytest.approx(line) for line in expected]
    told.state.save({"step": 3})
    told.state.wait()
    assert (own / "state.pt").exists()


def classified(linear: torch.nn.Module) -> torch.nn.Module:
    net = torch.nn.Module()
    net.get_classifier = lambda: linear  # type: ignore[assignment]
    return net


def test_heads_are_trained_as_one_where_two_are_left_and_nothing_is_in_the_way(tmp_path, monkeypatch):
    job, _ = planned(tmp_path / "d", (0,), sweep={"lr": [0.3, 0.03], "weight_decay": [0.0, 0.5]})
    units, linear, run = tune_units(job), torch.nn.Linear(2, 3), tmp_path / "run"
    places = [run / "units" / unit.id for unit in units]
    points = [(unit.settings.lr, unit.settings.weight_decay) for unit in units]
    asked: list[tuple[list[tuple[float, float]], int, str]] = []
    clock = iter([100.0, 108.0] * 20)

    def train(linear, source, each, precision, told):
        asked.append(([(s.lr, s.weight_decay) for s, _ in each], source.computed, precision))
        return [TrainedHead(torch.zeros(3, 2), torch.zeros(3), [lr + decay], [1.0]) for lr, decay in asked[-1][0]]

    monkeypatch.setattr(frozen.heads, "train", train)
    monkeypatch.setattr(frozen.time, "monotonic", lambda: next(clock))
    features = inputs.FeatureSource(None, 3, None, 0, torch.zeros(1, 9, 2))  # type: ignore[arg-type]
    taken: list[tuple[str, int]] = []
    monkeypatch.setattr(frozen.inputs, "source", lambda *of: taken.append(of[3:5]) or features)
    monkeypatch.setattr(frozen.inputs, "computes_once", lambda *of: True)
    images = SimpleNamespace(device=torch.device("cpu"))

    def heads(unit=units[0], linear=linear) -> dict[Path, Trained]:
        net = classified(linear)
        return frozen._together(unit, net, images, unit.settings, run, Compute(micro_batch=5), Hooks())  # type: ignore[arg-type]

    found = heads()
    assert [found[place] for place in places] == [
        Trained(found[place].head, 2.0, 9, 5) for place in places
    ] and asked == [(points, 9, "float32")] and taken == [("float32", 5)]  # fmt: skip
    assert [found[place].head.losses for place in places] == [[lr + decay] for lr, decay in points]
    assert not heads(linear=torch.nn.Conv2d(2, 3, 1)) and not heads(linear=torch.nn.Linear(2, 3, bias=False))
    with monkeypatch.context() as m:
        m.setattr(frozen.inputs, "computes_once", lambda *of: False)
        assert not heads()
    with monkeypatch.context() as m:
        m.setattr(frozen.heads, "suitable", lambda settings, n, size: (settings, n, size) != (units[0].settings, 4, 6))
        assert not heads()
    (places[1] / "state.pt").parent.mkdir(parents=True)
    (places[1] / "state.pt").touch()
    assert not heads()
    (places[1] / "state.pt").unlink()
    monkeypatch.setattr(frozen, "finished_unit", lambda run, unit: True if unit == units[0].id else None)
    assert heads().keys() == set(places[1:]) and asked[-1][0] == points[1:]
    monkeypatch.setattr(frozen, "finished_unit", lambda run, unit: True if unit != units[2].id else None)
    assert not heads(units[2])


def test_heads_are_trained_as_one_by_one_process_that_does_nothing_else():
    group = SimpleNamespace(size=2)
    ways = [(Compute(), Warm()), (Compute(), Warm(alone=False)), (Compute(group=group), Warm())]  # type: ignore[arg-type]
    ways.append((Compute(watch=SimpleNamespace()), Warm()))  # type: ignore[arg-type]
    assert [frozen._trains_alone(*way) for way in ways] == [True, False, False, False]


def test_features_are_kept_where_they_serve_several_units_and_are_not_too_many(tmp_path, monkeypatch):
    (tmp_path / "one").mkdir()
    job, _ = planned(tmp_path / "d", (0, 1), **SWEPT)
    unit, linear = tune_units(job)[0], torch.nn.Linear(D, 3)
    seen: list[tuple[int, str]] = []

    def features(net, batches, n, precision):
        seen.append((n, precision))
        return np.zeros((4, D), np.float32), [np.arange(4)]

    monkeypatch.setattr(frozen, "_features", features)

    def served(unit=unit, linear=linear, n=4, warm=None, of=("data",), precision="float32") -> bool:
        batches: list = []
        net = classified(linear)
        asked, answered = frozen.evaluated(unit, net, batches, of, n, precision, warm or Warm())
        assert (asked is net) == (answered is batches) == (not isinstance(asked, inputs.FeatureClassifier))
        return asked is not net

    most = (1 << 30) // (4 * D)
    assert served() and served(n=most) and not served(n=most + 1) and seen == [(4, "float32"), (most, "float32")]
    assert not served(warm=Warm(alone=False)) and not served(warm=Warm(group=SimpleNamespace(size=2)))  # type: ignore[arg-type]
    assert not served(replace(unit, job=replace(job, from_scratch=True), seed=0))
    assert not served(linear=torch.nn.Conv2d(D, 3, 1))
    full, _ = planned(tmp_path / "d", (0,), **SWEPT, default_method="full")
    one, _ = planned(tmp_path / "d", (0,), sweep={"lr": [0.1]})
    assert not served(tune_units(full)[0]) and not served(final_units(one, [])[0])
    del seen[:]
    warm = Warm(key=("network",), place=("here",))
    for change in ({}, {"of": ("others",)}, {"precision": "bf16"}):
        assert all(served(warm=warm, **change) for _ in range(3))
    for key, value in (("key", ("other",)), ("place", ("there",))):
        setattr(warm, key, value)
        assert all(served(warm=warm, precision="bf16") for _ in range(3))
    assert len(seen) == 3 + 2
