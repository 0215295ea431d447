"""Rows compared image by image and task by task: against statsmodels, SciPy, formulas written again, simulations."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as table_test
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from vitft.evaluation import contrasts as c
from vitft.evaluation.intervals import paired, wilson
from vitft.evaluation.significance import LEVEL, holm


@settings(max_examples=200, deadline=None)
@given(a_only=st.integers(0, 60), b_only=st.integers(0, 60), both=st.integers(0, 5), neither=st.integers(1, 5))
def test_one_seed_each_is_statsmodels_exact_mcnemar(a_only: int, b_only: int, both: int, neither: int) -> None:
    a = [True] * (a_only + both) + [False] * (b_only + neither)
    b = [False] * a_only + [True] * (both + b_only) + [False] * neither
    expected = table_test([[both, a_only], [b_only, neither]], exact=True).pvalue
    expected = 1.0 if a_only + b_only == 0 else min(1.0, expected)
    found = c.contrast([a], [b])
    assert found.p == pytest.approx(expected, rel=1e-9)
    assert c.mcnemar([a_only], [b_only])[0] == pytest.approx(expected, rel=1e-9)
    assert found.difference == pytest.approx((a_only - b_only) / len(a))
    assert found.ci95 == paired(a, b).ci95


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_statsmodels(p: list[float]) -> None:
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])


@settings(max_examples=100, deadline=None)
@given(n=st.integers(1, 3000), share=st.floats(0, 1))
def test_wilson_is_statsmodels(n: int, share: float) -> None:
    assert wilson(round(n * share), n) == pytest.approx(proportion_confint(round(n * share), n, method="wilson"))


@pytest.mark.parametrize(
    ("discordant", "level"), [(0, 0.05), (5, 0.05), (6, 0.05), (40, 0.05), (41, 0.001), (300, 1e-5)]
)
def test_the_least_difference_is_the_first_that_is_told(discordant: int, level: float) -> None:
    least = c.least_images(discordant, level)
    m = discordant if 2 * 0.5**discordant < level else math.ceil(math.log2(2 / level) + 1e-9)
    ahead = [d for d in range(m % 2, m + 1, 2) if stats.binomtest((m - d) // 2, m).pvalue < level]
    assert least == min(ahead)
    a = np.arange(500) < m - (m - least) // 2
    b = (np.arange(500) >= m - (m - least) // 2) & (np.arange(500) < m)
    found = c.contrast([a], [b])
    assert found.p < level and found.difference == pytest.approx(found.least(level)) == pytest.approx(least / 500)


def _several(rng: np.random.Generator, k: int, n: int, sd: float, images: np.ndarray, noise: float) -> np.ndarray:
    """Draw (k, n) answers: an image's difficulty for the model, a shift a seed, and luck of each image and seed."""
    score = images[None, :] + rng.normal(0, sd, (k, 1)) + rng.normal(0, noise, (k, n))
    return score > 0


@pytest.mark.parametrize("same", [False, True])
def test_several_seeds_by_the_rule_written_again(same: bool) -> None:
    rng = np.random.default_rng(3)
    a = _several(rng, 3, 400, 0.3, rng.normal(1, 1, 400), 0.5)
    b = _several(rng, 3 if same else 4, 400, 0.3, rng.normal(0.8, 1, 400), 0.5)
    k, m, n = 3, len(b), 400
    per_image = [a[:, i].mean() - b[:, i].mean() for i in range(n)]
    of_images = np.var(per_image, ddof=1) / n
    ones, others = a.mean(1), b.mean(1)
    if same:
        of_seeds = [(np.var(ones - others, ddof=1) / k, k - 1)]
    else:
        of_seeds = [(np.var(ones, ddof=1) / k, k - 1), (np.var(others, ddof=1) / m, m - 1)]

    def flips(x: np.ndarray) -> float:
        pairs = [np.sum(p != q) / (2 * n**2) for p, q in itertools.combinations(x, 2)]
        return float(np.mean(pairs)) / len(x)

    seeds = sum(v for v, _ in of_seeds)
    variance = max(of_images + seeds - flips(a) - flips(b), of_images, seeds)
    freedom = variance**2 / (of_images**2 / (n - 1) + sum(v**2 / f for v, f in of_seeds))
    difference = ones.mean() - others.mean()
    found = c.contrast(a, b, same)
    assert found.difference == pytest.approx(difference)
    assert found.p == pytest.approx(2 * stats.t.sf(abs(difference) / math.sqrt(variance), freedom))
    half = stats.t.ppf(0.975, freedom) * math.sqrt(variance)
    assert found.ci95 == pytest.approx((difference - half, difference + half))
    assert found.least(0.01) == pytest.approx(stats.t.ppf(0.995, freedom) * math.sqrt(variance))


def test_seeds_that_never_differ_leave_the_images_alone_as_the_sample() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(300) < 0.8, rng.random(300) < 0.7
    found = c.contrast([a] * 3, [b] * 3)
    expected = stats.ttest_rel(a.astype(float), b.astype(float))
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6)
    assert found.ci95 == pytest.approx(tuple(expected.confidence_interval()), rel=1e-6)


