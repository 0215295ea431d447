"""Few-shot regression on frozen features, in closed form: big_vision's `fewshot_lsr` evaluator."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

L2 = 2.0**10
"""The fixed regularisation (configs/common_fewshot.py)."""
BIAS = 100.0
"""The constant feature that stands for the bias; large, so that it is hardly regularised."""
_STD_FLOOR = 1e-5

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Ridge:
    """A fitted regression: mean, std (1, D) of the examples, weights (D + 1, K), float64."""

    mean: Floats
    std: Floats
    weights: Floats

    def scores(self, features: NDArray[np.floating]) -> Floats:
        """Return (N, K) scores of (N, D) features, aiming at +1 for the class and -1 for the others."""
        return np.asarray(_with_bias((features - self.mean) / self.std) @ self.weights)


def fit(features: NDArray[np.floating], labels: NDArray[np.int64], num_classes: int, l2: float = L2) -> Ridge:
    """Solve the regularised least squares to {-1, +1} targets in float64.

    Args:
        features: (N, D) of the few examples; they are standardised by their own mean and std.
        labels: (N,) in [0, num_classes).
        num_classes: K.
        l2: added to the diagonal of the Gram matrix.

    Source: big_vision evaluators/fewshot_lsr.py; ViT paper section 4.1. The smaller Gram matrix is decomposed, so that
    one example a class costs N^3 and not D^3.
    """
    x = np.asarray(features, dtype=np.float64)
    mean, std = x.mean(axis=0, keepdims=True), x.std(axis=0, keepdims=True) + _STD_FLOOR
    x = _with_bias((x - mean) / std)
    y = np.where(labels[:, None] == np.arange(num_classes)[None, :], 1.0, -1.0)
    if x.shape[0] >= x.shape[1]:
        values, q = np.linalg.eigh(x.T @ x)
        weights = (q / (values + l2)) @ (q.T @ (x.T @ y))
    else:
        values, q = np.linalg.eigh(x @ x.T)
        weights = x.T @ ((q / (values + l2)) @ (q.T @ y))
    return Ridge(mean, std, weights)


def _with_bias(x: Floats) -> Floats:
    return np.pad(np.asarray(x, dtype=np.float64), ((0, 0), (0, 1)), constant_values=BIAS)
