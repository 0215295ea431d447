"""How many training examples a task of VTAB has: the 1,000 of VTAB-1k, all, or the first N of the 1,000."""

import re
from typing import Literal

from vitft.errors import UsageError

Shots = str
"""A number up to "1000", which is VTAB-1k and less the first of it, or "full" for all training data."""

MOST = 1000


def checked(text: str) -> Shots:
    """Return "full", or a number as it is written shortest. Raises UsageError (exit code 2)."""
    if text == "full" or (text.isdecimal() and 0 < int(text) <= MOST):
        return text if text == "full" else str(int(text))
    raise UsageError(
        f"--shots '{text}' is no number of training examples.",
        f"1 to {MOST} (the first of VTAB-1k's {MOST:,}), or full.",
    )


def splits_of(shots: Shots) -> Literal["1000", "full"]:
    """Return whose splits they are cut from: VTAB-1k's or full VTAB's."""
    return "full" if shots == "full" else "1000"


def number(shots: Shots) -> int:
    """Return how many they are; 0 for all."""
    return 0 if shots == "full" else int(shots)


def first_of(shots: Shots | None) -> int | None:
    """Return N where only the first N of VTAB-1k's examples are asked for, else None."""
    return int(shots) if shots and shots != "full" and int(shots) < MOST else None


def split_name(n: int) -> str:
    """Return the name of the first N examples of VTAB-1k, as TensorFlow Datasets writes a slice."""
    return f"train800val200[:{n}]"


def first_in(name: str | None) -> int | None:
    """Return N of a split's name, None where it is no such split."""
    match = re.fullmatch(r"train800val200\[:(\d+)\]", name or "")
    return int(match[1]) if match else None
