"""What damaged archives and tables make Python raise, as one error."""

import gzip
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from vitft.errors import DataDamaged
from vitft.results.files import cannot_write, full

_BROKEN = (
    tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, gzip.BadGzipFile, OSError, struct.error,
    NotImplementedError, RuntimeError,
)  # fmt: skip


@contextmanager
def reading(label: str) -> Iterator[None]:
    """Turn what a damaged file makes Python raise into DataDamaged that names `label`."""
    try:
        yield
    except _BROKEN as error:
        if full(error):
            raise cannot_write(getattr(error, "filename", None) or label, error) from None
        raise DataDamaged(
            f"'{label}' is damaged or cut short ({type(error).__name__}: {str(error).rstrip('.')}).",
            "the file as its owner publishes it, whole.",
            "Fetch it again, then give the same command.",
        ) from None
