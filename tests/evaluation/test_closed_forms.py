"""Every statistic that is printed, against SciPy, scikit-learn or its formula written out."""

import math
from statistics import NormalDist

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import special, stats

from tests.report.test_report import _result, _summarise
from vitft.catalog.tasks import VTAB
from vitft.errors import UsageError
from vitft.evaluation import (
    contrasts,
    fewshot,
    intervals,
    knn,
    metrics,
    predictions,
    probe,
    real,
    ridge,
    significance,
)
from vitft.suites.document import load as suite_of

accuracies = st.lists(st.floats(0, 1), min_size=2, max_size=6)


@given(n=st.integers(1, 50_000), share=st.floats(0, 1), level=st.sampled_from([0.95, 0.8, 0.99]))
@hypothesis_settings(deadline=None, derandomize=True, max_examples=80)
def test_wilsons_interval(n, share, level):
    correct = round(share * n)
    expected = stats.binomtest(correct, n).proportion_ci(level, "wilson")
    assert intervals.wilson(correct, n, level) == pytest.approx(expected, abs=1e-9)


@given(values=accuracies, level=st.sampled_from([0.95, 0.8]))
@hypothesis_settings(deadline=None, derandomize=True, max_examples=80)
def test_students_interval_over_seeds(values, level):
    error = stats.sem(values)
    expected = stats.t.interval(level, len(values) - 1, np.mean(values), error) if error else [np.mean(values)] * 2
    assert intervals.t_interval(values, level) == pytest.approx(tuple(expected), abs=1e-9)
    row = fewshot.row([round(1000 * v) for v in values], 1000, (0, 1), np.zeros(0, np.int64), per_class=1, examples=3)
    shares = np.round(1000 * np.array(values)) / 1000
    assert row.top1 == pytest.approx(shares.mean())
    expected = intervals.t_interval(shares.tolist())
    assert row.ci95 == pytest.approx(np.clip(expected, 0, 1))


@given(both=st.integers(0, 30), a=st.integers(0, 30), b=st.integers(0, 30), neither=st.integers(0, 30))
@hypothesis_settings(deadline=None, derandomize=True, max_examples=80)
def test_two_models_on_the_same_images(both, a, b, neither):
    n = both + a + b + neither
    if n == 0:
        return
    first = [True] * both + [True] * a + [False] * b + [False] * neither
    second = [True] * both + [False] * a + [True] * b + [False] * neither
    found = intervals.paired(first, second)
    assert (found.n, found.a_only, found.b_only, found.difference) == (n, a, b, pytest.approx((a - b) / n))
    # McNemar's exact test: the discordant images are a fair coin's.
    expected = min(1.0, 2 * stats.binom.cdf(min(a, b), a + b, 0.5)) if a + b else 1.0
    assert found.p == pytest.approx(expected)
    # Bonett and Price (2012): Wald's interval with one image more in each discordant cell.
    p1, p2, z = (a + 1) / (n + 2), (b + 1) / (n + 2), NormalDist().inv_cdf(0.975)
    half = z * math.sqrt((p1 + p2 - (p1 - p2) ** 2) / (n + 2))
    assert found.ci95 == pytest.approx((max(-1, p1 - p2 - half), min(1, p1 - p2 + half)))


def test_two_models_at_another_level_and_what_no_interval_is_of():
    first, second = np.arange(40) < 30, np.arange(40) >= 12
    a, b = 13 / 42, 11 / 42  # 12 and 10 images that only one has right, and one more each
    half = NormalDist().inv_cdf(0.9) * math.sqrt((a + b - (a - b) ** 2) / 42)
    assert intervals.paired(first, second, 0.8).ci95 == pytest.approx((a - b - half, a - b + half))
    for one, other in (((3,), (4,)), ((0,), (0,)), ((2, 3), (2, 3)), ((3,), (3, 1))):
        with pytest.raises(ValueError, match="the same images"):
            intervals.paired(np.ones(one), np.ones(other))
    for correct, n in ((0, 0), (-1, 3), (4, 3), (0, -1)):
        with pytest.raises(ValueError, match="0 <= correct <= n"):
            intervals.wilson(correct, n)
    assert intervals.wilson(0, 1)[0] == 0.0 and intervals.wilson(1, 1)[1] == 1.0
    for n in (1, 2, 7, 50_000, 10**9):
        assert 0 < intervals.wilson(1, n)[0] < intervals.wilson(n - 1, n)[1] < 1
    with pytest.raises(ValueError, match="at least two"):
        intervals.t_interval([0.5])
    assert intervals.clipped((-0.1, 1.2)) == (0.0, 1.0) and intervals.clipped((0.2, 0.3)) == (0.2, 0.3)
    assert intervals.clipped((1.1, 1.2)) == (1.0, 1.0) and intervals.clipped((-2, -1)) == (0.0, 0.0)


