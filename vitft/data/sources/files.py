"""Image and list files, read whole; every error names the file."""

import os
from pathlib import Path

from vitft.errors import DataDamaged, DataMissing

SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})


def read_file(path: Path) -> bytes:
    """Return the bytes of an image file. Raises DataMissing or DataDamaged naming it."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataMissing(f"Image '{printable(path)}' is missing.") from None
    except OSError as error:
        raise DataDamaged(f"Image '{printable(path)}' cannot be read ({error.strerror}).") from None


def read_text(file: Path) -> str:
    """Return a text file without its byte-order mark. Raises DataDamaged naming it."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataDamaged(f"'{file}' is not UTF-8 text (byte {error.start}).", "Legal: a list in UTF-8.") from None
    except OSError as error:
        raise DataDamaged(f"'{file}' cannot be read ({error.strerror}).") from None


def printable(path: str | Path) -> str:
    """Return a path as legal text: bytes of a file name that are no UTF-8 are escaped."""
    return os.fsencode(path).decode(errors="backslashreplace")
