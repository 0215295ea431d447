"""What damaged archives and tables make Python raise, as one error."""

import errno
import gzip
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from vitft.errors import DataDamaged, DiskFull

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
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            where = error.filename or label
            raise DiskFull(f"The disk is full ({where}).", "", "Free some space and start again.") from None
        raise DataDamaged(
            f"'{label}' is damaged or cut short ({type(error).__name__}: {str(error).rstrip('.')}).",
            "the file as its owner publishes it, whole.",
            "Fetch it again, then give the same command.",
        ) from None
