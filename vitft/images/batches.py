"""Batches of normalised images, from pixels decoded once or from files decoded as they are needed."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitft.data.split import Split
from vitft.device import moved
from vitft.group import ALONE, Group
from vitft.images import cache
from vitft.images.preprocess import deterministic, normalise, random_one, random_part
from vitft.progress import Hooks
from vitft.settings import Preprocess

_DEVICE_SHARE = 0.2  # of the device's free memory that resident pixels may take


class Images:
    """The images of one split under one preprocessing, ready to be asked for in any order.

    Args:
        split: what to read.
        pp: how; its random part is applied only where uniforms are given.
        device: where the batches are wanted.
        workers: threads that decode (Pillow and torch release the interpreter's lock while they do).
        hooks: told of the decoding, which stops when they are asked to.
    """

    def __init__(
        self,
        split: Split,
        pp: Preprocess,
        device: torch.device,
        workers: int = 2,
        hooks: Hooks | None = None,
    ) -> None:
        self.split, self.pp, self.device, self.workers = split, pp, device, max(1, workers)
        self._pool: ThreadPoolExecutor | None = None
        array = cache.pixels(split, pp, self.workers, hooks)
        self._stored = None if array is None else torch.from_numpy(np.asarray(array))
        if self._stored is not None and device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if self._stored.nbytes < _DEVICE_SHARE * free:
                self._stored = self._stored.to(device)

    def __len__(self) -> int:
        return len(self.split)

    def batches(
        self,
        index_batches: Sequence[NDArray[np.int64]],
        uniforms: Sequence[NDArray[np.float64]] | None = None,
    ) -> Iterator[Tensor]:
        """Yield one (B, 3, H, W) float32 batch for each entry of `index_batches`, decoding one batch ahead.

        Args:
            index_batches: (B,) positions in the split, each.
            uniforms: (B, UNIFORMS) in [0, 1) for each batch; None = no random part.
        """
        rows = [None] * len(index_batches) if uniforms is None else list(uniforms)
        if self._stored is not None:
            for indices, row in zip(index_batches, rows, strict=True):
                batch = moved(self._stored[moved(torch.from_numpy(indices), self._stored.device)], self.device)
                yield normalise(batch if row is None else random_part(batch, row, self.pp), self.pp)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.workers)
        jobs = list(zip(index_batches, rows, strict=True))
        ahead = [self._submit(*job) for job in jobs[:1]]
        for n in range(len(jobs)):
            if n + 1 < len(jobs):
                ahead.append(self._submit(*jobs[n + 1]))
            decoded = np.stack([future.result() for future in ahead.pop(0)])
            yield normalise(moved(torch.from_numpy(decoded), self.device), self.pp)

    def _submit(self, indices: NDArray[np.int64], rows: NDArray[np.float64] | None) -> list[Future[NDArray[np.uint8]]]:
        assert self._pool is not None
        return [self._pool.submit(self._one, int(i), None if rows is None else rows[n]) for n, i in enumerate(indices)]

    def _one(self, i: int, row: NDArray[np.float64] | None) -> NDArray[np.uint8]:
        image = deterministic(cache.decoded(self.split, i), self.pp)
        return image if row is None else random_one(image, row, self.pp)


def eval_batches(
    split: Split,
    pp: Preprocess,
    batch_size: int,
    device: torch.device | str = "cpu",
    workers: int = 2,
    hooks: Hooks | None = None,
    group: Group = ALONE,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield ((B,) int64 positions, (B, 3, H, W) float32 images) in the split's order: each position once, none dropped.

    Of several processes each takes every `size`th batch: the batches are the same, whatever their number.

    Raises:
        DataDamaged: an image does not decode.
    """
    if pp.crop != "none" or pp.flip:
        raise ValueError("evaluation draws nothing: give a Preprocess without crop and flip")
    images = Images(split, pp, torch.device(device), workers, hooks)
    parts = [np.arange(a, min(a + batch_size, len(split))) for a in range(0, len(split), batch_size)]
    parts = parts[group.rank :: group.size]
    for indices, batch in zip(parts, images.batches(parts), strict=True):
        yield torch.from_numpy(indices), batch
