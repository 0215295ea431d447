"""What is told of a run before it starts: operations by the published formulas, cheaper ways, honest words."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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
from vitft.models.flops import Counted, counted, macs, train_flops
from vitft.models.loading import load
from vitft.models.memory import Plan, Shape
from vitft.protocol import estimate as costs
from vitft.protocol.grid import length
from vitft.protocol.jobs import Runtime, make, plan
from vitft.results.bench import BenchResult
from vitft.settings import Settings
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


def test_what_is_no_vit_is_taken_for_one_in_tokens_and_one_block_is_counted_as_any():
    found = counted(load("timm:resnetv2_50x1_bit.goog_in21k", weights=False).info, (64, 64), 7)
    assert (found.shape.width, found.shape.tokens, found.shape.depth) == (768, 197, 12)
    oblong = counted(load("vit-mini", weights=False).info, (32, 64), 7)  # patches of 8, and the class token
    assert oblong.shape.tokens == 4 * 8 + 1
    for depth in (1, 2):
        net = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=depth, num_classes=7)
        # 17 tokens of width 192: qkv and output 4 D^2, the MLP 8 D^2, two products of attention; patches; the head
        block = 12 * 192 * 192 * 17 + 2 * 17 * 17 * 192
        assert macs(net, (32, 32)) == depth * block + 16 * 3 * 8 * 8 * 192 + 7 * 192


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


def test_jobs_one_after_the_other_take_their_sum_and_the_memory_of_the_largest(tmp_path, monkeypatch):
    runtime = Runtime(device="cpu")
    small = planned(images(tmp_path / "a"), steps=3, batch_size=4, seeds=(0, 1))
    large = planned(images(tmp_path / "b"), steps=5, batch_size=8, resolution=64)
    apart = [costs.estimate(*one, runtime) for one in (small, large)]
    both = costs.total([small, large], runtime)
    for key in ("units", "steps", "train_images", "test_images", "flops", "disk"):
        assert getattr(both, key) == sum(getattr(one, key) for one in apart), key
    assert both.memory == max(one.memory for one in apart) and both.resolution == (64, 64)
    asked: list[tuple[object, ...]] = []
    known = speed.assumed(1e9, "cpu")
    monkeypatch.setattr(
        costs, "speed_of", lambda net, flops, runtime, *, apart=False: asked.append((net, flops, apart)) or known
    )
    largest = counted(load("vit-mini", weights=False).info, (64, 64), 3)
    for jobs, alone in (([small, large], True), ([large, small], False)):
        again = costs.total(jobs, runtime, apart=alone)
        assert again.resolution == (64, 64) and again.memory == both.memory
        assert asked.pop() == (largest, both.flops, alone)
    # what does not fit is told before what is larger and does
    for of_small, of_large, told in (((5, 4), (9, 10), 5), ((5, 6), (9, 10), 9), ((5, 4), (9, 8), 9)):
        plans = {4: of_small, 8: of_large}
        monkeypatch.setattr(costs, "_plan", lambda work, _, of=plans: Plan(1, False, 1, *of[work.largest.batch_size]))
        assert [costs.total(jobs, runtime).memory for jobs in ([small, large], [large, small])] == [told] * 2


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
    line, cheaper = costs.in_lines(job, source, costs.estimate(job, source, Runtime(device="cpu")))
    assert "days on cpu (measured; decoding comes on top)" in line or "years on cpu" in line
    for part in ("-r 32 (", "--recipe quick (", "--method linear (", "a GPU ("):
        assert part in cheaper, cheaper
    short, source = planned(data, steps=2, batch_size=2)
    assert len(costs.in_lines(short, source, costs.estimate(short, source, Runtime(device="cpu")))) == 1


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "1 s"), (1.6, "2 s"), (80, "80 s"), (89.9, "90 s"), (90, "1.5 min"), (600, "10 min"), (5399, "90 min"),
        (5400, "1.5 h"), (3 * 3600, "3 h"), (26 * 3600, "26 h"), (3 * 86400 - 1, "72 h"), (3 * 86400, "3 days"),
        (31 * 86400, "31 days"), (100 * 86400, "100 days"), (729 * 86400, "729 days"), (730 * 86400, "2 years"),
        (4e8, "13 years"), (99 * 365.25 * 86400, "99 years"), (1e12, "31,688 years"),
    ],
)  # fmt: skip
def test_times_are_told_in_two_digits(seconds, said):
    assert words.duration(seconds) == said


@pytest.mark.parametrize(
    ("n", "said"),
    [
        (1600, "2 kB"),
        (999e3, "999 kB"),
        (1e6, "1 MB"),
        (1.6e6, "2 MB"),
        (999e6, "999 MB"),
        (1e9, "1.0 GB"),
        (2.54e9, "2.5 GB"),
    ],
)
def test_bytes_in_words(n, said):
    assert words.size(int(n)) == said


@pytest.mark.parametrize(
    ("settings", "passes"),
    [
        ({"method": "full"}, 6 * 40), ({"method": "lora"}, 6 * 40), ({"method": "bias"}, 6 * 40),
        ({"method": "linear"}, 2 * 2 * 7), ({"method": "linear", "flip": False}, 2 * 7),
        ({"method": "linear", "mixup": 0.1}, 2 * 40), ({"method": "linear", "crop": "random"}, 2 * 40),
    ],
)  # fmt: skip
def test_operations_of_one_fit(settings, passes):
    asked = Settings(steps=10, batch_size=4, **settings)
    assert train_flops(asked, 3.0, 7 * asked.fixed_views) == pytest.approx(passes * 3.0)


NET = Counted(5.0, Shape(1000, 16, 64, 20, 2, 256, False, False))


def test_the_disk_holds_weights_a_state_and_decoded_pixels(tmp_path):
    data = images(tmp_path / "d")
    info = load("vit-mini", weights=False).info
    parameters = counted(info, (32, 32), 3).shape.parameters
    for overrides, copies, pixels in (
        ({}, 2, 3 * 32 * 32), ({"optimizer": "adamw", "ema": 0.5}, 4, 3 * 32 * 32), ({"method": "linear"}, 0, 3072),
        ({"crop": "random", "crop_from": 40}, 2, 3 * 40 * 40), ({"crop": "inception"}, 2, 0),
    ):  # fmt: skip
        job, source = planned(data, resolution=32, seeds=(0, 1, 2), **{"crop": "none", **overrides})
        saves = copies == 2
        found = costs.estimate(job, source, Runtime(device="cpu", save_weights=saves), info)
        assert found.disk == 4 * parameters * (3 * saves + copies) + pixels * (9 + 9)


def test_an_estimate_in_a_line_and_when_it_is_called_long(tmp_path):
    def of(**changes: Any) -> costs.Estimate:
        fits = Plan(8, False, 1, 3_000_000, 4_000_000_000)
        usual = costs.Estimate((32, 32), 1, 1200, 4000, 50, 1e15, 60.0, fits, 5_000_000, speed.Speed(1e9, "cpu", "how"))
        return replace(usual, **changes)

    assert costs.line(of()) == (
        "1,200 steps, 4,000 images to train on, 50 to evaluate: about 60 s on cpu (how; decoding comes on top), "
        "memory 3 MB of 4.0 GB in micro-batches of 8: fits, disk 5 MB"
    )
    assert costs.line(of(units=2)).startswith("2 fits, 1,200 steps, ")
    job, source = planned(images(tmp_path / "d"), steps=4)
    assert costs.in_lines(job, source, of(seconds=12 * 3600 - 1)) == [costs.line(of(seconds=12 * 3600 - 1))]
    last = costs.in_lines(job, source, of(seconds=12 * 3600))[1]
    assert last.startswith("That is long for cpu. Cheaper: ") and "a GPU (10 s at an assumed 100 TFLOP/s)." in last
    cuda = of(seconds=12 * 3600, speed=speed.Speed(1e9, "cuda", "how"))
    assert "GPU" not in costs.in_lines(job, source, cuda)[1]
    large = of(plan=replace(of().plan, room=2_999_999))
    assert costs.in_lines(job, source, large) == [
        costs.line(large),
        "More memory than there is: it may run out. Smaller are -r, --method lora or linear, and --micro-batch.",
    ]


def test_what_is_cheaper_and_by_how_much(tmp_path):
    data = images(tmp_path / "d")
    info = load("vit-mini", weights=False).info
    job, source = planned(data, steps=100, batch_size=4, resolution=64, crop="pad", flip=False, seeds=(0, 1))
    own, native = (counted(info, (side, side), 3).macs for side in (64, 32))
    of = replace(costs.estimate(job, source, Runtime(device="cpu")), speed=speed.Speed(2.0, "cpu", ""), seconds=1e30)
    other = job.settings.model_copy(update={"resolution": 32, "steps": 3})
    found = costs.cheaper(job, source, of, [("quick", other)])
    expected = {
        "-r 32": 2 * 6 * native * 400 + 2 * native * 18,
        "--method linear": 2 * 2 * own * 9 + 2 * own * 18,
        "--recipe quick": 6 * native * 12 + 2 * native * 18,
    }
    assert dict(found) == {words: pytest.approx(flops / 2.0) for words, flops in expected.items()}
    assert [seconds for _, seconds in found] == sorted((s for _, s in found), reverse=True)
    dearest = found[0][1]
    for seconds, count in ((2 * dearest, 2), (2 * dearest * 1.001, 3)):
        assert len(costs.cheaper(job, source, replace(of, seconds=seconds), [("quick", other)])) == count
    linear, source = planned(data, steps=100, method="linear", crop="none", resolution=32)
    assert costs.cheaper(linear, source, of, []) == []
    few, source = make(
        str(data), model="vit-mini", recipe=recipes.load("quick"), per_class=2,
        overrides={"method": "linear", "crop": "none", "flip": False, "resolution": 32},
    )  # fmt: skip
    assert costs.estimate(few, source, Runtime(device="cpu")).flops == pytest.approx(2 * native * (2 * 3 + 9))


def test_a_speed_is_measured_for_what_takes_long_alone(monkeypatch):
    asked: list[tuple[object, ...]] = []

    def measured(*args: object) -> speed.Speed:
        asked.append(args)
        return speed.Speed(7.0, "cpu", "measured")

    monkeypatch.setattr(speed, "measured", measured)
    runtime = Runtime(device="cpu", precision="bf16")
    assumed = costs.speed_of(NET, 1.9e12, runtime)
    assert (assumed.flops_per_s, assumed.device, asked) == (1e10, "cpu", []) and assumed.how.startswith("assumed: ")
    assert costs.speed_of(NET, 2e12, runtime).flops_per_s == 7.0
    assert asked == [(64, 20, torch.device("cpu"), "bf16")]


@pytest.mark.parametrize(("tokens", "at_once"), [(100, 32), (3200, 12), (7, 457)])
def test_a_speed_is_operations_of_whole_passes_by_seconds(monkeypatch, tokens, at_once):
    now, passes = [50.0], []

    def one(block: Any, x: torch.Tensor, precision: str) -> None:
        passes.append((tuple(x.shape), precision, block.attn.num_heads, block.training))
        now[0] += 0.2

    monkeypatch.setattr(speed, "_pass", one)
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])
    found = speed.measured(128, tokens, torch.device("cpu"), "bf16")
    n = min(tokens, 256)
    # one pass to warm up, then three until half a second is over; forwards and twice backwards, two a multiply-add
    assert passes == [((at_once, n, 128), "bf16", 2, True)] * 4
    macs = at_once * (12 * n * 128**2 + 2 * n**2 * 128)
    assert found.flops_per_s == pytest.approx(3 * 3 * 2 * macs / 0.6) and found.device == "cpu"


@pytest.mark.parametrize(("precision", "kind"), [("bf16", torch.bfloat16), ("float32", torch.float32)])
def test_a_pass_is_timed_in_the_precision_asked_for(precision, kind):
    layer, seen = torch.nn.Linear(3, 3), []
    layer.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    layer.weight.register_hook(lambda gradient: seen.append(gradient.dtype))
    speed._pass(layer, torch.ones(2, 3), precision)
    assert seen == [kind, torch.float32] and layer.weight.grad is None, "forwards and backwards, the weight's own kind"


def test_what_has_no_closed_form_is_counted_as_it_is():
    """A distilled DeiT is a ViT with a second token and a second head."""
    net = timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, patch_size=8, depth=1, num_classes=7)
    block = 12 * 192 * 192 * 18 + 2 * 18 * 18 * 192
    assert macs(net, (32, 32)) == block + 16 * 3 * 8 * 8 * 192 + 2 * 7 * 192


def test_a_block_is_timed_without_touching_the_random_state():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    found = speed.measured(64, 10, torch.device("cpu"), "float32")
    assert found.flops_per_s > 1e6 and "measured now" in found.how
    assert torch.equal(before, torch.get_rng_state())


def test_a_pass_that_takes_longer_than_the_time_there_is_is_counted_once(monkeypatch):
    clock = iter(range(0, 10_000, 100))
    monkeypatch.setattr(speed.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(speed, "_pass", lambda *_: None)
    found = speed.measured(64, 10, torch.device("cpu"), "float32")
    # As many images as there are tokens for; one pass, over two readings of this clock.
    images = max(1, speed._BATCH_TOKENS["cpu"] // 10)
    assert found.flops_per_s == 6 * images * (12 * 10 * 64**2 + 2 * 10**2 * 64) / 200


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


def test_a_profile_is_the_speed_of_its_products_and_of_its_evaluation():
    def loop(name: str, images_per_s: float | None) -> SimpleNamespace:
        return SimpleNamespace(name=name, evaluate=images_per_s and SimpleNamespace(images_per_s=images_per_s))

    def of(device: str, images_per_s: float | None, decoded: float | None) -> speed.Speed:
        loops = (loop("bare", 9.0), loop("vitft", images_per_s))
        return speed.profiled(SimpleNamespace(
            loops=loops, macs_per_image=5.0, resolution=(32, 48), model="m", products=SimpleNamespace(train=3e12),
            env=SimpleNamespace(device=device), decoded_per_s=decoded,
        ), "a profile")  # type: ignore[arg-type]  # fmt: skip

    told = "a profile of m at 32x48: 3 TFLOP/s"
    assert of("cpu", 7.0, 11.0) == speed.Speed(3e12, "cpu", told, 70.0, 11.0)
    assert of("NVIDIA", None, None) == speed.Speed(3e12, "NVIDIA", told, 0.0, 0.0)