def test_the_intervals_hold_their_level():
    rng = np.random.default_rng(0)
    of_images = [intervals.wilson(int(c), 200) for c in rng.binomial(200, 0.9, 2000)]
    assert 0.93 < np.mean([low <= 0.9 <= high for low, high in of_images]) < 0.97
    of_seeds = [intervals.t_interval(values.tolist()) for values in rng.normal(0.1, 1, (2000, 3))]
    assert 0.93 < np.mean([low <= 0.1 <= high for low, high in of_seeds]) < 0.97
    hits = 0
    for _ in range(500):
        cell = rng.choice(4, size=100, p=[0.6, 0.15, 0.05, 0.2])  # both, a alone, b alone, none: 0.1 apart
        low, high = intervals.paired((cell == 0) | (cell == 1), (cell == 0) | (cell == 2)).ci95
        hits += low <= 0.1 <= high
    assert 0.92 < hits / 500 < 0.985


@given(seed=st.integers(0, 999), k=st.integers(2, 9))
@hypothesis_settings(deadline=None, derandomize=True, max_examples=40)
def test_counts_of_logits(seed, k):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(20, k)).astype(np.float32), rng.integers(0, k, 20)
    np.testing.assert_allclose(metrics.probabilities(logits), special.softmax(logits, axis=1), atol=1e-6)
    best = torch.from_numpy(logits).topk(min(5, k)).indices.numpy()
    assert np.array_equal(metrics.top(logits, 5), best)
    assert metrics.top5(logits, labels).tolist() == [y in row for y, row in zip(labels, best, strict=True)]
    ranks = [int((row > row[y]).sum()) for y, row in zip(labels, logits, strict=True)]
    assert metrics.rank(logits, labels).tolist() == ranks
    names = tuple("abcdefghi"[:k])
    of_classes = metrics.per_class(logits.argmax(1), labels, names)
    assert len(of_classes) == k
    for label, row in enumerate(of_classes):
        of_class = labels == label
        assert (row.class_name, row.n, row.correct) == (
            names[label],
            of_class.sum(),
            (logits.argmax(1)[of_class] == label).sum(),
        )
        assert row.accuracy is None if not row.n else row.accuracy == row.correct / row.n


