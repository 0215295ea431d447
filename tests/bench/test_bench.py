"""The measurement of speed: whose turn it is, what is counted, and that each loop does the work it is timed for."""

import json
import math

import pytest
import torch
from typer.testing import CliRunner

from tests.late import Behind
from vitft import recipes
from vitft.bench import measure as measuring
from vitft.bench.loops import Bare, Own, Timm
from vitft.bench.measure import Plan, measure
from vitft.bench.subject import drawn, opened
from vitft.cli.app import app
from vitft.progress import Hooks
from vitft.protocol.jobs import Runtime
from vitft.report.bench import table
from vitft.results.bench import BenchResult


@pytest.fixture(scope="module")
def subject():
    settings = recipes.load("quick").resolve("", {"resolution": 32, "batch_size": 6, "lr": 0.1})
    return opened("vit-mini", settings, drawn(12, 32), Runtime(device="cpu", micro_batch=4, workers=1), Hooks())


def test_loops_take_turns_and_ratios_are_of_the_same_round(monkeypatch):
    kept, turns, seconds = [], [], {"vitft": iter([1.0, 4.0, 2.0]), "bare": iter([2.0, 2.0, 1.0])}
    monkeypatch.setattr(measuring.devices, "keep_freed_memory", kept.append)

    def turn(name):
        def take(amount):
            turns.append((name, amount))
            return next(seconds[name])

        return take

    paces = measuring._in_turn({n: turn(n) for n in seconds}, 5, 40, Plan(rounds=3), "train", Hooks())
    assert turns == [("vitft", 5), ("bare", 5)] * 3
    assert kept == [True, False] * 3  # of the memory a batch leaves only vitft's turns make use
    assert (paces["vitft"].images_per_s, paces["vitft"].span) == (20.0, (10.0, 40.0)) and paces["vitft"].ratio is None
    # 40 / 20, 10 / 20 and 20 / 40: not 20 / 20, the ratio of the medians.
    assert (paces["bare"].ratio, paces["bare"].ratio_span) == (0.5, (0.5, 2.0))


@pytest.mark.parametrize("loop", [lambda s: Own(s, Hooks()), Bare, Timm])
def test_a_loop_trains_and_answers_as_many_images_as_it_is_timed_for(subject, loop):
    made = loop(subject)
    net = made.net if isinstance(made, Own) else made._net
    seen = {True: 0, False: 0}

    def count(module, inputs):
        assert inputs[0].shape[1:] == (3, 32, 32)
        seen[module.training] += len(inputs[0])

    before = net.get_classifier().weight.clone()
    net.register_forward_pre_hook(count)
    assert made.train(2) > 0
    assert seen[True] == (3 if isinstance(made, Own) else 2) * 6  # vitft's first update is made, and left out
    assert not torch.equal(net.get_classifier().weight, before)
    assert made.evaluate(16) > 0 and 16 <= seen[False] <= 24  # timm's last batch is whole


def test_updates_read_late_are_timed_as_if_they_were_read_at_once(subject, monkeypatch):
    """A card's losses are read two updates later, where two updates would seem to take no time."""
    clock = [0.0]
    monkeypatch.setattr("vitft.bench.loops.time.perf_counter", lambda: clock[0])

    monkeypatch.setattr("vitft.training.fit.Late", Behind)
    own = Own(subject, Hooks())
    own.net.register_forward_pre_hook(lambda *_: clock.__setitem__(0, clock[0] + 1.0))
    assert own.train(2) == 2 * 2 * 1.0  # two micro-batches an update


def test_waiting_is_what_a_batch_took_and_no_more(subject, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("vitft.bench.loops.time.perf_counter", lambda: clock[0])
    own = Own(subject, Hooks())
    stored = type(own._images).__mro__[1].batches

    def slow(self, *args):
        for batch in stored(self, *args):
            clock[0] += 0.25
            yield batch

    monkeypatch.setattr(type(own._images).__mro__[1], "batches", slow)
    own.net.register_forward_pre_hook(lambda *_: clock.__setitem__(0, clock[0] + 1.0))
    own.train(3)  # two micro-batches an update
    assert (own.waited, own.trained) == (3 * 2 * 0.25, 3 * 2 * 1.25)


def test_a_loop_that_cannot_run_here_stays_with_its_reason(subject, monkeypatch):
    class Broken:
        def __init__(self, *_, **__):
            raise RuntimeError("no compiler\nmore lines")

    monkeypatch.setattr(measuring, "Bare", Broken)
    result = measure(subject, "vit-mini", ("bare",), Plan(rounds=1, steps=1), Hooks())
    assert [(loop.name, loop.why, loop.train is None) for loop in result.loops] == [
        ("vitft", "", False),
        ("bare", "RuntimeError: no compiler", True),
    ]
    notes = table(result).notes
    assert any("no compiler" in line for line in notes) and len(table(result).rows) == 1


def test_the_verb_gives_one_measurement_and_tells_mistakes(tmp_path):
    file = tmp_path / "profile.json"
    words = f"bench -r 32 -b 4 --micro-batch 4 --rounds 1 --steps 1 --images 4 --against bare -j 1 --save {file}"
    done = CliRunner().invoke(app, [*words.split(), "--device", "cpu", "--format", "json"])
    assert done.exit_code == 0, done.stderr
    result = BenchResult.model_validate(json.loads(done.stdout))
    assert result == BenchResult.model_validate(json.loads(file.read_text()))
    assert result.model == "vit-mini" and result.resolution == (32, 32) and result.env.device == "cpu"
    assert result.products.share == pytest.approx(result.products.train / result.products.square)
    assert result.products.train == pytest.approx(6 * result.macs_per_image * result.loops[0].train.images_per_s)
    assert math.isfinite(result.products.own_shapes) and result.memory_bytes > 1 << 20
    for wrong, says in (("--against fast", "Legal: bare, compiled, timm, or none"), ("--against bare,bare", "twice")):
        done = CliRunner().invoke(app, ["bench", *wrong.split()])
        assert done.exit_code == 2 and says in done.stderr
    assert CliRunner().invoke(app, ["bench", "-m", "none.npz"]).exit_code == 4


def test_products_are_counted_twice_a_multiply_accumulate(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr("vitft.bench.measure.time.perf_counter", lambda: float(next(clock)))
    # Each timing takes one second of this clock; two products each of 2 x 3 x 5 x 7 operations, at least two times.
    rate = measuring.products(torch.device("cpu"), "float32", [(3, 1, 5, 7), (1, 3, 5, 7)])
    assert rate == 2 * (2 * 3 * 5 * 7) * 2
