"""What is trained: everything, the head, head and biases, or head and LoRA."""

from torch import Tensor, nn


def merged_state(net: nn.Module) -> dict[str, Tensor]:
    return net.state_dict()
