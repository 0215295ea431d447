"""Digests of encoded images: by them a split is known again, whatever its files are called. No torch."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

from vitft.data.split import Split
from vitft.progress import Hooks

_READ_TOLD = 1000  # encoded images; reading is quick but for large splits on slow disks
_READERS = 4  # threads: on a network disk most of the time is waiting
_KEPT = "_fingerprints"

FINGERPRINT = 16
"""Bytes of the digest of one encoded image."""


def encoded_digest(split: Split, hooks: Hooks | None = None) -> str:
    """Return a sha256 that changes with any encoded image of a split or their order. Raises as `fingerprints`."""
    return hashlib.sha256(b"".join(fingerprints(split, hooks))).hexdigest()


def fingerprints(split: Split, hooks: Hooks | None = None) -> tuple[bytes, ...]:
    """Return a digest of each encoded image, in order; the images of an opened split are read for it once.

    Raises:
        DataMissing, DataDamaged: an image cannot be read.
        Interrupted: `hooks` were asked to stop.
    """
    known: tuple[bytes, ...] | None = vars(split).get(_KEPT)
    if known is not None:
        return known
    hooks = hooks or Hooks()
    found: list[bytes] = []
    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(split), _READ_TOLD):
            if start:
                hooks.phase(f"read {split.task} {split.name}", start, len(split))
            chunk = range(start, min(start + _READ_TOLD, len(split)))
            for digest in pool.map(lambda i: fingerprint(split.read(i)), chunk):
                hooks.stop_if_asked()
                found.append(digest)
    vars(split)[_KEPT] = tuple(found)
    return tuple(found)


def fingerprint(encoded: bytes) -> bytes:
    """Return the digest by which encoded images are compared."""
    return hashlib.blake2b(encoded, digest_size=FINGERPRINT).digest()
