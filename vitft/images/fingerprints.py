"""Digests of encoded images: by them a split is known again, whatever its files are called. No torch."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitft.data.reader import DIGEST, Reader
from vitft.data.split import Split
from vitft.images import digests
from vitft.progress import Hooks

_READ_TOLD = 1000  # encoded images; reading is quick but for large splits on slow disks
_READERS = 4  # threads: on a network disk most of the time is waiting
_KEPT, _LOOKED_UP = "_fingerprints", "_looked_up"

Fingerprints = NDArray[np.uint8]
"""(N, 16): a digest of each encoded image, in order."""


@dataclass
class _Images:
    """The images of a split as they were opened, and which of them were looked up before they were read.

    Attributes:
        which, at: (N,) the reader that each was opened with, and its index there.
    """

    readers: list[Reader]
    which: NDArray[np.int32]
    at: NDArray[np.int64]
    lookups: list[digests.Lookup]

    def opened(self, i: int) -> tuple[Reader, int]:
        return self.readers[self.which[i]], int(self.at[i])

    def known(self, i: int) -> bool:
        reader, at = self.opened(i)
        return reader.number(at) in reader.found

    def digest(self, i: int) -> Fingerprints:
        reader, at = self.opened(i)
        return reader.found[reader.number(at)]

    def learn(self, i: int, digest: bytes | Fingerprints) -> None:
        reader, at = self.opened(i)
        reader.found[reader.number(at)] = digest


def recall(split: Split) -> bool:
    """Look up what this machine knows of a split's images, by their files' sizes and times; tell whether that is all.

    No image is read. Where one is read afterwards (`take_in`, `fingerprints`) it is one of the file that was looked at.
    """
    if _KEPT in vars(split):
        return True
    images = _of(split)
    return all(images.known(i) for i in range(len(split)))


def take_in(split: Split, i: int, encoded: bytes) -> None:
    """Record the digest of an image that was read for another purpose; call `recall` first."""
    if _KEPT not in vars(split) and not (images := _of(split)).known(i):
        images.learn(i, fingerprint(encoded))


def encoded_digest(split: Split, hooks: Hooks | None = None) -> str:
    """Return a sha256 that changes with any encoded image of a split or their order. Raises as `fingerprints`."""
    return hashlib.sha256(fingerprints(split, hooks).tobytes()).hexdigest()


def fingerprints(split: Split, hooks: Hooks | None = None) -> Fingerprints:
    """Return a digest of each encoded image, in order; an image is read for it once a machine while its file stays.

    Splits that were cut, drawn or joined from opened ones know their images again.

    Raises:
        DataMissing, DataDamaged: an image cannot be read.
        Interrupted: `hooks` were asked to stop.
    """
    known: Fingerprints | None = vars(split).get(_KEPT)
    if known is not None:
        return known
    hooks, images = hooks or Hooks(), _of(split)
    unread = [i for i in range(len(split)) if not images.known(i)]
    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(unread), _READ_TOLD):
            if start:
                hooks.phase(f"read {split.task} {split.name}", start, len(unread))
            chunk = unread[start : start + _READ_TOLD]
            for i, digest in zip(chunk, pool.map(lambda i: fingerprint(split.read(i)), chunk), strict=True):
                hooks.stop_if_asked()
                images.learn(i, digest)
    known = np.zeros((len(split), DIGEST), dtype=np.uint8)
    for i in range(len(split)):
        known[i] = images.digest(i)
    for lookup in images.lookups:
        digests.keep(lookup, known[lookup.rows])
    vars(split)[_KEPT] = known
    del vars(split)[_LOOKED_UP]
    return known


def fingerprint(encoded: bytes) -> bytes:
    """Return the digest by which encoded images are compared."""
    return hashlib.blake2b(encoded, digest_size=DIGEST).digest()


def _of(split: Split) -> _Images:
    """Return the images of a split, looked up at the first call."""
    known: _Images | None = vars(split).get(_LOOKED_UP)
    if known is not None:
        return known
    n, numbers, readers = len(split), dict[int, int](), list[Reader]()
    images = _Images(readers, np.zeros(n, dtype=np.int32), np.zeros(n, dtype=np.int64), [])
    for i in range(n):
        reader, images.at[i] = split.reader.opened(i)
        images.which[i] = numbers.setdefault(id(reader), len(readers))
        if len(numbers) > len(readers):
            readers.append(reader)
    for lookup in digests.look_up((i, *images.opened(i)) for i in range(n) if not images.known(i)):
        for row, digest in digests.recalled(lookup):
            images.learn(row, digest)
        left = np.array([not images.known(row) for row in lookup.rows.tolist()], dtype=bool)
        if left.any():
            rest = digests.Lookup(lookup.folder, lookup.rows[left], lookup.keys[left], lookup.settled[left])
            images.lookups.append(rest)
    vars(split)[_LOOKED_UP] = images
    return images
