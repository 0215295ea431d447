"""Values in trees of dictionaries and lists: their leaves changed, their tensors sent apart from the rest."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class _Shape:
    """Stands for a tensor until that has been sent."""

    shape: tuple[int, ...]
    dtype: Any


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a tree of dictionaries and lists with each of its leaves changed."""
    if isinstance(value, dict):
        return {key: mapped(inner, change) for key, inner in value.items()}
    return [mapped(inner, change) for inner in value] if isinstance(value, list) else change(value)


def without_tensors(value: Any, tensors: list["Tensor"]) -> Any:
    """Return a value with a stand-in for each tensor in it, which is put on the list."""
    from torch import Tensor

    def stand_in(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        tensors.append(leaf)
        return _Shape(tuple(leaf.shape), leaf.dtype)

    return mapped(value, stand_in)


def with_tensors(value: Any, tensors: Iterator["Tensor"], first: bool) -> Any:
    """Return a value with the tensors of process 0 in place of their stand-ins; on the CPU."""
    import torch
    import torch.distributed as dist

    def sent(leaf: Any) -> Any:
        if not isinstance(leaf, _Shape):
            return leaf
        tensor = next(tensors).detach().cpu().contiguous() if first else torch.empty(leaf.shape, dtype=leaf.dtype)
        dist.broadcast(tensor, 0)
        return tensor

    return mapped(value, sent)
