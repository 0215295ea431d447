"""What may be asked of a network that is not trained, checked before torch is imported."""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from vitft.errors import UsageError
from vitft.settings import CHECKPOINT_KEYS, Settings

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


def check(fixed: Mapping[str, Any], crop_pct: float | None = None) -> None:
    """Refuse keys that mean nothing without training, impossible values and a crop that is none. Raises UsageError."""
    foreign = sorted(set(fixed) - set(SETTABLE))
    if foreign:
        raise UsageError(
            f"'{foreign[0]}' means nothing without training.", f"Legal here: {', '.join(SETTABLE)}.", "Leave it out."
        )
    settings(fixed)
    if crop_pct is not None and not 0 < crop_pct <= 1:
        raise UsageError(f"--crop-pct {crop_pct:g} is no fraction.", "Legal: above 0, up to 1 (no crop).")


def settings(values: Mapping[str, Any]) -> Settings:
    """Return these keys as settings. Raises UsageError."""
    try:
        return Settings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else "setting"
        raise UsageError(f"{key} '{first['input']}' is not possible.", f"Legal: {first['msg']}.") from None


def device(name: str) -> None:
    """Refuse what is no device's name; whether it is here only torch can tell. Raises UsageError."""
    if not re.fullmatch(r"auto|(cpu|cuda|mps|xpu|hpu)(:\d+)?", name):
        raise UsageError(
            f"Device '{name}' is not here.",
            "Legal: auto, cpu, cuda, cuda:1, mps.",
            "Run 'vitft doctor' to see what torch finds.",
        )
