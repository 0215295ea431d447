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


@pytest.mark.parametrize("n", [1, 5, 12])
def test_holm_is_statsmodels(n: int) -> None:
    p = (np.random.default_rng(n).random(n) ** 4).tolist()
    p += p[:1]  # statsmodels collects garbage in every call, which is slow: few calls
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


def by_the_rule(a: np.ndarray, b: np.ndarray, same: bool) -> tuple[float, float, tuple[float, float], float, float]:
    """Return difference, p, interval, standard error and degrees of freedom, image by image and pair by pair."""
    (k, n), m = a.shape, len(b)
    per_image = [a[:, i].mean() - b[:, i].mean() for i in range(n)]
    of_images = np.var(per_image, ddof=1) / n if n > 1 else 0.0
    ones, others = a.mean(1), b.mean(1)
    if same:
        of_seeds = [(np.var(ones - others, ddof=1) / k, k - 1)]
    else:
        of_seeds = [(np.var(ones, ddof=1) / k, k - 1), (np.var(others, ddof=1) / m, m - 1)]

    def flips(x: np.ndarray) -> float:
        pairs = [np.sum(p != q) / (2 * n**2) for p, q in itertools.combinations(x, 2)]
        return float(np.mean(pairs)) / len(x)

    seeds = sum(v for v, _ in of_seeds)
    # without any spread: as if they disagreed on one image
    variance = max(of_images + seeds - flips(a) - flips(b), of_images, seeds, 1 / (2 * n * n))
    weighed = sum(v**2 / f for v, f in [(of_images, n - 1), *of_seeds] if v)
    freedom = variance**2 / weighed if weighed else min(k, m) - 1
    freedom = min(max(1.0, freedom), n + k + m - 3)
    difference, error = float(ones.mean() - others.mean()), math.sqrt(variance)
    half = stats.t.ppf(0.975, freedom) * error
    p = 2 * stats.t.sf(abs(difference) / error, freedom)
    return difference, p, (max(-1.0, difference - half), min(1.0, difference + half)), error, freedom


def answers(k: int, n: int) -> st.SearchStrategy[np.ndarray]:
    return st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=k, max_size=k).map(np.array)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data(), st.integers(2, 4), st.integers(2, 4), st.integers(1, 7), st.booleans())
def test_few_images_and_seeds_by_the_rule_written_again(data, k, m, n, same):
    a = data.draw(answers(k, n))
    b = data.draw(answers(k if same else m, n))
    found, (difference, p, ci95, error, freedom) = c.contrast(a, b, same), by_the_rule(a, b, same)
    assert (found.difference, found.p, found.n) == (pytest.approx(difference), pytest.approx(p), n)
    assert (found.ci95, found.spread) == (pytest.approx(ci95), pytest.approx(error))
    assert found.freedom == pytest.approx(freedom)
    assert found.least(0.1) == pytest.approx(min(1.0, stats.t.ppf(0.95, freedom) * error))
    words = f"seeds, {len(a)} against {len(b)}, {found.freedom:.1f} degrees of freedom"
    assert found.test == f"t-test over images and {'the same ' if same else ''}{words}"


def test_rows_without_any_spread_are_as_if_they_disagreed_on_one_image():
    right, wrong = np.ones((3, 50), bool), np.zeros((4, 50), bool)
    for a, b in ((right, wrong), (wrong, right)):
        found, (difference, p, ci95, error, freedom) = c.contrast(a, b), by_the_rule(a, b, False)
        assert (found.difference, found.ci95) == (difference, pytest.approx(ci95)) and abs(difference) == 1
        assert (found.spread, found.freedom) == (pytest.approx(math.sqrt(0.5) / 50), 2.0) == (error, freedom)
        assert found.p == pytest.approx(p)


@pytest.mark.parametrize("same", [False, True])
def test_several_seeds_by_the_rule_written_again(same):
    rng = np.random.default_rng(3)
    a = _several(rng, 3, 400, 0.3, rng.normal(1, 1, 400), 0.5)
    b = _several(rng, 3 if same else 4, 400, 0.3, rng.normal(0.8, 1, 400), 0.5)
    found, (difference, p, ci95, error, freedom) = c.contrast(a, b, same), by_the_rule(a, b, same)
    assert (found.difference, found.p, found.ci95) == (pytest.approx(difference), pytest.approx(p), pytest.approx(ci95))
    assert found.least(0.01) == pytest.approx(stats.t.ppf(0.995, freedom) * error)


def test_seeds_that_never_differ_leave_the_images_alone_as_the_sample() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(300) < 0.8, rng.random(300) < 0.7
    found = c.contrast([a] * 3, [b] * 3)
    expected = stats.ttest_rel(a.astype(float), b.astype(float))
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6)
    assert found.ci95 == pytest.approx(tuple(expected.confidence_interval()), rel=1e-6)


