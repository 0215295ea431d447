"""Patch features: their norms and the artifacts among them, their colours, and how alike two networks' layers are."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vitft.inspection.embeddings import positive

_RATIO = 2.0  # an artifact's norm over that of usual tokens, at the least
_DIP = 0.5  # the density between both kinds, over that of the rarer one, at the most
_BIC = 10.0  # "very strong" evidence, Kass and Raftery (1995)


def artifact_share(norms: NDArray[np.float32]) -> float:
    """Return the share of tokens whose norm belongs to a second, higher kind; 0 where there is one kind only.

    Two normal components are fitted to the logarithms of the norms. They count as two kinds only where three gates
    agree: the data prefer them to one component by BIC, the upper mean is at least twice the lower one, and the fitted
    density has a dip between them. A single hump, however skewed, so scores 0. The tokens are those that "Vision
    Transformers Need Registers" (Darcet et al., 2024) cuts off at a norm of 150, which fits one network only.

    Args:
        norms: of any shape.
    """
    from sklearn.mixture import GaussianMixture

    values = np.log(np.maximum(norms.reshape(-1).astype(np.float64), 1e-12))[:, None]
    if len(values) < 16 or np.ptp(values) < np.log(_RATIO):
        return 0.0
    one = GaussianMixture(1, random_state=0).fit(values)
    # Begun at both ends: artifacts are few, and k-means would halve the usual ones.
    ends = np.quantile(values, [0.5, 1.0])[:, None]
    two = GaussianMixture(2, means_init=ends, random_state=0).fit(values)
    low, high = np.argsort(two.means_[:, 0])
    if one.bic(values) - two.bic(values) < _BIC or two.means_[high, 0] - two.means_[low, 0] < np.log(_RATIO):
        return 0.0
    between = np.linspace(two.means_[low, 0], two.means_[high, 0], 101)[:, None]
    density = np.exp(two.score_samples(between))
    if density.min() > _DIP * min(density[0], density[-1]):
        return 0.0
    upper = (two.predict(values) == high) & (values[:, 0] > two.means_[low, 0])
    return float(upper.mean())


def colours(features: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return patch features as colours: their first three principal components over all images, as red, green, blue.

    Args:
        features: (images, rows, columns, D).

    Returns:
        (images, rows, columns, 3) in [0, 1], each component between its 1st and 99th percentile, and the shares of
        variance (3,).
    """
    shape, flat = features.shape[:3], features.reshape(-1, features.shape[-1]).astype(np.float64)
    flat = flat - flat.mean(axis=0)
    values, vectors = np.linalg.eigh(flat.T @ flat)
    first = positive(vectors.T[::-1][:3])
    projected = flat @ first.T
    low, high = np.percentile(projected, [1, 99], axis=0)
    scaled = np.clip((projected - low) / np.where(high > low, high - low, 1.0), 0, 1)
    shares = np.maximum(values[::-1][:3], 0) / max(float(np.maximum(values, 0).sum()), 1e-30)
    return scaled.reshape(*shape, 3), shares


def cka(a: Sequence[NDArray[np.float32]], b: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Return the linear centred kernel alignment of every layer of one network with every layer of another.

    |Y'X|^2 / (|X'X| |Y'Y|) with Frobenius norms and centred columns, Kornblith et al. (2019): 1 for representations
    that are equal up to rotation and scale.

    Args:
        a: (n, D) a layer, of the same n tokens in all.
        b: (n, D') a layer.

    Returns:
        (layers of a, layers of b).
    """
    left, right = ([x.astype(np.float64) - x.mean(axis=0, dtype=np.float64) for x in side] for side in (a, b))
    sizes = [np.array([np.linalg.norm(x.T @ x) for x in side]) for side in (left, right)]
    pairs = np.array([[np.linalg.norm(y.T @ x) ** 2 for y in right] for x in left])
    return np.asarray(pairs / np.maximum(np.outer(*sizes), 1e-30), dtype=np.float64)
