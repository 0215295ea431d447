"""Digests of encoded images kept once a machine, under what tells that a file is still the same. No torch.

`$VITFT_CACHE/digests/<folder>.bin` holds records of 32 bytes for the images of one folder: a digest of (path, size,
time, inode, place in the file), and that of the encoded image. A file that was changed has another time or size, so
that its record is not found; one that changed so lately that its time cannot tell is never recorded.
"""

import hashlib
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitft import machine
from vitft.data.reader import DIGEST, Reader
from vitft.errors import DiskFull
from vitft.images import room
from vitft.results.files import write_atomic

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Lookup:
    """Images of one folder, looked up before they are read.

    Attributes:
        folder: of their files.
        rows: (n,) positions in the split.
        keys: (n, 16) digests of path, size, time, inode and place in the file, as they were at the look-up.
        settled: (n,) whether a later change of the file must change its key.
    """

    folder: Path
    rows: NDArray[np.int64]
    keys: Bytes
    settled: NDArray[np.bool_]


def look_up(images: Iterable[tuple[int, Reader, int]]) -> list[Lookup]:
    """Return the keys of images by their folder; those that are in no file are left out.

    Args:
        images: (position in the split, reader, index in the reader) of each.
    """
    now, states = time.time_ns(), dict[Path, tuple[bytes, bool]]()
    rows, keys, settled = (defaultdict[Path, bytearray](bytearray) for _ in range(3))
    for row, reader, i in images:
        if reader.file is None:
            continue
        path, place = reader.file(i)
        own = place < 0
        with suppress(OSError):  # reading it will say so
            state = (
                machine.identity(path, now)
                if own
                else states.get(path) or states.setdefault(path, machine.identity(path, now))
            )
            key = hashlib.blake2b(state[0] + b"\0%d" % place, digest_size=DIGEST).digest()
            folder = path.parent if own else path
            rows[folder] += row.to_bytes(8, sys.byteorder)
            keys[folder] += key
            settled[folder].append(state[1])
    return [
        Lookup(folder, np.frombuffer(of, np.int64), _array(keys[folder]), np.frombuffer(settled[folder], np.bool_))
        for folder, of in rows.items()
    ]


def recalled(lookup: Lookup) -> Iterator[tuple[int, Bytes]]:
    """Yield (position, digest) of the images whose digests are on this machine."""
    records = _load(_file(lookup.folder))
    for row, at in zip(lookup.rows.tolist(), _find(records, lookup.keys).tolist(), strict=True):
        if at >= 0:
            yield row, records[at, DIGEST:]


def keep(lookup: Lookup, digests: Bytes) -> None:
    """Keep the digests of images that were read after their look-up; a full cache is no failure.

    Args:
        digests: (n, 16), of the same images.
    """
    file = _file(lookup.folder)
    known = _load(file)
    new = lookup.settled & (_find(known, lookup.keys) < 0)
    if not new.any():
        return
    records = np.concatenate([known, np.concatenate([lookup.keys, digests], axis=1)[new]])
    records = records[np.argsort(_first(records))]
    data = records.tobytes()
    with suppress(DiskFull), room.turn():
        if room.make(len(data)):
            write_atomic(file, data + hashlib.blake2b(data, digest_size=DIGEST).digest())


def _file(folder: Path) -> Path:
    name = hashlib.blake2b(os.fsencode(os.path.abspath(folder)), digest_size=DIGEST).hexdigest()  # noqa: PTH100
    return machine.cache() / "digests" / f"{name}.bin"


def _load(file: Path) -> Bytes:
    """Return the records of a file, (n, 32), sorted; none where it is absent, torn or of something else."""
    with suppress(OSError):
        data = file.read_bytes()
        body, end = data[:-DIGEST], data[-DIGEST:]
        if len(body) % (2 * DIGEST) == 0 and hashlib.blake2b(body, digest_size=DIGEST).digest() == end:
            room.touch(file)
            return _array(body, 2 * DIGEST)
    return _array(b"", 2 * DIGEST)


def _find(records: Bytes, keys: Bytes) -> NDArray[np.int64]:
    """Return the row of each key, -1 where there is none."""
    if not len(records):
        return np.full(len(keys), -1)
    at = np.minimum(np.searchsorted(_first(records), _first(keys)), len(records) - 1)
    return np.where((records[at, :DIGEST] == keys).all(axis=1), at, -1)


def _first(records: Bytes) -> NDArray[np.uint64]:
    return records.view(np.uint64)[:, 0]


def _array(data: bytes | bytearray, width: int = DIGEST) -> Bytes:
    return np.frombuffer(data, dtype=np.uint8).reshape(-1, width)
