"""From encoded bytes to RGB pixels."""

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from vitft.errors import DataDamaged


def decode(data: bytes, key: str, exif: bool = False) -> NDArray[np.uint8]:
    """Decode one image (JPEG, PNG, WebP, GIF, BMP, TIFF) to RGB.

    The first frame of an animation; palettes and CMYK converted; 16-bit samples scaled to 8 bits, not clipped;
    transparent pixels laid over white.

    Args:
        data: the encoded file.
        key: what an error names.
        exif: turn the picture as its EXIF orientation says. Benchmarks are read without, as their reference code does.

    Returns:
        (H, W, 3) uint8.

    Raises:
        DataDamaged: the bytes are no whole image (exit code 3).
    """
    try:
        with warnings.catch_warnings():
            # A photograph over 89 megapixels is legal; Pillow still refuses twice that as a decompression bomb.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image: Image.Image = Image.open(io.BytesIO(data))
            image.load()
        if exif:
            image = ImageOps.exif_transpose(image)
        return np.array(_to_rgb(image), dtype=np.uint8)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise unreadable(data, key, error) from None


def unreadable(data: bytes, key: str, error: Exception) -> DataDamaged:
    """Return the error that names an image which is none."""
    reason = "empty file" if not data else f"{type(error).__name__}: {error}".split("<_io")[0].strip()
    return DataDamaged(
        f"Image '{key}' cannot be decoded ({reason}).",
        "Legal: a whole JPEG, PNG, WebP, GIF, BMP or TIFF file.",
        "Replace the file; vitft never skips an image silently.",
    )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I"):
        values = np.asarray(image).astype(np.float64)
        top = 65535.0 if values.max(initial=0) > 255 else 255.0
        image = Image.fromarray(np.round(np.clip(values / top, 0, 1) * 255).astype(np.uint8))
    elif image.mode == "F":
        image = Image.fromarray(np.round(np.clip(np.asarray(image), 0, 255)).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        if np.asarray(rgba)[..., 3].min(initial=255) < 255:
            white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
            rgba = Image.alpha_composite(white, rgba)
        return rgba.convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
