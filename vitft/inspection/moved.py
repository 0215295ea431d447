"""What fine-tuning moved: how far each part of one network lies from the same part of another."""

import re
from collections.abc import Mapping

from torch import Tensor

from vitft.results.inspection import Moved, MovedPart

_PARTS = (
    (r"blocks\.(\d+)\..*\bnorm\d?\b.*", "block {} norms"),
    (r"blocks\.(\d+)\.attn.*", "block {} attention"),
    (r"blocks\.(\d+)\.mlp.*", "block {} MLP"),
    (r"blocks\.(\d+)\..*", "block {} other"),
    (r"(?:stages)\.(\d+)\..*", "stage {}"),
    (r"patch_embed\..*|stem\..*", "patch embedding"),
    (r"pos_embed", "positions"),
    (r"(?:cls|dist|reg)_token", "prefix tokens"),
)


def part_of(name: str) -> str:
    """Return the part of a network that a tensor belongs to; blocks count from 1, as layers on pictures do."""
    for pattern, part in _PARTS:
        match = re.fullmatch(pattern, name)
        if match:
            return part.format(*(int(n) + 1 for n in match.groups()))
    return "final norm and pooling"


def moved(before: Mapping[str, Tensor], after: Mapping[str, Tensor], heads: frozenset[str]) -> Moved:
    """Return |after - before| / |before| of each part, in the network's order.

    Args:
        heads: names of the classifier, which is another one in each.
    """
    sums: dict[str, tuple[float, float]] = {}
    left_out = sorted(
        set(before) ^ set(after) | {n for n in set(before) & set(after) if before[n].shape != after[n].shape}
    )
    for name, tensor in before.items():
        if name in heads or name in left_out or not tensor.is_floating_point():
            continue
        difference = float((after[name].double() - tensor.double()).square().sum())
        apart, size = sums.get(part_of(name), (0.0, 0.0))
        sums[part_of(name)] = apart + difference, size + float(tensor.double().square().sum())
    parts = [MovedPart(part=part, relative=(a / s) ** 0.5 if s else 0.0) for part, (a, s) in sums.items()]
    return Moved(parts=tuple(parts), left_out=tuple(name for name in left_out if name not in heads))