def test_equal_logits_are_the_lower_classs_and_large_ones_have_probabilities():
    logits = np.array([[3, 5, 5, 1, 5, 0, 5], [2, 2, 2, 2, 2, 2, 2], [0, 0, 1e4, 0, -1e4, 0, 0]], np.float32)
    for label in range(7):
        labels = np.full(3, label)
        ranks = [[4, 0, 1, 5, 2, 6, 3], list(range(7)), [1, 2, 0, 3, 6, 4, 5]]
        assert metrics.rank(logits, labels).tolist() == [row[label] for row in ranks]
        assert metrics.top5(logits, labels).tolist() == [row[label] < 5 for row in ranks]
        assert metrics.top1(logits, labels).tolist() == [row[label] == 0 for row in ranks]
        for k in (1, 5, 9):
            assert metrics.top(logits, k).tolist() == [np.argsort(row).tolist()[:k] for row in ranks]
    found = metrics.probabilities(logits)
    assert found.dtype == np.float32 and found[2].tolist() == [0, 0, 1, 0, 0, 0, 0]
    np.testing.assert_allclose(found[:2], [np.exp(row) / np.exp(row).sum() for row in logits[:2].tolist()], atol=1e-6)
    counts = metrics.confusion(np.array([2, 0, 2, 1]), np.array([0, 0, 0, 2]), 4)
    assert counts.tolist() == [[1, 0, 2, 0], [0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    for answers, labels, told in (([0, 4], [0, 0], "answer '4'"), ([-1, 0], [0, 0], "answer '-1'"),
                                  ([0, 0], [3, 4], "label '4'"), ([9, 0], [0, -1], "label '-1'")):  # fmt: skip
        with pytest.raises(UsageError, match=f"The {told} is none of the 4 classes"):
            metrics.confusion(np.array(answers), np.array(labels), 4)


def test_saved_predictions_are_those_of_the_logits(tmp_path):
    rng = np.random.default_rng(1)
    for k in (3, 8):
        logits, labels = rng.normal(size=(11, k)).astype(np.float32), rng.integers(0, k, 11)
        predictions.save(tmp_path / "p.parquet", [f"k{i}" for i in range(11)], labels, logits, "abcdefgh"[:k])
        found = predictions.load(tmp_path / "p.parquet")
        order = np.argsort(-logits, axis=1)[:, :5]
        assert found.keys == tuple(f"k{i}" for i in range(11)) and found.labels.tolist() == labels.tolist()
        assert np.array_equal(found.top5, order)
        np.testing.assert_allclose(
            found.probabilities, np.take_along_axis(special.softmax(logits, 1), order, 1), atol=1e-6
        )
        assert found.correct.tolist() == (logits.argmax(1) == labels).tolist()
        assert found.label_names == tuple("abcdefgh"[y] for y in labels)
        assert found.answer_names == tuple("abcdefgh"[y] for y in logits.argmax(1))
    old = pq.read_table(tmp_path / "p.parquet").select(["key", "label", "top5", "probabilities"])
    pq.write_table(old, tmp_path / "old.parquet")
    assert predictions.load(tmp_path / "old.parquet").answer_names == ("",) * 11


def test_real_leaves_unjudged_images_out_of_the_denominator():
    sets = (frozenset({1, 2}), frozenset(), frozenset({3}), frozenset({0}))
    found = real.Subset(np.arange(1, 5), sets, (), 1.0)
    answers = np.array([2, 0, 4, 0])
    assert found.correct(answers) == (2, 3)
    assert found.hits(answers).tolist() == [True, False, True]


# --- tables ----------------------------------------------------------------------------------------------------------

GROUPS = {
    "natural": "caltech101 cifar100 dtd oxford_flowers102 oxford_iiit_pet sun397 svhn",
    "specialized": "patch_camelyon eurosat resisc45 diabetic_retinopathy",
    "structured": "clevr_count clevr_distance dmlab dsprites_location dsprites_orientation kitti_distance "
    "smallnorb_azimuth smallnorb_elevation",
}


def test_means_of_a_suite_weigh_tasks_or_groups_alike_and_their_intervals_are_over_seeds():
    rng = np.random.default_rng(0)
    seeds, names = (0, 1, 2), [task.name for task in VTAB]
    assert {g: " ".join(t.name for t in VTAB if t.group == g) for g in GROUPS} == GROUPS
    results = [_result(name, float(rng.uniform(0.2, 0.9)), seed) for name in names for seed in seeds]
    data = _summarise(suite_of("vtab"), results)
    top1 = np.array([[r["metrics"]["top1"] for r in results if r["task"] == n] for n in names])  # (19, 3)
    groups = {g: top1[[n in text.split() for n in names]] for g, text in GROUPS.items()}
    assert [len(of_group) for of_group in groups.values()] == [7, 4, 8]
    expected = {g: of_group.mean(0) for g, of_group in groups.items()}
    expected |= {"mean_of_tasks": top1.mean(0), "mean_of_groups": np.mean([m.mean(0) for m in groups.values()], 0)}
    for name, per_seed in expected.items():
        assert data.get(name, data["groups"].get(name)) == pytest.approx(per_seed.mean())
        over = data["over_seeds"][name]
        assert [over["seeds"][str(s)] for s in seeds] == pytest.approx(per_seed.tolist())
        assert over["ci95"] == pytest.approx(stats.t.interval(0.95, 2, per_seed.mean(), stats.sem(per_seed)))
    for row, name in zip(top1, names, strict=True):
        entry = data["tasks"][name]
        assert entry["top1"] == pytest.approx(row.mean())
        assert entry["ci95_over_seeds"] == pytest.approx(stats.t.interval(0.95, 2, row.mean(), stats.sem(row)))


def test_an_image_is_right_or_not_whatever_number_says_so():
    rng = np.random.default_rng(4)
    old, new = rng.random((3, 60)) < 0.7, rng.random((4, 60)) < 0.5
    marks_old, marks_new = (rng.integers(2, 9, flags.shape) * flags for flags in (old, new))
    for function in (significance.compare, significance.seeds, contrasts.contrast):
        assert function(marks_old, marks_new) == function(old, new)
    for function in (significance.images, intervals.paired):
        assert function(marks_old[0], marks_new[0].tolist()) == function(old[0], new[0])
    assert significance.image_noise(marks_old) == significance.image_noise(old)


def test_classifiers_compute_in_float64_whatever_holds_the_features():
    rng = np.random.default_rng(2)
    single = (1000 + rng.normal(size=(24, 5))).astype(np.float32)
    labels = np.arange(24) % 3
    few, asked, double = single[:20], single[20:], single.astype(np.float64)

    def answers(features: np.ndarray, queries: np.ndarray) -> list[np.ndarray]:
        own, linear = ridge.fit(features, labels[:20], 3), probe.fit(features, labels[:20], 0)
        return [own.scores(queries), own.weights, knn.votes(features, labels[:20], queries, 3, 4), linear.weights,
                linear.answers(queries), np.asarray(linear.strength)]  # fmt: skip

    for one, other in zip(answers(few, asked), answers(double[:20], double[20:]), strict=True):
        assert one.dtype == other.dtype and one.dtype in (np.float64, np.int64) and np.array_equal(one, other)
