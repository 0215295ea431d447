"""Products of linear layers on CPUs: oneDNN's in place of MKL's, where MKL takes half the width the processor has."""

import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_WORTH = 1 << 24
"""Multiply-accumulates from which one product gains; below, what is around it is most of its time."""
_CPU_INFO = Path("/proc/cpuinfo")
_ZEN_5 = 26
"""AMD's first family whose cores compute 512 bits at once. MKL computes with 256 on any processor of AMD's, oneDNN with
what there is: 358 GFLOP/s for 172 on two cores of this family (ViT-Ti/16, forward and backward)."""


@cache
def by_onednn() -> bool:
    """Tell whether linear layers gain here: an AMD processor from Zen 5 on (Linux), torch with both libraries."""
    return (
        sys.platform == "linux"
        and torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and _wide(_CPU_INFO)
    )


def _wide(cpu_info: Path) -> bool:
    """Read from Linux's list of processors whether the first one is AMD's, from Zen 5 on."""
    try:
        lines = cpu_info.read_text().split("\n\n")[0].splitlines()
    except OSError:
        return False
    said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    family = said.get("cpu family", "")
    return said.get("vendor_id") == "AuthenticAMD" and family.isdecimal() and int(family) >= _ZEN_5


class ByOneDnn(TorchFunctionMode):
    """Within it large linear layers of float32 on tokens are computed by oneDNN.

    They are convolutions of one pixel, the one way to oneDNN's float32 products that torch has.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is F.linear and not kwargs and _suits(*args):
            return as_convolution(*args)
        return func(*args, **(kwargs or {}))


def _suits(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    kind = (torch.float32, torch.device("cpu"), torch.strided)
    return (
        x.ndim >= 3
        and x.numel() * len(weight) >= _WORTH
        and all((t.dtype, t.device, t.layout) == kind for t in (x, weight, bias) if t is not None)
    )


def as_convolution(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x (B, ..., D) @ weight (K, D).T + bias (K,), of shape (B, ..., K), as a convolution of one pixel."""
    pixels = x.reshape(len(x), -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
    out = F.conv2d(pixels, weight[:, :, None, None], bias)
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], len(weight))
