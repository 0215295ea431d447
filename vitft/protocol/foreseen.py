"""Estimates of runs that are not started, in numbers. No torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vitft.protocol.estimate import Estimate


@dataclass(frozen=True)
class Download:
    """Weights or data that must be fetched first.

    Attributes:
        size: bytes, as far as its owner says; None where nobody does.
        how: a command, or where it is.
    """

    what: str
    size: int | None
    how: str


@dataclass(frozen=True)
class Foreseen:
    """Estimates of runs that are not started.

    Attributes:
        title: of what.
        rows: (model, recipe, estimate), one for each model.
        notes: what is not in it, or assumed.
    """

    title: str
    rows: "tuple[tuple[str, str, Estimate], ...]"
    downloads: tuple[Download, ...]
    notes: tuple[str, ...]
