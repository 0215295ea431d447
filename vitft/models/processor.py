"""The preprocessor_config.json of the transformers library, honoured key by key.

What its image processors do is followed: resize with Pillow, cut the centre, scale, normalise. A key that cannot be
followed is refused by its name; one that the file lacks is the library's own default, and listed as assumed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from vitft.catalog.stamps import MEAN_STD, Triple
from vitft.errors import CheckpointError
from vitft.results.checkpoint import Size, side
from vitft.settings import CropMode

FILE = "preprocessor_config.json"

_HALF, _ = MEAN_STD["half"]
_CLIP = MEAN_STD["clip"]
_IMAGENET = MEAN_STD["imagenet"]
_RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # Pillow's numbers


@dataclass(frozen=True)
class _Processor:
    """What an image processor does where its file says nothing.

    Attributes:
        size: in pixels; (height, width), or a number that is read as one in a file.
        square: a bare number is both sides; else the shorter one.
        crop: side of the centre crop; 0 = none.
    """

    size: int | Size = 224
    square: bool = True
    crop: int = 0
    crop_pct: float = 0.0
    resample: int = 2
    mean: Triple = _HALF
    std: Triple = _HALF


_DINOV2 = _Processor(256, square=False, crop=224, resample=3, mean=_IMAGENET[0], std=_IMAGENET[1])
_DINOV3 = _Processor(224, mean=_IMAGENET[0], std=_IMAGENET[1])
_PROCESSORS = {
    "ViT": _Processor(),
    "DeiT": _Processor(256, crop=224, resample=3),
    "Bit": _Processor(224, square=False, crop=224, resample=3, mean=_CLIP[0], std=_CLIP[1]),
    "CLIP": _Processor(224, square=False, crop=224, resample=3, mean=_CLIP[0], std=_CLIP[1]),
    "ViTHybrid": _Processor(224, square=False, crop=224, resample=3, mean=_CLIP[0], std=_CLIP[1]),
    "DINOv3ViT": _DINOV3,
    "Siglip": _Processor((224, 224), square=False, resample=3),
    "ConvNext": _Processor(384, square=False, crop_pct=224 / 256, resample=3),
}
# By model type, where the file names no processor; ViT's for the others.
_OWN = {
    "deit": _PROCESSORS["DeiT"],
    "dinov2": _DINOV2,
    "dinov2_with_registers": _DINOV2,
    "dinov3_vit": _DINOV3,
    **dict.fromkeys(("clip", "clip_vision_model"), _PROCESSORS["CLIP"]),
    **dict.fromkeys(("siglip", "siglip_vision_model"), _PROCESSORS["Siglip"]),
}
# Keys that change no pixel here: images are always RGB, in float, channels last until the end.
_IDLE = {
    "image_processor_type", "feature_extractor_type", "processor_class", "_processor_class", "auto_map",
    "do_convert_rgb", "data_format", "input_data_format", "return_tensors", "device", "disable_grouping",
    "default_to_square", "model_input_names", "_valid_processor_keys",
}  # fmt: skip
_KNOWN = {
    "do_resize", "size", "crop_pct", "do_center_crop", "crop_size", "do_rescale", "rescale_factor", "do_normalize",
    "image_mean", "image_std", "resample",
}  # fmt: skip


@dataclass(frozen=True)
class Stamp:
    """How a folder's images are prepared, in the words of `CheckpointInfo`."""

    mean: Triple
    std: Triple
    interpolation: Literal["bilinear", "bicubic"]
    crop_mode: CropMode
    before: Size | None
    crop_pct: float
    assumed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read(config: Mapping[str, object], model_type: str, native: Size, model: str, *, any_size: bool = False) -> Stamp:
    """Read a preprocessor_config.json, key by key.

    Args:
        config: the file's keys; those with null count as absent.
        model_type: of the config beside it; its own processor where the file names none.
        native: (height, width) that the network reads.
        model: what the user wrote, for messages.
        any_size: the network reads what the file says; sizes are brought to `native` in proportion, which is noted.

    Raises:
        CheckpointError: a key that cannot be honoured (exit code 4).
    """
    config = {key: value for key, value in config.items() if value is not None}
    default = _processor(config, model_type, model)
    flags = {
        "do_resize": True,
        "do_center_crop": bool(default.crop),
        "do_rescale": True,
        "do_normalize": True,
    }
    for key in flags:
        value = config.get(key, flags[key])
        if not isinstance(value, bool):
            raise refused(model, FILE, key, value, "true or false.")
        flags[key] = value
    strange = sorted(key for key in config if key not in _KNOWN | _IDLE and config[key] is not False)
    unknown = next((key for key in strange if key.startswith("do_") or key == "rescale_offset"), "")
    if unknown:
        raise refused(model, FILE, unknown, config[unknown], f"{', '.join(sorted(_KNOWN))}.")
    interpolation = _interpolation(config, default, model)
    mode, before, out = _geometry(config, default, flags, None if any_size else native, model)
    notes: tuple[str, ...] = ()
    if out != native:
        if {"size", "crop_size"} & set(config):
            notes = (f"{FILE} prepares images of {side(out)} pixels; at other sizes in proportion",)
        before, out = (before[0] * native[0] // out[0], before[1] * native[1] // out[1]), native
    mean, std = _normalisation(config, default, flags, model)
    plain = mode == "squash" and before == out
    crops = flags["do_center_crop"] and not default.crop_pct
    idle = [*strange, *(["crop_size"] if "crop_size" in config and not crops else [])]
    unsaid = {
        "mean": flags["do_normalize"] and "image_mean" not in config,
        "std": flags["do_normalize"] and "image_std" not in config,
        "crop_pct": (flags["do_resize"] and "size" not in config) or (crops and "crop_size" not in config),
        "interpolation": flags["do_resize"] and "resample" not in config,
    }
    return Stamp(
        mean,
        std,
        interpolation,
        mode,
        None if plain else before,
        out[0] / before[0],
        tuple(name for name, absent in unsaid.items() if absent),
        notes + tuple(f"{FILE}: '{key}' means nothing here and was left out" for key in idle),
    )


def _processor(config: Mapping[str, object], model_type: str, model: str) -> _Processor:
    """Return the defaults of the processor that the file names, or of the model's own."""
    key = next((key for key in ("image_processor_type", "feature_extractor_type") if key in config), "")
    name = str(config.get(key, ""))
    for ending in ("ImageProcessorFast", "ImageProcessor", "FeatureExtractor"):
        name = name.removesuffix(ending)
    if key and name not in _PROCESSORS:
        legal = ", ".join(f"{kind}ImageProcessor" for kind in _PROCESSORS)
        raise refused(model, FILE, key, config[key], f"{legal}.")
    default = _PROCESSORS[name] if key else _OWN.get(model_type, _PROCESSORS["ViT"])
    if not key and "crop_pct" in config and not {"do_center_crop", "crop_size"} & set(config):
        default = _PROCESSORS["ConvNext"]  # the one whose files say it
    if "crop_pct" in config and not default.crop_pct:
        raise refused(model, FILE, "crop_pct", config["crop_pct"], "with a ConvNextImageProcessor alone.")
    square = config.get("default_to_square", default.square)
    return replace(default, square=square if isinstance(square, bool) else default.square)


def _interpolation(config: Mapping[str, object], default: _Processor, model: str) -> Literal["bilinear", "bicubic"]:
    resample = config.get("resample", default.resample)
    word = str(resample)
    if isinstance(resample, int) and not isinstance(resample, bool) and 0 <= resample < len(_RESAMPLE):
        word = _RESAMPLE[resample]
    if word not in ("bilinear", "bicubic"):
        named = f"{resample} ({word})" if word != str(resample) else word
        raise refused(model, FILE, "resample", named, "2 (bilinear) or 3 (bicubic).")
    return "bicubic" if word == "bicubic" else "bilinear"


def _geometry(
    config: Mapping[str, object], default: _Processor, flags: Mapping[str, bool], native: Size | None, model: str
) -> tuple[CropMode, Size, Size]:
    """Return the mode of the resize, the size before the crop, and the size after it: `native`, if there is one."""
    shorter, size = _size(config.get("size", default.size), default.square, model)
    if default.crop_pct:
        if not shorter:
            raise refused(
                model, FILE, "size", config["size"], "shortest_edge, or a number: a ConvNextImageProcessor's."
            )
        for key, legal in (("do_resize", True), ("do_center_crop", False)):
            if flags[key] != legal:
                raise refused(model, FILE, key, not legal, f"{_json(legal)}; its crop belongs to the resize.")
        mode, before, out = _convnext(config, default, size, model)
        decisive = "size"
    else:
        crop = pair(config.get("crop_size", default.crop or native or size), model, FILE, "crop_size")
        decisive = "crop_size" if flags["do_center_crop"] else "size"
        if not flags["do_center_crop"] and (shorter or not flags["do_resize"]):
            key, value = ("size", "shortest_edge") if flags["do_resize"] else ("do_resize", False)
            raise refused(model, FILE, key, value, "with do_center_crop; else every image has a shape of its own.")
        mode = "none" if not flags["do_resize"] else "center" if shorter else "squash"
        out = crop if flags["do_center_crop"] else size
        before = size if flags["do_resize"] else out
    if native is not None and out != native:
        if decisive in config:
            raise refused(model, FILE, decisive, side(out), f"{side(native)}, which the network reads.")
        if "size" not in config or not flags["do_resize"]:  # what is not stated is as large as the network needs
            before = (before[0] * native[0] // out[0], before[1] * native[1] // out[1])
    return mode, before, native or out


def _convnext(config: Mapping[str, object], default: _Processor, size: Size, model: str) -> tuple[CropMode, Size, Size]:
    """Below 384 pixels the shorter side becomes size / crop_pct and the centre is cut; from there on all is kept."""
    share = config.get("crop_pct", default.crop_pct)
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise refused(model, FILE, "crop_pct", share, "above 0, up to 1.")
    edge, _ = size
    if edge >= 384:
        return "squash", size, size
    return "center", (int(edge / share),) * 2, size


def _normalisation(
    config: Mapping[str, object], default: _Processor, flags: Mapping[str, bool], model: str
) -> tuple[Triple, Triple]:
    """Return mean and std for pixels in [0, 1]: the library's own are for pixels times rescale_factor."""
    mean, std = (
        _triple(config.get(f"image_{key}", getattr(default, key)), f"image_{key}", model) for key in ("mean", "std")
    )
    if not flags["do_normalize"]:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if min(std) <= 0:
        raise refused(model, FILE, "image_std", list(std), "numbers above 0.")
    factor = config.get("rescale_factor", 1 / 255) if flags["do_rescale"] else 1.0
    if isinstance(factor, bool) or not isinstance(factor, int | float) or factor <= 0:
        raise refused(model, FILE, "rescale_factor", factor, "a number above 0, e.g. 0.00392156862745098.")
    scale = 255 * float(factor)
    if abs(scale - 1) < 1e-6:
        return mean, std
    return (mean[0] / scale, mean[1] / scale, mean[2] / scale), (std[0] / scale, std[1] / scale, std[2] / scale)


def _size(value: Any, square: bool, model: str) -> tuple[bool, Size]:
    """Return (whether it is the shorter side's, the size)."""
    if isinstance(value, Mapping):
        keys = {str(key) for key, inner in value.items() if inner is not None}
        if keys == {"shortest_edge"}:
            edge = value["shortest_edge"]
            if not isinstance(edge, int):
                raise refused(model, FILE, "size.shortest_edge", edge, "a number of pixels.")
            return True, pair(edge, model, FILE, "size.shortest_edge")
        if keys != {"height", "width"}:
            odd = next((key for key in sorted(keys) if key not in ("height", "width")), "height")
            raise refused(model, FILE, f"size.{odd}", value.get(odd), "height and width, or shortest_edge.")
        return False, pair([value["height"], value["width"]], model, FILE, "size")
    return not square and not isinstance(value, list | tuple), pair(value, model, FILE, "size")


def pair(value: Any, model: str, file: str, key: str) -> Size:
    """Return (height, width) of a number, a list of two, or a mapping with both. Raises CheckpointError."""
    if isinstance(value, Mapping) and set(value) == {"height", "width"}:
        value = [value["height"], value["width"]]
    both = list(value) if isinstance(value, list | tuple) else [value, value]
    if len(both) != 2 or not all(isinstance(n, int) and not isinstance(n, bool) and 0 < n <= 1 << 14 for n in both):
        raise refused(model, file, key, value, "a number of pixels, [height, width], or both by name.")
    return both[0], both[1]


def _triple(value: Any, key: str, model: str) -> Triple:
    three = list(value) if isinstance(value, list | tuple) else [value] * 3
    if len(three) != 3 or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in three):
        raise refused(model, FILE, key, value, "a number, or one for each of R, G and B.")
    return float(three[0]), float(three[1]), float(three[2])


def refused(model: str, file: str, key: str, value: Any, legal: str) -> CheckpointError:
    """Return the error for a key of a config that cannot be honoured."""
    return CheckpointError(
        f"The {file} of '{model}' says {key} '{_json(value)}', which cannot be honoured.",
        legal,
        f"Correct {key} there, or copy the folder without it: the default is then assumed.",
    )


def _json(value: Any) -> str:
    return value[:60] if isinstance(value, str) else json.dumps(value, default=str)[:60]
