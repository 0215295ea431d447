"""Which decoded pixels a unit leaves on the disk: those that will be read again soon. No torch.

Pixels of training are read every epoch, those of an evaluation once, and VTAB has 388,000 test images: at 384 pixels
171 GB that nobody would ever read. What is there already is taken in any case, and no pixel is another for it.
"""

import math

from vitft.images.cache import Keep
from vitft.protocol.jobs import Runtime
from vitft.protocol.units import Unit, counts
from vitft.settings import Preprocess

_LITTLE = 1 << 30
"""Bytes of pixels that are decoded before the first update in any case: a broken image is told at once."""


def trained_keep(unit: Unit, pp: Preprocess, examples: int) -> Keep:
    """Return whether decoded training pixels are kept: where each image is read twice, or images are few.

    Args:
        pp: how they are prepared.
        examples: of the split.
    """
    s = unit.settings
    if pp.stored_size is None or 3 * math.prod(pp.stored_size) * examples < _LITTLE:
        return "make"
    looks = s.fixed_views or s.steps * s.batch_size / examples
    return "make" if looks * _units(unit) >= 2 else "no"


def evaluated_keep(unit: Unit, runtime: Runtime) -> Keep:
    """Return whether decoded pixels of an evaluation are kept: where other seeds, settings or models read them, too.

    They push nothing out of the cache.
    """
    return "room" if _units(unit) * runtime.models > 1 else "no"


def _units(unit: Unit) -> int:
    """Return how many units of a job train and are tested on these images."""
    tuned, tested = counts(unit.job)
    return tuned if unit.phase == "tune" else tested
