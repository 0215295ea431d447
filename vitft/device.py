"""One answer to where torch computes: the device, its precision and kernels, ways to it and back, short memory."""

import ctypes
import time
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Generic, Literal, TypedDict, TypeVar

import torch
from torch import Tensor

from vitft import machine, products
from vitft.errors import UsageError

T = TypeVar("T")
Precision = Literal["float32", "bf16"]


def pick(name: str, local_rank: int | None = None) -> torch.device:
    """Return the device called `name`; "auto" is the first GPU, else the CPU. Raises UsageError when it is not here.

    Args:
        local_rank: of one of several processes on a machine: "auto" and "cuda" are the card of that number.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if local_rank is not None and name.startswith("cuda"):
        name = _card(name, local_rank)
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise UsageError(
            f"Device '{name}' is not here.",
            f"auto, cpu{', cuda' * torch.cuda.is_available()}.",
            "Run 'vitft doctor' to see what torch finds.",
        ) from None
    if device.type == "cuda":
        _kernels()
    if device.type == "cpu":
        keep_freed_memory()
    if (threads := computing_threads()) < torch.get_num_threads():
        torch.set_num_threads(threads)
    return device


def computing_threads() -> int:
    """Return how many threads torch is to compute with: one a core at most, of a Slurm task's share of them, too."""
    return min(torch.get_num_threads(), machine.cores())


def _kernels() -> None:
    """Choose what a card computes with: what is called float32 is float32, and attention is not cuDNN's."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False  # torch lets convolutions have it
    # Its backward pass gave NaN on Hopper (several reports), and it was not faster than flash on an H200.
    torch.backends.cuda.enable_cudnn_sdp(False)


class Kernels(TypedDict, total=False):
    """A device's kernels as results name them.

    Attributes:
        attention: those a card's attention may use.
        tf32: whether a card rounds float32 to TF32.
        linear: the library of a CPU's large linear layers, where vitft chooses it (see `products`).
    """

    attention: str
    tf32: bool
    linear: Literal["oneDNN"]


def kernels(kind: str) -> Kernels:
    """Return the kernels that results name for a kind of device; none where vitft leaves them to torch."""
    if kind == "cuda":
        return {"attention": "flash, efficient, math", "tf32": False}
    return {"linear": "oneDNN"} if kind == "cpu" and products.by_onednn() else {}


def _card(name: str, local_rank: int) -> str:
    """Return the card of one of several processes, each of which must have its own."""
    cards = torch.cuda.device_count()
    if name != "cuda":
        raise UsageError(
            f"Device '{name}' is one card, and several processes were started.",
            "auto, cuda (each takes the card of its number), cpu.",
            "Choose cards with CUDA_VISIBLE_DEVICES.",
        )
    if 0 < cards <= local_rank:
        raise UsageError(
            f"Process {local_rank} of this machine has no card: there are {cards}.",
            "one process a card.",
            f"Start 'torchrun --nproc-per-node {cards}', or set LOCAL_RANK=0 where each sees its own card alone.",
        )
    return f"cuda:{local_rank}"


def name(kind: str) -> str:
    """Return a device's name in results: the card's own, else "cpu" or "mps"."""
    return torch.cuda.get_device_name() if kind == "cuda" else kind


def precision(requested: str, device: torch.device) -> Precision:
    """Return "float32" or "bf16"; "auto" is bf16 on CUDA, float32 elsewhere."""
    if requested == "auto":
        return "bf16" if device.type == "cuda" else "float32"
    return "bf16" if requested == "bf16" else "float32"


def autocast(device: torch.device, requested: str) -> AbstractContextManager[Any]:
    """Return bf16 autocast, or nothing for float32; the weights stay float32."""
    return torch.autocast(device.type, torch.bfloat16) if precision(requested, device) == "bf16" else nullcontext()


def forward_in(device: torch.device, requested: str, *, again: bool = False) -> AbstractContextManager[Any]:
    """Return what a forward pass is computed in: bf16 autocast, or float32 with the CPU's faster linear layers.

    Args:
        again: blocks are computed again in the backward pass, which is outside of this: both times as torch does.
    """
    if device.type == "cpu" and precision(requested, device) == "float32" and not again and products.by_onednn():
        return products.ByOneDnn()
    return autocast(device, requested)


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out, in any of torch's words for it (CUDA, cuBLAS, a CPU)."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and ("can't allocate memory" in text or "ALLOC_FAILED" in text)
    )


def forget() -> None:
    """Give memory that nothing uses back to the card, and to the machine."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if _C_TRIM is not None:
        _C_TRIM(0)


