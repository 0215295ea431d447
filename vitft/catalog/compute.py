"""What one image costs a plain Vision Transformer: a closed form, and the sizes that papers write as ViT-B/16."""

import re


def vit_macs(
    *, depth: int, width: int, hidden: int, tokens: int, patches: int, patch_inputs: int, classes: int = 0
) -> float:
    """Count a plain ViT's multiply-accumulates for one image.

    Per block and token: 4 D^2 for qkv and the output, 2 D M for the MLP, 2 N D for the two attention products.

    Args:
        depth: L.
        width: D.
        hidden: M, of the MLP.
        tokens: N, prefix tokens included.
        patches: tokens that come from the image.
        patch_inputs: numbers in a patch, channels times area.
        classes: K, of the head.
    """
    block = (4 * width**2 + 2 * width * hidden) * tokens + 2 * tokens**2 * width
    return float(depth * block + patches * patch_inputs * width + classes * width)


_SIZES = {
    "Ti": (12, 192, 768), "S": (12, 384, 1536), "B": (12, 768, 3072), "L": (24, 1024, 4096), "H": (32, 1280, 5120),
    "G": (48, 1664, 8192),
}  # fmt: skip
"""Depth, width and MLP of the ViT and AugReg papers, and of "Scaling Vision Transformers" (G)."""


def of_paper(model: str, side: int) -> float | None:
    """Return multiply-accumulates for one image of `side` pixels, head apart; None for what is no plain ViT.

    Args:
        model: as papers write it, e.g. "ViT-L/16".
    """
    match = re.fullmatch(r"ViT-(\w+)/(\d+)", model)
    if match is None or match[1] not in _SIZES:
        return None
    depth, width, hidden = _SIZES[match[1]]
    patch = int(match[2])
    patches = (side // patch) ** 2
    return vit_macs(
        depth=depth, width=width, hidden=hidden, tokens=patches + 1, patches=patches, patch_inputs=3 * patch**2
    )
