"""Pixels at their edges: wide samples, transparency, half an image, a full disk."""

import dataclasses
import hashlib
import io
import math

import numpy as np
import pytest
from PIL import Image

from tests.data.test_edges import rows
from tests.data.test_label_rules import picture
from tests.layouts import refused
from vitft.data.split import Split
from vitft.errors import DataDamaged
from vitft.images import cache, fingerprints
from vitft.images.decode import _to_rgb, decode
from vitft.settings import Preprocess, larger


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VITFT_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("mode", "colour"),
    [("RGBA", (255, 0, 0, 0)), ("RGBa", (0, 0, 0, 0)), ("LA", (9, 0)), ("PA", (0, 0))],
)
def test_what_is_transparent_is_white(mode, colour):
    assert (np.asarray(_to_rgb(Image.new(mode, (2, 2), colour))) == 255).all()


def tiff(values: list[float], kind: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.array([values], kind)).save(out, "TIFF")
    return out.getvalue()


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([0, 128, 65535, 32768], "<u2", [0, round(128 / 257), 255, round(32768 / 257)]),
        ([0, 200, 255], "<u2", [0, 200, 255]),  # eight bits in a wide file
        ([0, 257, 65535], ">u2", [0, 1, 255]),
        ([128, 65407, 65535], "<u2", [0, 255, 255]),  # 65,407 / 257 = 254.502
        ([0, 257, 65535], "<i4", [0, 1, 255]),
        ([0, 256, 1000], "<i4", [0, 1, 4]),
        ([0, 128, 256], "<i4", [0, 0, 1]),
        ([0, 255], "<i4", [0, 255]),
        ([0.0, 1.5, 255.0], "<f4", [0, 2, 255]),
        ([0.0, 1.6, 254.5], "<f4", [0, 2, 254]),
        ([0.0, 1.5], "<f4", [0, 2]),
        ([0.0, 0.5, 1.0], "<f4", [0, 128, 255]),
    ],
)
def test_wide_samples_are_scaled_and_never_cut(values, kind, expected):
    assert decode(tiff(values, kind), "k")[0, :, 0].tolist() == expected
    for bad in ([-1.0, 0.0], [0.0, 255.5], [0.0, math.nan], [math.nan, math.nan], [math.inf, 0.0], [0.0, -math.inf]):
        refused(lambda bad=bad: decode(tiff(bad, "<f4"), "k"), "floating-point samples", kind=DataDamaged)
    for low, high in ((0, 65536), (7, 70000), (-2, -1)):
        refused(
            lambda low=low, high=high: decode(tiff([high, low], "<i4"), "k"), f"has samples from {low} to {high}.",
            kind=DataDamaged,
        )  # fmt: skip


def test_the_depth_of_an_icon_is_the_one_of_the_picture_inside_it():
    """Before it is read an ICNS says RGBA of any picture."""
    wide, out = np.full((128, 128), 257 * 9, np.uint16), io.BytesIO()
    wide[0, :2] = 0, 65535
    Image.fromarray(wide).save(out, "PNG")
    png = out.getvalue()
    icon = b"icns" + (16 + len(png)).to_bytes(4, "big") + b"ic07" + (8 + len(png)).to_bytes(4, "big") + png
    assert decode(icon, "k")[0, :3].tolist() == [[0] * 3, [255] * 3, [9] * 3]


def test_a_picture_is_turned_where_that_is_asked_for():
    out, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", (4, 2)).save(out, "JPEG", exif=exif)
    shapes = [decode(out.getvalue(), "k", *how).shape for how in ((), (False,), (True,))]
    assert shapes == [(2, 4, 3), (2, 4, 3), (4, 2, 3)]


def test_what_is_opaque_keeps_its_colours():
    assert np.asarray(_to_rgb(Image.new("L", (1, 1), 7))).tolist() == [[[7, 7, 7]]]
    assert np.asarray(_to_rgb(Image.new("RGBA", (1, 1), (1, 2, 3, 255)))).tolist() == [[[1, 2, 3]]]
    half = np.asarray(_to_rgb(Image.new("RGBA", (1, 1), (0, 100, 200, 128))))[0, 0]
    assert np.abs(half - (255 * 127 / 255 + np.array([0, 100, 200]) * 128 / 255)).max() <= 1


@pytest.mark.parametrize("data", [b"", b"x", picture(1)[:-40], picture(1, "PNG")[:30]])
def test_what_is_no_whole_image_is_named(data):
    error = refused(lambda: decode(data, "the key"), "'the key'", "cannot be decoded", kind=DataDamaged)
    assert ("empty file" in str(error)) == (not data)
    assert data != b"x" or "(UnidentifiedImageError: cannot identify image file)" in str(error)


