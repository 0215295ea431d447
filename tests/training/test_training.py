"""The loop: schedules, randomness, exact accumulation, averaging, interruption. Tiny networks on drawn images."""

import errno
import gc
import io
import json
import math
import os
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from vitft.data.split import Provenance, Split
from vitft.errors import DataDamaged, DiskFull, Interrupted, NonFiniteLoss, OutOfMemory
from vitft.images.batches import Images, eval_batches
from vitft.images.preprocess import UNIFORMS, deterministic, inception_box, random_one, random_part
from vitft.models.build import build
from vitft.models.methods import apply, parameter_groups
from vitft.progress import Hooks
from vitft.settings import Preprocess, Settings
from vitft.training import fit, inputs, randomness, state
from vitft.training.fit import Compute
from vitft.training.schedule import learning_rate


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VITFT_CACHE", str(tmp_path / "cache"))


def drawn(n: int = 24, classes: int = 3, side: int = 16, broken: int = -1) -> Split:
    """Return images whose brightness tells the class."""
    rng = np.random.default_rng(0)

    def read(i: int) -> bytes:
        if i == broken:
            return b"no image"
        level = 40 + 70 * (i % classes)
        pixels = np.clip(level + rng_rows[i], 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return buffer.getvalue()

    rng_rows = rng.integers(-20, 20, (n, side, side, 3))
    labels = np.arange(n) % classes
    return Split(
        "drawn",
        "train",
        tuple("abcdefgh"[:classes]),
        [f"image{i}" for i in range(n)],
        labels,
        read,
        Provenance("drawn"),
    )


class Net(nn.Module):
    """The smallest thing with timm's three methods."""

    def __init__(self, classes: int = 3, normed: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(3 * 16, 8), nn.BatchNorm1d(8)) if normed else nn.Linear(3 * 16, 8)
        self.head = nn.Linear(8, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward_features(self, x):
        return torch.tanh(self.body(x.unflatten(2, (4, 4)).unflatten(4, (4, 4)).mean((3, 5)).flatten(1)))

    def forward_head(self, x, pre_logits=False):
        return x if pre_logits else self.head(x)

    def get_classifier(self):
        return self.head

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


def groups(net: nn.Module, decay: float = 0.0) -> list[dict]:
    return [{"params": [p for p in net.parameters() if p.requires_grad], "lr_scale": 1.0, "weight_decay": decay}]


def settings(**keys) -> Settings:
    return Settings(**{"steps": 6, "batch_size": 8, "lr": 0.1, "resolution": 16, "crop": "pad", **keys})


def images(split: Split, s: Settings) -> Images:
    return Images(split, Preprocess(s.size, crop=s.crop, crop_from=s.crop_from, flip=s.flip), torch.device("cpu"))


def run(folder: Path, s: Settings, normed: bool = False, **kwargs):
    net = Net(normed=normed)
    if s.method == "linear":
        net.body.requires_grad_(False)
    kwargs = {"seed": 1, "state_seconds": 0.0, **kwargs}
    compute = Compute(**{key: kwargs.pop(key) for key in ("state_seconds", "micro_batch") if key in kwargs})
    fitted = fit.fit(net, images(drawn(), s), groups(net, s.weight_decay), s, folder=folder, compute=compute, **kwargs)
    fitted.state.wait()
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return fitted, metrics, net.state_dict()


def same(a: dict, b: dict) -> bool:
    return all(torch.equal(a[k], b[k]) for k in a)


# --- schedules -------------------------------------------------------------------------------------------------------


def test_schedules_at_their_corners():
    cosine = settings(schedule="cosine", steps=110, warmup_steps=10, lr=0.3)
    assert learning_rate(cosine, 0) == pytest.approx(0.03)
    assert learning_rate(cosine, 9) == learning_rate(cosine, 10) == pytest.approx(0.3)
    assert learning_rate(cosine, 60) == pytest.approx(0.15)
    assert learning_rate(cosine, 35) == pytest.approx(0.3 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert 0 < learning_rate(cosine, 109) < 0.3 * 1e-3
    linear = settings(schedule="linear", steps=100, lr=1.0)
    assert [learning_rate(linear, s) for s in (0, 25, 50)] == pytest.approx([1.0, 0.75, 0.5])
    stairs = settings(schedule="staircase", steps=500, warmup_steps=100, decay_steps=(200, 300, 400), lr=0.003)
    expected = {0: 3e-5, 99: 3e-3, 200: 3e-3, 201: 3e-4, 300: 3e-4, 301: 3e-5, 401: 3e-6, 499: 3e-6}
    assert {s: learning_rate(stairs, s) for s in expected} == pytest.approx(expected)
    assert learning_rate(settings(schedule="constant", lr=0.7, steps=9), 8) == 0.7


# --- randomness ------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**40), st.integers(1, 60), st.integers(1, 17))
def test_every_epoch_holds_each_example_once(seed, n, batch):
    steps = -(-3 * n // batch)
    seen = np.concatenate([randomness.order(seed, n, s, batch) for s in range(steps)])[: 3 * n].reshape(3, n)
    assert (np.sort(seen, axis=1) == np.arange(n)).all()


def test_random_numbers_depend_on_seed_step_and_position_alone():
    a = randomness.uniforms(3, 7, 10, UNIFORMS)
    assert np.array_equal(a[:4], randomness.uniforms(3, 7, 4, UNIFORMS))
    assert not np.array_equal(a, randomness.uniforms(3, 8, 10, UNIFORMS))
    assert not np.array_equal(a, randomness.uniforms(4, 7, 10, UNIFORMS))
    assert randomness.torch_seed(1, 2, 3) != randomness.torch_seed(1, 3, 2)
    # Of a seed that is longer the last 64 bits count, for torch one less.
    for seed, same in ((2**64 + 3, 3), (2**64 + 2**63, 2**63)):
        assert np.array_equal(randomness.uniforms(seed, 7, 4, 2), randomness.uniforms(same, 7, 4, 2))
    assert randomness.torch_seed(2**63 + 1, 2, 3) == randomness.torch_seed(1, 2, 3) < 2**63


# --- pixels ----------------------------------------------------------------------------------------------------------


def test_batched_and_single_random_parts_agree():
    rng = np.random.default_rng(1)
    stored = rng.integers(0, 256, (5, 20, 20, 3), dtype=np.uint8)
    rows = rng.random((5, UNIFORMS))
    pp = Preprocess((16, 16), crop="random", crop_from=20, flip=True)
    batch = random_part(torch.from_numpy(stored), rows, pp).numpy()
    assert all(np.array_equal(batch[i], random_one(stored[i], rows[i], pp)) for i in range(5))
    rows[:, 0] = [0.1, 0.9, 0.1, 0.9, 0.1]
    flipped = random_part(torch.from_numpy(stored[:, :16, :16]), rows, Preprocess((16, 16), flip=True)).numpy()
    assert np.array_equal(flipped[0], stored[0, :16, 15::-1]) and np.array_equal(flipped[1], stored[1, :16, :16])


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 10**6))
def test_inception_box_lies_inside_and_keeps_its_ranges(h, w, seed):
    top, left, height, width = inception_box(h, w, np.random.default_rng(seed).random(UNIFORMS))
    assert 0 <= top <= h - height and 0 <= left <= w - width and height >= 1 and width >= 1
    if (height, width) != (h, w) and min(height, width) > 20:
        assert 0.04 < height * width / (h * w) <= 1.03 and 0.7 < width / height < 1.42


def test_the_inception_box_is_drawn_as_its_source_draws_it():
    """tf.image.sample_distorted_bounding_box draws the height uniformly at a given aspect ratio, not the area."""
    heights = []
    for u in (np.arange(1670) + 0.5) / 1670:
        row = np.full(UNIFORMS, 0.999)
        row[4:6] = u, 0.0  # aspect ratio 3/4
        top, left, height, width = inception_box(224, 224, row)
        assert width == round(0.75 * height) and (top, left) == (max(0, 223 - height), max(0, 223 - width))
        heights.append(height)
    lowest = round(math.sqrt(0.05 * 224 * 224 / 0.75))
    assert sorted(set(heights)) == list(range(lowest, 225))
    counts = np.bincount(heights)[lowest:]
    assert counts.min() >= 8 and counts.max() <= 12  # uniform: 1,670 draws over 167 heights


@pytest.mark.parametrize("mode", ["center", "squash"])
@pytest.mark.parametrize("shape", [(75, 120), (120, 75), (64, 64), (40, 33)])
@pytest.mark.parametrize("size", [(48, 48), (32, 56)])
def test_the_checkpoints_own_way_is_timms(mode, shape, size):
    from timm.data import create_transform
    from timm.data.transforms import ResizeKeepRatio
    from torchvision.transforms import CenterCrop

    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    pp = Preprocess(size, "checkpoint", interpolation="bicubic", crop_pct=0.875, crop_mode=mode)
    transform = create_transform(
        (3, *size), interpolation="bicubic", crop_pct=0.875, crop_mode=mode, normalize=False, use_prefetcher=False
    )
    theirs = transform(Image.fromarray(image)).permute(1, 2, 0).numpy()
    if size[0] != size[1] and mode == "center":
        # Put together from its parts: as a whole timm up to 1.0.29 forgets the interpolation of an oblong.
        whole = ResizeKeepRatio([int(side / 0.875) for side in size], interpolation="bicubic")
        theirs = np.asarray(CenterCrop(size)(whole(Image.fromarray(image))))
    assert np.array_equal(deterministic(image, pp), theirs)


def test_resize_small_is_that_of_big_vision_and_a_random_crop_keeps_each_sides_share():
    ramp = np.repeat(np.arange(200, dtype=np.uint8)[None, :, None], 101, 0).repeat(3, 2)
    # 101 x 200 -> 160 x round(316.8) = 317; (317 - 128) // 2 = 94 columns are left out on the left.
    cut = deterministic(ramp, Preprocess((128, 128), "resize-small", antialias=False))
    x = torch.from_numpy(ramp[:1, :, :1]).permute(2, 0, 1)[None].float()
    wide = nn.functional.interpolate(x, (1, 317), mode="bilinear")[0, 0, 0]
    assert np.array_equal(cut[0, :, 0], wide[94 : 94 + 128].round().numpy())
    assert Preprocess((128, 256), crop="random").stored_size == (160, 320)
    assert Preprocess((96, 192), crop="random", crop_from=240).stored_size == (120, 240)
    assert Preprocess((64, 64), "checkpoint", crop="random", crop_mode="squash").stored_size == (73, 73)


def test_evaluation_geometry():
    image = np.zeros((100, 200, 3), np.uint8)
    image[:, 50:150] = 200
    centre = deterministic(image, Preprocess((50, 50), "checkpoint", crop_pct=1.0))
    assert (centre[:, 1:-1] == 200).all() and (centre[:, 0] > 150).all()  # the resize blurs the very edge
    assert deterministic(image, Preprocess((50, 50), "squash")).shape == (50, 50, 3)
    assert deterministic(image, Preprocess((48, 64), "resize-small")).shape == (48, 64, 3)


def test_streamed_and_stored_images_are_equal():
    split, pp = drawn(), Preprocess((12, 12))
    stored = torch.cat([b for _, b in eval_batches(split, pp, 5)])
    streaming = Images(split, pp, torch.device("cpu"))
    streaming._stored = None
    parts = [np.arange(a, min(a + 7, 24)) for a in range(0, 24, 7)]
    assert torch.equal(stored, torch.cat(list(streaming.batches(parts))))


def test_a_changed_image_is_never_taken_from_the_cache():
    split, pp = drawn(), Preprocess((12, 12))
    before = torch.cat([b for _, b in eval_batches(split, pp, 24)])
    other = replace(split, read=lambda i: split.read((i + 1) % 24))
    after = torch.cat([b for _, b in eval_batches(other, pp, 24)])
    assert torch.equal(after[:-1], before[1:]) and not torch.equal(after, before)


def test_a_corrupt_image_is_named():
    with pytest.raises(DataDamaged, match="image5"):
        list(eval_batches(drawn(broken=5), Preprocess((8, 8)), 4))


# --- the loop --------------------------------------------------------------------------------------------------------


def test_first_loss_is_ln_k_and_the_loop_learns(tmp_path):
    fitted, metrics, _ = run(tmp_path, settings(steps=60, lr=0.5), state_seconds=60.0)
    assert fitted.first_loss == pytest.approx(math.log(3), abs=1e-6)
    assert metrics[-1]["loss"] < 0.5 * metrics[0]["loss"]
    assert [m["step"] for m in metrics] == list(range(1, 61))


def test_twice_the_same_is_bit_equal_and_micro_batches_change_nothing(tmp_path):
    s = settings(mixup=0.3, label_smoothing=0.1, weight_decay=0.1)
    _, metrics, weights = run(tmp_path / "a", s)
    _, again, weights_again = run(tmp_path / "b", s)
    assert metrics == again and same(weights, weights_again)
    for micro_batch in (1, 3, 4):
        _, cut, weights_cut = run(tmp_path / f"m{micro_batch}", s, micro_batch=micro_batch)
        assert [m["loss"] for m in cut] == pytest.approx([m["loss"] for m in metrics], abs=1e-6)
        assert all(torch.allclose(weights[k], weights_cut[k], atol=1e-6) for k in weights)


def test_zero_learning_rate_changes_nothing(tmp_path):
    for optimizer in ("sgd", "adamw"):
        _, _, weights = run(tmp_path / optimizer, settings(lr=0.0, optimizer=optimizer, weight_decay=0.1))
        assert same(weights, Net().state_dict())


def test_features_computed_once_equal_the_whole_way(tmp_path):
    once = run(tmp_path / "once", settings(method="linear", crop="none", lr=0.5))
    whole = run(tmp_path / "whole", settings(method="linear", crop="random", crop_from=16, lr=0.5))
    assert all(torch.allclose(once[2][k], whole[2][k], atol=1e-5) for k in once[2])
    assert same({"w": once[2]["body.weight"]}, {"w": Net().body.weight})


@pytest.mark.parametrize(
    ("model", "once"),
    [
        ("test_vit", True),
        ("test_efficientnet", True),
        ("resnetv2_50x1_bit", True),  # its head is a convolution
        ("deit_tiny_distilled_patch16_224", False),  # two heads
    ],
)
def test_a_linear_probe_answers_as_the_whole_network_whatever_its_head(tmp_path, model, once):
    s = settings(method="linear", crop="none", flip=False, resolution=32, steps=2)
    net = build(f"timm:{model}", 3, s, from_scratch=True).net
    apply(net, s, seed=0)
    data = images(drawn(n=6), s)
    fitted = fit.fit(net, data, parameter_groups(net, s), s, seed=0, folder=tmp_path)
    assert fitted.computed == (6 if once else 0)
    source = inputs.source(net, data, s, "float32", 4, Hooks())
    rows = [np.arange(6)]
    with torch.no_grad():
        whole = net(next(iter(data.batches(rows))))
        assert whole.abs().max() > 0
        part = source.network(next(source.batches(rows, [np.full((6, UNIFORMS), 0.9)])))
    assert torch.allclose(part, whole, atol=1e-5)


@pytest.mark.parametrize(
    "keys", [{}, {"optimizer": "adamw", "ema": 0.9, "drop_path": 0.1}, {"method": "linear", "crop": "none"}]
)
def test_an_interrupted_run_goes_on_bit_equal(tmp_path, keys):
    s = settings(**keys)
    _, metrics, weights = run(tmp_path / "whole", s)
    for stop in range(1, 12, 2):
        asked = {"n": 0}

        def signal(stop=stop, asked=asked) -> int:
            asked["n"] += 1
            return 15 if asked["n"] >= stop else 0

        folder = tmp_path / f"cut{stop}"
        with pytest.raises(Interrupted) as caught:
            run(folder, s, hooks=Hooks(signal=signal))
        assert caught.value.exit_code == 143
        _, cut, weights_cut = run(folder, s)
        assert cut == metrics and same(weights, weights_cut)


def test_statistics_of_batch_normalisation_survive_a_stop_amid_an_update_and_short_memory(tmp_path, monkeypatch):
    how = {"normed": True, "micro_batch": 3}
    _, metrics, weights = run(tmp_path / "whole", settings(), **how)
    assert weights["body.1.num_batches_tracked"] == 6 * 3  # 8 images are three micro-batches
    for stop in range(1, 24, 4):
        asked = iter(range(10**6))
        with pytest.raises(Interrupted):
            run(
                tmp_path / str(stop), settings(), hooks=Hooks(signal=lambda n=asked, s=stop: 15 * (next(n) >= s)), **how
            )
        _, cut, weights_cut = run(tmp_path / str(stop), settings(), **how)
        assert cut == metrics and same(weights, weights_cut)
    forward, failed = Net.forward, []

    def scarce(self, x):
        answer = forward(self, x)
        if len(x) > 3 and not failed:
            failed.append(True)
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return answer

    monkeypatch.setattr(Net, "forward", scarce)
    _, cut, weights_cut = run(tmp_path / "scarce", settings(), normed=True, micro_batch=6)
    assert failed and cut == metrics and same(weights, weights_cut)


def test_a_damaged_state_is_not_gone_on_from(tmp_path):
    s = settings()
    _, metrics, weights = run(tmp_path, s)
    path = tmp_path / "state.pt"
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]):
        path.write_bytes(damaged)
        assert state.load(path) is None
        notes = []
        _, again, weights_again = run(tmp_path, s, hooks=Hooks(note=notes.append))
        assert again == metrics and same(weights, weights_again) and "damaged" in notes[0]


