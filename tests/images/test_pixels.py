"""Every pixel a network sees, against an operation written a second time or another library's."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform  # type: ignore[attr-defined]

from tests import reference
from vitft.evaluation.network import preprocess
from vitft.images.preprocess import (
    UNIFORMS,
    deterministic,
    inception_box,
    normalise,
    random_one,
    random_part,
)
from vitft.models.build import build
from vitft.settings import Preprocess, Settings

IMAGE = np.random.default_rng(3).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def kernel(x: np.ndarray, mode: str, antialias: bool) -> np.ndarray:
    x = np.abs(x)
    if mode == "bilinear":
        return np.maximum(0, 1 - x)
    # Keys' cubic. With the low-pass torch takes Pillow's a = -0.5, without it OpenCV's -0.75.
    a = -0.5 if antialias else -0.75
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    return np.where(x < 1, near, np.where(x < 2, a * (x**3 - 5 * x**2 + 8 * x - 4), 0))


def matrix(n: int, m: int, mode: str, antialias: bool) -> np.ndarray:
    """Return (m, n): how m pixels are mixed from n, with half-pixel centres."""
    scale = n / m
    wide = max(1.0, scale) if antialias else 1.0
    rows = np.zeros((m, n))
    for i in range(m):
        centre = (i + 0.5) * scale - 0.5
        taps = np.arange(-int(4 * wide) - 2, n + int(4 * wide) + 3)
        weights = kernel((taps - centre) / wide, mode, antialias)
        if antialias:  # what lies outside is left out, and the rest is scaled to 1
            weights[(taps < 0) | (taps >= n)] = 0
            weights /= weights.sum()
        np.add.at(rows[i], np.clip(taps, 0, n - 1), weights)  # else the edge is repeated
    return rows


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(12, 16), (20, 37), (96, 80)])
def test_a_resize_is_the_weighted_sum_that_its_name_says(mode, antialias, size):
    pp = Preprocess(size, interpolation=mode, antialias=antialias)
    down, across = matrix(48, size[0], mode, antialias), matrix(64, size[1], mode, antialias)
    expected = np.einsum("ij,jkc,lk->ilc", down, IMAGE.astype(float), across).clip(0, 255)
    got = deterministic(IMAGE, pp).astype(float)
    assert np.abs(got - expected).max() <= 0.5 + 1e-3  # rounded to the nearest level
    other = deterministic(IMAGE, Preprocess(size, interpolation=mode, antialias=not antialias)).astype(float)
    assert (size[0] > 48) or np.abs(other - expected).mean() > 5  # the low-pass decides what a smaller image is


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    "size",
    # Margins 3, 5 and 4 at crop fraction 0.875: 1.5 and 2.5 go to 2. Of oblongs timm rounds the longer side.
    [(21, 21), (35, 35), (28, 28), (21, 35), (28, 21)],
)
@pytest.mark.parametrize("fraction", [0.875, 0.9])  # at 0.9 the side before the crop is cut to whole pixels
@pytest.mark.parametrize("mode", ["center", "squash"])
@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (24, 24), (41, 67)])
def test_the_centre_crop_lies_where_timm_has_it(interpolation, size, fraction, mode, shape):
    if size[0] != size[1]:
        interpolation = "bilinear"  # older versions of timm know no other one for oblongs
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    pp = Preprocess(size, "checkpoint", interpolation=interpolation, crop_pct=fraction, crop_mode=mode)
    theirs = create_transform(
        (3, *size),
        interpolation=interpolation,
        crop_pct=fraction,
        crop_mode=mode,
        normalize=False,
        use_prefetcher=False,
    )(Image.fromarray(image))
    assert np.array_equal(deterministic(image, pp), theirs.permute(1, 2, 0).numpy())


@pytest.mark.parametrize(
    ("resize", "shape", "new", "top", "left"),
    [
        # 14 x 21 is cut from what covers 16 x 24 in the image's own shape, the longer side rounded; half a pixel too
        # much is cut off on the right.
        ("resize-small", (30, 50), (16, 27), 1, 3),
        ("resize-small", (50, 30), (40, 24), 13, 1),
        ("resize-small", (33, 20), (40, 24), 13, 1),
        ("resize-small", (16, 24), (16, 24), 1, 1),
        ("squash-crop", (30, 50), (16, 24), 1, 1),
    ],
)
def test_big_visions_crops_of_an_oblong_network(resize, shape, new, top, left):
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    whole = deterministic(image, Preprocess(new))
    assert whole.shape == (*new, 3)
    assert np.array_equal(deterministic(image, Preprocess((14, 21), resize)), whole[top : top + 14, left : left + 21])


def test_without_the_low_pass_the_checkpoints_own_resize_is_the_plain_one():
    pp = Preprocess((24, 24), "checkpoint", antialias=False, crop_pct=0.75)
    plain = deterministic(IMAGE, Preprocess((32, 42), antialias=False))  # 48 x 64 -> 32 x 42.67, cut to 42
    assert np.array_equal(deterministic(IMAGE, pp), plain[4:28, 9:33])


@pytest.mark.parametrize("crop", ["random", "pad"])
@pytest.mark.parametrize("corner", [0.0, 1 - 1e-9])
def test_a_crop_reaches_the_first_and_the_last_row_and_column(crop, corner):
    stored = np.random.default_rng(0).integers(1, 256, (2, 21, 26, 3), dtype=np.uint8)
    pp = Preprocess((16, 16) if crop == "random" else (21, 26), crop=crop)
    whole = stored if crop == "random" else np.pad(stored, ((0, 0), (3, 3), (4, 4), (0, 0)))  # an eighth, rounded up
    height, width = pp.size
    for down, across in ((corner, 0.0), (0.0, corner), (corner, corner)):
        row = np.full(UNIFORMS, 0.9)
        row[1:3] = down, across
        top, left = (whole.shape[1] - height) * (down > 0), (whole.shape[2] - width) * (across > 0)
        expected = whole[:, top : top + height, left : left + width]
        assert np.array_equal(random_part(torch.from_numpy(stored), np.stack([row, row]), pp).numpy(), expected)
        if crop == "random":
            assert np.array_equal(random_one(stored[0], row, pp), expected[0])


def test_every_place_of_a_crop_is_equally_likely():
    stored = torch.arange(5 * 7, dtype=torch.uint8).reshape(1, 5, 7, 1).expand(1, 5, 7, 3)
    pp = Preprocess((3, 4), crop="random")
    places = []
    for i in range(3 * 4 * 9):
        row = np.full(UNIFORMS, 0.9)
        row[1:3] = (i % 9 + 0.5) / 9, (i // 9 + 0.5) / 12
        places.append(int(random_part(stored, row[None], pp)[0, 0, 0, 0]))
        assert int(random_one(stored[0].numpy(), row, pp)[0, 0, 0]) == places[-1]
    assert sorted({*places}) == sorted(7 * top + left for top in range(3) for left in range(4))
    assert {places.count(place) for place in places} == {9}


@pytest.mark.parametrize("crop", ["none", "random", "pad", "inception"])
def test_half_of_the_views_are_mirrored_and_only_where_it_is_asked_for(crop):
    image = np.random.default_rng(0).integers(1, 256, (20, 20, 3), dtype=np.uint8)
    for flip in (True, False):
        pp = Preprocess((20, 20) if crop in ("none", "pad") else (16, 16), crop=crop, flip=flip)
        for u in (0.0, 0.4999, 0.5, 0.9999):
            row = np.full(UNIFORMS, 0.3)
            row[0] = u
            view = random_one if crop in ("random", "inception") else lambda i, r, p: random_part(torch.from_numpy(i[None]), r[None], p)[0].numpy()  # noqa: E501  # fmt: skip
            still = view(image, row, Preprocess(pp.size, crop=crop))
            assert np.array_equal(view(image, row, pp), still[:, ::-1] if flip and u < 0.5 else still)


@given(h=st.integers(8, 200), w=st.integers(8, 200), seed=st.integers(0, 9999))
@hypothesis_settings(max_examples=150, deadline=None, derandomize=True)
def test_the_inception_box_is_that_of_the_kernel_it_is_named_after(h, w, seed):
    row = np.random.default_rng(seed).random(UNIFORMS)
    assert inception_box(h, w, row) == reference.box(h, w, row)


def test_each_channel_has_its_own_mean_and_deviation():
    mean, std = (0.1, 0.45, 0.8), (0.2, 0.5, 0.9)
    batch = torch.from_numpy(IMAGE[None].copy())
    got = normalise(batch, Preprocess((48, 64), mean=mean, std=std)).numpy()
    expected = (IMAGE.astype(np.float64) / 255 - np.array(mean)) / np.array(std)
    assert got.shape == (1, 3, 48, 64) and got.dtype == np.float32
    np.testing.assert_allclose(got[0].transpose(1, 2, 0), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["imagenet", "half", "none", "checkpoint"])
def test_a_normalisation_is_what_its_name_says(name):
    import timm.data.constants as published

    info = build("timm:test_vit", 3, Settings(resolution=32), from_scratch=True).info
    own = Preprocess((32, 32), mean=(0.1, 0.2, 0.3), std=(0.3, 0.2, 0.1))
    pp = preprocess(Settings(resolution=32, normalise=name), info, own)
    assert (pp.mean, pp.std) == {
        "imagenet": (published.IMAGENET_DEFAULT_MEAN, published.IMAGENET_DEFAULT_STD),
        "half": (published.IMAGENET_INCEPTION_MEAN, published.IMAGENET_INCEPTION_STD),
        "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        "checkpoint": ((0.1, 0.2, 0.3), (0.3, 0.2, 0.1)),
    }[name]
    assert preprocess(Settings(resolution=32), info).mean == info.mean
