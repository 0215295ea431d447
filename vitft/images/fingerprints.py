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
    """Return a digest of each encoded image, in order; an image of an opened split is read for it once.

    Splits that were cut, drawn or joined from opened ones know their images again.

    Raises:
        DataMissing, DataDamaged: an image cannot be read.
        Interrupted: `hooks` were asked to stop.
    """
    known: tuple[bytes, ...] | None = vars(split).get(_KEPT)
    if known is not None:
        return known
    hooks = hooks or Hooks()
    kept = [split.reader.known(i) for i in range(len(split))]
    unread = [i for i, (digests, name) in enumerate(kept) if name not in digests]
    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(unread), _READ_TOLD):
            if start:
                hooks.phase(f"read {split.task} {split.name}", start, len(unread))
            chunk = unread[start : start + _READ_TOLD]
            for i, digest in zip(chunk, pool.map(lambda i: fingerprint(split.read(i)), chunk), strict=True):
                hooks.stop_if_asked()
                digests, name = kept[i]
                digests[name] = digest
    known = tuple(digests[name] for digests, name in kept)
    vars(split)[_KEPT] = known
    return known


def fingerprint(encoded: bytes) -> bytes:
    """Return the digest by which encoded images are compared."""
    return hashlib.blake2b(encoded, digest_size=FINGERPRINT).digest()
