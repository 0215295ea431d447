"""What the hub's models expect of their images and what their heads answer, as timm says it. Torch-free.

So that `vitft models show` need not import timm, which takes seconds; a test holds every line to the installed one.
"""

from dataclasses import dataclass
from typing import Literal

Triple = tuple[float, float, float]

MEAN_STD: dict[str, tuple[Triple, Triple]] = {
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
"""By `ModelAlias.normalisation`: of the images in [0, 1]."""


@dataclass(frozen=True)
class Stamp:
    """One model's evaluation.

    Attributes:
        crop_pct, crop_mode, interpolation: of the checkpoint's own resize.
        num_classes: outputs of the head, 0 where there is none.
        positions: whether it has a table of position embeddings.
    """

    crop_pct: float
    num_classes: int
    interpolation: str = "bicubic"
    crop_mode: Literal["center", "squash"] = "center"
    positions: bool = True


_STAMPS = (
    (Stamp(0.9, 21843), "vit-ti16 vit-s32 vit-s16 vit-b32-augreg vit-b16-augreg vit-b8-augreg vit-l16-augreg"),
    (Stamp(0.9, 21843), "vit-r-ti16 vit-r26-s32 vit-r50-l32"),
    (Stamp(0.9, 0), "vit-b32 vit-b16 vit-l32 vit-l16 vit-h14 vit-r50-b16 dino-s16 dino-s8 dino-b16 dino-b8"),
    (Stamp(0.9, 0), "mae-b16 mae-l16 mae-h14 siglip2-b32-256 siglip2-b16 siglip2-b16-384 siglip2-l16-256"),
    (Stamp(0.9, 0), "siglip2-so400m14 siglip2-so400m14-378 siglip2-gopt16-256"),
    (Stamp(0.9, 1000), "vit-ti16-in1k vit-s32-in1k vit-s16-in1k vit-b32-in1k vit-b16-in1k vit-b8-in1k vit-l16-in1k"),
    (Stamp(0.9, 1000), "vit-b16-orig-in1k vit-b32-sam vit-b16-sam"),
    (Stamp(1.0, 1000), "vit-ti16-in1k-384 vit-s32-in1k-384 vit-s16-in1k-384 vit-b32-in1k-384 vit-b16-in1k-384"),
    (Stamp(1.0, 1000), "vit-l16-in1k-384 vit-b16-orig-in1k-384 vit-l32-orig-in1k-384"),
    (Stamp(1.0, 1000), "deit3-s16 deit3-m16 deit3-b16 deit3-l16 deit3-h14"),
    (Stamp(0.95, 1000), "flexivit-s flexivit-s-p8 flexivit-s-p30 flexivit-b flexivit-b-p8 flexivit-b-p30"),
    (Stamp(0.95, 1000), "flexivit-l flexivit-l-p8 flexivit-l-p30"),
    (Stamp(0.95, 21843), "flexivit-b-in21k"),
    (Stamp(1.0, 0), "dinov2-s14 dinov2-b14 dinov2-l14 dinov2-g14"),
    (Stamp(1.0, 0), "dinov2-s14-reg dinov2-b14-reg dinov2-l14-reg dinov2-g14-reg"),
    (Stamp(1.0, 0, positions=False), "dinov3-s16 dinov3-s-plus16 dinov3-b16 dinov3-l16 dinov3-h-plus16 dinov3-7b16"),
    (Stamp(0.9, 512), "clip-b32 clip-b16"),
    (Stamp(1.0, 512), "clip-b16-laion2b"),
    (Stamp(1.0, 768), "clip-l14 clip-l14-336 clip-l14-laion2b"),
    (Stamp(1.0, 1024), "clip-h14-laion2b clip-g14-laion2b"),
    (Stamp(1.0, 1280), "clip-bigg14-laion2b"),
    (Stamp(1.0, 1000, crop_mode="squash"), "clip-h14-in1k-336"),
    (Stamp(0.875, 21843, "bilinear", positions=False), "bit-r50x1 bit-r50x3 bit-r101x1 bit-r101x3"),
    (Stamp(0.875, 21843, "bilinear", positions=False), "bit-r152x2 bit-r152x4"),
)  # fmt: skip

STAMPS: dict[str, Stamp] = {name: stamp for stamp, names in _STAMPS for name in names.split()}
"""Alias -> stamp, for every alias of a model from the hub."""
