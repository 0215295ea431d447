"""Text of strangers (names of classes, files, models) on a terminal, a page or a picture."""

import unicodedata

_JOINERS = "\u200c\u200d"
"""Zero-width joiners: Persian and emoji are written with them, and they move nothing."""


def visible(text: str, instead: str = "\N{REPLACEMENT CHARACTER}") -> str:
    """Return text in which no letter moves the cursor, turns what follows or is hidden: escapes, marks of direction.

    Line ends, tabs and spaces of all kinds stay.

    Args:
        instead: what stands for each such letter.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(letter if _shown(letter) else instead for letter in text)


def _shown(letter: str) -> bool:
    return letter.isprintable() or letter in "\n\t" or letter in _JOINERS or unicodedata.category(letter) == "Zs"
