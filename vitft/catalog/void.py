"""Results that do not count any more: what was wrong with the data or the vitft they were made with.

A table of results shows a hole in their place, and the reason. To add one, add an entry; nothing is ever taken out.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Void:
    """Results to leave out.

    Attributes:
        task: canonical name.
        data: the data version, in words.
        vitft: the versions that made such results, in words.
        reason: why they do not count, in one line.
        n: number of test images by which they are known.
    """

    task: str
    data: str
    vitft: str
    reason: str
    n: int


VOID: tuple[Void, ...] = (
    Void(
        "caltech101",
        "prepared from its owner's archive before its rule was mended: 2,659 training and 6,485 test images",
        "0.1.0 before d3da0e3 of 2026-11-26",
        "at most half of a class went to train instead of 30 of every class (officially 6,084 test images); "
        "prepare it again",
        6485,
    ),
)


def why(task: str, n: int) -> str:
    """Return why a result does not count; "" where it does.

    Args:
        n: test images it was measured on.
    """
    found = next((entry for entry in VOID if entry.task == task and entry.n == n), None)
    return f"void: {found.data}; {found.reason}" if found else ""