def test_one_seed_against_several_takes_the_largest_p() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random((1, 200)) < 0.9, rng.random((3, 200)) < 0.75
    assert c.contrast(a, b).p == max(paired(a[0], other).p for other in b)


def test_equal_rows_are_no_difference_and_unlike_images_are_refused() -> None:
    same = np.ones((2, 50), bool)
    assert c.contrast(same, same).p == 1.0
    assert c.contrast(same[:1], same[:1]).p == 1.0
    with pytest.raises(ValueError, match="same images"):
        c.contrast(same, np.ones((2, 51), bool))


@pytest.mark.parametrize("sd", [0.0, 0.02, 0.1])
@pytest.mark.parametrize("interaction", [0.0, 0.6])
def test_false_alarms_over_images_and_seeds_stay_at_the_level(sd: float, interaction: float) -> None:
    """Two models that are equal on all images of the kind, each with its own luck in images, seeds and both."""
    rng = np.random.default_rng(round(1000 * sd + interaction))
    alarms, repeats = 0, 400
    for _ in range(repeats):
        shared = rng.normal(1, 1, 500)
        a, b = (_several(rng, 3, 500, sd, shared + rng.normal(0, interaction, 500), 0.4) for _ in range(2))
        alarms += c.contrast(a, b).p < LEVEL
    assert alarms <= stats.binom.ppf(0.999, repeats, LEVEL)


def test_the_bootstrap_over_tasks_is_scipys() -> None:
    values = np.random.default_rng(5).random(19)
    found = c.over_tasks([values.tolist()])
    assert found is not None
    low, high = found
    tail = stats.norm.cdf(stats.t.ppf(0.025, 18))
    plain = stats.bootstrap(
        (values,), np.mean, confidence_level=1 - 2 * tail, method="percentile", n_resamples=40_000, vectorized=True
    ).confidence_interval
    stretched = [values.mean() + (end - values.mean()) * math.sqrt(19 / 18) for end in plain]
    assert (low, high) == pytest.approx(stretched, abs=0.01 * (high - low) + 0.004)
    # For values without a long tail it is near Student's t.
    assert (low, high) == pytest.approx(tuple(stats.t.interval(0.95, 18, values.mean(), stats.sem(values))), abs=0.01)


def test_the_bootstrap_over_few_tasks_is_that_of_all_draws() -> None:
    values = [0.2, 0.5, 0.6, 0.9]
    means = np.array([np.mean(draw) for draw in itertools.product(values, repeat=4)])
    stretched = np.mean(values) + (means - np.mean(values)) * math.sqrt(4 / 3)
    tail = stats.norm.cdf(stats.t.ppf(0.1, 3))
    assert c.over_tasks([values], 0.2) == pytest.approx(np.quantile(stretched, [tail, 1 - tail]), abs=0.03)
    assert c.over_tasks([[0.5]]) is None and c.over_tasks([]) is None and c.over_tasks([values, [0.1]]) is None


def test_groups_are_drawn_each_for_itself() -> None:
    rng = np.random.default_rng(2)
    groups = [rng.random(7) + 1, rng.random(4), rng.random(8) - 1]  # far apart: drawn together it would be wide
    found = c.over_tasks([g.tolist() for g in groups])
    assert found is not None
    low, high = found
    error = math.sqrt(sum(np.var(g, ddof=1) / len(g) for g in groups)) / 3
    middle = np.mean([g.mean() for g in groups])
    half = stats.t.ppf(0.975, 16) * error
    assert (low, high) == pytest.approx((middle - half, middle + half), abs=0.1 * half)


def test_p_over_tasks_is_the_t_test_of_scipy() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.random(19), rng.random(19)
    assert c.tasks_p([(a - b).tolist()]) == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert c.tasks_p([[0.1] * 6]) == 0.0 and c.tasks_p([[0.0] * 6]) == 1.0


def test_a_tail_that_cannot_be_drawn_gives_no_interval() -> None:
    """The least mean of four tasks comes once in 256 draws; 5 % by Student's t needs tails of 0.07 %."""
    assert stats.norm.cdf(stats.t.ppf(0.025, 3)) < 4.0**-4
    assert c.over_tasks([[0.1, 0.4, 0.6, 0.9]]) is None
    # Three degrees of freedom, not four: at 7 % that decides it.
    assert stats.norm.cdf(stats.t.ppf(0.035, 3)) < 4.0**-4 < stats.norm.cdf(stats.t.ppf(0.035, 4))
    assert c.over_tasks([[0.1, 0.4, 0.6, 0.9]], 0.07) is None
    assert stats.norm.cdf(stats.t.ppf(0.025, 4)) > 5.0**-5
    assert c.over_tasks([[0.1, 0.4, 0.5, 0.6, 0.9]]) is not None
    assert c.over_tasks([[0.1, 0.2], [0.3, 0.5], [0.6, 0.7]]) is None
