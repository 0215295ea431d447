"""What is told of a run before it starts: operations by the published formulas, cheaper ways, honest words."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from typer.testing import CliRunner

from tests.cli.test_cli import images
from vitft import recipes, words
from vitft.catalog import tasks
from vitft.cli.app import app
from vitft.data.split import catalogued
from vitft.errors import DataMissing
from vitft.models.flops import counted
from vitft.models.loading import load
from vitft.protocol import estimate as costs
from vitft.protocol.grid import length
from vitft.protocol.jobs import Runtime, make, plan
from vitft.results.bench import BenchResult
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


def test_a_known_speed_counts_training_evaluation_and_decoding_each_at_its_own(tmp_path):
    data = images(tmp_path / "d")
    job, source = planned(data, steps=10, batch_size=4, seeds=(0, 1))
    test, train = len(source.open("test")), len(source.open("train"))
    known = speed.Speed(1e9, "cpu", "known", forward_per_s=4e9, decoded_per_s=5.0)
    found = costs.estimate(job, source, Runtime(device="cpu"), speed=known)
    macs = counted(load("vit-mini", weights=False).info, found.resolution, 3).macs
    computed = 6 * macs * 80 / 1e9 + 2 * macs * 2 * test / 4e9
    assert found.seconds == pytest.approx(computed + (train + 2 * test) / 5)
    assert "decoding comes on top" not in costs.line(found)
    # A frozen network is only evaluated.
    frozen = costs.estimate(
        *planned(data, method="linear", crop="none", flip=False, steps=10, batch_size=4),
        Runtime(device="cpu"),
        speed=known,
    )
    assert frozen.seconds == pytest.approx(2 * macs * (train + test) / 4e9 + (train + test) / 5)


def test_pixels_of_test_take_room_only_where_they_are_read_again_and_no_more_than_the_cache_has(tmp_path, monkeypatch):
    data, cpu = images(tmp_path / "d"), Runtime(device="cpu", save_weights=False)
    known = speed.assumed(1e9, "cpu")

    def disk(seeds: tuple[int, ...], runtime: Runtime = cpu) -> int:
        job, source = planned(data, seeds=seeds, resolution=32, method="linear", crop="none", flip=False)
        return costs.estimate(job, source, runtime, speed=known).disk

    _, source = planned(data)
    train, test = (3 * 32 * 32 * len(source.open(name)) for name in ("train", "test"))
    assert disk((0, 1)) - disk((0,)) == test == disk((0,), replace(cpu, models=2)) - disk((0,))
    monkeypatch.setenv("VITFT_CACHE_SIZE", str(train - 1))
    fixed = disk((0,)) - (train - 1)
    monkeypatch.setenv("VITFT_CACHE_SIZE", "1GB")
    assert disk((0,)) == fixed + train


def test_a_profile_is_a_speed_and_vtab_needs_no_data_for_its_estimate(tmp_path):
    profile = tmp_path / "profile.json"
    words = f"bench -r 32 -b 4 --micro-batch 4 --rounds 1 --steps 1 --images 4 --against none -j 1 --save {profile}"
    assert CliRunner().invoke(app, [*words.split(), "--device", "cpu"]).exit_code == 0
    bench = BenchResult.model_validate_json(profile.read_text())
    done = CliRunner().invoke(
        app, ["estimate", "finetune", "digits", "--profile", str(profile), "--format", "json", "--device", "cpu"]
    )
    assert done.exit_code == 0, done.stderr
    (found,) = json.loads(done.stdout)["estimates"]
    own = bench.loops[0]
    assert found["speed"]["flops_per_s"] == 6 * bench.macs_per_image * own.train.images_per_s
    assert found["speed"]["forward_per_s"] == 2 * bench.macs_per_image * own.evaluate.images_per_s
    assert found["speed"]["decoded_per_s"] == bench.decoded_per_s > 0
    assert found["device_hours"] == found["seconds"] / 3600

    def vtab(*more: str):
        return CliRunner().invoke(
            app, ["estimate", "vtab", "-m", "vit-b16", "--format", "json", "--device", "cpu", *more]
        )

    done = vtab("--assume", "100")
    assert done.exit_code == 0, done.stderr
    whole = json.loads(done.stdout)
    (found,) = whole["estimates"]
    # The sum of the test splits as the VTAB paper's table has them, tested once; the recipe tunes nothing.
    tests = [sum(piece.stop - piece.start for piece in task.splits["test"]) for task in tasks.VTAB]
    assert (found["units"], found["test_images"]) == (19, sum(tests))
    assert found["seconds"] == pytest.approx(found["flops"] / 1e14)
    fetched = {one["what"]: one["size"] for one in whole["downloads"]}
    assert fetched["vit-b16"] == pytest.approx(4 * 86e6, rel=0.01) and fetched["resisc45"] is None
    assert whole["download_bytes"] == sum(size or 0 for size in fetched.values())
    assert len({"clevr_count", "clevr_distance"} & fetched.keys()) == 1  # one archive
    assert vtab("--assume", "1", "--measure").exit_code == 2 and vtab("--profile", str(tmp_path / "no")).exit_code == 4
    profile.write_text("{}")
    assert vtab("--profile", str(profile)).exit_code == 4
