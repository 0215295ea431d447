"""Pixels decoded once a machine: a file of uint8 for each (images, decoder, deterministic preprocessing)."""

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Literal

import numpy as np
from numpy.typing import NDArray

from vitft import machine
from vitft.data.split import Split
from vitft.images import fingerprints, room, stored
from vitft.images.decode import decode
from vitft.images.preprocess import deterministic
from vitft.images.stored import Stored
from vitft.progress import Hooks
from vitft.settings import Preprocess

Keep = Literal["make", "room", "no", "never"]
"""What becomes of decoded pixels: kept, for which what was used least recently may go; kept where there is room without
that; used and forgotten. What is kept already is taken, unless it is to be `never`."""

_VERSION = 5  # raise it when decode or preprocess change their pixels
_MEMORY = 0.25
"""Of the memory that is free, what pixels that no disk takes may fill."""


def pixels(
    split: Split, pp: Preprocess, workers: int = 2, hooks: Hooks | None = None, keep: Keep = "make"
) -> Stored | None:
    """Return all images of a split after the deterministic part, (N, h, w, 3) uint8.

    None where the shapes differ, the cache has no room for them, or they are not to be kept; they are decoded as they
    are needed then. What was decoded before is found by the digest of the encoded bytes, so changed images are never
    taken for the old ones. Where the cache cannot be written (read-only or full) and they are few, they stay in memory.

    Several processes decode a split once: the others wait for the first. Each image is read once, to be digested and
    decoded.

    Raises:
        DataDamaged: an image does not decode.
        Interrupted: `hooks` were asked to stop; nothing is left behind.
    """
    hooks = hooks or Hooks()
    if pp.stored_size is None or len(split) == 0 or keep == "never":
        return None
    shape = (len(split), *pp.stored_size, 3)
    if (existing := _existing(split, pp, shape, hooks)) is not None or keep == "no":
        return existing

    def waiting(first: bool) -> None:
        hooks.stop_if_asked()
        if first:
            hooks.note(f"Another vitft decodes {split.task} {split.name} for this machine: waiting for its end.")

    with machine.turn(_folder() / f"{_turn(split, pp)}.lock", waiting):
        existing = _existing(split, pp, shape, hooks)
        return existing if existing is not None else _made(split, pp, workers, hooks, keep)


def decoded(split: Split, i: int) -> NDArray[np.uint8]:
    """Return the pixels of one image as they were taken, (H, W, 3). Raises DataDamaged naming data set and split."""
    encoded = split.read(i)
    fingerprints.take_in(split, i, encoded)
    return decode(encoded, f"{split.task} {split.name}: {split.keys[i]}", split.exif)


def _existing(split: Split, pp: Preprocess, shape: stored.Shape, hooks: Hooks) -> Stored | None:
    """Return pixels that were decoded before; images are read for it only where a file of that size is there."""
    if not fingerprints.recall(split):
        size = stored.size(shape)
        if not any(entry.size == size and entry.path.suffix == ".npy" for entry in room.entries()):
            return None
    return stored.opened(_folder() / f"{_digest(split, pp, hooks)}.npy", shape)


def _made(split: Split, pp: Preprocess, workers: int, hooks: Hooks, keep: Keep) -> Stored | None:
    """Decode all images of a split into a new file, or into memory."""
    assert pp.stored_size is not None
    shape = (len(split), *pp.stored_size, 3)
    with ExitStack() as left:
        file = _allocated(_folder() / f"{_turn(split, pp)}.npy", shape, keep, left)
        array = None
        if file is None:
            if keep == "room" or int(np.prod(shape, dtype=np.int64)) > _MEMORY * machine.memory():
                return None
            array = np.empty(shape, dtype=np.uint8)
        with ThreadPoolExecutor(max(1, workers)) as pool:
            for done, (i, image) in enumerate(_decoded(split, pp, pool, 4 * max(1, workers)), 1):
                hooks.stop_if_asked()
                if array is not None:
                    array[i] = image
                elif file is not None and not _written(file, image):
                    return None  # the disk is full; they are decoded as they are needed
                if done % 64 == 0 or done == len(split):
                    hooks.phase(f"decode {split.task} {split.name}", done, len(split))
        if file is None or array is not None:
            return Stored(shape, array) if array is not None else None
        path = _folder() / f"{_digest(split, pp, hooks)}.npy"
        try:
            file.flush()
            os.fsync(file.fileno())  # over NFS a full disk is told here, not when it is written to
            os.replace(file.name, path)
        except OSError:
            return None
        return stored.opened(path, shape)


def _allocated(path: Path, shape: stored.Shape, keep: Keep, left: ExitStack) -> IO[bytes] | None:
    """Return a new file beside `path`, gone when `left` is unless it is renamed; None where there is no room."""
    size = stored.size(shape)
    try:
        _folder().mkdir(parents=True, exist_ok=True)
        with room.turn():
            if not room.make(size, evict=keep == "make"):
                return None
            file = left.enter_context(room.writing(path, size))
        file.write(stored.header(shape))
        return file
    except OSError:
        return None


def _written(file: IO[bytes], image: NDArray[np.uint8]) -> bool:
    try:
        file.write(np.ascontiguousarray(image).data)
    except OSError:
        return False
    return True


def _folder() -> Path:
    return machine.cache() / "pixels"


def _digest(split: Split, pp: Preprocess, hooks: Hooks | None) -> str:
    return _of({"images": fingerprints.encoded_digest(split, hooks)}, split, pp)


def _turn(split: Split, pp: Preprocess) -> str:
    """Return a name for the work on a split, before the digest of its images is known."""
    return _of({"names": split.digest}, split, pp)


def _of(identity: dict[str, str], split: Split, pp: Preprocess) -> str:
    what = {
        "version": _VERSION,
        **identity,
        "exif": split.exif,
        "deterministic": [
            pp.stored_size,
            pp.resize,
            pp.interpolation,
            pp.antialias,
            (pp.crop_pct, pp.crop_mode, pp.before) if pp.resize == "checkpoint" else None,
            # Before a random crop an image is resized otherwise than for evaluation, possibly to the same size.
            pp.crop == "random" and pp.resize != "squash",
        ],
    }
    return machine.digest(what)[:32]


def _decoded(
    split: Split, pp: Preprocess, pool: ThreadPoolExecutor, ahead: int
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield (i, image) in order, decoding a bounded number ahead, so that a large split never fills the memory."""

    def one(i: int) -> NDArray[np.uint8]:
        return deterministic(decoded(split, i), pp)

    pending: dict[int, Future[NDArray[np.uint8]]] = {}
    try:
        for i in range(len(split)):
            for j in range(i, min(i + ahead, len(split))):
                if j not in pending:
                    pending[j] = pool.submit(one, j)
            yield i, pending.pop(i).result()
    finally:
        for future in pending.values():
            future.cancel()
