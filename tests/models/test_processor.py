"""preprocessor_config.json, key by key: what each key and each absent one means, from the library's documentation."""

from typing import Any

import pytest

from vitft.errors import CheckpointError
from vitft.models.processor import Stamp, read

HALF = (0.5, 0.5, 0.5)
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
ALL = ("mean", "std", "crop_pct", "interpolation")
SMALL, LARGE = (32, 32), (224, 224)
CROPPED = {"do_center_crop": True, "crop_size": 32}


def said(**changes: Any) -> dict[str, Any]:
    """Return a file that says everything, so that nothing is assumed, with changes; None leaves a key out."""
    whole = {"size": 32, "resample": 2, "image_mean": list(HALF), "image_std": list(HALF)}
    return {key: value for key, value in {**whole, **changes}.items() if value is not None}


def stamp(
    interpolation: Any = "bilinear",
    mode: Any = "squash",
    before: Any = None,
    crop_pct: float = 1.0,
    assumed: tuple[str, ...] = (),
    colours: Any = (HALF, HALF),
    left_out: tuple[str, ...] = (),
) -> Stamp:
    notes = tuple(f"preprocessor_config.json: '{key}' means nothing here and was left out" for key in left_out)
    mean, std = colours
    return Stamp(mean, std, interpolation, mode, before, crop_pct, assumed, notes)


@pytest.mark.parametrize(
    ("name", "native", "expected"),
    [
        ("ViT", LARGE, stamp(assumed=ALL)),
        ("DeiT", LARGE, stamp("bicubic", before=(256, 256), crop_pct=224 / 256, assumed=ALL)),
        ("Bit", LARGE, stamp("bicubic", "center", LARGE, assumed=ALL, colours=CLIP)),
        ("CLIP", LARGE, stamp("bicubic", "center", LARGE, assumed=ALL, colours=CLIP)),
        ("ViTHybrid", LARGE, stamp("bicubic", "center", LARGE, assumed=ALL, colours=CLIP)),
        ("Siglip", LARGE, stamp("bicubic", assumed=ALL)),
        ("ConvNext", (384, 384), stamp("bicubic", assumed=ALL)),
    ],
)
@pytest.mark.parametrize("form", ["ImageProcessor", "ImageProcessorFast", "FeatureExtractor"])
def test_each_processor_has_the_librarys_defaults(name, native, expected, form):
    for key in ("image_processor_type", "feature_extractor_type"):
        assert read({key: name + form}, "vit", native, "m") == expected


