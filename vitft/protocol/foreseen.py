"""What runs will take that nobody starts, in numbers. No torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vitft.protocol.estimate import Estimate


@dataclass(frozen=True)
class Download:
    """What is not here yet: weights or data.

    Attributes:
        size: bytes, as far as its owner says; None where nobody does.
        how: a command, or where it is.
    """

    what: str
    size: int | None
    how: str


@dataclass(frozen=True)
class Foreseen:
    """Runs that nobody starts.

    Attributes:
        title: of what.
        rows: (model, recipe, estimate), one for each model.
        notes: what is not in it, or assumed.
    """

    title: str
    rows: "tuple[tuple[str, str, Estimate], ...]"
    downloads: tuple[Download, ...]
    notes: tuple[str, ...]
