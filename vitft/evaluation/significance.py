"""Tell a recipe that got worse from one that had other luck: tests on stored answers, image by image. No torch.

Two runs of one recipe differ for two reasons: which images near the boundary each got right, and a shift of the whole
network from seed to seed. A test of images alone (McNemar) knows the first only: between two seeds of one recipe whose
true accuracy varies by 0.2 points it calls 17 % of the pairs of 10,000 images different at the level of 5 %, at 1 point
43 %. The seeds are the sample, so:

- **Three seeds of a baseline or more** (`seeds`): Student's one-sided two-sample t-test of accuracies, k seeds of the
  baseline against m new ones, pooled variance, k + m - 2 degrees of freedom. All runs answer the same images, so what
  an image's difficulty adds is the same in both means and cancels: the spread between seeds is all there is, and it
  holds both reasons. With k = 3 that spread may be 0 by luck, and then one image would be red. So the variance is at
  least what the images alone explain, estimated from the images that two seeds disagree on: (n01 + n10) / (2 n^2) is
  without bias the variance of one run's accuracy when images flip independently; it is averaged over all pairs of the
  baseline. A larger variance only lowers t, so the level stays a bound, and false alarms lie far below it where seeds
  shift little. The price is power: three seeds against one leave 2 degrees of freedom. Simulated with 2,000 images
  (0.43 points of image noise), three seeds against one see a drop of 2 points in 74 to 29 % of cases (seeds that shift
  by 0 to 1 point), three against three in 100 to 60 %: a check runs as many new seeds as its baseline has.
- **Fewer** (`images`): exact one-sided McNemar, the largest p over all pairs of an old and a new run. It is labelled
  "images only", and a drop of less than `IMAGES_FLOOR` is never red.

p values are adjusted over all comparisons of one call by Holm's method, which holds whatever their dependence. Red is a
drop with an adjusted p below `LEVEL` that is also larger than a margin that counts.

The level is over the choice of seeds: on a CPU the same seed gives the same run for ever, so an alarm does not come and
go from night to night; it comes once, and can be looked into.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.05
MARGIN = 0.005
IMAGES_FLOOR = 0.01
ENOUGH_SEEDS = 3


@dataclass(frozen=True)
class Drop:
    """A new run against a baseline on the same images.

    Attributes:
        drop: mean accuracy of the baseline minus that of the new run, in [-1, 1].
        p: one-sided, of no drop.
        test: what was computed, in words.
        least: drops up to this are not red whatever p is.
    """

    drop: float
    p: float
    test: str
    least: float


def compare(old: ArrayLike, new: ArrayLike, margin: float = MARGIN) -> Drop:
    """Compare new runs with a baseline's.

    Args:
        old: (k, n) bool, which images each seed of the baseline answered rightly.
        new: (m, n) bool, of the same images in the same order.
        margin: share; smaller drops do not count.

    Raises:
        ValueError: the images differ in number, or there are none.
    """
    a, b = np.asarray(old, dtype=bool), np.asarray(new, dtype=bool)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or 0 in (*a.shape, *b.shape):
        raise ValueError(f"runs are compared on the same images, not on {a.shape} and {b.shape}")
    drop = float(a.mean() - b.mean())
    if len(a) < ENOUGH_SEEDS:
        least = max(margin, IMAGES_FLOOR)
        p = max(images(one, other) for one in a for other in b)
        return Drop(drop, p, f"images only: exact McNemar, {len(a)} seed{'s' * (len(a) > 1)}", least)
    words = f"t-test over seeds, {len(a)} against {len(b)}, {len(a) + len(b) - 2} degrees of freedom"
    return Drop(drop, float(seeds(a, b)), words, margin)


def seeds(old: ArrayLike, new: ArrayLike) -> NDArray[np.float64]:
    """Return p of the one-sided t-test that the new runs are not worse; see the head of this module.

    Args:
        old: (..., k, n) bool, k + m at least 3, k at least 2.
        new: (..., m, n) bool.
    """
    from scipy.stats import t

    a, b = np.asarray(old, dtype=bool), np.asarray(new, dtype=bool)
    k, m, n = a.shape[-2], b.shape[-2], a.shape[-1]
    one, other = a.mean(axis=-1), b.mean(axis=-1)
    spread = one.var(axis=-1) * k + other.var(axis=-1) * m  # sums of squares about each mean
    # Bit-equal seeds of a baseline show no noise at all: as if they disagreed on one image, so that one is not red.
    variance = np.maximum(spread / (k + m - 2), np.maximum(image_noise(a), 0.5 / n**2))
    statistic = (one.mean(axis=-1) - other.mean(axis=-1)) / np.sqrt(variance * (1 / k + 1 / m))
    return np.asarray(t.sf(statistic, k + m - 2), dtype=np.float64)


def image_noise(runs: ArrayLike) -> NDArray[np.float64]:
    """Return the variance of one run's accuracy that flips of single images explain.

    (n01 + n10) / (2 n^2), averaged over all pairs of runs: an image that c of k runs got right divides c (k - c) pairs.

    Args:
        runs: (..., k, n) bool, k at least 2.
    """
    flags = np.asarray(runs, dtype=bool)
    k, n = flags.shape[-2:]
    right = flags.sum(axis=-2)
    return np.asarray((right * (k - right)).sum(axis=-1) / (k * (k - 1) * n**2), dtype=np.float64)


def images(old: ArrayLike, new: ArrayLike) -> float:
    """Return p of the exact one-sided McNemar test that the new run is not worse on these images.

    Args:
        old, new: (n,) bool.

    Source: Q. McNemar, 1947 (Psychometrika 12), with the binomial instead of chi-squared.
    """
    from scipy.stats import binom

    a, b = np.asarray(old, dtype=bool), np.asarray(new, dtype=bool)
    lost, won = int((a & ~b).sum()), int((b & ~a).sum())
    return float(binom.sf(lost - 1, lost + won, 0.5)) if lost else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """Return p values adjusted for being several: below a level, with the chance of one false alarm at most that level.

    Source: S. Holm, 1979 (Scandinavian Journal of Statistics 6).
    """
    order = sorted(range(len(p)), key=p.__getitem__)
    out, highest = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - rank) * p[i]))
        out[i] = highest
    return out
