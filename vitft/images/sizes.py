"""How large a split's images are, from their headers."""

import io
import statistics
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from vitft.data.split import Split
from vitft.images.decode import unreadable
from vitft.results.parts import Seen

MOST = 256
"""Images that are looked at, evenly spread over the split."""


def median(split: Split) -> Seen:
    """Measure at most `MOST` images, evenly spread over the split. Raises DataDamaged where a header says nothing."""
    rows = np.unique(np.linspace(0, len(split) - 1, min(MOST, len(split))).round().astype(np.int64))
    areas = [_area(split.read(int(i)), f"{split.task} {split.name}: {split.keys[int(i)]}") for i in rows]
    return Seen(pixels=statistics.median_low(areas), of=len(areas))


def _area(data: bytes, key: str) -> int:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                return image.width * image.height
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise unreadable(data, key, error) from None
