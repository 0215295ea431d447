"""The models vitft knows by a short name: what they are, what they expect, whose they are. Torch-free.

To add one, add one line; a test checks it against the installed timm. Licences are those timm states for the weights;
parameters are in millions, without a classifier.
"""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

Normalisation = Literal["half", "imagenet", "clip"]

DEFAULT = "vit-mini"

_VIT = "https://github.com/google-research/vision_transformer (arXiv 2010.11929)"
_AUGREG = "https://github.com/google-research/vision_transformer (arXiv 2106.10270)"
_SAM = "https://github.com/google-research/vision_transformer (arXiv 2106.01548)"
_FLEXI = "https://github.com/google-research/big_vision (arXiv 2212.08013)"
_DEIT3 = "https://github.com/facebookresearch/deit (arXiv 2204.07118)"
_DINO = "https://github.com/facebookresearch/dino (arXiv 2104.14294)"
_DINO2 = "https://github.com/facebookresearch/dinov2 (arXiv 2304.07193)"
_DINO3 = "https://github.com/facebookresearch/dinov3 (arXiv 2508.10104)"
_MAE = "https://github.com/facebookresearch/mae (arXiv 2111.06377)"
_CLIP = "https://github.com/openai/CLIP (arXiv 2103.00020)"
_OPENCLIP = "https://github.com/mlfoundations/open_clip (arXiv 2212.07143)"
_SIGLIP2 = "https://github.com/google-research/big_vision (arXiv 2502.14786)"
_BIT = "https://github.com/google-research/big_transfer (arXiv 1912.11370)"
_OWN = "vitft, recipe pretrain-vit-mini"


@dataclass(frozen=True)
class ModelAlias:
    """One model.

    Attributes:
        name: what follows --model.
        timm: timm's model name and tag; empty for a file inside the package.
        resolution: pixels (a side) the weights were trained at.
        patch_size: pixels (a side) of a patch; the stride of a hybrid's or a ResNet's features.
        normalisation: "half" is mean = std = 0.5, "imagenet" and "clip" those data sets' statistics.
        params: millions, without a classifier.
        note: what a user of the paper's name for it should know.
    """

    name: str
    timm: str
    title: str
    resolution: int
    patch_size: int
    normalisation: Normalisation
    licence: str
    params: float
    source: str
    note: tuple[str, ...] = ()

    @property
    def file(self) -> Path | None:
        """The file inside the package; None for weights from the hub."""
        return None if self.timm else Path(str(resources.files("vitft"))) / "weights" / f"{self.name}.safetensors"


_NOTES = {
    "vit-h14": (
        "These are the ImageNet-21k weights. The JFT-300M weights of the paper's headline ViT-H/14 numbers were never "
        "released.",
        "No VTAB number was published for ViT-H/14 on ImageNet-21k; the nearest is ViT-L/16 on ImageNet-21k: 72.7 "
        "(mean of 19 tasks).",
    )
}

_Row = tuple[str, str, str, int, int, float]


def _family(source: str, data: str, normalisation: Normalisation, licence: str, *rows: _Row) -> tuple[ModelAlias, ...]:
    """Rows are: name, timm's name, architecture, resolution, patch size, millions of parameters."""
    return tuple(
        ModelAlias(
            name, tag, f"{arch}, {data}", size, patch, normalisation, licence, params, source, _NOTES.get(name, ())
        )
        for name, tag, arch, size, patch, params in rows
    )


