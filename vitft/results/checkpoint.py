"""What is known of a checkpoint, as it stands in every result file. No torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from vitft.catalog.stamps import Triple
from vitft.settings import CropMode

Size = tuple[int, int]


@dataclass(frozen=True)
class Architecture:
    """A timm model function and the arguments that make it fit the tensors.

    Attributes:
        name: timm's model name without its tag, e.g. "vit_base_patch16_224".
        kwargs: arguments over the function's own; JSON-able; never the image size or the number of classes.
        pre_logits: width of the tanh layer between features and head (the original releases' representation size);
            0 where there is none.
        gelu: "tanh" where every exact GELU is replaced by the original code's approximation.
        norm_eps: epsilon of every layer norm; 0 = the timm function's own.
        activation: of the MLPs, in timm's word ("gelu", "quick_gelu", "relu", ...); "" = the timm function's own.
    """

    name: str
    kwargs: Mapping[str, object] = field(default_factory=dict)
    pre_logits: int = 0
    gelu: str = "exact"
    norm_eps: float = 0.0
    activation: str = ""


@dataclass(frozen=True)
class CheckpointInfo:
    """One checkpoint, as it stands in `result.json`.

    Attributes:
        name: what the user wrote after --model.
        kind: "npz", "safetensors", "pth", "run", "hub" or "random".
        path: the file the weights came from; empty for random weights.
        sha256: of that file; empty for random weights.
        timm_name: the timm tag (or bare model name) that the file is, or is taken for.
        mean, std: of the images the weights were trained on, RGB in [0, 1].
        crop_pct: part of the resized image that the checkpoint's own evaluation crops.
        crop_mode: "center" (aspect ratio kept), "squash" (lost) or "none" (no resize), of that resize.
        before: (height, width) before the crop, at `resolution`, where the checkpoint says pixels and no crop_pct.
        interpolation: of the checkpoint's own evaluation.
        native: (height, width) in pixels the weights were trained at.
        num_classes: outputs of the head (0: none): the file's when opened, the network's when built.
        patch: patch (height, width) in pixels; for a hybrid or a ResNet its stride.
        grid: (rows, columns) of position embeddings, the file's when opened, the network's when built; None without.
        resolution: (height, width) in pixels the network was built for; the native one while it is only opened.
        used: the part of it, from the upper left, that the patches cover.
        architecture: the timm function and its arguments.
        channels: of the images the patches are made of; vitft's own images have 3.
        part: place of the network among those of its file, e.g. "model.teacher.backbone"; "" where it is all there is.
        assumed: what the file does not state: fields above that were taken from the timm tag, and num_heads, norm_eps,
            activation, pool and grid of the architecture; of an evaluation, by what its classes were matched.
        notes: what a reader should know, e.g. "position embeddings 14x14 -> 24x24 (bilinear)".
    """

    name: str
    kind: str
    path: str
    sha256: str
    timm_name: str
    mean: Triple
    std: Triple
    crop_pct: float
    interpolation: str
    native: Size
    num_classes: int
    patch: Size
    resolution: Size
    used: Size
    architecture: Architecture
    grid: Size | None = None
    crop_mode: CropMode = "center"
    before: Size | None = None
    channels: int = 3
    assumed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    part: str = ""

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON-able data."""
        return asdict(replace(self, architecture=replace(self.architecture, kwargs=dict(self.architecture.kwargs))))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "CheckpointInfo":
        """Rebuild from `to_dict`, through JSON or not."""
        data = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return cls(**{**data, "architecture": Architecture(**data["architecture"])})

    def with_notes(self, *notes: str) -> "CheckpointInfo":
        """Return a copy with more notes; empty ones are dropped."""
        return replace(self, notes=self.notes + tuple(note for note in notes if note))


def side(size: Size) -> str:
    """Write a size: '384' for a square, '224x320' (height x width) otherwise."""
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"


def holds(size: Size, patch: Size) -> bool:
    """Tell whether an image holds a patch on each side."""
    return all(have >= needed for have, needed in zip(size, patch, strict=True))