def test_a_state_of_other_images_is_not_gone_on_from(tmp_path):
    s = settings()
    run(tmp_path, s)
    net, notes = Net(), []
    fewer = images(drawn().select(range(20)), s)
    fitted = fit.fit(net, fewer, groups(net), s, seed=1, folder=tmp_path, hooks=Hooks(note=notes.append))
    assert fitted.resumed_at == 0 and "have changed" in notes[0]


def test_a_loss_that_is_no_number_stops_with_step_lr_and_last_loss(tmp_path):
    with pytest.raises(NonFiniteLoss, match=r"(?s)step \d+ of 6, lr .*last finite loss"):
        run(tmp_path, settings(lr=1e38, clip_norm=0.0))


def test_short_memory_halves_the_micro_batch_never_the_batch(tmp_path, monkeypatch):
    _, metrics, _ = run(tmp_path / "plenty", settings())
    forward, limit = Net.forward, {"images": 3}

    def scarce(self, x):
        if len(x) > limit["images"]:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, x)

    monkeypatch.setattr(Net, "forward", scarce)
    fitted, scarce_metrics, _ = run(tmp_path / "scarce", settings())
    assert fitted.micro_batch == 2 and len(scarce_metrics) == 6
    assert [m["loss"] for m in scarce_metrics] == pytest.approx([m["loss"] for m in metrics], abs=1e-6)
    limit["images"] = 0
    with pytest.raises(OutOfMemory):
        run(tmp_path / "none", settings())


