"""Run a network over every image exactly once, whatever the batch size."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from vitft import compiling
from vitft.device import Late, forward_in, moved, out_of_memory
from vitft.errors import OutOfMemory, VitftError, some
from vitft.group import ALONE, Group
from vitft.images.batches import EvalBatches

Batches = Iterable[tuple[ArrayLike | Tensor, Tensor]]


@dataclass(frozen=True)
class Predictions:
    """What the network answered.

    Attributes:
        logits: (N, K) float32, row i = example i of the split.
    """

    logits: NDArray[np.float32]

    @property
    def answers(self) -> NDArray[np.int64]:
        """(N,) class with the highest logit; the lowest class of a tie."""
        return np.asarray(self.logits.argmax(axis=1), dtype=np.int64)


def predict(
    net: nn.Module,
    batches: Batches,
    n: int,
    num_classes: int,
    *,
    precision: str = "auto",
    on_progress: Callable[[int], None] | None = None,
    group: Group = ALONE,
) -> Predictions:
    """Run the network over all batches and put each answer into the row of its image.

    Args:
        net: images (B, 3, H, W) -> logits (B, K).
        batches: (indices (B,), images (B, 3, H, W)) in any order.
        n: images there must be.
        num_classes: K, the width of the network's output.
        precision: "float32", "bf16" (autocast) or "auto": bf16 on CUDA, float32 elsewhere.
        on_progress: called with the number of images done after each batch.
        group: processes that each come with batches of their own, and all get every answer.

    Raises:
        VitftError: an image came twice or not at all, or an answer is not finite; the images are named.
    """
    logits = gather(net, net, batches, n, "logits", precision, on_progress, group)
    if logits.shape[1] != num_classes:
        raise VitftError(f"The network gave {logits.shape[1]} logits an image, not {num_classes}.")
    return Predictions(logits)


def gather(
    net: nn.Module,
    function: Callable[[Tensor], Tensor],
    batches: Batches,
    n: int,
    what: str,
    precision: str = "auto",
    on_progress: Callable[[int], None] | None = None,
    group: Group = ALONE,
) -> NDArray[np.float32]:
    """Apply `function`, a part of `net`, to every image exactly once; raises as `predict`.

    Args:
        net: its device counts, and it is in evaluation mode meanwhile.
        function: images (B, 3, H, W) -> (B, D).
        batches: as for `predict`.
        n: as for `predict`.
        what: the word for the result in messages, e.g. "logits".
        precision: as for `predict`.
        on_progress: as for `predict`.
        group: as for `predict`.

    Returns:
        (n, D) float32, on the CPU.
    """
    parameter = next(net.parameters(), None)
    device = parameter.device if parameter is not None else torch.device("cpu")
    rows = _Rows(n, what)
    late: Late[NDArray[np.int64]] = Late(device)
    done, size = 0, batches.size if isinstance(batches, EvalBatches) else 0
    was_training = net.training
    net.eval()

    def arrived(*, all: bool = False) -> None:
        nonlocal done
        for indices, values in late.arrived(all=all):
            rows.put(indices, values.numpy())
            done += len(indices)
            if on_progress is not None:
                on_progress(min(n, done * group.size))

    try:
        with group.together(), torch.inference_mode(), forward_in(device, precision):
            for indices, images in batches:
                late.put(rows.known(indices), _fitting(function, moved(images, device), size).float())
                arrived()
            arrived(all=True)
    finally:
        net.train(was_training)
    out, seen = _joined(rows.out, rows.seen, group), rows.seen
    _exactly_once(seen)
    if out is None:
        raise VitftError("There are no images to evaluate.")
    _refuse_broken(out, what)
    return out


class _Rows:
    """The answers so far, each in the row of its image, and how often each image came."""

    def __init__(self, n: int, what: str) -> None:
        self.n, self.what = n, what
        self.out: NDArray[np.float32] | None = None
        self.seen = np.zeros(n, dtype=np.int64)

    def known(self, indices: ArrayLike | Tensor) -> NDArray[np.int64]:
        """Return the positions of images. Raises VitftError where there are fewer."""
        rows = np.asarray(indices, dtype=np.int64)
        outside = rows[(rows < 0) | (rows >= self.n)]
        if len(outside):
            raise VitftError(f"Image {int(outside[0])} is asked about, but there are only {self.n}.")
        return rows

    def put(self, rows: NDArray[np.int64], values: NDArray[np.float32]) -> None:
        if values.ndim != 2 or len(values) != len(rows):
            raise VitftError(f"The network gave {self.what} of shape {values.shape} for {len(rows)} images.")
        if self.out is None:
            self.out = np.zeros((self.n, values.shape[1]), dtype=np.float32)
        self.out[rows] = values
        np.add.at(self.seen, rows, 1)


def _refuse_broken(values: NDArray[np.float32], what: str) -> None:
    broken = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(broken):
        raise VitftError(
            f"The network's {what} are NaN or infinite for {len(broken)} of {len(values)} images: {_some(broken)}.",
            action="Try --precision float32; if it stays, the checkpoint is damaged.",
        )


def _joined(out: NDArray[np.float32] | None, indices: NDArray[np.int64], group: Group) -> NDArray[np.float32] | None:
    """Return the rows of all processes, and count in place how often each came; rows of no process are 0."""
    widths = [width for width in group.all(None if out is None else out.shape[1]) if width is not None]
    if not widths:
        return out
    out = np.zeros((len(indices), widths[0]), dtype=np.float32) if out is None else out
    group.sum([torch.from_numpy(out), torch.from_numpy(indices)])
    return out


def _fitting(function: Callable[[Tensor], Tensor], images: Tensor, size: int) -> Tensor:
    """Apply the function, to halves of the batch where the whole does not fit into memory."""
    try:
        with compiling.usual(len(images), size):
            return function(images)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        if len(images) < 2:
            raise OutOfMemory(
                "Not even one image fits into the device's memory.",
                action="Lower the resolution, or use --device cpu.",
            ) from None
    half = len(images) // 2
    return torch.cat([_fitting(function, part, size) for part in (images[:half], images[half:])])


def _exactly_once(indices: NDArray[np.int64]) -> None:
    twice, never = np.flatnonzero(indices > 1), np.flatnonzero(indices == 0)
    if len(twice) or len(never):
        faults = [
            f"{len(which)} {word}: {_some(which)}"
            for which, word in ((twice, "came more than once"), (never, "never came"))
            if len(which)
        ]
        raise VitftError(f"Each of the {len(indices)} images must come exactly once; " + "; ".join(faults) + ".")


def _some(indices: NDArray[np.int64], most: int = 8) -> str:
    return some([str(int(i)) for i in indices], most)
