"""Nothing waits for a card: an update reads nothing from it, and what updates say of themselves is read later."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.late import Behind
from tests.training.test_parallel import vit
from tests.training.test_training import Net, drawn, groups, images, run, same, settings
from vitft import device as devices
from vitft.device import Late, moved
from vitft.errors import Interrupted, NonFiniteLoss
from vitft.evaluation.predict import predict
from vitft.group import ALONE
from vitft.progress import Hooks
from vitft.training import fit as fitting
from vitft.training import inputs, saving, state
from vitft.training.update import Fit

META = torch.device("meta")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VITFT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def behind(monkeypatch):
    """Read what updates say two updates later, as from a card."""

    monkeypatch.setattr(fitting, "Late", Behind)


@pytest.mark.parametrize(
    "keys",
    [
        {"mixup": 0.3, "label_smoothing": 0.1, "ema": 0.9, "weight_decay": 0.1, "clip_norm": 1.0, "flip": True},
        {"optimizer": "adamw", "crop": "random", "crop_from": 16, "flip": True, "clip_norm": 0.0},
    ],
)
def test_an_update_reads_nothing_from_its_device(keys):
    """On the meta device there is nothing to read: whatever asks for a value raises."""
    s = settings(**keys)
    data = images(drawn(), s)
    data._resident, data.device = data._gather(np.arange(24)).to(META), META
    net = vit().to(META)
    source = inputs.ImageSource(net, 3, torch.empty(24, dtype=torch.int64, device=META), data)
    made = Fit(net, groups(net, s.weight_decay), s, 1)
    for _ in range(2):
        values = made.gradients(source, 3, "float32", Hooks())
        made.update(0.1)
    assert made.step == 2 and values.shape == (2,) and values.is_meta
    with pytest.raises((RuntimeError, NotImplementedError)):
        values.tolist()


def test_what_is_read_later_is_told_in_order_and_changes_nothing(tmp_path, behind, monkeypatch):
    s = settings(steps=6, ema=0.9)
    at: list[tuple[int, int]] = []
    made = {"n": 0}
    update = Fit.update

    def counted(self: Fit, lr: float) -> None:
        made["n"] += 1
        update(self, lr)

    monkeypatch.setattr(Fit, "update", counted)
    hooks = Hooks(step=lambda r: at.append((r.step, made["n"])))
    fitted, metrics, weights = run(tmp_path / "late", s, hooks=hooks, state_seconds=3600.0)
    # Told of when two more are made; what is left is waited for at the end.
    assert at == [(1, 3), (2, 4), (3, 5), (4, 6), (5, 6), (6, 6)]
    monkeypatch.undo()
    monkeypatch.setenv("VITFT_CACHE", str(tmp_path / "cache"))
    plain, plain_metrics, plain_weights = run(tmp_path / "plain", s)
    assert metrics == plain_metrics and same(weights, plain_weights)
    assert (fitted.first_loss, fitted.last_loss) == (plain.first_loss, plain.last_loss)


def test_a_loss_that_is_no_number_is_told_with_its_own_step_and_never_saved(tmp_path, behind, monkeypatch):
    forward, calls = Net.forward, {"n": 0}

    def broken(self: Net, x: torch.Tensor) -> torch.Tensor:
        calls["n"] += 1
        out = forward(self, x)
        return out * math.nan if calls["n"] == 4 else out

    monkeypatch.setattr(Net, "forward", broken)
    for folder, seconds, saved in (("often", 0.0, 3), ("never", 3600.0, None)):
        calls["n"] = 0
        told: list[int] = []
        with pytest.raises(NonFiniteLoss, match=r"(?s)step 4 of 12.*last finite loss"):
            run(
                tmp_path / folder,
                settings(steps=12),
                hooks=Hooks(step=lambda r, told=told: told.append(r.step)),
                state_seconds=seconds,
            )
        assert told == [1, 2, 3] and calls["n"] <= 6
        left = state.load(tmp_path / folder / "state.pt")
        assert (left is None) == (saved is None) and (
            left is None or left["step"] <= saved
        )  # the last may be under way
    calls["n"] = 9
    _, metrics, weights = run(tmp_path / "often", settings(steps=12))
    _, whole, own = run(tmp_path / "whole", settings(steps=12))
    assert metrics == whole and same(weights, own)


def test_a_stop_tells_of_all_that_was_made_before_it_saves(tmp_path, behind):
    asked = {"n": 0}

    def signal() -> int:
        asked["n"] += 1
        return 15 * (asked["n"] > 8)

    with pytest.raises(Interrupted):
        run(tmp_path, settings(), hooks=Hooks(signal=signal), state_seconds=3600.0)
    left = state.load(tmp_path / "state.pt")
    assert left is not None and left["step"] == 4
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 4
    _, metrics, _ = run(tmp_path, settings())
    assert [line["step"] for line in metrics] == [1, 2, 3, 4, 5, 6]


def test_a_state_of_a_card_is_gone_on_from_by_an_optimiser_of_its_own_way():
    """`fused` is how a device steps, not what it has learned."""
    net, s = Net(), settings(optimizer="adamw")
    made = Fit(net, groups(net), s, 1)
    source = inputs.ImageSource(net, 3, torch.from_numpy(drawn().labels), images(drawn(), s))
    made.gradients(source, 8, "float32", Hooks())
    made.update(0.1)
    saved = made.state()
    saved["optimizer"]["param_groups"][0]["fused"] = True
    again = Fit(Net(), groups(Net()), s, 1)
    again.load(saved)
    assert again.optimizer.param_groups[0]["fused"] is again.optimizer.defaults["fused"] is None


def test_answers_that_arrive_late_stand_in_their_rows(monkeypatch):
    monkeypatch.setattr("vitft.evaluation.predict.Late", Behind)
    net = Net().eval()
    nn.init.normal_(net.head.weight)
    x = torch.rand(7, 3, 16, 16)
    order = np.array([6, 2, 0, 1, 5, 3, 4])
    told: list[int] = []
    found = predict(net, ((order[a : a + 2], x[order[a : a + 2]]) for a in (0, 2, 4, 6)), 7, 3, on_progress=told.append)
    assert told == [2, 4, 6, 7]
    with torch.no_grad():
        assert np.allclose(found.logits, net(x).numpy(), atol=1e-6)


def test_what_is_on_the_host_stays_there_without_a_card():
    x = torch.arange(3)
    assert moved(x, torch.device("cpu")) is x
    late: Late[str] = Late(torch.device("cpu"))
    late.put("a", x)
    assert [(name, value is x) for name, value in late.arrived()] == [("a", True)] and late.behind == 0
    assert Late(torch.device("cuda")).behind > 0


def test_a_card_computes_float32_as_such_and_without_cudnns_attention(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", lambda *_, **__: None)
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cuda.enable_cudnn_sdp(True)
        assert devices.pick("cuda").type == "cuda"
    assert not (torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32)
    assert not torch.backends.cuda.cudnn_sdp_enabled() and torch.backends.cuda.flash_sdp_enabled()
    assert devices.kernels("cuda") == {"attention": "flash, efficient, math", "tf32": False}


def test_the_loss_is_summed_in_float64_and_no_image_is_read_that_no_update_needs():
    net, asked = Net(), []
    torch.nn.init.normal_(net.head.weight)
    for keys in ({}, {"mixup": 0.5}):
        s = settings(label_smoothing=0.1, batch_size=7, **keys)
        data = images(drawn(), s)
        own = data.batches
        data.batches = lambda rows, *rest, own=own: asked.append(sum(map(len, rows))) or own(rows, *rest)
        source, made = inputs.ImageSource(net, 3, torch.from_numpy(drawn().labels), data), Fit(net, groups(net), s, 1)
        parts = [slice(0, 3), slice(3, 6), slice(6, 7)]
        each = [
            torch.nn.functional.cross_entropy(net(x), targets, reduction="sum") / 7
            for x, targets in made._micro_batches(source, parts, Hooks())
        ]
        assert asked == [7] * (1 + bool(keys))
        assert made.gradients(source, 3, "float32", Hooks())[0] == sum(loss.item() for loss in each)
        asked.clear()
        # one of several processes has a part that begins where the batch ends: an image, and no loss of it
        (x, targets), _ = made._micro_batches(source, [slice(7, 10), slice(0, 3)], Hooks())
        assert len(x) == len(targets) == 1 and not targets.any()
        asked.clear()


def test_a_state_of_other_training_images_is_left_and_that_is_said(tmp_path):
    said = list[str]()
    for split, found in (("a", {"split": "a", "step": 3}), ("b", None)):
        states = saving.States(tmp_path / "state.pt", split, ALONE, 60.0)
        if found:
            states.saver.save(found)
            states.saver.wait()
        assert states._usable(Hooks(note=said.append)) == found
    assert len(said) == 1 and "training images have changed" in said[0]
    (tmp_path / "state.pt").write_bytes(b"half")
    assert states._usable(Hooks(note=said.append)) is None and "damaged" in said[1]
    (tmp_path / "state.pt").unlink()
    assert states._usable(Hooks(note=said.append)) is None and len(said) == 2
