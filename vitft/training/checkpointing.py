"""Activations that are computed again in the backward pass, one block at a time, instead of being kept."""

from typing import Any

from torch import nn

from vitft.progress import Hooks


def begin(net: nn.Module, forced: bool, hooks: Hooks) -> bool:
    """Let a network keep only the inputs of its blocks; False where it cannot, with a note.

    It is timm's own, torch's way without reentry: the gradients are the same. Batch normalisation would count its
    statistics twice.

    Args:
        forced: by the user, not by the rule.
    """
    normed = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in net.modules())
    if normed or not _set(net, enable=True):
        why = "it has batch normalisation" if normed else "timm cannot for this network"
        hooks.note(f"Activations are kept, not computed again: {why}.")
        return False
    if not forced:
        hooks.note(
            "Not one image fits with its activations: they are computed again in the backward pass, which is slower."
        )
    return True


def end(net: nn.Module) -> bool:
    """Let the network keep its activations again; return False, as they are."""
    _set(net, enable=False)
    return False


def on(net: Any) -> bool:
    """Tell whether a network computes its activations again."""
    return bool(getattr(net, "grad_checkpointing", False))


def _set(net: Any, *, enable: bool) -> bool:
    if not hasattr(net, "set_grad_checkpointing"):
        return False
    try:
        net.set_grad_checkpointing(enable)
    except AssertionError:  # timm's word for a network without
        return False
    return True
