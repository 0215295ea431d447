"""What a fit says of itself: its updates, images and seconds, the words in which it stops, how it computes."""

import math
import time
from types import SimpleNamespace
from typing import Any, Self

import pytest
import torch

from tests.layouts import refused
from tests.training.test_training import Net, drawn, groups, images, settings
from vitft.errors import Interrupted, NonFiniteLoss, OutOfMemory
from vitft.progress import Hooks, StepReport
from vitft.training import fit, speed, state
from vitft.training.fit import Compute, Fitted
from vitft.training.watch import Watch


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """Return the one clock there is, in whole seconds: a pass takes one, a state ten."""
    now, forward, save = [2.0**40], Net.forward, state.Saver.save

    def passed(self: Net, x: torch.Tensor) -> torch.Tensor:
        now[0] += 1
        return forward(self, x)

    def saved(self: state.Saver, value: state.State) -> None:
        now[0] += 10
        save(self, value)

    for clock_ in ("monotonic", "perf_counter"):
        monkeypatch.setattr(time, clock_, lambda: now[0])
    monkeypatch.setattr(Net, "forward", passed)
    monkeypatch.setattr(state.Saver, "save", saved)
    return now


def test_a_fit_counts_its_own_seconds_and_images_and_goes_on_with_its_own_micro_batch(tmp_path, monkeypatch, clock):
    monkeypatch.setenv("VITFT_CACHE", str(tmp_path / "cache"))
    told: list[StepReport] = []

    def looked(step: int, micro_batch: int) -> dict[str, float]:
        clock[0] += 1000
        return {"val_top1": step / 10, "val_n": micro_batch}

    def fitted(folder: str, micro_batch: int = 8, stop: int = 99) -> Fitted:
        del told[:]
        net, s = Net(), settings()
        hooks = Hooks(step=told.append, signal=lambda: 15 * (len(told) >= stop))
        compute = Compute(micro_batch=micro_batch, state_seconds=0.0, watch=Watch(4, looked))
        found = fit.fit(
            net, images(drawn(), s), groups(net), s, seed=1, folder=tmp_path / folder, compute=compute, hooks=hooks
        )
        found.state.wait()
        return found

    whole = fitted("whole")
    # Six passes and six states; the looks at val are no part of the training.
    assert whole == Fitted(6, 0, told[0].loss, told[5].loss, 8, 66.0, 48, 0, 60.0, False, whole.state)
    first, last = whole.first_loss, whole.last_loss
    assert told == [StepReport(n + 1, 6, r.loss, r.lr, r.grad_norm, 8.0, 1.0) for n, r in enumerate(told)]
    again = fitted("whole", 5)
    assert again == Fitted(6, 6, first, last, 8, 0.0, 0, 0, 0.0, False, again.state) and not told
    with pytest.raises(Interrupted):
        fitted("cut", stop=2)
    rest = fitted("cut", 3)
    assert rest == Fitted(6, 2, first, last, 8, 44.0, 32, 0, 40.0, False, rest.state)
    assert len({(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "cut")}) == 1
    short = fitted("short", 3)
    assert (short.micro_batch, short.seconds, told[-1].steps_per_s) == (3, 3 * 6 + 60.0, 1 / 3)


def test_how_a_fit_computes_unless_somebody_says():
    of = Compute()
    assert (of.precision, of.micro_batch, of.parallel, of.checkpoint) == ("float32", 0, "auto", "auto")
    assert of.group.size == 1 and of.watch is of.blocks is None


@pytest.mark.parametrize(
    ("loss", "norm", "last", "fact"),
    [
        (1.0, 2.0, 3.0, None),
        (math.nan, 2.0, 0.5, "The last finite loss was 0.5000."),
        (1.0, math.inf, 0.5, "The last finite loss was 0.5000."),
        (math.inf, math.nan, math.nan, ""),
    ],
)
def test_what_is_no_number_is_told_with_its_step_and_rate(loss, norm, last, fact):
    run: Any = SimpleNamespace(settings=settings(lr=0.25, steps=9), last_loss=last)
    made = fit._Made(4, 0.0123456, 0.0)
    if fact is None:
        fit._check_finite(run, made, loss, norm)
        return
    told = refused(
        lambda: fit._check_finite(run, made, loss, norm),
        f"The loss is {loss} (gradient norm {norm}) at step 4 of 9, lr 0.0123.",
        "Try a smaller --lr (now 0.25), more warmup_steps, or --precision float32.",
        kind=NonFiniteLoss,
    )
    assert ("last finite" in str(told)) == bool(fact) and fact in str(told)


