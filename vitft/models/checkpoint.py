"""What is known of a checkpoint: where it lies, how it wants its images, and what had to be assumed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vitft.results.checkpoint import CheckpointInfo, Size
from vitft.settings import CropMode, Preprocess

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint.

    Attributes:
        state: timm name -> float32 tensor; empty where only the architecture was asked for.
        class_names: of the head, where the file knows them.
        descriptions: of the classes, in their order, where the file has them.
    """

    info: CheckpointInfo
    state: Mapping[str, "Tensor"]
    class_names: tuple[str, ...] = ()
    descriptions: tuple[str, ...] = ()


def assumptions(info: CheckpointInfo) -> str:
    """Return one line on what a checkpoint does not say and what was taken instead; "" where it says all."""
    if not info.assumed:
        return ""
    arch = info.architecture
    grid = [n // p for n, p in zip(info.native, info.patch, strict=True)]
    values = {
        "num_heads": arch.kwargs.get("num_heads"),
        "norm_eps": f"{arch.norm_eps:g}" if arch.norm_eps else "",
        "activation": arch.activation,
        "pool": arch.kwargs.get("global_pool"),
        "grid": "x".join(map(str, grid)),
        "mean": _short(info.mean),
        "std": _short(info.std),
        "crop_pct": "" if info.before else f"{info.crop_pct:g}",
        "interpolation": info.interpolation,
    }
    assumed = ", ".join(f"{name} {values.get(name) or ''}".rstrip() for name in info.assumed)
    like = f", as of {info.timm_name}" if info.timm_name else ""
    return f"assumed, as the checkpoint does not say{like}: {assumed}"


def remarks(info: CheckpointInfo) -> list[str]:
    """Return remarks on an opened checkpoint, a line each: its notes, and what was assumed."""
    return [line for line in (*info.notes, assumptions(info)) if line]


def cropping(image: CheckpointInfo | Preprocess, size: Size) -> str:
    """Return a checkpoint's own resize and crop in words; `size` is what the crop leaves."""
    mode, before = image.crop_mode, image.before
    if not before:
        return f"crop fraction {image.crop_pct:g}" + ", aspect ratio lost" * (mode == "squash")
    words = {"none": "not resized", "center": f"shorter side to {before[0]}", "squash": f"to {before[0]}x{before[1]}"}
    return f"{words[mode]}, centre {size[0]}x{size[1]}"


def _short(values: Sequence[float]) -> str:
    return "/".join(dict.fromkeys(f"{v:.4g}" for v in values))


def crop_mode(word: object) -> CropMode:
    """Return timm's crop_mode; "border" (padding, no checkpoint with a head has it) is taken for "center"."""
    return "squash" if word == "squash" else "center"