# One model a line: a table is read by its columns.
# fmt: off
_TABLE = (
    ModelAlias(
        "vit-mini", "", "the small ViT inside the package, CIFAR-10 from scratch: needs no network",
        32, 8, "half", "apache-2.0", 2.7, _OWN
    ),
    # ViT in the paper's sizes, ImageNet-21k: the first releases (B to H), AugReg for Ti and S.
    *_family(_AUGREG, "AugReg, ImageNet-21k", "half", "apache-2.0",
        ("vit-ti16", "vit_tiny_patch16_224.augreg_in21k", "ViT-Ti/16", 224, 16, 5.5),
        ("vit-s32", "vit_small_patch32_224.augreg_in21k", "ViT-S/32", 224, 32, 22.5),
        ("vit-s16", "vit_small_patch16_224.augreg_in21k", "ViT-S/16", 224, 16, 21.7),
    ),
    *_family(_VIT, "ImageNet-21k", "half", "apache-2.0",
        ("vit-b32", "vit_base_patch32_224.orig_in21k", "ViT-B/32", 224, 32, 87.5),
        ("vit-b16", "vit_base_patch16_224.orig_in21k", "ViT-B/16", 224, 16, 85.8),
        ("vit-l32", "vit_large_patch32_224.orig_in21k", "ViT-L/32", 224, 32, 305.5),
        ("vit-l16", "vit_large_patch16_224.orig_in21k", "ViT-L/16", 224, 16, 303.3),
        ("vit-h14", "vit_huge_patch14_224.orig_in21k", "ViT-H/14", 224, 14, 630.8),
    ),
    # AugReg, ImageNet-21k.
    *_family(_AUGREG, "AugReg, ImageNet-21k", "half", "apache-2.0",
        ("vit-b32-augreg", "vit_base_patch32_224.augreg_in21k", "ViT-B/32", 224, 32, 87.5),
        ("vit-b16-augreg", "vit_base_patch16_224.augreg_in21k", "ViT-B/16", 224, 16, 85.8),
        ("vit-b8-augreg", "vit_base_patch8_224.augreg_in21k", "ViT-B/8", 224, 8, 85.8),
        ("vit-l16-augreg", "vit_large_patch16_224.augreg_in21k", "ViT-L/16", 224, 16, 303.3),
    ),
    # Fine-tuned on ImageNet-1k: their heads answer `eval ... imagenet`.
    *_family(_AUGREG, "AugReg, ImageNet-21k then 1k", "half", "apache-2.0",
        ("vit-ti16-in1k", "vit_tiny_patch16_224.augreg_in21k_ft_in1k", "ViT-Ti/16", 224, 16, 5.5),
        ("vit-ti16-in1k-384", "vit_tiny_patch16_384.augreg_in21k_ft_in1k", "ViT-Ti/16", 384, 16, 5.6),
        ("vit-s32-in1k", "vit_small_patch32_224.augreg_in21k_ft_in1k", "ViT-S/32", 224, 32, 22.5),
        ("vit-s32-in1k-384", "vit_small_patch32_384.augreg_in21k_ft_in1k", "ViT-S/32", 384, 32, 22.5),
        ("vit-s16-in1k", "vit_small_patch16_224.augreg_in21k_ft_in1k", "ViT-S/16", 224, 16, 21.7),
        ("vit-s16-in1k-384", "vit_small_patch16_384.augreg_in21k_ft_in1k", "ViT-S/16", 384, 16, 21.8),
        ("vit-b32-in1k", "vit_base_patch32_224.augreg_in21k_ft_in1k", "ViT-B/32", 224, 32, 87.5),
        ("vit-b32-in1k-384", "vit_base_patch32_384.augreg_in21k_ft_in1k", "ViT-B/32", 384, 32, 87.5),
        ("vit-b16-in1k", "vit_base_patch16_224.augreg_in21k_ft_in1k", "ViT-B/16", 224, 16, 85.8),
        ("vit-b16-in1k-384", "vit_base_patch16_384.augreg_in21k_ft_in1k", "ViT-B/16", 384, 16, 86.1),
        ("vit-b8-in1k", "vit_base_patch8_224.augreg_in21k_ft_in1k", "ViT-B/8", 224, 8, 85.8),
        ("vit-l16-in1k", "vit_large_patch16_224.augreg_in21k_ft_in1k", "ViT-L/16", 224, 16, 303.3),
        ("vit-l16-in1k-384", "vit_large_patch16_384.augreg_in21k_ft_in1k", "ViT-L/16", 384, 16, 303.7),
    ),
    *_family(_VIT, "ImageNet-21k then 1k", "half", "apache-2.0",
        ("vit-b16-orig-in1k", "vit_base_patch16_224.orig_in21k_ft_in1k", "ViT-B/16", 224, 16, 85.8),
        ("vit-b16-orig-in1k-384", "vit_base_patch16_384.orig_in21k_ft_in1k", "ViT-B/16", 384, 16, 86.1),
        ("vit-l32-orig-in1k-384", "vit_large_patch32_384.orig_in21k_ft_in1k", "ViT-L/32", 384, 32, 305.6),
    ),
    # Sharpness-aware minimisation.
    *_family(_SAM, "sharpness-aware, ImageNet-1k", "half", "apache-2.0",
        ("vit-b32-sam", "vit_base_patch32_224.sam_in1k", "ViT-B/32", 224, 32, 87.5),
        ("vit-b16-sam", "vit_base_patch16_224.sam_in1k", "ViT-B/16", 224, 16, 85.8),
    ),
    # Hybrids: a ResNet's features are the patches.
    *_family(_AUGREG, "AugReg, ImageNet-21k", "half", "apache-2.0",
        ("vit-r-ti16", "vit_tiny_r_s16_p8_224.augreg_in21k", "R+ViT-Ti/16", 224, 32, 6.1),
        ("vit-r26-s32", "vit_small_r26_s32_224.augreg_in21k", "R26+ViT-S/32", 224, 32, 36.0),
    ),
    *_family(_VIT, "ImageNet-21k", "half", "apache-2.0",
        ("vit-r50-b16", "vit_base_r50_s16_224.orig_in21k", "R50+ViT-B/16", 224, 16, 97.9),
    ),
    *_family(_AUGREG, "AugReg, ImageNet-21k", "half", "apache-2.0",
        ("vit-r50-l32", "vit_large_r50_s32_224.augreg_in21k", "R50+ViT-L/32", 224, 32, 328.0),
    ),
    # FlexiViT; another patch size than the file's 16 pixels resizes the patch embedding.
    *_family(_FLEXI, "ImageNet-1k, distilled", "half", "apache-2.0",
        ("flexivit-s", "flexivit_small.1200ep_in1k", "FlexiViT-S", 240, 16, 21.7),
        ("flexivit-s-p8", "flexivit_small.1200ep_in1k", "FlexiViT-S/8", 240, 8, 21.7),
        ("flexivit-s-p30", "flexivit_small.1200ep_in1k", "FlexiViT-S/30", 240, 30, 21.7),
        ("flexivit-b", "flexivit_base.1200ep_in1k", "FlexiViT-B", 240, 16, 85.8),
        ("flexivit-b-p8", "flexivit_base.1200ep_in1k", "FlexiViT-B/8", 240, 8, 85.8),
        ("flexivit-b-p30", "flexivit_base.1200ep_in1k", "FlexiViT-B/30", 240, 30, 85.8),
        ("flexivit-l", "flexivit_large.1200ep_in1k", "FlexiViT-L", 240, 16, 303.3),
        ("flexivit-l-p8", "flexivit_large.1200ep_in1k", "FlexiViT-L/8", 240, 8, 303.3),
        ("flexivit-l-p30", "flexivit_large.1200ep_in1k", "FlexiViT-L/30", 240, 30, 303.3),
    ),
    *_family(_FLEXI, "ImageNet-21k", "half", "apache-2.0",
        ("flexivit-b-in21k", "flexivit_base.1000ep_in21k", "FlexiViT-B", 240, 16, 85.8),
    ),
    # DeiT-III.
    *_family(_DEIT3, "ImageNet-22k then 1k", "imagenet", "apache-2.0",
        ("deit3-s16", "deit3_small_patch16_224.fb_in22k_ft_in1k", "DeiT-III S/16", 224, 16, 21.7),
        ("deit3-m16", "deit3_medium_patch16_224.fb_in22k_ft_in1k", "DeiT-III M/16", 224, 16, 38.3),
        ("deit3-b16", "deit3_base_patch16_224.fb_in22k_ft_in1k", "DeiT-III B/16", 224, 16, 85.8),
        ("deit3-l16", "deit3_large_patch16_224.fb_in22k_ft_in1k", "DeiT-III L/16", 224, 16, 303.3),
        ("deit3-h14", "deit3_huge_patch14_224.fb_in22k_ft_in1k", "DeiT-III H/14", 224, 14, 630.8),
    ),
    # DINO.
    *_family(_DINO, "ImageNet-1k, no labels", "imagenet", "apache-2.0",
        ("dino-s16", "vit_small_patch16_224.dino", "DINO S/16", 224, 16, 21.7),
        ("dino-s8", "vit_small_patch8_224.dino", "DINO S/8", 224, 8, 21.7),
        ("dino-b16", "vit_base_patch16_224.dino", "DINO B/16", 224, 16, 85.8),
        ("dino-b8", "vit_base_patch8_224.dino", "DINO B/8", 224, 8, 85.8),
    ),
    # DINOv2, with and without registers.
    *_family(_DINO2, "LVD-142M", "imagenet", "apache-2.0",
        ("dinov2-s14", "vit_small_patch14_dinov2.lvd142m", "DINOv2 S/14", 518, 14, 22.1),
        ("dinov2-b14", "vit_base_patch14_dinov2.lvd142m", "DINOv2 B/14", 518, 14, 86.6),
        ("dinov2-l14", "vit_large_patch14_dinov2.lvd142m", "DINOv2 L/14", 518, 14, 304.4),
        ("dinov2-g14", "vit_giant_patch14_dinov2.lvd142m", "DINOv2 g/14", 518, 14, 1136.5),
    ),
    *_family(_DINO2, "LVD-142M, 4 registers", "imagenet", "apache-2.0",
        ("dinov2-s14-reg", "vit_small_patch14_reg4_dinov2.lvd142m", "DINOv2 S/14", 518, 14, 22.1),
        ("dinov2-b14-reg", "vit_base_patch14_reg4_dinov2.lvd142m", "DINOv2 B/14", 518, 14, 86.6),
        ("dinov2-l14-reg", "vit_large_patch14_reg4_dinov2.lvd142m", "DINOv2 L/14", 518, 14, 304.4),
        ("dinov2-g14-reg", "vit_giant_patch14_reg4_dinov2.lvd142m", "DINOv2 g/14", 518, 14, 1136.5),
    ),
    # DINOv3: rotary positions.
    *_family(_DINO3, "LVD-1689M", "imagenet", "dinov3-license",
        ("dinov3-s16", "vit_small_patch16_dinov3.lvd1689m", "DINOv3 S/16", 256, 16, 21.6),
        ("dinov3-s-plus16", "vit_small_plus_patch16_dinov3.lvd1689m", "DINOv3 S+/16", 256, 16, 28.7),
        ("dinov3-b16", "vit_base_patch16_dinov3.lvd1689m", "DINOv3 B/16", 256, 16, 85.6),
        ("dinov3-l16", "vit_large_patch16_dinov3.lvd1689m", "DINOv3 L/16", 256, 16, 303.1),
        ("dinov3-h-plus16", "vit_huge_plus_patch16_dinov3.lvd1689m", "DINOv3 H+/16", 256, 16, 840.5),
        ("dinov3-7b16", "vit_7b_patch16_dinov3.lvd1689m", "DINOv3 7B/16", 256, 16, 6716.0),
    ),
    # Masked autoencoders.
    *_family(_MAE, "ImageNet-1k, no labels", "imagenet", "cc-by-nc-4.0",
        ("mae-b16", "vit_base_patch16_224.mae", "MAE B/16", 224, 16, 85.8),
        ("mae-l16", "vit_large_patch16_224.mae", "MAE L/16", 224, 16, 303.3),
        ("mae-h14", "vit_huge_patch14_224.mae", "MAE H/14", 224, 14, 630.8),
    ),
    # CLIP and OpenCLIP image towers.
    *_family(_CLIP, "WIT-400M", "clip", "apache-2.0",
        ("clip-b32", "vit_base_patch32_clip_quickgelu_224.openai", "CLIP B/32", 224, 32, 87.5),
        ("clip-b16", "vit_base_patch16_clip_quickgelu_224.openai", "CLIP B/16", 224, 16, 85.8),
        ("clip-l14", "vit_large_patch14_clip_quickgelu_224.openai", "CLIP L/14", 224, 14, 303.2),
        ("clip-l14-336", "vit_large_patch14_clip_quickgelu_336.openai", "CLIP L/14", 336, 14, 303.5),
    ),
    *_family(_OPENCLIP, "LAION-2B", "clip", "apache-2.0",
        ("clip-b16-laion2b", "vit_base_patch16_clip_224.laion2b", "OpenCLIP B/16", 224, 16, 85.8),
    ),
    *_family(_OPENCLIP, "LAION-2B", "half", "apache-2.0",
        ("clip-l14-laion2b", "vit_large_patch14_clip_224.laion2b", "OpenCLIP L/14", 224, 14, 303.2),
    ),
    *_family(_OPENCLIP, "LAION-2B", "clip", "apache-2.0",
        ("clip-h14-laion2b", "vit_huge_patch14_clip_224.laion2b", "OpenCLIP H/14", 224, 14, 630.8),
        ("clip-g14-laion2b", "vit_giant_patch14_clip_224.laion2b", "OpenCLIP g/14", 224, 14, 1011.2),
        ("clip-bigg14-laion2b", "vit_gigantic_patch14_clip_224.laion2b", "OpenCLIP G/14", 224, 14, 1842.8),
    ),
    *_family(_OPENCLIP, "LAION-2B, ImageNet-12k, 1k", "clip", "apache-2.0",
        ("clip-h14-in1k-336", "vit_huge_patch14_clip_336.laion2b_ft_in12k_in1k", "OpenCLIP H/14", 336, 14, 631.2),
    ),
    # SigLIP 2 image towers, attention pooling.
    *_family(_SIGLIP2, "WebLI", "half", "apache-2.0",
        ("siglip2-b32-256", "vit_base_patch32_siglip_256.v2_webli", "SigLIP 2 B/32", 256, 32, 94.6),
        ("siglip2-b16", "vit_base_patch16_siglip_224.v2_webli", "SigLIP 2 B/16", 224, 16, 92.9),
        ("siglip2-b16-384", "vit_base_patch16_siglip_384.v2_webli", "SigLIP 2 B/16", 384, 16, 93.2),
        ("siglip2-l16-256", "vit_large_patch16_siglip_256.v2_webli", "SigLIP 2 L/16", 256, 16, 316.0),
        ("siglip2-so400m14", "vit_so400m_patch14_siglip_224.v2_webli", "SigLIP 2 So400m/14", 224, 14, 427.7),
        ("siglip2-so400m14-378", "vit_so400m_patch14_siglip_378.v2_webli", "SigLIP 2 So400m/14", 378, 14, 428.2),
        ("siglip2-gopt16-256", "vit_giantopt_patch16_siglip_256.v2_webli", "SigLIP 2 g-opt/16", 256, 16, 1163.2),
    ),
    # Big Transfer: group-norm ResNets, any resolution; the CNN baseline.
    *_family(_BIT, "ImageNet-21k", "half", "apache-2.0",
        ("bit-r50x1", "resnetv2_50x1_bit.goog_in21k", "BiT-M R50x1", 224, 32, 23.5),
        ("bit-r50x3", "resnetv2_50x3_bit.goog_in21k", "BiT-M R50x3", 224, 32, 211.2),
        ("bit-r101x1", "resnetv2_101x1_bit.goog_in21k", "BiT-M R101x1", 224, 32, 42.5),
        ("bit-r101x3", "resnetv2_101x3_bit.goog_in21k", "BiT-M R101x3", 224, 32, 381.8),
        ("bit-r152x2", "resnetv2_152x2_bit.goog_in21k", "BiT-M R152x2", 224, 32, 232.2),
        ("bit-r152x4", "resnetv2_152x4_bit.goog_in21k", "BiT-M R152x4", 224, 32, 928.3),
    ),
)
# fmt: on

MODELS: dict[str, ModelAlias] = {alias.name: alias for alias in _TABLE}
