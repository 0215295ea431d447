"""The two processings of images that OpenCV defines, as TensorFlow Datasets does them."""

from typing import Any

import numpy as np

from vitft.errors import DataDamaged, DataMissing

_SUN_PIXELS = 120_000
_RADIUS = 300  # pixels of the eyeball, "btgraham-300"


def library() -> Any:
    """Return the module cv2. Raises DataMissing naming the extra."""
    try:
        import cv2
    except ImportError:
        raise DataMissing(
            "OpenCV is not installed; the images of this collection are defined by its resize.",
            "the extra 'opencv' of vitft.",
            "Run: pip install 'vitft[opencv]'",
        ) from None
    return cv2


def sun397(data: bytes, name: str) -> bytes:
    """Resize to at most 120,000 pixels and write as JPEG at OpenCV's own quality (TFDS sun397/tfds).

    Every image is written anew, also a small one. The file names end in .jpg, but some are PNG, BMP or GIF.
    """
    cv2 = library()
    image = _decode(data, name)
    height, width = image.shape[:2]
    if height * width > _SUN_PIXELS:
        factor = np.sqrt(_SUN_PIXELS / (height * width))
        image = cv2.resize(image, dsize=None, fx=factor, fy=factor)
    return _jpeg(image, name)


def retinopathy(data: bytes, name: str) -> bytes:
    """Scale the eyeball to a radius of 300, subtract the local average, crop to 90 % of it, JPEG quality 72.

    Source: diabetic_retinopathy_detection/btgraham-300 of TFDS, after the winner of the 2015 competition.
    """
    cv2 = library()
    image = _decode(data, name)
    middle = image[image.shape[0] // 2].sum(axis=1)
    radius = (middle > middle.mean() / 10.0).sum() / 2.0
    if radius < 1.0:  # too dark to tell
        radius = image.shape[0] / 2.0
    scale = _RADIUS / radius
    image = cv2.resize(image, dsize=None, fx=scale, fy=scale)
    image = cv2.addWeighted(image, 4, cv2.GaussianBlur(image, (0, 0), _RADIUS / 30), -4, 128)
    inside = int(_RADIUS * 0.9)
    height, width = image.shape[:2]
    mask = np.zeros((height, width), np.uint8)
    cv2.circle(mask, (width // 2, height // 2), inside, 1, -1)
    image = np.where(mask[..., None] == 1, image, np.uint8(128))
    top, left = max(height // 2 - inside, 0), max(width // 2 - inside, 0)
    image = image[top : height // 2 + inside, left : width // 2 + inside]
    return _jpeg(np.ascontiguousarray(image), name, 72)


def _decode(data: bytes, name: str) -> Any:
    """Return (H, W, 3) uint8 BGR; what OpenCV cannot read, Pillow may."""
    cv2 = library()
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH) if data else None
    if image is None:
        from vitft.images.decode import decode

        return np.ascontiguousarray(decode(data, name)[..., ::-1])
    if image.dtype != np.uint8:
        image = (image >> 8).astype(np.uint8)
    return image


def _jpeg(image: Any, name: str, quality: int | None = None) -> bytes:
    cv2 = library()
    options = [] if quality is None else [int(cv2.IMWRITE_JPEG_QUALITY), quality]
    ok, data = cv2.imencode(".jpg", image, options)
    if not ok:
        raise DataDamaged(f"'{name}' could not be written as JPEG by OpenCV.", "", "Fetch the file again.")
    return bytes(data.tobytes())
