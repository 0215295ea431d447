"""Every choice that decides a number, as one validated object: the keys of a recipe and of `--set`."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo

from vitft.errors import RecipeError, UsageError

Method = Literal["full", "linear", "bias", "lora"]
Classifier = Literal["ridge", "knn", "logistic"]
Normalise = Literal["checkpoint", "imagenet", "half", "none"]
Checkpointing = Literal["auto", "on", "off"]
"""Activations computed again in the backward pass, which is no key: it changes no number."""
CropMode = Literal["center", "squash", "none"]
Resize = Literal["squash", "resize-small", "squash-crop", "checkpoint"]
Interpolation = Literal["bilinear", "bicubic", "area"]
LoraTarget = Literal["qkv", "q", "k", "v", "proj", "fc1", "fc2"]

Scalar = bool | int | float | str | tuple[int, ...] | tuple[str, ...] | None
"""What a key may hold."""

CHECKPOINT_KEYS = ("num_heads", "norm_eps", "activation", "pool", "grid")
"""The keys that say what a checkpoint's tensors do not tell."""


class Settings(BaseModel):
    """The settings of one run. The field descriptions are the documentation of the recipe's keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    method: Method = Field(
        "full", description="what is trained: the whole network, the head, head + biases, head + LoRA"
    )
    steps: int = Field(500, ge=1, description="optimiser updates")
    batch_size: int = Field(512, ge=1, description="images an update (effective batch)")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="SGD with momentum 0.9, or AdamW")
    lr: float = Field(0.01, ge=0, description="peak learning rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD momentum, or AdamW's beta1")
    weight_decay: float = Field(0.0, ge=0, description="decoupled from the gradient, on matrices only, scaled by lr")
    schedule: Literal["cosine", "staircase", "linear", "constant"] = Field("cosine", description="decay after warmup")
    warmup_steps: int = Field(0, ge=0, description="linear warmup from 0")
    decay_steps: tuple[int, ...] = Field((), description="steps at which `staircase` divides the lr by 10")
    clip_norm: float = Field(1.0, ge=0, description="global gradient norm; 0 = no clipping")
    layer_decay: float = Field(1.0, gt=0, le=1, description="lr factor from each block to the one below it")
    lora_rank: int = Field(8, ge=1, description="rank of the LoRA update")
    lora_alpha: float = Field(8.0, gt=0, description="LoRA update is scaled by alpha / rank")
    lora_targets: tuple[LoraTarget, ...] = Field(
        ("qkv", "proj"),
        min_length=1,
        description="layers of every block that LoRA updates: `qkv` is one update of the fused layer, `q`, `k`, `v` "
        "one each of its parts; `proj` ends the attention, `fc1` and `fc2` are the MLP's",
    )
    lora_init: Literal["uniform", "normal"] = Field(
        "uniform",
        description="of LoRA's matrices: A uniform within 1/sqrt(inputs), B zero; or both normal with std 0.02, so "
        "that the start is not quite the checkpoint's",
    )
    mixup: float = Field(0.0, ge=0, description="alpha of mixup's Beta distribution; 0 = off")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="mass moved from the label to all classes")
    drop_path: float = Field(0.0, ge=0, lt=1, description="stochastic depth at the last block, rising linearly")
    ema: float = Field(0.0, ge=0, lt=1, description="Polyak averaging factor of the evaluated weights; 0 = off")

    resolution: int | tuple[int, int] | Literal["native", "higher"] = Field(
        384,
        description="pixels: a side, or [height, width]; `native`: what the checkpoint was trained at; "
        "`higher`: 12/7 of it, the paper's 224 -> 384, in whole patches",
    )
    resize: Resize = Field(
        "squash",
        description="how evaluation makes an image the network's size: aspect ratio lost; shorter side to about 8/7 "
        "of it and a centre crop (big_vision's 448 -> 384); both sides to about 8/7 of it and a centre crop "
        "(big_vision's few-shot 256 -> 224); the checkpoint's own crop fraction and mode",
    )
    crop: Literal["none", "random", "inception", "pad"] = Field(
        "none",
        description="training crop: none; resized as `resize` says to `crop_from` and cropped at random; "
        "a random area of 5-100 % and aspect 3/4-4/3; zero-padded by 1/8 and cropped at random",
    )
    crop_from: int = Field(0, ge=0, description="side before the random crop, in pixels; 0 = about 8/7, 448 for 384")
    flip: bool = Field(True, description="mirror each training image with probability 1/2")
    interpolation: Interpolation = Field(
        "bilinear",
        description="of the image resize; `area` is TensorFlow's, both up and down, and leaves an inception crop "
        "bilinear without antialiasing, as big_vision does",
    )
    antialias: bool = Field(True, description="low-pass before downsampling (tf.image.resize does not by default)")
    normalise: Normalise = Field("checkpoint", description="mean and std: the checkpoint's, ImageNet's, 0.5, or none")
    posembed_resize: Literal["bilinear", "bicubic"] = Field(
        "bilinear", description="endpoint-aligned, as the paper's code; or timm's antialiased bicubic"
    )
    gelu: Literal["exact", "tanh", "original"] = Field(
        "exact",
        description="timm's GELU; the tanh approximation of the original JAX code; `original`: that one for the "
        "weights that Google's JAX code trained, timm's for all others",
    )

    select_on: Literal["val", "dev"] = Field(
        "val", description="what a sweep is chosen on: the data's own val where it has one; always the end of train"
    )
    dev_fraction: float = Field(
        0.1, gt=0, lt=1, description="end of train held out while tuning, where no val is given or `select_on` is dev"
    )
    train_fraction: float = Field(1.0, gt=0, le=1, description="part of train (its start) that the final run uses")

    # What a checkpoint's tensors do not tell, said by the user; as they stand here: what the checkpoint says.
    num_heads: int = Field(0, ge=0, description="attention heads of the checkpoint; 0 = as it says, or 64 wide")
    norm_eps: float = Field(0.0, ge=0, description="epsilon of its layer norms; 0 = as it says")
    activation: str = Field("checkpoint", description="of its MLPs: as it says; gelu, gelu_tanh, quick_gelu, relu, ...")
    pool: Literal["checkpoint", "token", "avg"] = Field(
        "checkpoint", description="features: as it says; its class token, or the mean over the patches"
    )
    grid: tuple[int, int] | Literal["checkpoint"] = Field(
        "checkpoint", description="[rows, columns] of its position embeddings; as it says, or square"
    )

    @field_validator("resolution", mode="before")
    @classmethod
    def _resolution(cls, value: Any) -> Any:
        if value in ("native", "higher"):
            return value
        value = tuple(value) if isinstance(value, list) else value
        sides = value if isinstance(value, tuple) else (value,)
        if len(sides) > 2 or not all(type(s) is int and 1 <= s <= 4096 for s in sides):
            raise ValueError("a side in pixels from 1 to 4096, [height, width], 'native' or 'higher'")
        return value

    @field_validator("grid", mode="before")
    @classmethod
    def _grid(cls, value: Any) -> Any:
        value = tuple(value) if isinstance(value, list) else value
        if value != "checkpoint" and not (
            isinstance(value, tuple) and len(value) == 2 and all(type(n) is int and n > 0 for n in value)
        ):
            raise ValueError("[rows, columns], or 'checkpoint'")
        return value

    @field_validator("decay_steps", "lora_targets", mode="before")
    @classmethod
    def _tuples(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @field_validator(
        "lr",
        "momentum",
        "weight_decay",
        "clip_norm",
        "layer_decay",
        "lora_alpha",
        "mixup",
        "ema",
        "norm_eps",
        mode="before",
    )
    @classmethod
    def _number(cls, value: Any) -> Any:
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("lora_targets", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        return tuple(word.strip() for word in value.split(",")) if isinstance(value, str) else value

    @field_validator("lora_targets")
    @classmethod
    def _lora_targets(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("each target once")
        if "qkv" in value and {"q", "k", "v"} & set(value):
            raise ValueError("qkv, or some of q, k and v, not both")
        return value

    @model_validator(mode="after")
    def _together(self) -> "Settings":
        # A warmup as long as the run is refused where it is asked for; a result stored with one stays readable.
        faults = [text for keys, text in contradictions(dict(self)) if "warmup_steps" not in keys]
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels; `at` first turns "native" and "higher" into numbers."""
        if isinstance(self.resolution, str):
            raise ValueError(f"resolution '{self.resolution}' depends on the checkpoint")
        return self.resolution if isinstance(self.resolution, tuple) else (self.resolution, self.resolution)

    @property
    def fixed_views(self) -> int:
        """Views of an image whose features are computed once: 1, 2 with flips; 0 where they change as it trains."""
        frozen = self.method == "linear" and self.crop == "none" and not self.mixup
        return (1 + self.flip) * frozen

    def at(self, native: tuple[int, int], patch: tuple[int, int]) -> "Settings":
        """Return these settings with the resolution in pixels, for a checkpoint of this native size and patch.

        Raises:
            RecipeError: the crop would be larger than what it is cut from.
        """
        if not isinstance(self.resolution, str):
            return self
        size: tuple[int, int] = native
        if self.resolution == "higher":
            size = tuple(max(p, round(n * 12 / 7 / p) * p) for n, p in zip(native, patch, strict=True))  # type: ignore[assignment]
        if self.crop == "random" and 0 < self.crop_from < max(size):
            raise RecipeError(
                f"crop_from {self.crop_from} is smaller than the resolution '{self.resolution}', here {max(size)}.",
                f"0, or {max(size)} and more.",
            )
        return self.model_copy(update={"resolution": as_resolution(size)})


