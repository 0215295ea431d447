"""What a network costs: parameters, operations, memory."""

from typing import Any

import torch
from torch import Tensor, nn

from vitft.models.flops import macs
from vitft.models.methods import head_names
from vitft.results.checkpoint import Size
from vitft.results.inspection import NetworkCost

_MIB = 1 << 20


def cost(net: nn.Module, size: Size, device: torch.device) -> NetworkCost:
    """Count and measure a network at `size` pixels, in float32."""
    heads = head_names(net)
    counts = {name: parameter.numel() for name, parameter in net.named_parameters()}
    return NetworkCost(
        parameters=sum(counts.values()),
        head_parameters=sum(n for name, n in counts.items() if name in heads),
        macs_per_image=macs(net, size),
        weights_mib=round(4 * sum(counts.values()) / _MIB, 2),
        activations_mib=round(activation_bytes(net, torch.zeros(1, 3, *size, device=device)) / _MIB, 2),
        device=device.type,
    )


def activation_bytes(net: nn.Module, images: Tensor) -> int:
    """Return the bytes that one forward pass keeps for its backward pass, without weights; each storage counts once."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*net.parameters(), *net.buffers())}
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = net(images.requires_grad_())  # held until all is counted, so that no storage is used twice
    del out
    return sum(storages.values())
