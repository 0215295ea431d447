"""Networks of timm without storage for their weights: to see what they are, or to be filled from a file."""

from typing import Any

import timm
import torch
from torch.overrides import TorchFunctionMode


def meta_network(name: str, **kwargs: Any) -> Any:
    """Build a timm network without storage for its weights; with, where an older timm cannot do without."""
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"), _RangesOnCpu():
            return timm.create_model(name, pretrained=False, **kwargs)
    except RuntimeError as error:
        if "meta" not in str(error):
            raise
    with torch.random.fork_rng(devices=[]):
        return timm.create_model(name, pretrained=False, **kwargs)


class _RangesOnCpu(TorchFunctionMode):
    """Keep what torch.linspace gives in memory: timm 1.0.20 reads depths' drop rates from it while it builds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        device = {"device": "cpu"} if func is torch.linspace else {}
        return func(*args, **{**(kwargs or {}), **device})