def test_a_full_disk_keeps_the_last_state(tmp_path, monkeypatch):
    import errno
    import os

    s = settings()
    _, metrics, weights = run(tmp_path / "whole", s)
    replaced, count = os.replace, {"n": 0}

    def full(*args):
        count["n"] += 1
        if count["n"] == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replaced(*args)

    with monkeypatch.context() as patch:
        patch.setattr("vitft.results.files.os.replace", full)
        with pytest.raises(DiskFull):
            run(tmp_path / "full", s)
    assert not list((tmp_path / "full").glob(".*"))
    saved = state.load(tmp_path / "full" / "state.pt")
    assert saved is not None and saved["step"] >= 1
    _, again, weights_again = run(tmp_path / "full", s)
    assert again == metrics and same(weights, weights_again)


def test_a_state_on_disk_holds_what_it_was_saved_with_whatever_is_computed_since(tmp_path):
    weight = torch.arange(6.0).reshape(2, 3)
    moments = {"state": {0: {"momentum_buffer": weight[0]}}}
    saver = state.Saver(tmp_path / "state.pt")
    for step in range(3):
        saver.save({"step": step, "parameters": [weight], "optimizer": moments})
        weight += 1.0  # at once: the file may not be written yet
    saver.wait()
    saved = state.load(tmp_path / "state.pt")
    assert saved["step"] == 2
    assert torch.equal(saved["parameters"][0], torch.arange(6.0).reshape(2, 3) + 2)
    assert saved["optimizer"]["state"][0]["momentum_buffer"].tolist() == [2.0, 3.0, 4.0]
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_what_follows_the_training_does_not_wait_for_its_last_state(tmp_path, monkeypatch):
    path, gate, synced = tmp_path / "state.pt", threading.Event(), os.fsync

    def slow(file: int) -> None:
        gate.wait(60)
        synced(file)

    monkeypatch.setattr(os, "fsync", slow)
    saver = state.Saver(path)
    saver.save({"step": 1, "parameters": [torch.zeros(9)]})
    with suppress(KeyError), saver:
        assert saver.busy and not path.exists()
        gate.set()
        raise KeyError("an evaluation that fails")
    assert state.load(path)["step"] == 1, "an error leaves when the state is on disk"
    with state.Saver(path) as saver:
        gate.clear()
        saver.save({"step": 2})
        gate.set()
    assert list(tmp_path.iterdir()) == [], "nobody goes on from a finished unit"
    # What is still to be written then is not written.
    written = []
    monkeypatch.setattr(state._Digested, "write", lambda self, data, write=state._Digested.write: (
        gate.wait(60), written.append(write(self, data)))[1])  # fmt: skip
    gate.clear()
    with state.Saver(path) as saver:
        saver.save({"step": 3, "parameters": [torch.zeros(9)]})
        threading.Timer(0.2, gate.set).start()
    assert not written and list(tmp_path.iterdir()) == []