def test_short_memory_is_given_back_before_half_is_tried_and_parts_cannot_halve(monkeypatch):
    given: list[int] = []
    monkeypatch.setattr(fit.device, "forget", lambda: given.append(1))
    short = torch.OutOfMemoryError("CUDA out of memory.")
    assert fit._halved(2, short, Hooks()) == 1 and given == [1]
    words = {True: ("micro-batch {}, the network in parts", "smaller --micro-batch"), False: ("single image", "lora")}
    for n, spread in ((1, True), (8, True), (1, False)):
        refused(
            lambda n=n, spread=spread: fit._halved(n, short, Hooks(), spread),
            *(word.format(n) for word in words[spread]),
            kind=OutOfMemory,
        )
    assert given == [1]


@pytest.mark.parametrize(
    ("seconds", "done", "told"), [(1.9, 2, False), (2.0, 2, True), (4.0, 7, True), (4.0, 8, False)]
)
def test_a_long_update_is_told_of_while_it_goes_on(clock, seconds, done, told):
    heard: list[StepReport] = []
    run = SimpleNamespace(step=3, last_loss=0.5, settings=settings(steps=9))
    loop: Any = SimpleNamespace(run=run, hooks=Hooks(step=heard.append))
    made = fit._Made(4, 0.1, clock[0] - seconds)
    fit._Loop._part(loop, made, done)
    speed_ = done / seconds
    expected = StepReport(3, 9, 0.5, 0.1, math.nan, speed_, speed_ / 8, part=done / 8)
    assert repr(heard) == repr([expected] * told)  # NaN is not itself


def test_the_speed_of_an_update_is_that_of_its_device(tmp_path):
    heard: list[StepReport] = []
    late: Any = SimpleNamespace(arrived=lambda **_: iter([]), seconds=0.0)
    run: Any = SimpleNamespace(settings=settings(), read=lambda *_: None)
    with state.Metrics(tmp_path / "m", keep=0) as metrics:
        reports = fit._Reports(run, metrics, Hooks(step=heard.append), late)
        for seconds in (10.0, 2.0, 4.0):
            late.seconds, late.arrived = seconds, lambda **_: iter([(fit._Made(1, 0.1, 0.0), torch.ones(2))])
            reports.flush()
    assert [(r.images_per_s, r.steps_per_s) for r in heard] == [(8 / 10, 1 / 10), (8 / 2, 1 / 2), (8 / 4, 1 / 4)]


@pytest.mark.parametrize(
    ("device", "width", "tokens", "images", "heads"),
    [("cpu", 128, 256, 12, 2), ("cpu", 48, 4000, 12, 1), ("meta", 192, 100, 327, 3), ("meta", 64, 1, 32768, 1)],
)
def test_a_block_is_timed_on_as_many_tokens_as_a_batch_has(monkeypatch, device, width, tokens, images, heads):
    passes: list[tuple[tuple[int, ...], int, str]] = []
    now = [0.0]

    def passed(block: Any, x: torch.Tensor, precision: str) -> None:
        assert block.training and x.device.type == device and block.attn.qkv.bias is not None
        passes.append((tuple(x.shape), block.attn.num_heads, precision))
        now[0] += 0.125

    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(speed, "_pass", passed)
    found = speed.measured(width, tokens, torch.device(device), "bf16")
    n = min(tokens, 256)
    # One that is not counted, and as many as half a second holds.
    assert passes == [((images, n, width), heads, "bf16")] * 5
    assert found.flops_per_s == 6 * images * (12 * n * width**2 + 2 * n**2 * width) * 4 / 0.5
    assert (found.device, found.forward_per_s, found.decoded_per_s) == (device, 0, 0)


def test_a_pass_of_the_block_leaves_no_gradient_and_another_process_is_asked_the_same(monkeypatch):
    block, x = torch.nn.Linear(4, 4), torch.randn(2, 3, 4)
    seen: list[torch.Tensor] = []
    block.weight.register_hook(seen.append)
    speed._pass(block, x, "float32")  # type: ignore[arg-type]
    # d mean(x W' + b) / dW is the mean of x, for each row of W.
    assert torch.allclose(seen[0], x.mean((0, 1)).expand(4, 4) / 4, atol=1e-6) and block.weight.grad is None

    class Pool:
        def __init__(self, processes: int, mp_context: Any) -> None:
            assert (processes, mp_context.get_start_method()) == (1, "spawn")

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def submit(self, call: Any, *of: Any) -> Any:
            return SimpleNamespace(result=lambda: (call, of))

    monkeypatch.setattr(speed, "ProcessPoolExecutor", Pool)
    asked = (64, 10, torch.device("cpu"), "bf16")
    assert speed.measured_apart(*asked) == (speed.measured, asked)