def test_one_seed_against_several_takes_the_largest_p_and_the_widest_interval() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random((1, 200)) < 0.9, rng.random((3, 200)) < 0.75
    for one, other, pairs in ((a, b, [paired(a[0], x) for x in b]), (b, a, [paired(x, a[0]) for x in b])):
        found, worst = c.contrast(one, other), max(pairs, key=lambda pair: pair.p)
        assert len({pair.p for pair in pairs}) == 3 and found.p == worst.p
        assert found.ci95 == (min(p.ci95[0] for p in pairs), max(p.ci95[1] for p in pairs))
        assert found.difference == pytest.approx(one.mean() - other.mean()) and found.freedom == 0
        assert (found.spread, found.n) == (worst.a_only + worst.b_only, 200)
        assert found.test == "exact McNemar with each of 3 seeds, the largest p"
    assert c.contrast(a, b[:1]).test == "exact McNemar"


def test_equal_rows_are_no_difference_and_unlike_images_are_refused() -> None:
    same = np.ones((2, 50), bool)
    assert c.contrast(same, same).p == 1.0
    assert c.contrast(same[:1], same[:1]).p == 1.0
    for one, other in (((2, 50), (2, 51)), ((0, 5), (1, 5)), ((1, 5), (0, 5)), ((1, 0), (1, 0)), ((5,), (1, 5)),
                       ((1, 5), (5,))):  # fmt: skip
        with pytest.raises(ValueError, match="same images"):
            c.contrast(np.ones(one, bool), np.ones(other, bool))


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


def test_the_draws_are_the_same_in_every_call() -> None:
    """The rule once more, with its 20,000 draws of PCG64 from seed 0."""
    groups = [[0.1, 0.5, 0.6, 0.9, 0.3], [0.2, 0.4, 0.45, 0.7]]
    rng = np.random.default_rng(0)
    means = np.zeros(20_000)
    for group in groups:
        own = np.array(group)
        drawn = np.array([own[i].mean() for i in rng.integers(0, len(own), (20_000, len(own)))])
        means += (own.mean() + (drawn - own.mean()) * math.sqrt(len(own) / (len(own) - 1))) / 2
    tail = stats.norm.cdf(stats.t.ppf(0.025, 3 + 4))
    assert c.over_tasks(groups) == pytest.approx(tuple(np.quantile(means, [tail, 1 - tail])), abs=1e-12)


@pytest.mark.parametrize(
    ("sizes", "level", "resamples", "expected"),
    [
        ([], 0.05, 20_000, False), ([1], 0.5, 20_000, False), ([9, 1], 0.5, 20_000, False), ([2], 0.05, 20_000, False),
        ([2], 0.9, 20_000, True), ([9], 0.05, 20_000, True), ([9], 0.05, 80, False), ([9], 0.05, 100, True),
        ([3, 3], 0.05, 20_000, True), ([3, 3], 0.01, 20_000, False), ([7, 4, 8], 0.05, 20_000, True),
    ],
)  # fmt: skip
def test_a_tail_is_drawn_where_draws_are_as_rare(
    sizes: list[int], level: float, resamples: int, expected: bool
) -> None:
    assert c.can_be_drawn(sizes, level, resamples) is expected
    if sizes and min(sizes) > 1:
        tail = stats.norm.cdf(stats.t.ppf(level / 2, sum(size - 1 for size in sizes)))
        rarest = 1.0
        for size in sizes:
            rarest /= size**size
        assert expected is bool(tail >= 1 / resamples and tail >= rarest)


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
    groups = [rng.random(7) - 0.4, rng.random(4) - 0.3, rng.random(8) - 0.5]
    error = math.sqrt(sum(np.var(g, ddof=1) / len(g) for g in groups)) / 3
    middle = (groups[0].mean() + groups[1].mean() + groups[2].mean()) / 3
    expected = 2 * stats.t.sf(abs(middle) / error, 6 + 3 + 7)
    assert c.tasks_p([g.tolist() for g in groups]) == pytest.approx(expected)
    single = [group.astype(np.float32) for group in groups]
    double = [group.astype(np.float64).tolist() for group in single]
    for function in (c.tasks_p, c.over_tasks):
        assert function(single) == function(double)  # type: ignore[arg-type]
    assert c.tasks_p([[0.1, 0.1], [-0.1, -0.1]]) == 1.0 and c.tasks_p([[0.2, 0.2], [-0.1, -0.1]]) == 0.0


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
    assert [c.can_be_drawn([size]) for size in (2, 3, 4, 5)] == [False, False, False, True]


def test_no_difference_of_accuracies_is_larger_than_one() -> None:
    few = c.contrast(np.array([[True, False, True]] * 2), np.array([[False, False, True], [True, True, True]]))
    assert few.spread * stats.t.ppf(0.995, few.freedom) > 1 == few.least(0.01)
    assert few.ci95[0] >= -1 and few.ci95[1] <= 1