@pytest.mark.parametrize(
    ("file", "kind", "native", "expected"),
    [
        # nothing said: the model's own processor, its size that of the network
        ({}, "vit", SMALL, stamp(assumed=ALL)),
        ({}, "deit", SMALL, stamp("bicubic", before=(36, 36), crop_pct=32 / 36, assumed=ALL)),
        ({}, "deit", (448, 224), stamp("bicubic", before=(512, 256), crop_pct=448 / 512, assumed=ALL)),
        (dict.fromkeys(("size", "crop_pct", "do_resize", "colour")), "vit", SMALL, stamp(assumed=ALL)),
        # one key after the other
        (said(), "vit", SMALL, stamp()),
        (said(image_mean=None), "vit", SMALL, stamp(assumed=("mean",))),
        (said(image_std=None), "vit", SMALL, stamp(assumed=("std",))),
        (said(resample=None), "vit", SMALL, stamp(assumed=("interpolation",))),
        (said(size=None), "vit", SMALL, stamp(assumed=("crop_pct",))),
        (said(resample=3), "vit", SMALL, stamp("bicubic")),
        (said(resample="bicubic"), "vit", SMALL, stamp("bicubic")),
        (said(resample="bilinear"), "vit", SMALL, stamp()),
        # resize and crop
        (said(size=37, **CROPPED), "vit", SMALL, stamp(before=(37, 37), crop_pct=32 / 37)),
        (said(size=32, **CROPPED), "vit", SMALL, stamp()),
        (said(size={"height": 41, "width": 36}, **CROPPED), "vit", SMALL, stamp(before=(41, 36), crop_pct=32 / 41)),
        (said(size=[41, 36], do_center_crop=True, crop_size={"height": 40, "width": 32}), "vit", (40, 32),
         stamp(before=(41, 36), crop_pct=40 / 41)),
        (said(size={"shortest_edge": 37, "longest_edge": None}, **CROPPED), "vit", SMALL,
         stamp(mode="center", before=(37, 37), crop_pct=32 / 37)),
        (said(size={"shortest_edge": 32}, **CROPPED), "vit", SMALL, stamp(mode="center", before=(32, 32))),
        (said(size=37, default_to_square=False, **CROPPED), "vit", SMALL,
         stamp(mode="center", before=(37, 37), crop_pct=32 / 37)),
        (said(size=37, default_to_square="odd", **CROPPED), "vit", SMALL, stamp(before=(37, 37), crop_pct=32 / 37)),
        (said(image_processor_type="CLIPImageProcessor", size=37, crop_size=32, default_to_square=1), "vit", SMALL,
         stamp(mode="center", before=(37, 37), crop_pct=32 / 37)),
        (said(image_processor_type="CLIPImageProcessor", size=37, crop_size=32), "vit", SMALL,
         stamp(mode="center", before=(37, 37), crop_pct=32 / 37)),
        (said(image_processor_type="CLIPImageProcessor", size=37, crop_size=32, default_to_square=True), "vit", SMALL,
         stamp(before=(37, 37), crop_pct=32 / 37)),
        (said(image_processor_type="CLIPImageProcessor", size=[37, 38], crop_size=32), "vit", SMALL,
         stamp(before=(37, 38), crop_pct=32 / 37)),
        (said(image_processor_type="CLIPImageProcessor", size=256, crop_size=None), "vit", LARGE,
         stamp(mode="center", before=(256, 256), crop_pct=224 / 256, assumed=("crop_pct",))),
        (said(size={"height": 256, "width": 288}, do_center_crop=True), "vit", LARGE,
         stamp(before=(256, 288), crop_pct=224 / 256, assumed=("crop_pct",))),
        (said(image_processor_type="DeiTImageProcessor", do_center_crop=False), "deit", SMALL, stamp()),
        (said(size=1 << 14), "vit", (1 << 14, 1 << 14), stamp()),
        (said(size=None, resample=None, do_resize=False, **CROPPED), "vit", SMALL, stamp(mode="none", before=SMALL)),
        # a crop that is not said is what the network reads; a size that is said stays as it is
        (said(size=37, do_center_crop=True), "vit", SMALL,
         stamp(before=(37, 37), crop_pct=32 / 37, assumed=("crop_pct",))),
        (said(image_processor_type="DeiTImageProcessor", size=438), "deit", (384, 384),
         stamp(before=(438, 438), crop_pct=384 / 438, assumed=("crop_pct",))),
        (said(do_resize=False, do_center_crop=True), "vit", LARGE,
         stamp(mode="none", before=LARGE, assumed=("crop_pct",))),
        (said(image_processor_type="DeiTImageProcessor", size=256, do_resize=False), "deit", SMALL,
         stamp(mode="none", before=SMALL, assumed=("crop_pct",))),
        # ConvNext: below 384 pixels int(size / crop_pct) and the centre, else all is kept
        (said(crop_pct=0.8), "vit", SMALL, stamp(mode="center", before=(40, 40), crop_pct=0.8)),
        (said(crop_pct=1), "vit", SMALL, stamp(mode="center", before=SMALL)),
        (said(crop_pct=0.875, size={"shortest_edge": 383}), "vit", (383, 383),
         stamp(mode="center", before=(437, 437), crop_pct=383 / 437)),
        (said(crop_pct=0.875, size={"shortest_edge": 384}), "vit", (384, 384), stamp()),
        (said(crop_pct=0.8, size=None, resample=None), "vit", LARGE,
         stamp("bicubic", assumed=("crop_pct", "interpolation"))),
        (said(image_processor_type="ConvNextImageProcessor", crop_size=20), "vit", SMALL,
         stamp(mode="center", before=(36, 36), crop_pct=32 / 36, left_out=("crop_size",))),
        # mean and std are of pixels times rescale_factor
        (said(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6], rescale_factor=1 / 127.5), "vit", SMALL,
         stamp(colours=((0.05, 0.1, 0.15), (0.2, 0.25, 0.3)))),
        (said(image_mean=0.3, image_std=[0.4, 0.5, 0.6], rescale_factor=0.00392156862745098), "vit", SMALL,
         stamp(colours=((0.3, 0.3, 0.3), (0.4, 0.5, 0.6)))),
        (said(image_mean=51, image_std=255, do_rescale=False, rescale_factor=3), "vit", SMALL,
         stamp(colours=((0.2,) * 3, (1.0,) * 3))),
        (said(image_mean=None, image_std=None, do_normalize=False, rescale_factor=1 / 51), "vit", SMALL,
         stamp(colours=((0.0,) * 3, (0.2,) * 3))),
        (said(image_mean=[9, 9, 9], image_std=[0, 0, 0], do_normalize=False), "vit", SMALL,
         stamp(colours=((0.0,) * 3, (1.0,) * 3))),
        # keys without a meaning here
        (said(colour="odd", crop_size=20, antialias=1), "vit", SMALL,
         stamp(left_out=("antialias", "colour", "crop_size"))),
        (said(do_pad=False, do_flip=None, rescale_offset=False, odd=False), "vit", SMALL, stamp()),
        (said(**dict.fromkeys((
            "processor_class", "_processor_class", "auto_map", "do_convert_rgb", "data_format", "input_data_format",
            "return_tensors", "device", "disable_grouping", "model_input_names", "_valid_processor_keys"), True),
        ), "vit", SMALL, stamp()),
    ],
)  # fmt: skip
def test_what_a_file_says(file, kind, native, expected):
    found = read(file, kind, native, "m")
    assert (found.mean, found.std) == (pytest.approx(expected.mean), pytest.approx(expected.std))
    rest = [(s.interpolation, s.crop_mode, s.before, s.crop_pct, s.assumed, s.notes) for s in (found, expected)]
    assert rest[0] == rest[1]