def test_pixels_are_kept_once_and_never_taken_for_others(tmp_path):
    read: list[int] = []
    images = [picture(40 * i, "PNG", (6 + i % 2, 8, 3)) for i in range(5)]

    def counting(i: int) -> bytes:
        read.append(i)
        return images[i]

    split = dataclasses.replace(rows(5, [0, 1, 0, 1, 0]), read=counting)
    pp = Preprocess((4, 4))
    first = taken(split, pp)
    decoded = [np.asarray(Image.open(io.BytesIO(data))) for data in images]
    assert first.shape == (5, 4, 4, 3) and first.dtype == np.uint8
    assert [int(row[0, 0, 0]) for row in first] == [int(image[0, 0, 0]) for image in decoded]
    files = list((tmp_path / "cache" / "pixels").iterdir())
    assert [f.suffix for f in files] == [".npy"] and not files[0].name.startswith(".")
    assert np.array_equal(np.load(files[0]), first)
    assert len(read) == 5  # once, to be digested and decoded
    assert np.array_equal(taken(split, pp), first) and np.array_equal(taken(dataclasses.replace(split), pp), first)
    assert len(read) == 5  # the digests of an opened split are kept with it; another one reads its images for them
    opened_again = dataclasses.replace(rows(5, [0, 1, 0, 1, 0]), read=counting)
    assert np.array_equal(taken(opened_again, pp), first) and len(read) == 10
    taken(split, pp)[:] = 0  # what one run writes never reaches the file
    assert np.array_equal(taken(split, pp), first)
    prints = [hashlib.blake2b(data, digest_size=16).digest() for data in images]
    assert fingerprints.fingerprints(split).tobytes() == b"".join(prints)
    assert fingerprints.encoded_digest(split) == hashlib.sha256(b"".join(prints)).hexdigest()
    assert cache.pixels(split.select([]), pp) is None
    assert cache.pixels(split, Preprocess((4, 4), crop="inception")) is None


def taken(split: Split, pp: Preprocess) -> np.ndarray:
    stored = cache.pixels(split, pp, 2)
    assert stored is not None and stored.on_disk
    return stored.rows(range(len(split)))


def test_the_enlarged_side_is_that_of_the_published_pairs():
    assert [larger(s) for s in (32, 64, 127, 128, 160, 224, 256, 384, 448, 512)] == [
        37, 73, 145, 160, 192, 256, 320, 448, 512, 608,
    ]  # fmt: skip
    assert Preprocess((384, 384)).enlarged == (448, 448) and Preprocess((64, 128)).enlarged == (73, 160)
    assert Preprocess((40, 20), crop_from=60).enlarged == (60, 30) and Preprocess((40, 20), crop_from=30).enlarged == (
        40,
        20,
    )


def test_reading_for_digests_is_told_every_thousand_images_and_stops_when_asked(monkeypatch):
    from vitft.errors import Interrupted
    from vitft.progress import Hooks

    told: list[tuple[str, int, int]] = []
    read: list[int] = []
    plain = rows(2500, [i % 2 for i in range(2500)])
    split = dataclasses.replace(plain, read=lambda i: read.append(i) or str(i).encode())  # type: ignore[func-returns-value]
    found = fingerprints.fingerprints(split, Hooks(phase=lambda what, done, of: told.append((what, done, of))))
    assert told == [("read drawn train", 1000, 2500), ("read drawn train", 2000, 2500)] and len(found) == 2500
    assert sorted(read) == list(range(2500))
    asked = dataclasses.replace(rows(3, [0, 1, 0]), read=lambda i: b"x")
    with pytest.raises(Interrupted):
        fingerprints.fingerprints(asked, Hooks(signal=lambda: 15))


def by_tensorflow(h: int, w: int, uniforms: np.ndarray) -> tuple[int, int, int, int]:
    """Draw a box as GenerateRandomCrop of tensorflow's sample_distorted_bounding_box does, from given numbers."""
    small, large = 0.05 * h * w, 1.0 * h * w
    for height_u, aspect_u in uniforms[4:24].reshape(10, 2):
        aspect = 0.75 + aspect_u * (4 / 3 - 0.75)
        height, most = round(math.sqrt(small / aspect)), round(math.sqrt(large / aspect))
        if round(most * aspect) > w:
            most = int((w + 0.5 - 1e-7) / aspect)
            if round(most * aspect) > w:
                most -= 1
        most = min(most, h)
        height = min(height, most)
        if height < most:
            height += int(height_u * (most - height + 1))
        width = round(height * aspect)
        if width * height < small:
            height += 1
        elif width * height > large:
            height -= 1
        width = round(height * aspect)
        if width * height < small or width * height > large or not 0 < width <= w or not 0 < height <= h:
            continue
        top = int(uniforms[1] * (h - height)) if height < h else 0
        left = int(uniforms[2] * (w - width)) if width < w else 0
        return top, left, height, width
    return 0, 0, h, w


