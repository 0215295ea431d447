"""Position embeddings: the paper's resize against scipy, timm's against timm, prefix tokens untouched."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import zoom
from timm.layers import resample_abs_pos_embed  # type: ignore[attr-defined]
from timm.layers.patch_embed import resample_patch_embed

from vitft.models.posembed import describe, resize, resize_patch

sides = st.integers(1, 20)


@settings(max_examples=60, deadline=None)
@given(source=st.tuples(sides, sides), target=st.tuples(sides, sides), prefix=st.integers(0, 5))
def test_bilinear_equals_scipy_zoom_from_any_grid_to_any_grid(source, target, prefix):
    table = torch.randn(1, prefix + source[0] * source[1], 3, generator=torch.Generator().manual_seed(0))
    ours = resize(table, source, target, prefix, "bilinear")
    grid = table[0, prefix:].reshape(*source, 3).numpy().astype(np.float64)
    theirs = zoom(grid, (target[0] / source[0], target[1] / source[1], 1), order=1)
    assert theirs.shape[:2] == target
    np.testing.assert_allclose(ours[0, prefix:].reshape(*target, 3), theirs, atol=1e-6)
    assert torch.equal(ours[:, :prefix], table[:, :prefix])


@pytest.mark.parametrize(("source", "target"), [((14, 14), (24, 24)), ((16, 16), (37, 37)), ((14, 14), (7, 20))])
def test_bicubic_is_timms(source, target):
    table = torch.randn(1, 1 + source[0] * source[1], 4)
    theirs = resample_abs_pos_embed(table, list(target), list(source), num_prefix_tokens=1)
    assert torch.equal(resize(table, source, target, 1, "bicubic"), theirs)


def test_equal_counts_on_another_shape_are_resampled():
    table = torch.randn(1, 1 + 18 * 18, 4)
    resized = resize(table, (18, 18), (12, 27), 1, "bilinear")
    assert resized.shape == table.shape
    assert not torch.allclose(resized, table, atol=1e-2)
    # corners stay corners
    for ours, theirs in (((0, 0), (0, 0)), ((0, 26), (0, 17)), ((11, 0), (17, 0)), ((11, 26), (17, 17))):
        torch.testing.assert_close(resized[0, 1 + ours[0] * 27 + ours[1]], table[0, 1 + theirs[0] * 18 + theirs[1]])


def test_same_grid_is_untouched_and_a_wrong_count_is_refused():
    table = torch.randn(1, 17, 4)
    assert resize(table, (4, 4), (4, 4), 1, "bilinear") is table
    assert describe((4, 4), (4, 4), "bilinear") == ""
    assert describe((14, 13), (24, 25), "bicubic") == "position embeddings 14x13 -> 24x25 (bicubic)"
    assert describe((2, 8), (4, 4), "bilinear") == "position embeddings 2x8 -> 4x4 (bilinear)"
    with pytest.raises(ValueError, match="17 position"):
        resize(table, (4, 4), (8, 8), 0, "bilinear")


@pytest.mark.parametrize("target", [(32, 32), (30, 30), (8, 8), (12, 20)])
@pytest.mark.parametrize("source", [(16, 16), (12, 16)])
def test_patch_resize_is_flexivits(source, target):
    kernel = torch.randn(5, 3, *source)
    theirs = resample_patch_embed(kernel, list(target), interpolation="bilinear", antialias=False)
    torch.testing.assert_close(resize_patch(kernel, target), theirs, atol=1e-4, rtol=0)


def test_a_kernel_of_the_wanted_size_keeps_its_bits_and_any_keeps_its_type():
    kernel = torch.randn(5, 3, 4, 6)
    assert resize_patch(kernel, (4, 6)) is kernel and resize_patch(kernel, (6, 4)) is not kernel
    assert resize_patch(kernel.half(), (6, 4)).dtype == torch.float16 and resize_patch(kernel, (6, 4)).is_contiguous()


def test_upscaled_patch_gives_the_same_token_for_an_upscaled_image():
    patch, kernel = torch.randn(1, 3, 8, 8), torch.randn(4, 3, 8, 8)
    larger = torch.nn.functional.interpolate(patch, size=(16, 16), mode="bilinear", align_corners=False)
    token = torch.einsum("bchw,dchw->bd", patch, kernel)
    resized = torch.einsum("bchw,dchw->bd", larger, resize_patch(kernel, (16, 16)))
    torch.testing.assert_close(resized, token, atol=1e-3, rtol=0)