def as_resolution(size: tuple[int, int]) -> int | tuple[int, int]:
    """Return (height, width) as the key `resolution` holds it: a square by its side."""
    return size[0] if size[0] == size[1] else size


def checked(values: Mapping[str, object]) -> Settings:
    """Return keys that a user has set, for work that no recipe describes. Raises UsageError for an impossible value."""
    try:
        return Settings.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else "setting"
        raise UsageError(f"{key} '{first['input']}' is not possible.", f"{first['msg']}.") from None


def contradictions(values: Mapping[str, Any]) -> list[tuple[tuple[str, ...], str]]:
    """Return the contradictions between settings whose values are legal each by itself.

    Args:
        values: of every key, as a recipe or a `Settings` holds them.

    Returns:
        The keys that contradict each other, and a line about it.
    """
    faults: list[tuple[tuple[str, ...], str]] = []
    if values["schedule"] == "staircase" and not values["decay_steps"]:
        faults.append((("schedule", "decay_steps"), "schedule 'staircase' needs decay_steps, e.g. [300, 600, 900]"))
    resolution, crop_from = values["resolution"], values["crop_from"]
    if values["crop"] == "random" and not isinstance(resolution, str):
        side = resolution if isinstance(resolution, int) else max(resolution)
        if 0 < crop_from < side:
            fault = f"crop_from {crop_from} is smaller than the resolution {side}"
            faults.append((("crop", "resolution", "crop_from"), fault))
    warmup, steps = values["warmup_steps"], values["steps"]
    if warmup >= steps:
        fault = f"warmup_steps {warmup} is not below steps {steps}: the learning rate would never reach its peak"
        faults.append((("warmup_steps", "steps"), fault))
    return faults


