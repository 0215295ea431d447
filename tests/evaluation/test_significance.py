"""A recipe that got worse is told from one that had other luck: levels by simulation, formulas by their own."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from vitft.evaluation import significance as s

Flags = NDArray[np.bool_]
RNG = np.random.default_rng
REPEATS = 2000
IMAGES = 2000
UNCERTAIN = 0.15
"""Part of the images that a run may get right or wrong: 0.43 points of noise; 75 % are always right, 10 % wrong."""


def runs(rng: np.random.Generator, count: int, sd: float, drop: float = 0.0) -> Flags:
    """Draw (REPEATS, count, IMAGES) answers: each image flips by itself, each seed is shifted as a whole by sd.

    The accuracy is 0.825 - drop on average; shifts reach an accuracy through the images that are uncertain.
    """
    n = round(IMAGES * UNCERTAIN)
    shift = rng.normal(-drop, sd, (REPEATS, count, 1)) if sd else np.full((REPEATS, count, 1), -drop)
    drawn = rng.random((REPEATS, count, n), dtype=np.float32) < np.clip(0.5 + shift / UNCERTAIN, 0, 1)
    right = np.ones((REPEATS, count, round(IMAGES * 0.75)), dtype=bool)
    return np.concatenate([drawn, right, np.zeros((REPEATS, count, IMAGES - n - right.shape[-1]), bool)], axis=-1)


def red(sd: float, drop: float, margin: float = 0.0, k: int = 3, m: int = 1) -> tuple[float, float]:
    """Return how often m new runs are called worse than k of a baseline: by seeds, and by McNemar on one of each."""
    rng = RNG(round(1000 * sd) * 17 + round(1000 * drop))
    old, new = runs(rng, k, sd), runs(rng, m, sd, drop)
    fell = old.mean(axis=(-1, -2)) - new.mean(axis=(-1, -2)) > margin
    lost, won = (old[:, 0] & ~new[:, 0]).sum(-1), (new[:, 0] & ~old[:, 0]).sum(-1)
    return (
        float(((s.seeds(old, new) < s.LEVEL) & fell).mean()),
        float((stats.binom.sf(lost - 1, lost + won, 0.5) < s.LEVEL).mean()),
    )


@pytest.mark.parametrize("sd", [0.0, 0.002, 0.005, 0.01])
def test_false_alarms_stay_at_the_level_and_the_power_is_printed(sd: float, capsys: pytest.CaptureFixture[str]):
    most = stats.binom.ppf(0.999, REPEATS, s.LEVEL) / REPEATS
    lines = []
    for k, m in ((3, 1), (3, 3), (5, 3)):
        alarms, naive = red(sd, 0.0, 0.0, k, m)
        assert alarms <= most, "no margin: the test alone must hold its level"
        if sd >= 0.01:
            assert naive > most, "the simulation shows what a test of images alone does"
        one, two = (red(sd, drop, s.MARGIN, k, m)[0] for drop in (0.01, 0.02))
        assert alarms < two
        lines.append(
            f"sd between seeds {100 * sd:.1f}, {IMAGES} images, {k} seeds against {m}: false alarms "
            f"{100 * alarms:.1f} % (McNemar on one pair {100 * naive:.1f} %); "
            f"a drop of 1 point is seen in {100 * one:.0f} %, of 2 in {100 * two:.0f} %"
        )
    with capsys.disabled():
        print("", *lines, sep="\n")  # noqa: T201


def test_seeds_that_shift_much_more_than_images_meet_the_level_exactly():
    rng = RNG(8)
    alarms = (s.seeds(runs(rng, 3, 0.03), runs(rng, 1, 0.03)) < s.LEVEL).mean()
    low, high = stats.binom.interval(0.999, REPEATS, s.LEVEL)
    assert low / REPEATS <= alarms <= high / REPEATS


def test_the_noise_of_images_is_the_variance_of_accuracies_where_nothing_else_varies():
    drawn = runs(RNG(5), 3, 0.0)
    truth = UNCERTAIN * 0.25 / IMAGES
    assert s.image_noise(drawn).mean() == pytest.approx(truth, rel=0.01)
    assert drawn.mean(-1).var(-1, ddof=1).mean() == pytest.approx(truth, rel=0.05)
    one = drawn[0]
    pairs = [(one[i] != one[j]).sum() / (2 * IMAGES**2) for i, j in itertools.combinations(range(3), 2)]
    assert s.image_noise(one) == pytest.approx(np.mean(pairs))


def test_over_seeds_it_is_students_test_where_the_seeds_vary_more_than_images():
    old = np.zeros((4, 500), bool)
    for row, right in zip(old, (400, 420, 440, 460), strict=True):
        row[:right] = True
    new = np.zeros((2, 500), bool)
    new[0, :380], new[1, :390] = True, True
    want = stats.ttest_ind(old.mean(1), new.mean(1), alternative="greater").pvalue
    assert s.seeds(old, new) == pytest.approx(want)
    found = s.compare(old, new)
    assert (found.p, found.drop) == (pytest.approx(want), pytest.approx(0.86 - 0.77))
    assert found.test == "t-test over seeds, 4 against 2, 4 degrees of freedom" and found.least == s.MARGIN
    assert s.compare(old, new, 0.02).least == 0.02


def test_many_comparisons_at_once_are_each_by_itself():
    rng = RNG(11)
    old, new = rng.random((2, 3, 4, 70)) < rng.random((2, 3, 4, 1)), rng.random((2, 3, 2, 70)) < 0.5
    for i, j in np.ndindex(2, 3):
        assert s.seeds(old, new)[i, j] == pytest.approx(float(s.seeds(old[i, j], new[i, j])))
        assert s.image_noise(old)[i, j] == pytest.approx(float(s.image_noise(old[i, j])))
    spread = old[0, 0].mean(1).var() * 4 + new[0, 0].mean(1).var() * 2
    t = (old[0, 0].mean() - new[0, 0].mean()) / math.sqrt(spread / 4 * (1 / 4 + 1 / 2))
    assert s.image_noise(old[0, 0]) < spread / 4, "here the seeds vary more than the images alone"
    assert s.seeds(old, new)[0, 0] == pytest.approx(stats.t.sf(t, 4))


def test_equal_counts_of_a_baseline_do_not_make_a_few_images_red():
    rng = RNG(3)
    old = np.stack([rng.permutation(np.arange(100) < 80) for _ in range(3)])
    assert len(set(old.sum(1))) == 1, "their spread is 0: without the images' noise every drop would be certain"
    new = old[:1].copy()
    new[0, np.flatnonzero(new[0])[:3]] = False
    assert s.compare(old, new).p > 0.2
    same = np.tile(np.arange(100) < 80, (3, 1))
    assert s.compare(same, same[:1]).p == pytest.approx(0.5)
    new = same[:1].copy()
    new[0, 0] = False
    assert s.compare(same, new).p > s.LEVEL, "bit-equal seeds: one image is not enough either"
    assert s.compare(same, np.zeros((1, 100), bool)).p < s.LEVEL


def mcnemar(lost: int, won: int) -> float:
    return sum(math.comb(lost + won, i) for i in range(lost, lost + won + 1)) / 2 ** (lost + won)


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (0, 3), (1, 0), (5, 0), (6, 2), (30, 18)])
def test_one_seed_is_mcnemars_exact_test_with_its_floor(lost: int, won: int):
    old = np.arange(100) < 50 + lost
    new = old.copy()
    new[:lost], new[100 - won :] = False, True
    found = s.compare(old[None], new[None], 0.001)
    assert found.p == pytest.approx(mcnemar(lost, won)) and found.least == s.IMAGES_FLOOR
    assert found.test == "images only: exact McNemar, 1 seed" and found.drop == pytest.approx((lost - won) / 100)
    two = s.compare(np.stack([old, new]), new[None])
    assert two.test == "images only: exact McNemar, 2 seeds"
    assert s.compare(old[None], new[None], 0.03).least == 0.03
    assert two.p == 1.0, "of two seeds both must tell: the second is the new run itself"


def closed(p: list[float]) -> Iterator[float]:
    """Closed testing with Bonferroni on every subset, which is what Holm's method is a shortcut for."""
    subsets = [c for r in range(1, len(p) + 1) for c in itertools.combinations(range(len(p)), r)]
    for i in range(len(p)):
        yield min(1.0, max(len(c) * min(p[j] for j in c) for c in subsets if i in c))


def test_holm_equals_closed_testing():
    for draw in range(50):
        p = list(RNG(draw).random(1 + draw % 6) ** 3)
        assert s.holm(p) == pytest.approx(list(closed(p)))
    assert s.holm([]) == [] and s.holm([0.02, 0.02]) == [0.04, 0.04]


def test_other_numbers_of_images_are_refused():
    for old, new in (
        ((3, 5), (1, 6)),
        ((5,), (1, 5)),
        ((3, 5), (5,)),
        ((0, 5), (1, 5)),
        ((3, 5), (0, 5)),
        ((3, 0), (1, 0)),
    ):
        with pytest.raises(ValueError, match="the same images"):
            s.compare(np.ones(old), np.ones(new))