def test_no_state_stays_in_memory(tmp_path):
    def alive() -> int:
        gc.collect()
        return sum(type(one) is torch.Tensor and one.numel() == 12_345 for one in gc.get_objects())

    weights, saver = torch.zeros(12_345), state.Saver(tmp_path / "state.pt")
    for _ in range(5):
        saver.save({"parameters": [weights]})
        saver.wait()
        assert alive() == 1, "the weights themselves; a copy is gone when its file is on disk"


def test_a_state_that_cannot_be_written_is_told_at_the_next_save_and_the_old_one_stays(tmp_path, monkeypatch):
    saver = state.Saver(tmp_path / "state.pt")
    saver.save({"step": 1})
    saver.wait()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    saver.save({"step": 2})
    with pytest.raises(DiskFull, match="the disk is full"):
        saver.wait()
    assert state.load(tmp_path / "state.pt")["step"] == 1


@pytest.mark.parametrize("said", ["cause", "context", "nothing"])
def test_a_disk_that_is_full_is_told_whatever_torchs_writer_makes_of_it(said, tmp_path, monkeypatch):
    def save(*_: object) -> None:
        error, full = RuntimeError("the stream takes no more"), OSError(errno.ENOSPC, "No space left on device")
        error.__cause__ = full if said == "cause" else None
        error.__context__ = full if said == "context" else None
        raise error

    monkeypatch.setattr(torch, "save", save)
    saver = state.Saver(tmp_path / "state.pt")
    saver.save({"step": 1})
    with pytest.raises(DiskFull, match="the stream takes no more" if said == "nothing" else "the disk is full"):
        saver.wait()


def test_what_the_next_update_begins_with_is_decoded_while_this_one_ends(tmp_path, monkeypatch):
    asked: list[list[int]] = []
    begun: list[list[int]] = []
    soon, begin = Images.soon, Images._begin

    def told(self, indices, rows):
        begun.append(indices.tolist())
        soon(self, indices, rows)

    def begins(self, indices, rows):
        asked.append(indices.tolist())
        taken = [self._key(i, row) in self._begun for i, row in zip(indices.tolist(), rows, strict=True)]
        assert all(taken) if len(asked) % 3 != 0 and len(asked) > 3 else not any(taken)
        return begin(self, indices, rows)

    monkeypatch.setattr(Images, "soon", told)
    monkeypatch.setattr(Images, "_begin", begins)
    run(tmp_path, settings(crop="inception", steps=4), micro_batch=3)  # three micro-batches of 3, 3 and 2 images
    assert len(asked) == 3 * 4 and begun == [asked[n] + asked[n + 1] for n in (3, 6, 9)]