def keep_freed_memory(yes: bool = True) -> None:
    """Let the C library keep what a batch leaves for the next one, or have it its own way (`yes=False`); only glibc.

    By itself it gives large blocks back at once: each page of a layer's output is then cleared and mapped anew in every
    micro-batch, 2 to 5 % of a step of ViT-Ti/16.
    """
    if _C_SET is not None:
        most, trim = (_KEPT_BLOCK, _ALL) if yes else (_OWN_BLOCK, 2 * _OWN_BLOCK)
        # glibc before 2.35 takes no larger block than its own rule's.
        _C_SET(_M_MMAP_THRESHOLD, most) or _C_SET(_M_MMAP_THRESHOLD, _OWN_BLOCK)
        _C_SET(_M_TRIM_THRESHOLD, trim)


_C_LIBRARY = ctypes.CDLL(None)
_C_SET, _C_TRIM = getattr(_C_LIBRARY, "mallopt", None), getattr(_C_LIBRARY, "malloc_trim", None)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_OWN_BLOCK = 32 << 20
"""Bytes of the largest block that glibc comes to keep by its own rule, of which it trims what passes twice of it."""
_KEPT_BLOCK, _ALL = 64 << 20, 2**31 - 1
"""A layer's output of ViT-L by the rule for a CPU's micro-batch; larger blocks would leave larger holes."""


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host on a device. A card fetches it beside what it computes; nobody waits for it."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class _Moment:
    """A point of a device's work: on a card one that it will come to, elsewhere now."""

    def __init__(self, device: torch.device) -> None:
        self._event: Any = None
        if device.type == "cuda":
            self._event = torch.cuda.Event(enable_timing=True)
            self._event.record(torch.cuda.current_stream(device))
        else:
            self._at = time.perf_counter()

    def wait(self) -> None:
        """Return when the device has come to it."""
        if self._event is not None:
            self._event.synchronize()

    def since(self, earlier: "_Moment") -> float:
        """Return the seconds from an earlier moment of the same device; it has come to both."""
        if self._event is not None:
            return float(earlier._event.elapsed_time(self._event)) / 1000
        return self._at - earlier._at


class Late(Generic[T]):
    """Tensors on their way from a device to the host, in turn, each with what belongs to it.

    A card computes on while they travel: whoever reads the one before last waits for nothing that was queued since.

    Attributes:
        behind: tensors that stay under way.
        seconds: that passed on the device for what arrived last: since `begin`, where that came after what was put
            before, else since it was done with that. When the host asked is not in it.
    """

    def __init__(self, device: torch.device) -> None:
        self.behind = 2 if device.type == "cuda" else 0
        self.seconds = 0.0
        self._device = device
        self._began: _Moment | None = None
        self._done: _Moment | None = None
        self._queue: deque[tuple[T, Tensor, _Moment | None, _Moment]] = deque()

    def begin(self) -> None:
        """Note that what is put next begins here, and not where the device was done with what was put before."""
        self._began = _Moment(self._device)

    def put(self, what: T, tensor: Tensor) -> None:
        """Send a tensor on its way."""
        if tensor.device.type == "cuda":
            host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
        else:
            host = tensor.cpu()
        self._queue.append((what, host, self._began, _Moment(self._device)))
        self._began = None

    def arrived(self, *, all: bool = False) -> Iterator[tuple[T, Tensor]]:
        """Yield what is there by now, the oldest first; with `all` what is under way, too."""
        while len(self._queue) > (0 if all else self.behind):
            what, tensor, began, done = self._queue.popleft()
            done.wait()
            began = began or self._done
            self.seconds = done.since(began) if began is not None else 0.0
            self._done = done
            yield what, tensor