def legal(field: FieldInfo) -> str:
    """Return the words and the range that a key takes, as a reader wants them: "sgd, adamw" or "from 0, below 1"."""
    signs = {"ge": "from {}", "gt": "above {}", "le": "up to {}", "lt": "below {}"}
    limits = [
        text.format(getattr(part, sign))
        for sign, text in signs.items()
        for part in field.metadata
        if hasattr(part, sign)
    ]
    return ", ".join(dict.fromkeys([*_words(field.annotation), *limits]))


_KINDS: dict[Any, str] = {bool: "true, false", int: "a whole number", float: "a number", str: "a word"}


def _words(annotation: Any) -> Iterator[str]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    elif get_origin(annotation) is tuple:
        inner = get_args(annotation)
        kinds = [word for part in dict.fromkeys(inner) if part is not ... for word in _words(part)]
        yield f"a list of: {', '.join(kinds)}" if ... in inner else f"[{', '.join(kinds * len(inner))}]"
    elif annotation in _KINDS:
        yield _KINDS[annotation]
    else:
        for part in get_args(annotation):
            yield from _words(part)


@dataclass(frozen=True)
class Preprocess:
    """How images become (3, H, W) inputs. Two equal instances give equal pixels.

    Attributes:
        size: (H, W) of the network, in pixels.
        resize: "squash" ignores the aspect ratio; "resize-small" brings the shorter side to `larger` of the network's
            (448 for 384, big_vision) and crops the centre; "squash-crop" does so with both sides (256 for 224,
            big_vision's few-shot evaluation); "checkpoint" is timm's evaluation (crop_pct, crop_mode).
        interpolation, antialias: of the resize; "area" knows no antialiasing.
        mean, std: of the normalisation, in [0, 1] units, per channel.
        crop_pct, crop_mode: of "checkpoint". "center" brings the shorter side to the network's / crop_pct, "squash"
            both sides, "none" neither; the centre is then cropped.
        before: of "checkpoint", (height, width) in pixels before the crop, where the checkpoint says pixels and no
            crop_pct: as the transformers library resizes and crops.
        crop, crop_from, flip: the random part; evaluation has none.
    """

    size: tuple[int, int]
    resize: Resize = "squash"
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    crop_pct: float = 1.0
    crop_mode: CropMode = "center"
    before: tuple[int, int] | None = None
    crop: Literal["none", "random", "inception", "pad"] = "none"
    crop_from: int = 0
    flip: bool = False

    @property
    def enlarged(self) -> tuple[int, int]:
        """(height, width) before a random crop, in pixels: 448 for 384; `crop_from` is the longer of the two."""
        height, width = self.size
        if not self.crop_from:
            return larger(height), larger(width)
        factor = self.crop_from / max(self.size)
        return max(height, round(height * factor)), max(width, round(width * factor))

    def augmented(self, settings: Settings) -> "Preprocess":
        """Return the preprocessing of training, with the random part that these settings have."""
        return replace(self, crop=settings.crop, crop_from=settings.crop_from, flip=settings.flip)

    @property
    def keeps_shape(self) -> bool:
        """Whether the resize keeps the aspect ratio."""
        return self.resize == "resize-small" or (self.resize == "checkpoint" and self.crop_mode != "squash")

    @property
    def stored_size(self) -> tuple[int, int] | None:
        """(h, w) of what the deterministic part gives, or None where it keeps each image's own shape."""
        if self.crop == "inception" or (self.crop == "random" and self.keeps_shape):
            return None
        return self.enlarged if self.crop == "random" else self.size


def larger(side: int) -> int:
    """Return the side, in pixels, that an image has before it is cropped to `side`.

    8/7 of it, from 128 px on in the steps of 32 that BiT's and big_vision's pairs have: 128 -> 160, 224 -> 256,
    384 -> 448, 448 -> 512.
    """
    return round(side * 8 / 7) if side < 128 else math.ceil(side * 8 / 7 / 32) * 32
