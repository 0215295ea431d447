"""The options of a verb that trains nothing, checked without torch."""

import re
from collections.abc import Mapping

from vitft.errors import UsageError
from vitft.settings import CHECKPOINT_KEYS, checked

SETTABLE = (
    "resolution",
    "resize",
    "interpolation",
    "antialias",
    "normalise",
    "posembed_resize",
    "gelu",
    *CHECKPOINT_KEYS,
)
"""The recipe keys that mean something without training."""


def check(fixed: Mapping[str, object], crop_pct: float | None = None) -> None:
    """Refuse keys that mean nothing without training, impossible values and a crop that is none. Raises UsageError."""
    foreign = sorted(set(fixed) - set(SETTABLE))
    if foreign:
        raise UsageError(f"'{foreign[0]}' means nothing without training.", f"{', '.join(SETTABLE)}.", "Leave it out.")
    checked(fixed)
    if crop_pct is not None and not 0 < crop_pct <= 1:
        raise UsageError(f"--crop-pct {crop_pct:g} is no fraction.", "above 0, up to 1 (no crop).")


def device(name: str) -> None:
    """Refuse what is no device's name; whether it is here only torch can tell. Raises UsageError."""
    if not re.fullmatch(r"auto|(cpu|cuda|mps|xpu|hpu)(:\d+)?", name):
        raise UsageError(
            f"Device '{name}' is not here.",
            "auto, cpu, cuda, cuda:1, mps.",
            "Run 'vitft doctor' to see what torch finds.",
        )
