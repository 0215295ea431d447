"""Class-specific maps: which patches speak for one class. Gradients are needed, so images go one at a time."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vitft.errors import UsageError
from vitft.inspection.attention import Tokens, read, recorded

GRADIENT_ROLLOUT = "gradient-weighted rollout (Chefer et al. 2021)"
GRAD_CAM = "Grad-CAM of the last feature map (Selvaraju et al. 2017)"


def gradient_rollout(net: nn.Module, image: Tensor, target: int, tokens: Tokens) -> Tensor:
    """Return (rows, columns): the patches that speak for a class, by attention weighted with its gradient.

    Each layer adds mean over heads of max(0, A * dlogit/dA) times what came before (Chefer, Gur and Wolf, 2021).

    Args:
        image: (1, 3, H, W).
        target: the class whose logit is followed.
    """
    maps: list[Tensor] = []
    with torch.enable_grad(), recorded(net, lambda _, attention: maps.append(attention)):
        # Only maps need gradients; with frozen weights they would have none, so the image carries them.
        logit = net(image.detach().requires_grad_())[0, target]
        gradients = torch.autograd.grad(logit, maps)
    identity = torch.eye(tokens.count, device=image.device)
    relevance = identity
    for attention, gradient in zip(maps, gradients, strict=True):
        step = (attention.detach() * gradient).clamp(min=0).mean(1)[0]
        relevance = relevance + step @ relevance
    return read((relevance - identity)[None], tokens)[0]


def grad_cam(net: Any, image: Tensor, target: int) -> Tensor:
    """Return (rows, columns) of the last feature map of a convolutional network: max(0, sum of gradient * channel).

    Args:
        image: (1, 3, H, W).
        target: the class whose logit is followed.
    """
    with torch.enable_grad():
        features = net.forward_features(image.detach().requires_grad_())
        (gradient,) = torch.autograd.grad(net.forward_head(features)[0, target], features)
    weighted = (gradient.mean((2, 3), keepdim=True) * features.detach()).sum(1)[0].clamp(min=0)
    drawn: Tensor = weighted / weighted.sum().clamp(min=1e-30)
    return drawn


def target_of(target: str, names: Sequence[str], classes: Sequence[str]) -> int | None:
    """Return the output that the user named, by name or index. Raises UsageError where there is none."""
    if not target:
        return None
    for known in (classes, names):
        if target in known:
            return list(known).index(target)
    alike = [i for i, name in enumerate(names) if target.lower() in name.lower().replace(",", " ").split()]
    if target.isdecimal() and int(target) < len(names):
        return int(target)
    if len(alike) == 1:
        return alike[0]
    some = ", ".join(names[i] for i in alike[:4]) or f"{', '.join(names[:4])}, ..."
    raise UsageError(
        f"--target '{target}' names {'several classes' if alike else 'no class'} of the head.",
        f"{some}; or an index from 0 to {len(names) - 1}.",
    )
