"""The uncertainty of a number: of one run, of several seeds, of two models on the same images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

import numpy as np
from numpy.typing import ArrayLike


def wilson(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of an accuracy.

    Args:
        correct: images answered rightly, 0..n.
        n: images answered, at least 1.
        confidence: in (0, 1).

    Returns:
        (low, high), each in [0, 1].

    Raises:
        ValueError: when n < 1 or correct lies outside 0..n.

    Source: E. B. Wilson, 1927 (JASA 22).
    """
    if n < 1 or not 0 <= correct <= n:
        raise ValueError(f"an interval needs 0 <= correct <= n and n >= 1, not {correct} of {n}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = correct / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # The closed form is exact at the ends; rounding is not.
    low = 0.0 if correct == 0 else centre - half
    high = 1.0 if correct == n else centre + half
    return low, high


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return Student's t interval of the mean of at least two values, e.g. of the accuracies of several seeds.

    It speaks of the seeds only, not of the test images, and may reach beyond [0, 1].

    Raises:
        ValueError: with fewer than two values.
    """
    from scipy.stats import t

    if len(values) < 2:
        raise ValueError("an interval over seeds needs at least two of them")
    half = float(t.ppf((1 + confidence) / 2, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def clipped(interval: Sequence[float]) -> tuple[float, float]:
    """Return an interval of accuracies without what no accuracy can be: each end in [0, 1]."""
    low, high = (min(1.0, max(0.0, end)) for end in interval)
    return low, high


@dataclass(frozen=True)
class Paired:
    """Two models on the same images.

    Attributes:
        n: images.
        a_only, b_only: images that only the first, only the second model answered rightly.
        difference: accuracy of a minus accuracy of b, in [-1, 1].
        ci95: interval of the difference.
        p: exact two-sided McNemar test of "equally accurate".
    """

    n: int
    a_only: int
    b_only: int
    difference: float
    ci95: tuple[float, float]
    p: float


def paired(correct_a: ArrayLike, correct_b: ArrayLike, confidence: float = 0.95) -> Paired:
    """Compare two models on the same images, which is sharper than comparing two intervals.

    Args:
        correct_a: (N,) bool, image by image.
        correct_b: (N,) bool, of the same images in the same order.
        confidence: in (0, 1).

    Raises:
        ValueError: when the lengths differ or are 0.

    Source: the interval is Bonett and Price's adjusted Wald (2012), which holds its level for few discordant images;
    the test is McNemar's with the exact binomial.
    """
    from scipy.stats import binomtest

    a, b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    if a.shape != b.shape or a.ndim != 1 or a.size == 0:
        raise ValueError(f"two models are compared on the same images, not on {a.shape} and {b.shape}")
    n, a_only, b_only = a.size, int((a & ~b).sum()), int((b & ~a).sum())
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share_a, share_b = (a_only + 1) / (n + 2), (b_only + 1) / (n + 2)
    centre = share_a - share_b
    half = z * math.sqrt((share_a + share_b - centre**2) / (n + 2))
    p = float(binomtest(a_only, a_only + b_only, 0.5).pvalue) if a_only + b_only else 1.0
    return Paired(n, a_only, b_only, (a_only - b_only) / n, (max(-1.0, centre - half), min(1.0, centre + half)), p)
