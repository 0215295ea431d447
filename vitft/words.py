"""Times, sizes, rates, seeds and causes in words, the same in notes, tables and errors."""

from collections.abc import Iterable
from datetime import timedelta


def duration(seconds: float) -> str:
    """Return a time in the words of an estimate: "40 s", "12 min", "3.4 h", "31 days", "14 years"."""
    for unit, long, least in (
        ("years", 365.25, 730.0),
        ("days", 1.0, 3.0),
        ("h", 1 / 24, 1 / 16),
        ("min", 1 / 1440, 1 / 960),
    ):
        n = seconds / 86400 / long
        if seconds >= 86400 * least:
            return f"{n:.2g} {unit}" if n < 99.5 else f"{n:,.0f} {unit}"
    return f"{max(1, round(seconds))} s"


def clock(seconds: float | None) -> str:
    """Return a time as a clock shows it: "0:03:20", "2 days, 1:00:00"; "-:--:--" where it is not known."""
    return "-:--:--" if seconds is None else str(timedelta(seconds=max(0, round(seconds))))


def size(n: int) -> str:
    """Return bytes as kB, MB or GB."""
    if n >= 1e9:
        return f"{n / 1e9:.1f} GB"
    return f"{n / 1e6:.0f} MB" if n >= 1e6 else f"{n / 1e3:.0f} kB"


def rate(flops_per_s: float) -> str:
    """Return floating-point operations a second."""
    return f"{flops_per_s / 1e12:.3g} TFLOP/s" if flops_per_s >= 1e12 else f"{flops_per_s / 1e9:.3g} GFLOP/s"


def sentence(text: str) -> str:
    """Return a fact as a sentence of its own: it begins with a capital and ends with one full stop."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def uncapitalised(text: str) -> str:
    """Return a message as a part of a sentence: it begins with a small letter."""
    return f"{text[:1].lower()}{text[1:]}"


def seed_list(numbers: Iterable[int | str]) -> str:
    """Return "seed 0", or "seeds 0, 1"."""
    names = list(map(str, numbers))
    return f"seed{'s' * (len(names) > 1)} {', '.join(names)}"


def of_seed(seed: int | None) -> str:
    """Return ", seed 0", which follows a name; "" for None."""
    return "" if seed is None else f", seed {seed}"


def cause(error: BaseException, most: int = 160) -> str:
    """Return the first line of what a library raised, or the kind of it, without a full stop."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:most].rstrip(".")


def listed(text: str) -> list[str]:
    """Return the words of "a, b,c"; none of ""."""
    return [word for word in map(str.strip, text.split(",")) if word]
