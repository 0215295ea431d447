"""Heads that are trained as one end where each ends alone; features of a frozen network are computed once."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from tests.cli.test_cli import images
from vitft import recipes
from vitft.engines import inline
from vitft.engines.inline import run_job
from vitft.errors import NonFiniteLoss
from vitft.models import build as models
from vitft.progress import Hooks
from vitft.protocol import frozen
from vitft.protocol.jobs import Runtime, make
from vitft.protocol.units import alike, final_units, tune_units
from vitft.protocol.warm import Warm
from vitft.results.files import HEAD

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
            assert a == pytest.approx(b, rel=1e-6, abs=1e-6)
        a, b = (json.loads((p / "result.json").read_text()) for p in (one, other))
        differ = {key for key in a if a[key] != b[key]}
        assert differ <= {"timing", "loss", "cost", "env"}, differ
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-6) and a["cost"] == b["cost"]
    for unit in final_units(job, _results(tmp_path / "alone", job)):
        heads = [load_file(tmp_path / name / "units" / unit.id / HEAD) for name in ("joined", "alone")]
        for key in heads[0]:
            assert torch.allclose(heads[0][key], heads[1][key], rtol=1e-6, atol=1e-6), key
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
