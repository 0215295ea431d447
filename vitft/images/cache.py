"""Pixels decoded once a machine: a uint8 memory map for each (images, decoder, deterministic preprocessing)."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from vitft import machine
from vitft.data.split import Split
from vitft.images.decode import decode
from vitft.images.fingerprints import encoded_digest
from vitft.images.preprocess import deterministic
from vitft.progress import Hooks
from vitft.settings import Preprocess

_VERSION = 5  # raise it when decode or preprocess change their pixels
_LARGEST = 64 << 30  # bytes; a larger split is decoded anew each time


def pixels(split: Split, pp: Preprocess, workers: int = 2, hooks: Hooks | None = None) -> NDArray[np.uint8] | None:
    """Return all images of a split after the deterministic part, (N, h, w, 3) uint8; writes to it never reach the file.

    None where the shapes differ or the array would be too large; then `loader` decodes as it goes. The array is
    found again by the digest of the encoded bytes, so changed images are never taken for the old ones. Where the
    cache cannot be written (read-only or full), the array stays in memory.

    Several processes decode a split once: the others wait for the first.

    Raises:
        DataDamaged: an image does not decode.
        Interrupted: `hooks` were asked to stop; nothing is left behind.
    """
    hooks = hooks or Hooks()
    if pp.stored_size is None or len(split) == 0:
        return None
    shape = (len(split), *pp.stored_size, 3)
    size = int(np.prod(shape, dtype=np.int64))
    if size > _LARGEST:
        return None
    path = machine.cache() / "pixels" / f"{_digest(split, pp, hooks)}.npy"
    found = _existing(path, shape)
    if found is not None:
        return found

    def waiting(first: bool) -> None:
        hooks.stop_if_asked()
        if first:
            hooks.note(f"Another vitft decodes {split.task} {split.name} for this machine: waiting for its end.")

    with machine.turn(path.with_suffix(".lock"), waiting):
        found = _existing(path, shape)
        return found if found is not None else _made(split, pp, path, workers, hooks)


def _made(split: Split, pp: Preprocess, path: Path, workers: int, hooks: Hooks) -> NDArray[np.uint8] | None:
    """Decode all images of a split into a new file, or into memory."""
    assert pp.stored_size is not None
    shape = (len(split), *pp.stored_size, 3)
    array, temporary = _allocate(path, shape, int(np.prod(shape, dtype=np.int64)))
    try:
        with ThreadPoolExecutor(max(1, workers)) as pool:
            for done, (i, image) in enumerate(_decoded(split, pp, pool, 4 * max(1, workers)), 1):
                hooks.stop_if_asked()
                array[i] = image
                if done % 64 == 0 or done == len(split):
                    hooks.phase(f"decode {split.task} {split.name}", done, len(split))
        if temporary is not None and isinstance(array, np.memmap):
            array.flush()
            os.replace(temporary, path)
            return _existing(path, shape)
    except BaseException:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise
    return array


def decoded(split: Split, i: int) -> NDArray[np.uint8]:
    """Return the pixels of one image as they were taken, (H, W, 3). Raises DataDamaged naming data set and split."""
    return decode(split.read(i), f"{split.task} {split.name}: {split.keys[i]}", split.exif)


def _digest(split: Split, pp: Preprocess, hooks: Hooks | None) -> str:
    what = {
        "version": _VERSION,
        "images": encoded_digest(split, hooks),
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
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]


def _existing(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    try:
        array: NDArray[np.uint8] = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError):  # absent, or damaged: it is made anew
        return None
    return array if array.shape == shape and array.dtype == np.uint8 else None


def _allocate(path: Path, shape: tuple[int, ...], size: int) -> tuple[NDArray[np.uint8], Path | None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A memory map on a full disk dies of SIGBUS when it is written: leave room, or stay in memory.
        if shutil.disk_usage(path.parent).free < size + (1 << 30):
            return np.empty(shape, dtype=np.uint8), None
        temporary = path.with_name(f".{path.stem}.{os.getpid()}.npy")
        return open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape), temporary
    except OSError:
        return np.empty(shape, dtype=np.uint8), None


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
