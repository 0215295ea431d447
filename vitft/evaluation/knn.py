"""Nearest neighbours on frozen features, weighted as DINOv2 does."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS = (10, 20, 100, 200)
TEMPERATURE = 0.07
_CHUNK = 2048


def neighbours(n: int, wanted: Sequence[int] = NEIGHBOURS) -> tuple[int, ...]:
    """Return the numbers of neighbours to use, none above the n examples there are, none twice."""
    return tuple(dict.fromkeys(min(k, n) for k in wanted))


def votes(
    features: NDArray[np.floating],
    labels: NDArray[np.int64],
    queries: NDArray[np.floating],
    num_classes: int,
    k: int,
    temperature: float = TEMPERATURE,
) -> NDArray[np.float64]:
    """Return (Q, K) votes: each of the k nearest examples votes for its class with softmax(cosine / temperature).

    Args:
        features: (N, D) examples.
        labels: (N,) in [0, num_classes).
        queries: (Q, D).
        num_classes: K.
        k: neighbours; never above N.
        temperature: of the softmax over the k similarities.

    Source: DINOv2 eval/knn.py (k 10, 20, 100, 200; temperature 0.07; L2-normalised features).
    """
    if not 1 <= k <= len(features):
        raise ValueError(f"k must be 1 to {len(features)}, not {k}")
    examples, tested = _unit(features), _unit(queries)
    out = np.zeros((len(tested), num_classes))
    for start in range(0, len(tested), _CHUNK):
        similarity = tested[start : start + _CHUNK] @ examples.T
        # Stable, so that equal similarities always give the same neighbours.
        nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
        near = np.take_along_axis(similarity, nearest, axis=1) / temperature
        weights = np.exp(near - near.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        rows = np.repeat(np.arange(start, start + len(nearest)), k)
        np.add.at(out, (rows, labels[nearest].ravel()), weights.ravel())
    return out


def _unit(x: NDArray[np.floating]) -> NDArray[np.float64]:
    x = np.asarray(x, dtype=np.float64)
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12))
