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
class Asked:
    """Images that were looked up before they were read.

    Attributes:
        folder: that holds their files.
        rows: (n,) positions in the split.
        keys: (n, 16) what tells each image at the time of the asking.
        settled: (n,) whether that can be trusted from now on.
    """

    folder: Path
    rows: NDArray[np.int64]
    keys: Bytes
    settled: NDArray[np.bool_]


def ask(images: Iterable[tuple[int, Reader, int]]) -> list[Asked]:
    """Look at the files of images, given as (position, reader, index there); those that are in no file are left out."""
    now, states = time.time_ns(), dict[Path, tuple[bytes, bool]]()
    rows, keys, settled = (defaultdict[Path, bytearray](bytearray) for _ in range(3))
    for row, reader, i in images:
        if reader.file is None:
            continue
        path, place = reader.file(i)
        own = place < 0
        with suppress(OSError):  # reading it will say so
            state = (
                machine.told_by(path, now)
                if own
                else states.get(path) or states.setdefault(path, machine.told_by(path, now))
            )
            key = hashlib.blake2b(state[0] + b"\0%d" % place, digest_size=DIGEST).digest()
            folder = path.parent if own else path
            rows[folder] += row.to_bytes(8, sys.byteorder)
            keys[folder] += key
            settled[folder].append(state[1])
    return [
        Asked(folder, np.frombuffer(of, np.int64), _array(keys[folder]), np.frombuffer(settled[folder], np.bool_))
        for folder, of in rows.items()
    ]


def recalled(asked: Asked) -> Iterator[tuple[int, Bytes]]:
    """Yield (position, digest) of the images whose digests are kept."""
    kept = _load(_file(asked.folder))
    for row, at in zip(asked.rows.tolist(), _find(kept, asked.keys).tolist(), strict=True):
        if at >= 0:
            yield row, kept[at, DIGEST:]


def keep(asked: Asked, digests: Bytes) -> None:
    """Keep the digests of images that were read after they were looked at; a cache that takes none is no failure.

    Args:
        digests: (n, 16), of the same images.
    """
    file = _file(asked.folder)
    kept = _load(file)
    new = asked.settled & (_find(kept, asked.keys) < 0)
    if not new.any():
        return
    records = np.concatenate([kept, np.concatenate([asked.keys, digests], axis=1)[new]])
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
