"""Logistic regression on frozen features; its strength is chosen on held-out training data, never on test."""

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STRENGTHS = tuple(10.0**e for e in range(-4, 4))
"""C of scikit-learn, tried on the held-out part (features are standardised, which makes them scale-free)."""
_HELD_OUT = 0.2
_ALONE = 1.0


@dataclass(frozen=True)
class Probe:
    """A fitted probe.

    Attributes:
        mean, std: (1, D) of the training features.
        weights, bias: (K', D), (K',) for the `classes` that occurred.
        classes: (K',) labels.
        strength: the C that was chosen.
        held_out: training examples it was chosen on; 0 where a class has one example only and C stays 1.
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    weights: NDArray[np.float64]
    bias: NDArray[np.float64]
    classes: NDArray[np.int64]
    strength: float
    held_out: int

    def answers(self, features: NDArray[np.floating]) -> NDArray[np.int64]:
        """Return (N,) classes for (N, D) features."""
        scores = ((features - self.mean) / self.std) @ self.weights.T + self.bias
        return np.asarray(self.classes[scores.argmax(axis=1)], dtype=np.int64)


def hold_out(labels: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Return (N,) which examples are held out: of each class a share (at least one), if it keeps at least one."""
    rng = np.random.default_rng(seed)
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        if len(members) >= 2:
            held[members[: min(len(members) - 1, max(1, round(_HELD_OUT * len(members))))]] = True
    return held


def fit(features: NDArray[np.floating], labels: NDArray[np.int64], seed: int) -> Probe:
    """Choose C on a seeded stratified part of the training data, then fit on all of it.

    Args:
        features: (N, D).
        labels: (N,).
        seed: of the part that is held out.

    Equal accuracies go to the smaller C (the stronger regularisation).
    """
    held = hold_out(labels, seed)
    count, strength = int(held.sum()), _ALONE
    if count:
        right = [
            int((_fit(features[~held], labels[~held], c, count).answers(features[held]) == labels[held]).sum())
            for c in STRENGTHS
        ]
        strength = STRENGTHS[int(np.argmax(right))]
    return _fit(features, labels, strength, count)


def _fit(features: NDArray[np.floating], labels: NDArray[np.int64], strength: float, held_out: int) -> Probe:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    x = np.asarray(features, dtype=np.float64)
    mean, std = x.mean(axis=0, keepdims=True), x.std(axis=0, keepdims=True) + 1e-5
    classes = np.unique(labels)
    if len(classes) == 1:
        return Probe(mean, std, np.zeros((1, x.shape[1])), np.zeros(1), classes, strength, held_out)
    model = LogisticRegression(C=strength, max_iter=1000)
    with warnings.catch_warnings():
        # At C = 1000 separable data never quite converge; the direction is settled long before.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit((x - mean) / std, labels)
    weights, bias = model.coef_, model.intercept_
    if len(classes) == 2:  # scikit-learn keeps one row for two classes
        weights, bias = np.concatenate([-weights, weights]), np.concatenate([-bias, bias])
    return Probe(mean, std, weights, bias, classes, strength, held_out)
