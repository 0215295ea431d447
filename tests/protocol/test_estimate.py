"""What is told of a run before it starts: operations by the published formulas, cheaper ways, honest words."""

from pathlib import Path

import pytest
import timm
import torch

from tests.cli.test_cli import images
from vitft import recipes, words
from vitft.catalog import tasks
from vitft.data.split import catalogued
from vitft.errors import DataMissing
from vitft.models.flops import counted
from vitft.models.loading import load
from vitft.protocol import estimate as costs
from vitft.protocol.grid import length
from vitft.protocol.jobs import Runtime, make, plan
from vitft.training import speed


def planned(data: Path, recipe: str = "quick", seeds: tuple[int, ...] = (0,), **overrides: object):
    return make(str(data), model="vit-mini", recipe=recipes.load(recipe), overrides=overrides, seeds=seeds)


@pytest.mark.parametrize(
    "model", ["vit-mini", "timm:vit_tiny_patch16_224.augreg_in21k", "timm:resnetv2_50x1_bit.goog_in21k"]
)
def test_a_network_is_counted_without_its_weights(model):
    info = load(model, weights=False).info
    found = counted(info, (64, 64), 7)
    sized = {} if "resnet" in model else {"img_size": 64}
    net = timm.create_model(info.architecture.name, num_classes=7, **sized, **info.architecture.kwargs)
    assert found.shape.parameters == sum(p.numel() for p in net.parameters())
    linear = sum(m.weight.numel() for m in net.modules() if isinstance(m, torch.nn.Linear))
    assert found.macs > (0 if "resnet" in model else linear)  # each at least once


def test_operations_are_six_a_mac_trained_two_evaluated_and_none_backwards_through_a_frozen_network(tmp_path):
    data = images(tmp_path / "d")
    runtime = Runtime(device="cpu")
    job, source = planned(data, steps=10, batch_size=4, seeds=(0, 1))
    test, train = len(source.open("test")), len(source.open("train"))
    found = costs.estimate(job, source, runtime)
    macs = counted(load("vit-mini", weights=False).info, found.resolution, 3).macs
    assert (found.units, found.steps, found.train_images, found.test_images) == (2, 20, 80, 2 * test)
    assert found.flops == pytest.approx(6 * macs * 80 + 2 * macs * 2 * test)
    assert found.seconds == pytest.approx(found.flops / found.speed.flops_per_s) and "assumed" in found.speed.how
    linear = costs.estimate(*planned(data, method="linear", crop="none", flip=True, steps=10, batch_size=4), runtime)
    assert linear.flops == pytest.approx(2 * macs * (2 * train + test))
    assert linear.memory < found.memory
    tuned, source = make(
        str(data),
        model="vit-mini",
        recipe=recipes.load("vit-paper"),
        overrides={"steps": 10, "batch_size": 4, "resolution": 32},
    )
    lrs = len(tuned.sweep["lr"])
    of = costs.estimate(tuned, source, runtime)
    assert (of.units, of.steps) == (lrs + 1, 10 * (lrs + 1)) and of.test_images > test


def test_jobs_one_after_the_other_take_their_sum_and_the_memory_of_the_largest(tmp_path):
    runtime = Runtime(device="cpu")
    small = planned(images(tmp_path / "a"), steps=3, batch_size=4, seeds=(0, 1))
    large = planned(images(tmp_path / "b"), steps=5, batch_size=8, resolution=64)
    apart = [costs.estimate(*one, runtime) for one in (small, large)]
    both = costs.total([small, large], runtime)
    for key in ("units", "steps", "train_images", "test_images", "flops", "disk"):
        assert getattr(both, key) == sum(getattr(one, key) for one in apart), key
    assert both.memory == max(one.memory for one in apart) and both.resolution == (64, 64)


def test_what_the_catalogue_counts_is_planned_as_the_owners_data_would_be():
    counts = catalogued(tasks.get("cifar100"))
    job = plan("cifar100", counts, model="vit-mini", recipe=recipes.load("quick"), overrides={})
    assert job.scheme.final_train == "train+val"  # VTAB's val is of the owner's 50,000
    assert costs.estimate(job, counts, Runtime(device="cpu")).test_images == 10_000
    assert length(job, counts, job.scheme.final_train) == 50_000
    looking = recipes.load("bit-hyperrule")
    looking.for_task.clear()  # no task is told apart: the size of the images decides
    with pytest.raises(DataMissing, match="size of the images"):
        plan("cifar100", counts, model="vit-mini", recipe=looking, overrides={})


def test_a_month_on_a_cpu_is_called_that_and_what_is_cheaper_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "measured", lambda *_: speed.Speed(1e9, "cpu", "measured"))
    data = images(tmp_path / "d")
    job, source = planned(data, "vit-paper", resolution=384)
    line, cheaper = costs.told(job, source, costs.estimate(job, source, Runtime(device="cpu")))
    assert "days on cpu (measured; decoding comes on top)" in line or "years on cpu" in line
    for part in ("-r 32 (", "--recipe quick (", "--method linear (", "a GPU ("):
        assert part in cheaper, cheaper
    short, source = planned(data, steps=2, batch_size=2)
    assert len(costs.told(short, source, costs.estimate(short, source, Runtime(device="cpu")))) == 1


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "1 s"),
        (80, "80 s"),
        (600, "10 min"),
        (3 * 3600, "3 h"),
        (26 * 3600, "26 h"),
        (31 * 86400, "31 days"),
        (4e8, "13 years"),
    ],
)
def test_times_are_told_in_two_digits(seconds, said):
    assert words.duration(seconds) == said


def test_a_block_is_timed_without_touching_the_random_state():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    found = speed.measured(64, 10, torch.device("cpu"), "float32")
    assert found.flops_per_s > 1e6 and "measured now" in found.how
    assert torch.equal(before, torch.get_rng_state())
