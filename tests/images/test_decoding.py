"""Decoding: it stops when asked, leaves nothing half done, and names what it could not read."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from tests.layouts import alone, image  # noqa: F401
from vitft import machine
from vitft.data.split import Provenance, Split
from vitft.errors import DataDamaged, Interrupted
from vitft.images import cache, fingerprints
from vitft.images.batches import Images
from vitft.images.preprocess import UNIFORMS, deterministic
from vitft.progress import Hooks
from vitft.settings import Preprocess

PP = Preprocess(
    size=(8, 8), resize="squash", interpolation="bilinear", antialias=True, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
)


def split(n: int, broken: int = -1) -> Split:
    data = [image(i) if i != broken else b"no image" for i in range(n)]
    keys, labels = [f"a/{i}.png" for i in range(n)], np.zeros(n, dtype=np.int64)
    return Split("insects", "train", ("a",), keys, labels, data.__getitem__, Provenance("image folder", False))


def left() -> list[str]:
    return [p.name for p in machine.cache().rglob("*") if p.is_file()]


def test_a_signal_stops_the_decoding_within_a_few_images_and_leaves_nothing():
    """Of 300 images, the first 100 are decoded before the signal comes."""
    asked = {"n": 0}

    def signum() -> int:
        asked["n"] += 1
        return 2 if asked["n"] > 100 else 0

    hooks = replace(Hooks(), signal=signum)
    with pytest.raises(Interrupted):
        Images(split(300), PP, torch.device("cpu"), 2, hooks)
    assert 100 < asked["n"] <= 102
    assert left() == []
    with pytest.raises(Interrupted):
        fingerprints.encoded_digest(split(300), replace(Hooks(), signal=lambda: 15))
    assert cache.pixels(split(300), PP, 2, Hooks()) is not None
    assert len(left()) == 1


def test_telling_of_a_phase_alone_never_raises():
    """The supervisor of a suite passes on what workers tell; they must save before it ends."""
    told: list[tuple[str, int, int]] = []
    hooks = replace(Hooks(phase=lambda *what: told.append(what)), signal=lambda: 2)
    hooks.phase("decode", 1, 2)
    replace(hooks, signal=lambda: 0).phase("decode", 2, 2)
    assert told == [("decode", 1, 2), ("decode", 2, 2)]


@pytest.mark.parametrize("stored", [True, False])
def test_an_image_that_does_not_decode_is_named_with_its_data_set_and_split(stored):
    keep: cache.Keep = "make" if stored else "no"
    with pytest.raises(DataDamaged, match=r"'insects train: a/3\.png' cannot be decoded"):
        list(Images(split(6, broken=3), PP, torch.device("cpu"), 2, None, keep).batches([np.arange(6)]))
    assert left() == []


@pytest.mark.parametrize("keep", ["make", "never"])
def test_a_crop_is_drawn_once_whether_images_are_kept_or_decoded_again(keep: cache.Keep) -> None:
    pp = Preprocess((8, 8), crop="random", crop_from=12, flip=True, mean=(0.0,) * 3, std=(1.0,) * 3)
    rng = np.random.default_rng(0)
    images = [cv2.imencode(".png", rng.integers(0, 256, (12, 12, 3), np.uint8))[1].tobytes() for _ in range(5)]
    own, order, rows = replace(split(5), read=images.__getitem__), np.array([3, 0, 4]), rng.random((3, UNIFORMS))
    rows[:, 0] = 0.2, 0.7, 0.3  # below one half it is mirrored
    (batch,) = Images(own, pp, torch.device("cpu"), 1, None, keep).batches([order], [rows])
    for x, i, row in zip(batch, order.tolist(), rows, strict=True):
        whole = deterministic(cache.decoded(own, i), pp)
        assert whole.shape == (12, 12, 3)
        top, left_ = int(row[1] * 5), int(row[2] * 5)  # of the five places on each axis
        crop = whole[top : top + 8, left_ : left_ + 8].astype(np.float32) / 255
        np.testing.assert_allclose(x.permute(1, 2, 0), crop[:, ::-1] if row[0] < 0.5 else crop, atol=1e-6)
