"""The way of an image to the network's size: a deterministic part, done once, and a random part, done each step.

All random choices are functions of uniform numbers handed in (one row an example), so that they do not depend on
how the work is cut into micro-batches, workers or runs (see `training.randomness`).
"""

import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vitft.device import moved
from vitft.settings import Preprocess, larger

UNIFORMS = 24
"""Uniform numbers an example may use in a step: flip, top, left, one spare, then ten (height, aspect) attempts."""

_SMALLEST = 0.05  # of the area: tf.image.sample_distorted_bounding_box as vision_transformer's input_pipeline calls it
_ASPECT = (3 / 4, 4 / 3)


def deterministic(image: NDArray[np.uint8], pp: Preprocess) -> NDArray[np.uint8]:
    """Apply the part that draws nothing: (h, w, 3) uint8 -> `pp.stored_size` + (3,) uint8, or another shape if None.

    The resize is the float tensor operation, rounded to the nearest of 256 levels; for "checkpoint" it is Pillow's, as
    in timm's evaluation, whose numbers this preprocessing is to reproduce.
    """
    h, w = image.shape[:2]
    if pp.crop == "inception":
        return image
    if pp.crop == "random":
        return resized(image, _covering(h, w, pp.enlarged) if pp.keeps_shape else pp.enlarged, pp)
    if pp.resize == "squash":
        return resized(image, pp.size, pp)
    if pp.resize in ("resize-small", "squash-crop"):
        # As big_vision: the longer side is rounded, half a pixel too much is cut off on the right.
        both = (larger(pp.size[0]), larger(pp.size[1]))
        image = resized(image, both if pp.resize == "squash-crop" else _covering(h, w, both), pp)
        return _cut(image, (image.shape[0] - pp.size[0]) // 2, (image.shape[1] - pp.size[1]) // 2, pp.size)
    if pp.before is not None:
        return _as_transformers(image, pp.before, pp)
    # As torchvision's Resize (the longer side truncated) and CenterCrop; for oblongs timm's own Resize, which rounds.
    bound = (math.floor(pp.size[0] / pp.crop_pct), math.floor(pp.size[1] / pp.crop_pct))
    new = _covering(h, w, bound, truncated=bound[0] == bound[1]) if pp.keeps_shape else bound
    image = _pillow(image, new, pp)
    return _cut(image, round((new[0] - pp.size[0]) / 2.0), round((new[1] - pp.size[1]) / 2.0), pp.size)


def _as_transformers(image: NDArray[np.uint8], before: tuple[int, int], pp: Preprocess) -> NDArray[np.uint8]:
    """Resize to `before` with Pillow and cut the centre; where the image is smaller it stands on black."""
    h, w = image.shape[:2]
    new = {"none": (h, w), "squash": before, "center": _covering(h, w, before, truncated=True)}[pp.crop_mode]
    image = _pillow(image, new, pp)
    short = [max(0, side - have) for side, have in zip(pp.size, new, strict=True)]
    # An odd pixel goes before the image, not behind it.
    image = np.pad(image, [((s + 1) // 2, s // 2) for s in short] + [(0, 0)])
    return _cut(image, (image.shape[0] - pp.size[0]) // 2, (image.shape[1] - pp.size[1]) // 2, pp.size)


def _covering(h: int, w: int, size: tuple[int, int], truncated: bool = False) -> tuple[int, int]:
    """Return the smallest (height, width) of the aspect ratio h : w that covers `size`; one of its sides is exact."""
    factor = max(size[0] / h, size[1] / w)
    height, width = ((int(s * factor + 1e-6) if truncated else round(s * factor)) for s in (h, w))
    return max(size[0], height), max(size[1], width)


def _cut(image: NDArray[np.uint8], top: int, left: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    return image[top : top + size[0], left : left + size[1]]


def resized(image: NDArray[np.uint8], size: tuple[int, int], pp: Preprocess) -> NDArray[np.uint8]:
    """Resize (h, w, 3) uint8 to `size`; an image that has the size already is returned as it is."""
    if image.shape[:2] == size:
        return image
    if pp.interpolation == "area":
        return np.rint(area(image, size)).astype(np.uint8)
    x = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    x = F.interpolate(x, size, mode=pp.interpolation, align_corners=False, antialias=pp.antialias)
    out: NDArray[np.uint8] = x[0].round_().clamp_(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    return out


def area(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.float64]:
    """Resize (h, w, 3) to `size` as tf.image.resize(method="area") does: the mean over what each new pixel covers.

    A new pixel covers len / n old ones, parts of them by their share; so enlarging by a whole factor repeats pixels.
    (torch's "area" takes every pixel that is touched at its full weight.)
    """
    out: NDArray[Any] = image
    for axis, n in enumerate(size):
        length = out.shape[axis]
        edges = np.arange(n + 1) * (length / n)
        whole = np.minimum(edges.astype(np.int64), length - 1)
        # The integral of the row up to each edge: what lies between two edges is a difference.
        sums = np.cumsum(out, axis=axis, dtype=np.float64 if axis else np.uint32)
        below = np.where(_along(whole > 0, axis), np.take(sums, np.maximum(whole - 1, 0), axis=axis), 0)
        integral = below + _along(edges - whole, axis) * np.take(out, whole, axis=axis)
        out = np.diff(integral, axis=axis) * (n / length)
    return out


def _along(values: NDArray[Any], axis: int) -> NDArray[Any]:
    return values[:, None, None] if axis == 0 else values[None, :, None]


def _pillow(image: NDArray[np.uint8], size: tuple[int, int], pp: Preprocess) -> NDArray[np.uint8]:
    """Resize as timm's evaluation does; Pillow always antialiases and knows no area resize: those are the tensor's."""
    if not pp.antialias or pp.interpolation == "area":
        return resized(image, size, pp)
    how = Image.Resampling.BICUBIC if pp.interpolation == "bicubic" else Image.Resampling.BILINEAR
    return np.array(Image.fromarray(image).resize((size[1], size[0]), how), dtype=np.uint8)


def random_part(stored: Tensor, uniforms: NDArray[np.float64], pp: Preprocess) -> Tensor:
    """Crop and flip a batch of equal shape, each by its own row of uniforms.

    Args:
        stored: (B, h, w, 3) uint8, on any device.
        uniforms: (B, UNIFORMS) in [0, 1).

    Returns:
        (B, H, W, 3) uint8.
    """
    b, h, w = stored.shape[:3]
    height, width = pp.size
    if pp.crop == "pad":
        pad_h, pad_w = math.ceil(height / 8), math.ceil(width / 8)
        stored = F.pad(stored, (0, 0, pad_w, pad_w, pad_h, pad_h))
        h, w = h + 2 * pad_h, w + 2 * pad_w
    flip = (uniforms[:, 0] < 0.5) & pp.flip
    if (h, w) == (height, width):
        if not flip.any():
            return stored
        mask = moved(torch.from_numpy(flip), stored.device)
        return torch.where(mask[:, None, None, None], stored.flip(2), stored)
    top = np.floor(uniforms[:, 1] * (h - height + 1)).astype(np.int64)
    left = np.floor(uniforms[:, 2] * (w - width + 1)).astype(np.int64)
    rows = top[:, None] + np.arange(height)[None]
    columns = left[:, None] + np.where(flip[:, None], np.arange(width)[None, ::-1], np.arange(width)[None])
    index = [moved(torch.from_numpy(a), stored.device) for a in (np.arange(b)[:, None, None], rows, columns)]
    return stored[index[0], index[1][:, :, None], index[2][:, None, :]]


def random_one(image: NDArray[np.uint8], uniforms: NDArray[np.float64], pp: Preprocess) -> NDArray[np.uint8]:
    """Crop and flip one image of any shape (after `deterministic`) to (H, W, 3) uint8 by one row of uniforms."""
    h, w = image.shape[:2]
    if pp.crop == "inception":
        top, left, height, width = inception_box(h, w, uniforms)
        # big_vision resizes whole images by area, but the boxes of its inception crop bilinearly.
        how = replace(pp, interpolation="bilinear", antialias=False) if pp.interpolation == "area" else pp
        image = resized(image[top : top + height, left : left + width], pp.size, how)
    else:
        top = int(uniforms[1] * (h - pp.size[0] + 1))
        left = int(uniforms[2] * (w - pp.size[1] + 1))
        image = image[top : top + pp.size[0], left : left + pp.size[1]]
    return image[:, ::-1] if pp.flip and uniforms[0] < 0.5 else image


def inception_box(h: int, w: int, uniforms: NDArray[np.float64]) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) of a random box of 5-100 % of the area with aspect ratio 3/4-4/3.

    The distribution is that of tf.image.sample_distorted_bounding_box: the aspect ratio is uniform, then the *height*
    is uniform among those that keep area and image, so small boxes are likelier than with a uniform area. Ten attempts;
    the whole image when none holds (the operation itself makes a hundred: one attempt fails only on tiny images).
    """
    smallest = _SMALLEST * h * w
    for height_u, aspect_u in uniforms[4:].reshape(-1, 2):
        aspect = _ASPECT[0] + (_ASPECT[1] - _ASPECT[0]) * aspect_u
        low = round(math.sqrt(smallest / aspect))
        high = min(int((w + 0.5) / aspect), h)
        height = min(low, high) + int(height_u * (max(high - low, 0) + 1))
        height += height * round(height * aspect) < smallest  # rounding may have left it a pixel short
        width = round(height * aspect)
        if height <= h and width <= w:
            return int(uniforms[1] * (h - height)), int(uniforms[2] * (w - width)), height, width
    return 0, 0, h, w


def normalise(images: Tensor, pp: Preprocess) -> Tensor:
    """Turn (B, H, W, 3) uint8 into (B, 3, H, W) float32, (x / 255 - mean) / std, on the same device."""
    mean, std = _constant(pp.mean, images.device), _constant(pp.std, images.device)
    if images.is_cuda:
        return in_one(images, mean, std)
    return ((images.float() / 255.0 - mean) / std).permute(0, 3, 1, 2).contiguous()


def in_one(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Normalise in one kernel, within rounding of `normalise`: x / (255 std) - mean / std."""
    scale, shift = (values.view(1, 3, 1, 1) for values in (1 / (255 * std), -mean / std))
    b, h, w, _ = images.shape
    out = torch.empty(b, 3, h, w, device=images.device)
    return torch.addcmul(shift, images.permute(0, 3, 1, 2), scale, out=out)


@cache
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(mode=False):  # an evaluation's must serve a training, too
        return torch.tensor(values, device=device)
