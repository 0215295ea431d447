"""Batches of normalised images, from pixels decoded once or from files decoded as they are needed."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitft.data.split import Split
from vitft.device import moved
from vitft.group import ALONE, Group
from vitft.images import cache
from vitft.images.cache import Keep
from vitft.images.preprocess import deterministic, normalise, random_one, random_part
from vitft.progress import Hooks
from vitft.settings import Preprocess

_DEVICE_SHARE = 0.2  # of the device's free memory that resident pixels may take
_AT_ONCE = 256  # images on their way there
_AHEAD = 2
"""Batches that are made ready while one is computed with."""

Indices = NDArray[np.int64]
Uniforms = NDArray[np.float64]
_Ready = Callable[[], Tensor]


class Images:
    """The images of one split under one preprocessing, ready to be asked for in any order.

    Args:
        split: what to read.
        pp: how; its random part is applied only where uniforms are given.
        device: where the batches are wanted.
        workers: threads that decode (Pillow and torch release the interpreter's lock while they do).
        hooks: called with the progress of decoding, which stops where they have a signal.
        keep: what becomes of decoded pixels, see `cache.pixels`; the batches are the same bit by bit.
    """

    def __init__(
        self,
        split: Split,
        pp: Preprocess,
        device: torch.device,
        workers: int = 2,
        hooks: Hooks | None = None,
        keep: Keep = "make",
    ) -> None:
        self.split, self.pp, self.device, self.workers = split, pp, device, max(1, workers)
        self._pool: ThreadPoolExecutor | None = None
        self._begun: dict[tuple[int, bytes], Future[NDArray[np.uint8]]] = {}
        self._stored = cache.pixels(split, pp, self.workers, hooks, keep)
        self._resident: Tensor | None = None
        if self._stored is not None and device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if self._stored.nbytes < _DEVICE_SHARE * free:
                self._resident = self._on_device()

    def __len__(self) -> int:
        return len(self.split)

    @property
    def streams(self) -> bool:
        """Whether images are decoded each time."""
        return self._stored is None

    def batches(self, index_batches: Sequence[Indices], uniforms: Sequence[Uniforms] | None = None) -> Iterator[Tensor]:
        """Yield one (B, 3, H, W) float32 batch for each entry of `index_batches`, reading and decoding two ahead.

        Args:
            index_batches: (B,) positions in the split, each.
            uniforms: (B, UNIFORMS) in [0, 1) for each batch; None = no random part.
        """
        rows: list[Uniforms | None] = [None] * len(index_batches) if uniforms is None else list(uniforms)
        jobs = iter(list(zip(index_batches, rows, strict=True)))
        whole = self.pp.stored_size is not None  # the random part is then done on the device, for all of a batch
        ahead: deque[_Ready] = deque()
        for row in rows:
            while len(ahead) <= _AHEAD and (job := next(jobs, None)) is not None:
                ahead.append(self._begin(*job))
            batch = moved(ahead.popleft()(), self.device)
            yield normalise(batch if row is None or not whole else random_part(batch, row, self.pp), self.pp)

    def soon(self, indices: Indices, rows: Uniforms) -> None:
        """Begin to decode images that the next call of `batches` will begin with, where they are decoded each time."""
        if not self.streams:
            return
        for future in self._begun.values():  # asked for and never taken
            future.cancel()
        self._begun = {}
        self._begun = {self._key(i, row): self._image(i, row) for i, row in zip(indices.tolist(), rows, strict=True)}

    def _begin(self, indices: Indices, rows: Uniforms | None) -> _Ready:
        """Begin to make a (B, h, w, 3) uint8 batch ready; return what waits for it."""
        if (resident := self._resident) is not None:
            return lambda: resident[moved(torch.from_numpy(indices), resident.device)]
        if self._stored is not None:
            return self._threads().submit(self._gather, indices).result
        each = [None] * len(indices) if rows is None else list(rows)
        futures = [self._image(i, row) for i, row in zip(indices.tolist(), each, strict=True)]

        def stacked() -> Tensor:
            images = [future.result() for future in futures]
            batch = self._empty(len(images), images[0].shape[:2])
            np.stack(images, out=batch.numpy())
            return batch

        return stacked

    def _image(self, i: int, row: Uniforms | None) -> Future[NDArray[np.uint8]]:
        begun = self._begun.pop(self._key(i, row), None)
        return begun if begun is not None else self._threads().submit(self._one, i, row)

    def _one(self, i: int, row: Uniforms | None) -> NDArray[np.uint8]:
        image = deterministic(cache.decoded(self.split, i), self.pp)
        return image if row is None or self.pp.stored_size is not None else random_one(image, row, self.pp)

    @staticmethod
    def _key(i: int, row: Uniforms | None) -> tuple[int, bytes]:
        return i, b"" if row is None else row.tobytes()

    def _gather(self, indices: Indices) -> Tensor:
        assert self._stored is not None
        batch = self._empty(len(indices), self._stored.shape[1:3])
        self._stored.rows(indices, batch.numpy())
        return batch

    def _empty(self, n: int, size: tuple[int, ...]) -> Tensor:
        """Return memory for a batch; pinned for a card, which then copies it while others are made ready."""
        return torch.empty((n, *size, 3), dtype=torch.uint8, pin_memory=self.device.type == "cuda")

    def _on_device(self) -> Tensor:
        assert self._stored is not None
        resident = torch.empty(self._stored.shape, dtype=torch.uint8, device=self.device)
        for rows in np.split(np.arange(len(self)), range(_AT_ONCE, len(self), _AT_ONCE)):
            resident[rows[0] : rows[-1] + 1] = moved(self._gather(rows), self.device)
        return resident

    def _threads(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.workers)
        return self._pool


class EvalBatches:
    """Batches of an evaluation, to be gone through once.

    Attributes:
        size: images in each but the last.
    """

    def __init__(self, size: int, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
        self.size, self._batches = size, batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self._batches


def shares(n: int, batch_size: int, group: Group) -> list[Indices]:
    """Return the positions of each batch of n images that this process answers for; `group.size` of them by turns."""
    parts = [np.arange(a, min(a + batch_size, n)) for a in range(0, n, batch_size)]
    return parts[group.rank :: group.size]


def eval_batches(
    split: Split,
    pp: Preprocess,
    batch_size: int,
    device: torch.device | str = "cpu",
    workers: int = 2,
    hooks: Hooks | None = None,
    group: Group = ALONE,
    *,
    keep: Keep = "no",
) -> EvalBatches:
    """Return batches in the split's order, each position once, none dropped.

    Each is ((B,) int64 positions, (B, 3, H, W) float32 images). Of several processes each takes every `size`th batch:
    the batches are the same, whatever their number. They are decoded beside what is computed with them, and forgotten,
    unless `keep` says otherwise (see `cache.pixels`).

    Raises:
        DataDamaged: an image does not decode.
    """
    if pp.crop != "none" or pp.flip:
        raise ValueError("evaluation draws nothing: give a Preprocess without crop and flip")

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        images = Images(split, pp, torch.device(device), workers, hooks, keep)
        parts = shares(len(split), batch_size, group)
        for indices, batch in zip(parts, images.batches(parts), strict=True):
            yield torch.from_numpy(indices), batch

    return EvalBatches(batch_size, batches())
