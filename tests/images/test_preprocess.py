"""Resizes, each against its owner's rule written a second time."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from vitft import recipes
from vitft.images.preprocess import UNIFORMS, _constant, area, deterministic, in_one, normalise, random_one
from vitft.settings import Preprocess


def _tensorflows_area(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """TensorFlow's ResizeArea kernel, pixel by pixel: every old pixel that a new one touches, by how much it does."""
    (h, w, c), (height, width) = image.shape, size
    rows, columns = h / height, w / width
    out = np.zeros((height, width, c))
    for y in range(height):
        low, high = y * rows, (y + 1) * rows
        for x in range(width):
            left, right = x * columns, (x + 1) * columns
            for i in range(math.floor(low), min(math.ceil(high), h)):
                share_y = (high - low if i + 1 > high else i + 1 - low) if i < low else min(high - i, 1.0)
                for j in range(math.floor(left), min(math.ceil(right), w)):
                    share_x = (right - left if j + 1 > right else j + 1 - left) if j < left else min(right - j, 1.0)
                    out[y, x] += share_y * share_x * image[i, j]
    return out / (rows * columns)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((4, 5), (12, 20)),  # up, whole factors
        ((7, 5), (16, 13)),  # up, fractions
        ((12, 20), (4, 5)),  # down, whole factors
        ((23, 17), (9, 5)),  # down, fractions
        ((5, 23), (11, 7)),  # one side each way
        ((1, 9), (3, 1)),
    ],
)
def test_area_is_tensorflows_up_and_down(shape, size):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    wanted = _tensorflows_area(image, size)
    np.testing.assert_allclose(area(image, size), wanted, atol=1e-9)
    pp = Preprocess(size, "squash", interpolation="area")
    assert np.abs(deterministic(image, pp) - wanted).max() <= 0.5 + 1e-9
    assert np.array_equal(deterministic(image, replace(pp, antialias=False)), deterministic(image, pp))
    if shape == (4, 5):
        assert np.array_equal(deterministic(image, pp), image.repeat(3, 0).repeat(4, 1))


def test_big_visions_cifar_pixels_are_repeated_and_its_inception_crop_is_bilinear():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    settings = recipes.load("big-vision").resolve("cifar10")
    pp = Preprocess(settings.size, settings.resize, settings.interpolation, settings.antialias)
    assert np.array_equal(deterministic(image, pp), image.repeat(14, 0).repeat(14, 1)[32:-32, 32:-32])
    stored = deterministic(image, replace(pp, crop=settings.crop, crop_from=settings.crop_from))
    assert np.array_equal(stored, image.repeat(14, 0).repeat(14, 1))
    row = np.full(UNIFORMS, 0.5)
    boxed = random_one(image, row, replace(pp, crop="inception"))
    plain = replace(pp, crop="inception", interpolation="bilinear", antialias=False)
    assert np.array_equal(boxed, random_one(image, row, plain))


def test_big_visions_few_shot_squashes_to_256_and_crops_224():
    image = np.random.default_rng(0).integers(0, 256, (100, 300, 3), dtype=np.uint8)
    pp = Preprocess((224, 224), "squash-crop", antialias=False)
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    wanted = nn.functional.interpolate(x, (256, 256), mode="bilinear")[0, :, 16:-16, 16:-16]
    assert np.abs(deterministic(image, pp) - wanted.permute(1, 2, 0).numpy()).max() <= 0.5 + 1e-4


def test_one_kernel_normalises_as_three_steps_do():
    pixels = torch.randint(0, 256, (2, 5, 4, 3), dtype=torch.uint8)
    pp = Preprocess((5, 4), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    expected = (pixels.numpy() / 255 - pp.mean) / pp.std
    with torch.inference_mode():
        normalise(pixels, pp)
    assert not _constant(pp.std, pixels.device).is_inference()  # an evaluation's serve a training, too
    for found in (in_one(pixels, torch.tensor(pp.mean), torch.tensor(pp.std)), normalise(pixels, pp)):
        assert found.is_contiguous() and found.dtype == torch.float32
        np.testing.assert_allclose(found.permute(0, 2, 3, 1), expected, atol=2e-6)


@pytest.mark.parametrize(
    ("shape", "size", "rows", "columns"),
    [
        ((3, 4), (6, 5), (2, 5, 0, 3), (1, 5, 0, 4)),  # of an odd number of missing pixels one more is before
        ((3, 4), (4, 8), (1, 4, 0, 3), (2, 6, 0, 4)),
        ((7, 4), (4, 6), (0, 4, 1, 5), (1, 5, 0, 4)),  # cut and enlarged
        ((8, 9), (4, 4), (0, 4, 2, 6), (0, 4, 2, 6)),
        ((4, 6), (4, 6), (0, 4, 0, 4), (0, 6, 0, 6)),
    ],
)
def test_what_is_cut_from_an_image_that_is_smaller_stands_on_black(shape, size, rows, columns):
    """As the transformers library's center_crop: rows and columns of the result, and of the image there."""
    image = np.random.default_rng(0).integers(1, 256, (*shape, 3), dtype=np.uint8)
    expected = np.zeros((*size, 3), np.uint8)
    (a, b, c, d), (e, f, g, h) = rows, columns
    expected[a:b, e:f] = image[c:d, g:h]
    for before, mode in ((size, "none"), (shape, "squash"), (shape, "center")):
        pp = Preprocess(size, resize="checkpoint", crop_mode=mode, before=before)
        assert np.array_equal(deterministic(image, pp), expected)
