"""One answer to where torch computes: the device, its precision, whether its memory ran out, how much fits at once."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch

from vitft.errors import UsageError

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
    return device


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
            f"Start with 'torchrun --nproc-per-node {cards}'.",
        )
    return f"cuda:{local_rank}"


def name(kind: str) -> str:
    """Return what a result calls a device: the card's own name, else "cpu" or "mps"."""
    return torch.cuda.get_device_name() if kind == "cuda" else kind


def precision(asked: str, device: torch.device) -> Precision:
    """Return "float32" or "bf16"; "auto" is bf16 on CUDA, float32 elsewhere."""
    if asked == "auto":
        return "bf16" if device.type == "cuda" else "float32"
    return "bf16" if asked == "bf16" else "float32"


def autocast(device: torch.device, asked: str) -> AbstractContextManager[Any]:
    """Return bf16 autocast, or nothing for float32; the weights stay float32."""
    return torch.autocast(device.type, torch.bfloat16) if precision(asked, device) == "bf16" else nullcontext()


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out, in any of torch's words for it (CUDA, cuBLAS, a CPU)."""
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and ("can't allocate memory" in said or "ALLOC_FAILED" in said)
    )


def forget() -> None:
    """Give memory that nothing uses back to the card."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