@pytest.mark.parametrize("most", [4, 12, 60, 400])
def test_the_box_of_an_inception_crop_is_tensorflows(most):
    from vitft.images.preprocess import UNIFORMS, inception_box

    rng = np.random.default_rng(most)
    for k in range(1500):
        h, w = (int(n) for n in rng.integers(1, (most + 1, 8 if k % 5 == 0 else most + 1)))
        h, w = (w, h) if k % 10 == 0 else (h, w)
        uniforms = rng.random(UNIFORMS)
        assert inception_box(h, w, uniforms) == by_tensorflow(h, w, uniforms), (h, w)
        uniforms[5::2] = 0  # aspect 3/4 exactly, where half a pixel is rounded up or down
        top, left, height, width = inception_box(h, w, uniforms)
        assert 0 <= top <= h - height and 0 <= left <= w - width and height * width >= 0.05 * h * w


@pytest.mark.parametrize(
    ("interpolation", "antialias"), [("bilinear", True), ("bilinear", False), ("bicubic", True), ("area", True)]
)
def test_an_inception_crop_is_its_box_resized_and_half_of_them_mirrored(interpolation, antialias):
    import torch

    from vitft.images.preprocess import UNIFORMS, deterministic, random_one

    rng = np.random.default_rng(4)
    image = rng.integers(0, 256, (90, 70, 3), dtype=np.uint8)
    pp = Preprocess((6, 9), interpolation=interpolation, antialias=antialias, crop="inception", flip=True)
    assert deterministic(image, pp) is image
    mode, low_pass = ("bilinear", False) if interpolation == "area" else (interpolation, antialias)
    for mirrored in (0.49, 0.5, 0.2, 0.8):
        u = rng.random(UNIFORMS)
        u[0] = mirrored
        top, left, height, width = by_tensorflow(90, 70, u)
        box = torch.from_numpy(image[top : top + height, left : left + width].copy()).permute(2, 0, 1)[None].float()
        new = torch.nn.functional.interpolate(box, (6, 9), mode=mode, antialias=low_pass)[0]
        expected = new.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
        assert np.array_equal(random_one(image, u, pp), expected[:, ::-1] if mirrored < 0.5 else expected)
        assert np.array_equal(random_one(image, u, dataclasses.replace(pp, flip=False)), expected)


@pytest.mark.parametrize("size", [(16, 24), (24, 16)])
def test_an_oblong_crop_of_one_image_is_that_of_a_batch(size):
    import torch

    from vitft.images.preprocess import UNIFORMS, random_one, random_part

    rng = np.random.default_rng(3)
    stored = rng.integers(0, 256, (40, 30, 33, 3), dtype=np.uint8)
    drawn = rng.random((40, UNIFORMS))
    drawn[0, 1:3], drawn[1, 1:3] = 0.0, 1 - 1e-12  # the first and the last place
    drawn[2:4, 0] = 0.5, 0.5 - 1e-12  # not mirrored, and mirrored
    pp = Preprocess(size, crop="random", crop_from=33, flip=True)
    batch = random_part(torch.from_numpy(stored), drawn, pp).numpy()
    for image, u, found in zip(stored, drawn, batch, strict=True):
        top, left = int(u[1] * (30 - size[0] + 1)), int(u[2] * (33 - size[1] + 1))
        expected = image[top : top + size[0], left : left + size[1]]
        expected = expected[:, ::-1] if u[0] < 0.5 else expected
        assert np.array_equal(found, expected) and np.array_equal(random_one(image, u, pp), expected)


def test_images_that_stand_in_two_splits_are_told_by_their_whole_digest():
    from vitft.images.overlap import among, overlap
    from vitft.progress import Hooks

    half = np.random.default_rng(0).integers(0, 256, (5, 8), dtype=np.uint8)

    def digests(*pairs: tuple[int, int]) -> np.ndarray:
        return np.array([np.concatenate([half[a], half[b]]) for a, b in pairs], np.uint8).reshape(-1, 16)

    images, others = digests((0, 1), (0, 2), (3, 1), (4, 4)), digests((0, 1), (3, 3), (4, 4), (2, 2), (0, 1))
    assert among(images, others).tolist() == [True, False, False, True]
    assert among(others, images).tolist() == [True, False, True, False, True]
    assert not among(images, digests()).any() and among(digests(), images).shape == (0,)
    held_out = dataclasses.replace(rows(6, [0, 1] * 3), read=lambda i: b"abcdef"[i : i + 1])
    prints = fingerprints.fingerprints(held_out)
    trained = {"train": prints[[0]], "dev": prints[[1, 2]], "else": digests((0, 1))}
    found = overlap(held_out, trained, {"val": prints[[1, 3, 4]], "train": prints[[4, 4]]}, Hooks())
    assert found.n == 5 and found.splits == {"train": 2, "dev": 2, "val": 1}


def test_an_image_whose_header_says_nothing_is_named_where_sizes_are_looked_at():
    from vitft.images import sizes

    split = dataclasses.replace(rows(2, [0, 1]), read=lambda i: picture(1, "PNG", (3, 5, 3)) if i else b"x")
    refused(lambda: sizes.median(split), "'drawn train: train-0'", "cannot be decoded", kind=DataDamaged)
    assert sizes.median(split.select([1])).pixels == 15