@pytest.mark.parametrize(
    ("file", "told"),
    [
        (said(resample=0), "resample '0 (nearest)'"),
        (said(resample=1), "resample '1 (lanczos)'"),
        (said(resample=4), "resample '4 (box)'"),
        (said(resample=5), "resample '5 (hamming)'"),
        (said(resample=6), "resample '6'"),
        (said(resample=-1), "resample '-1'"),
        (said(resample=True), "resample 'True'"),
        (said(resample="cubic"), "resample 'cubic'"),
        # what is told of a long value is its first 60 characters, a word's or JSON's
        (said(resample="c" * 61), f"resample '{'c' * 60}',"),
        (said(size=[32] * 16), f"size '[{'32, ' * 14}32,',"),
        (said(do_rescale=1), "do_rescale '1'"),
        (said(do_normalize="yes"), "do_normalize 'yes'"),
        (said(do_center_crop=0), "do_center_crop '0'"),
        (said(do_resize=1), "do_resize '1'"),
        (said(do_flip=True), "do_flip 'true'"),
        (said(rescale_offset=True), "rescale_offset 'true'"),
        (said(image_processor_type="OwlImageProcessor"), "Legal: ViTImageProcessor, DeiTImageProcessor, Bit"),
        (said(crop_pct=0.8, do_center_crop=False), "crop_pct '0.8'"),
        (said(crop_pct=0.8, crop_size=32), "crop_pct '0.8'"),
        (said(crop_pct=0), "crop_pct '0'"),
        (said(crop_pct=1.1), "crop_pct '1.1'"),
        (said(crop_pct=-0.5), "crop_pct '-0.5'"),
        (said(crop_pct=True), "crop_pct 'true'"),
        (said(crop_pct="1"), "crop_pct '1'"),
        (said(crop_pct=0.8, do_resize=False), "Legal: true; its crop belongs to the resize."),
        # the library has a ConvNext's size as the shorter side alone, and its versions differ in a second crop
        (said(crop_pct=0.8, size={"height": 32, "width": 32}), "size '{"),
        (said(crop_pct=0.8, size=[32, 32]), "size '[32, 32]'"),
        (said(image_processor_type="ConvNextImageProcessor", do_center_crop=True), "do_center_crop 'true'"),
        # a number alone is the shorter side for SigLIP
        (said(image_processor_type="SiglipImageProcessor"), "size 'shortest_edge'"),
        (said(do_resize=False), "do_resize 'false'"),
        (said(size={"shortest_edge": 32}), "size 'shortest_edge'"),
        (said(size={"shortest_edge": 32, "width": 3}), "size.shortest_edge '32'"),
        (
            said(size={"shortest_edge": [32, 40]}, **CROPPED),
            "shortest_edge '[32, 40]', which cannot be honoured.\nLegal: a n",
        ),
        (said(size={"shortest_edge": {"height": 32, "width": 32}}, **CROPPED), "size.shortest_edge '{"),
        (said(size={"shortest_edge": 0}, **CROPPED), "size.shortest_edge '0'"),
        (said(size={"height": 32}), "size.height '32'"),
        (said(size={"height": 32, "width": 32, "max": 3}), "size.max '3'"),
        (said(size={"height": 32, "width": "32"}), "size '[32"),
        (said(size=[32, 32, 32]), "size '[32, 32, 32]'"),
        (said(size=[32]), "size '[32]'"),
        (said(size=0), "size '0'"),
        (said(size=True), "size 'true'"),
        (said(size=(1 << 14) + 1), "size '16385'"),
        (said(size=40), "size '40', which cannot be honoured.\nLegal: 32, which the network reads."),
        (said(size=[32, 40]), "size '32x40'"),
        (said(do_center_crop=True, crop_size=36), "crop_size '36'"),
        (said(do_center_crop=True, crop_size={"shortest_edge": 32}), "crop_size '{"),
        (said(image_mean=[0.5, 0.5]), "image_mean '[0.5, 0.5]'"),
        (said(image_mean=[0.5, 0.5, True]), "image_mean"),
        (said(image_mean="0.5"), "image_mean '0.5'"),
        (said(image_std=[0.5, 0.5, 0]), "image_std '[0.5, 0.5, 0.0]'"),
        (said(image_std=-1), "image_std"),
        (said(rescale_factor=0), "rescale_factor '0'"),
        (said(rescale_factor=-1), "rescale_factor '-1'"),
        (said(rescale_factor=True), "rescale_factor 'true'"),
        (said(rescale_factor="1/255"), "rescale_factor '1/255'"),
    ],
)
def test_what_is_refused(file, told):
    with pytest.raises(CheckpointError) as caught:
        read(file, "vit", SMALL, "m")
    assert told.replace("\n", " ") in str(caught.value).replace("\n", " ") and len(caught.value.lines) == 3


def test_a_side_has_16384_pixels_at_most():
    for side in ((1 << 14) + 1, 1 << 20):
        with pytest.raises(CheckpointError, match=f"says size '{side}'"):
            read(said(size=side), "vit", (side, side), "m")
