"""A network whose weights, gradients and optimiser state lie in parts on several processes: FSDP2.

Where a network fits each card, processes hold all of it and sum their gradients (see `update.Fit`). Where it does not,
a copy is made for the training alone, whose blocks are gathered one by one as they are computed; the whole network
waits in the host's memory and gets the trained weights at the end.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vitft.errors import UsageError
from vitft.group import Group
from vitft.models.memory import Plan
from vitft.models.methods import ParameterGroups, blocks_of
from vitft.settings import Settings
from vitft.trees import mapped

_SHARE = 0.6  # of a card's memory; activations need the rest
_MICRO = 16  # images a forward pass: processes that run out of memory at different points cannot halve together


def choose(mode: str, plan: Plan, settings: Settings, device: torch.device, group: Group) -> bool:
    """Tell whether the weights are to lie in parts.

    "auto": where weights, gradients, optimiser and average take more than 60 % of a card. A frozen network never does.

    Raises:
        UsageError: "fsdp" with one process, or where this torch cannot.
    """
    if mode == "fsdp":
        _possible(device, group)
    if group.size == 1 or settings.method == "linear" or mode == "ddp":
        return False
    if mode == "fsdp":
        return True
    return device.type == "cuda" and plan.fixed > _SHARE * torch.cuda.mem_get_info(device)[1]


def _possible(device: torch.device, group: Group) -> None:
    if group.size == 1:
        raise UsageError(
            "'--parallel fsdp' shares a network between processes, and this is one.",
            "several, as torchrun starts them.",
            "Start with 'torchrun --nproc-per-node N -m vitft ...', or leave --parallel out.",
        )
    if device.type == "cpu" and not hasattr(torch.cpu.current_stream(), "record_event"):
        raise UsageError(
            f"torch {torch.__version__} has no FSDP on CPUs.", "a newer torch, or cards.", "Give --parallel ddp."
        )


def micro_batch(requested: int) -> int:
    """Return images a forward pass of a network in parts: what was asked for, or few."""
    return requested or _MICRO


def spread(
    net: nn.Module, groups: ParameterGroups, device: torch.device, group: Group
) -> tuple[nn.Module, ParameterGroups]:
    """Return a copy of which each process holds a part, and the parameter groups of it; `net` moves to the host."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    names = {id(p): name for name, p in net.named_parameters()}
    parts = copy.deepcopy(net)
    net.to("cpu")
    mesh = init_device_mesh(device.type, (group.size,))
    for block in blocks_of(parts):
        fully_shard(block, mesh=mesh)
    fully_shard(parts, mesh=mesh)
    own = dict(parts.named_parameters())
    return parts, [{**g, "params": [own[names[id(p)]] for p in g["params"]]} for g in groups]


def last_of(net: nn.Module, last: bool) -> None:
    """Set whether the next forward pass is the last of an update; gradients are summed after that one."""
    net.set_requires_gradient_sync(last)  # type: ignore[operator]


def collect(parts: nn.Module, into: nn.Module, device: torch.device) -> None:
    """Put the trained weights into the whole network, on its device again; all processes together."""
    with torch.no_grad():
        for (_, part), target in zip(parts.state_dict().items(), into.state_dict().values(), strict=True):
            target.copy_(whole(part))
    into.to(device)


def whole(value: Any) -> Any:
    """Return a state with its parts put together; all processes together."""
    return mapped(value, lambda leaf: leaf.full_tensor() if in_parts(leaf) else leaf)


def in_parts(tensor: Tensor) -> bool:
    """Tell whether this process holds only a part of a tensor."""
    return hasattr(tensor, "full_tensor")


def local(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor, for operations that work number by number."""
    return tensor.to_local() if in_parts(tensor) else tensor  # type: ignore[attr-defined]


def part_of(value: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor in the parts of another; all processes together."""
    if not in_parts(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    return distribute_tensor(value.to(like.device), mesh, placements)


def copy_into(values: Sequence[Tensor], into: Sequence[Tensor]) -> None:
    """Put whole tensors into others, which may lie in parts; all processes together."""
    with torch.no_grad():
        for target, value in zip(into, values, strict=True):
            local(target).copy_(local(part_of(value, target)))
