"""Pixels that come without an encoding, as image files."""

import io

import numpy as np
from numpy.typing import NDArray


def png(pixels: NDArray[np.uint8], compress_level: int = 6) -> bytes:
    """Write (H, W) or (H, W, 3) uint8 as PNG; zlib's `compress_level` changes the size and the time, no pixel."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, "PNG", compress_level=compress_level)
    return out.getvalue()
