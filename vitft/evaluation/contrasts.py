"""Compare two rows of a table on the same images, and two rows over the same tasks. No torch.

**One seed each:** the exact two-sided McNemar test. It speaks of the images: these two runs, on other images of the
kind.

**Several seeds each:** images and seeds are both samples. The difference of the mean accuracies over seeds varies

- with the images: V_img = var over images of (mean over a's seeds - mean over b's seeds) / n, n - 1 degrees of freedom;
- with the seeds: V_seed = var over seeds of the accuracy / k, of each row, k - 1 degrees of freedom. Where both rows
  have the same seeds their runs drew the same examples and orders, and the variance is that of the paired differences.

What flips by image and seed is in both, and is taken out once (`significance.image_noise`): the variance is
V_img + V_seed less that, and never below either. Student's t, with Satterthwaite's degrees of freedom. Simulated with
1,000 images and three seeds each, two equally good models are told apart in 1.5 to 4.7 % of cases, whether seeds differ
by 0.6 or 1.2 points and whether the models agree on which images are hard; McNemar on one seed of each in 4 to 25 %.

**Several seeds against one:** the one run's luck cannot be told from its model. McNemar with each seed, and the largest
p counts.

**Means over tasks:** the tasks are the sample: an interval by the bootstrap over tasks, in each group separately where
the mean is one of groups (`over_tasks`), and Student's t for p values smaller than a bootstrap can give (`tasks_p`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vitft.evaluation import intervals
from vitft.evaluation.significance import image_noise

RESAMPLES = 20_000
ENOUGH_TASKS = 6
"""With five tasks even all differences of one sign are no surprise at 5 % (2 / 2^5): no row is called the best."""


@dataclass(frozen=True)
class Contrast:
    """Two rows on the same images: a minus b.

    Attributes:
        difference: of mean accuracies, in [-1, 1].
        p: two-sided, of no difference.
        ci95: interval of the difference.
        test: what was computed, in words.
        spread: discordant images (McNemar), or the standard error of the difference (t).
        freedom: degrees of freedom of the t-test; 0 for McNemar's.
    """

    difference: float
    p: float
    ci95: tuple[float, float]
    test: str
    spread: float
    n: int
    freedom: float = 0.0

    def least(self, level: float) -> float:
        """Return the smallest difference that the test would tell at `level`, with the same spread."""
        if self.freedom:
            from scipy.stats import t

            return min(1.0, float(t.ppf(1 - level / 2, self.freedom)) * self.spread)
        return least_images(int(self.spread), level) / self.n


def mcnemar(a_only: ArrayLike, b_only: ArrayLike) -> NDArray[np.float64]:
    """Return p of the exact two-sided McNemar test of many pairs at once; 1 where nothing is discordant.

    Args:
        a_only, b_only: images that only the one has right, only the other.
    """
    from scipy.special import bdtr

    one, other = np.asarray(a_only, dtype=np.int64), np.asarray(b_only, dtype=np.int64)
    fewer, both = np.minimum(one, other), one + other
    tail = np.where(both > 0, bdtr(fewer.astype(np.float64), np.maximum(both, 1), 0.5), 1.0)
    return np.asarray(np.minimum(1.0, 2 * tail), dtype=np.float64)


def least_images(discordant: int, level: float) -> int:
    """Return by how many images one model must be ahead for the exact McNemar test to have p < level.

    Args:
        discordant: images that only one of both has right. Where even all of them would be too few for any p below
            the level, as many as would do.
    """
    from scipy.stats import binom

    # 2 * 0.5^m < level: with fewer discordant images nothing can be told.
    m = max(discordant, math.floor(math.log2(2 / level)) + 1)
    fewer = np.arange(m // 2 + 1)
    significant = fewer[2 * binom.cdf(fewer, m, 0.5) < level]
    return m - 2 * int(significant.max())


def contrast(a: ArrayLike, b: ArrayLike, same_seeds: bool = False) -> Contrast:
    """Compare two rows image by image; see the head of this module.

    Args:
        a: (k, n) bool, which images each seed answered rightly.
        b: (m, n) bool, of the same images in the same order.
        same_seeds: row i of both has the same seed (k = m).

    Raises:
        ValueError: the images differ in number, or there are none.
    """
    one, other = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1] or 0 in (*one.shape, *other.shape):
        raise ValueError(f"rows are compared on the same images, not on {one.shape} and {other.shape}")
    if len(one) > 1 and len(other) > 1:
        return _over_seeds(one, other, same_seeds)
    pairs = [intervals.paired(x, y) for x in one for y in other]
    worst = max(pairs, key=lambda pair: pair.p)
    words = "exact McNemar" if len(pairs) == 1 else f"exact McNemar with each of {len(pairs)} seeds, the largest p"
    low, high = min(pair.ci95[0] for pair in pairs), max(pair.ci95[1] for pair in pairs)
    difference = float(one.mean() - other.mean())
    return Contrast(difference, worst.p, (low, high), words, worst.a_only + worst.b_only, one.shape[1])


def _over_seeds(a: NDArray[np.bool_], b: NDArray[np.bool_], same_seeds: bool) -> Contrast:
    from scipy.stats import t

    k, m, n = len(a), len(b), a.shape[1]
    by_image = a.mean(axis=0) - b.mean(axis=0)
    images = float(by_image.var(ddof=1)) / n if n > 1 else 0.0
    ones, others = a.mean(axis=1), b.mean(axis=1)
    if same_seeds:
        parts = [(float((ones - others).var(ddof=1)) / k, k - 1)]
    else:
        parts = [(float(ones.var(ddof=1)) / k, k - 1), (float(others.var(ddof=1)) / m, m - 1)]
    seeds = sum(variance for variance, _ in parts)
    both = float(image_noise(a)) / k + float(image_noise(b)) / m
    # Rows without any spread: as if they disagreed on one image, so that one is not a difference.
    variance = max(images + seeds - both, images, seeds, 0.5 / n**2)
    terms = [(images, n - 1), *parts]
    weighed = sum(part**2 / freedom for part, freedom in terms if part)
    freedom = variance**2 / weighed if weighed else float(min(k, m) - 1)
    freedom = min(max(freedom, 1.0), float(n - 1 + k - 1 + m - 1))
    difference, error = float(by_image.mean()), math.sqrt(variance)
    half = float(t.ppf(0.975, freedom)) * error
    words = f"t-test over images and {'the same ' * same_seeds}seeds, {k} against {m}, {freedom:.1f} degrees of freedom"
    p = float(2 * t.sf(abs(difference) / error, freedom))
    low, high = max(-1.0, difference - half), min(1.0, difference + half)
    return Contrast(difference, p, (low, high), words, error, n, freedom)


def _tail(sizes: Sequence[int], level: float) -> float:
    """Return the share of draws on each side that is left outside."""
    from scipy.stats import norm, t

    return float(norm.cdf(t.ppf(level / 2, sum(sizes) - len(sizes))))


def can_be_drawn(sizes: Sequence[int], level: float = 0.05, resamples: int = RESAMPLES) -> bool:
    """Tell whether groups of so many tasks have an interval: draws as rare as its tails exist."""
    if not sizes or min(sizes) < 2:
        return False
    return _tail(sizes, level) >= max(1 / resamples, math.prod(float(size) ** -size for size in sizes))


def over_tasks(
    values: Sequence[Sequence[float]], level: float = 0.05, resamples: int = RESAMPLES
) -> tuple[float, float] | None:
    """Return the interval of a mean over tasks, which are drawn anew with replacement, group by group.

    A plain percentile interval is too narrow for few tasks. Here each group's deviations are stretched by
    sqrt(n / (n - 1)), as a draw spreads like n values and not like n - 1, and the tails are those of Student's t with
    sum(n - 1) degrees of freedom: for normal values this is the t interval. The draws are the same in every call.

    Args:
        values: groups of accuracies (or differences), each averaged, then their averages.
        level: chance that is left outside.

    Returns:
        None where a group has but one task, and where so small a chance cannot be drawn: with four tasks one draw in
        256 is nothing but the lowest task, so that a tail of 0.1 % does not exist.

    Source: after T. Hesterberg, 2015 (The American Statistician 69), on too narrow bootstrap intervals.
    """
    if not can_be_drawn([len(group) for group in values], level, resamples):
        return None
    rng = np.random.default_rng(0)
    means = np.zeros(resamples)
    for group in values:
        size, own = len(group), np.asarray(group, dtype=np.float64)
        drawn = own[rng.integers(0, size, (resamples, size))].mean(axis=1)
        means += own.mean() + (drawn - own.mean()) * math.sqrt(size / (size - 1))
    means /= len(values)
    tail = _tail([len(group) for group in values], level)
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def tasks_p(values: Sequence[Sequence[float]]) -> float:
    """Return the two-sided p that a mean over tasks is 0: Student's t over the tasks, sum(n - 1) degrees of freedom.

    Args:
        values: groups of differences between two rows, at least two in each; see `over_tasks`.
    """
    from scipy.stats import t

    groups = [np.asarray(group, dtype=np.float64) for group in values]
    middle = sum(float(group.mean()) for group in groups) / len(groups)
    error = math.sqrt(sum(float(group.var(ddof=1)) / len(group) for group in groups)) / len(groups)
    if error < 1e-12:
        return float(abs(middle) < 1e-12)
    return float(2 * t.sf(abs(middle) / error, sum(len(group) - 1 for group in groups)))
