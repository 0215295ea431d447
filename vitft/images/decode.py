"""From encoded bytes to RGB pixels."""

import io
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from vitft.errors import DataDamaged


def decode(data: bytes, key: str, exif: bool = False) -> NDArray[np.uint8]:
    """Decode one image of any format that Pillow reads to RGB.

    The first frame of an animation; palettes and CMYK converted; transparent pixels laid over white. Samples of other
    depths are scaled by the image's own range: integers up to 255 as 8 bits, up to 65,535 as 16 bits (as TensorFlow
    reads a PNG of 16 bits); floating point within 0 to 1 as shares of white, else up to 255 as 8 bits. Other ranges
    are refused, never clipped.

    Args:
        data: the encoded file.
        key: what an error names.
        exif: turn the picture as its EXIF orientation says. Benchmarks are read without, as their reference code does.

    Returns:
        (H, W, 3) uint8.

    Raises:
        DataDamaged: the bytes are no whole image, or its samples are in no range above (exit code 3).
    """
    try:
        with warnings.catch_warnings():
            # A photograph over 89 megapixels is legal; Pillow still refuses twice that as a decompression bomb.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image: Image.Image = Image.open(io.BytesIO(data))
            image.load()
        if exif:
            image = ImageOps.exif_transpose(image)
        if image.mode == "F" or image.mode.startswith("I"):
            samples, clear = np.asarray(image), image.info.get("transparency")
            scaled = _scaled(samples, key)
            image = Image.fromarray(scaled if clear is None else np.where(samples == clear, np.uint8(255), scaled))
        return np.array(_to_rgb(image))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise unreadable(data, key, error) from None


def unreadable(data: bytes, key: str, error: Exception) -> DataDamaged:
    """Return the error that names an image which is none."""
    reason = "empty file" if not data else f"{type(error).__name__}: {error}".split("<_io")[0].strip()
    return DataDamaged(
        f"Image '{key}' cannot be decoded ({reason}).",
        "a whole file of a format that Pillow reads (JPEG, PNG, WebP, AVIF, TIFF, GIF, BMP, ...).",
        "Replace the file; vitft never skips an image silently.",
    )


def _scaled(samples: NDArray[Any], key: str) -> NDArray[np.uint8]:
    """Bring one channel of 16 or 32 bits or of floating point to 8 bits. Raises DataDamaged where no rule fits."""
    values = samples.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    floating = samples.dtype.kind == "f"
    if not (low >= 0 and high <= (255 if floating else 65535)):  # both are NaN where a sample is
        raise DataDamaged(
            f"Image '{key}' has {'floating-point ' if floating else ''}samples from {low:g} to {high:g}.",
            "integers from 0 to 65,535; floating point from 0 to 1 or from 0 to 255.",
            "Scale it to one of them, or write it as 8-bit PNG; vitft clips no image silently.",
        )
    white = (1.0 if high <= 1 else 255.0) if floating else (255.0 if high <= 255 else 65535.0)
    scaled: NDArray[np.uint8] = np.round(values / white * 255).astype(np.uint8)
    return scaled


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image if image.mode == "RGB" else image.convert("RGB")
