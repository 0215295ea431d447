"""The classifiers on frozen features, each against its definition written out a second time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from vitft.errors import DataError, DataMissing
from vitft.evaluation import fewshot, intervals, knn, probe, ridge


def _clusters(per_class: int, classes: int, dim: int, seed: int, spread: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, dim))
    labels = np.repeat(np.arange(classes), per_class)
    return (centres[labels] + spread * rng.normal(size=(len(labels), dim))).astype(np.float32), labels


def _ridge_reference(x: np.ndarray, y: np.ndarray, queries: np.ndarray, classes: int) -> np.ndarray:
    """Solve the normal equations directly: (X'X + 2^10 I) W = X'Y."""
    x, queries = x.astype(np.float64), queries.astype(np.float64)
    mean, std = x.mean(0), x.std(0) + 1e-5
    design = np.hstack([(x - mean) / std, np.full((len(x), 1), 100.0)])
    asked = np.hstack([(queries - mean) / std, np.full((len(queries), 1), 100.0)])
    targets = 2 * np.eye(classes)[y] - 1
    return asked @ np.linalg.solve(design.T @ design + 1024.0 * np.eye(design.shape[1]), design.T @ targets)


@given(n=st.integers(2, 40), dim=st.integers(1, 40), classes=st.integers(2, 6), seed=st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_ridge_is_the_regularised_least_squares_whichever_gram_is_smaller(
    n: int, dim: int, classes: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(3, 5, size=(n, dim)).astype(np.float32), rng.integers(0, classes, n)
    queries = rng.normal(3, 5, size=(9, dim)).astype(np.float32)
    np.testing.assert_allclose(
        ridge.fit(x, y, classes).scores(queries), _ridge_reference(x, y, queries, classes), atol=1e-5, rtol=1e-5
    )


def test_a_fitted_regression_has_the_shapes_it_says_and_its_last_row_is_the_bias() -> None:
    x, y = _clusters(3, 2, 8, seed=1)
    for features in (x, x[:, :4]):
        fitted, d = ridge.fit(features, y, 3), features.shape[1]
        assert (fitted.mean.shape, fitted.std.shape, fitted.weights.shape) == ((1, d), (1, d), (d + 1, 3))
        zeros = np.zeros((1, d), features.dtype) + fitted.mean  # where only the bias speaks
        np.testing.assert_allclose(fitted.scores(zeros), 100 * fitted.weights[-1:])


def test_big_visions_images_are_squashed_to_256_and_cropped_to_224_in_minus_one_to_one() -> None:
    assert fewshot.BIG_VISION == {
        "resolution": 224, "resize": "squash-crop", "interpolation": "bilinear", "antialias": False,
        "normalise": "half", "gelu": "original",
    }  # fmt: skip


def test_ridge_survives_a_constant_feature_and_one_example_a_class() -> None:
    x = np.array([[1.0, 5.0], [-1.0, 5.0]], dtype=np.float32)
    assert ridge.fit(x, np.array([0, 1]), 2).scores(x).argmax(1).tolist() == [0, 1]


@given(n=st.integers(1, 30), k=st.integers(1, 200), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=50)
def test_knn_votes_as_defined_and_never_asks_more_neighbours_than_there_are(n: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y, queries = rng.normal(size=(n, 5)), rng.integers(0, 4, n), rng.normal(size=(6, 5))
    ks = knn.neighbours(n, (k,))
    assert ks == (min(k, n),)
    got = knn.votes(x, y, queries, 4, ks[0])
    for row, query in zip(got, queries, strict=True):
        cosine = x @ query / np.linalg.norm(x, axis=1) / np.linalg.norm(query)
        near = np.argsort(-cosine)[: ks[0]]
        weights = np.exp(cosine[near] / 0.07)
        expected = np.array([weights[y[near] == c].sum() for c in range(4)]) / weights.sum()
        np.testing.assert_allclose(row, expected, atol=1e-9)
    assert knn.neighbours(15) == (10, 15)


def test_more_neighbours_than_examples_is_refused() -> None:
    with pytest.raises(ValueError, match="1 to 3, not 4"):
        knn.votes(np.eye(3), np.arange(3), np.eye(3), 3, 4)


def test_probe_chooses_on_held_out_training_data_and_fits_on_all_of_it() -> None:
    x, y = _clusters(10, 4, 8, seed=1)
    test_x, test_y = _clusters(30, 4, 8, seed=2)
    held = probe.hold_out(y, 0)
    assert [int(held[y == c].sum()) for c in range(4)] == [2] * 4
    assert (held != probe.hold_out(y, 1)).any()
    assert (held == probe.hold_out(y, 0)).all()
    fitted = probe.fit(x, y, seed=0)
    assert fitted.strength in probe.STRENGTHS
    assert fitted.held_out == 8
    assert (fitted.answers(test_x) == test_y).mean() > 0.9
    assert (probe.fit(x, y, seed=0).weights == fitted.weights).all()


def test_probe_with_one_example_a_class_two_classes_or_one() -> None:
    x, y = _clusters(1, 2, 8, seed=1)
    fitted = probe.fit(x, y + 3, seed=0)
    assert fitted.held_out == 0
    assert fitted.strength == 1.0
    assert fitted.answers(x).tolist() == [3, 4]
    alone = probe.fit(x, np.array([5, 5]), seed=0)
    assert alone.answers(x).tolist() == [5, 5]
    assert (alone.weights.tolist(), alone.bias.tolist()) == ([[0.0] * 8], [0.0])


def test_neighbours_of_more_queries_than_one_chunk_holds_are_those_of_each_query() -> None:
    rng = np.random.default_rng(3)
    x, y, queries = rng.normal(size=(5, 2)), np.array([0, 2, 1, 2, 0]), rng.normal(size=(4100, 2))
    queries[[0, 4099]] = 0.0  # no direction: equally far from all, so that the first examples vote alike
    got = knn.votes(x, y, queries, 4, 3)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    for i in (1, 2046, 2047, 2048, 2049, 4095, 4096, 4098):
        cosine = unit @ queries[i] / np.linalg.norm(queries[i])
        near = np.argsort(-cosine)[:3]
        np.testing.assert_allclose(
            got[i], np.bincount(y[near], np.exp(cosine[near] / 0.07), 4) / np.exp(cosine[near] / 0.07).sum(), atol=1e-9
        )
    np.testing.assert_allclose(got[[0, 4099]], [[1 / 3, 1 / 3, 1 / 3, 0]] * 2)
    assert got.shape == (4100, 4)
    np.testing.assert_allclose(got.sum(axis=1), 1)
    sharp = knn.votes(x, y, queries[1:4096], 4, 3, temperature=5e-5)  # e ** 20000 is no number
    nearest = y[(queries[1:4096] @ unit.T).argmax(axis=1)]
    assert np.isfinite(sharp).all() and (sharp.argmax(axis=1) == nearest).mean() > 0.999
    assert knn.neighbours(500) == (10, 20, 100, 200) and knn.neighbours(3, (1, 3, 4, 9, 2)) == (1, 3, 2)
    for k in (0, 6, -1):
        with pytest.raises(ValueError, match=f"1 to 5, not {k}"):
            knn.votes(x, y, queries[:1], 4, k)


@pytest.mark.parametrize(("classes", "seed"), [(4, 1), (2, 0)])
def test_probe_is_the_best_of_eight_strengths_fitted_on_everything(classes: int, seed: int) -> None:
    rng = np.random.default_rng(10 * classes + seed)
    held_of = {1: 0, 2: 1, 7: 1, 8: 2, 13: 3}  # a fifth of each class, at least one, never all of it
    y = rng.permutation(np.repeat(10 + np.arange(classes), list(held_of)[-classes:]))
    x = rng.normal(size=(classes, 6))[y - 10] + rng.normal(size=(len(y), 6)) * [1, 2, 0, 4, 5, 6] + 7
    draw, held = np.random.default_rng(seed), np.zeros(len(y), bool)
    for label in range(10, 10 + classes):
        members = draw.permutation(np.flatnonzero(y == label))
        held[members[: held_of[len(members)]]] = True
    assert np.array_equal(probe.hold_out(y, seed), held)

    def scaled(rows: np.ndarray, by: np.ndarray) -> np.ndarray:
        return (rows - by.mean(0)) / (by.std(0) + 1e-5)

    def model(own: np.ndarray, strength: float) -> LogisticRegression:
        return LogisticRegression(C=strength, max_iter=1000).fit(scaled(x[own], x[own]), y[own])

    strengths = [0.0001, 0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0]
    right = [(model(~held, c).predict(scaled(x[held], x[~held])) == y[held]).sum() for c in strengths]
    best, found = strengths[right.index(max(right))], probe.fit(x, y, seed)
    assert (found.strength, found.held_out) == (best, held.sum()) and list(probe.STRENGTHS) == strengths
    expected = model(np.ones(len(y), bool), best)
    assert np.array_equal(found.answers(x), expected.predict(scaled(x, x)))
    if classes > 2:
        np.testing.assert_allclose(found.weights, expected.coef_)
        np.testing.assert_allclose(found.bias, expected.intercept_)
    np.testing.assert_allclose((found.mean, found.std), [[x.mean(0)], [x.std(0) + 1e-5]])


def test_probe_goes_on_where_a_hundred_iterations_are_too_few() -> None:
    rng, y = np.random.default_rng(0), np.arange(100) % 5
    x = (rng.normal(size=(100, 6)) + 2 * rng.normal(size=(5, 6))[y]) @ np.diag(10.0 ** -np.arange(6))
    x += x[:, :1]
    expected = LogisticRegression(C=1000, max_iter=1000).fit((x - x.mean(0)) / (x.std(0) + 1e-5), y)
    assert expected.n_iter_[0] > 200
    np.testing.assert_allclose(probe._fit(x, y, 1000.0, 0).weights, expected.coef_)


def test_draws_hold_k_of_each_class_and_grow_into_one_another() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(5), 30))
    order = fewshot.orders(labels, 5, seed=1)
    for k in (1, 5, 10, 25):
        assert np.bincount(labels[fewshot.chosen(order, k)]).tolist() == [k] * 5
    assert set(fewshot.chosen(order, 5)) < set(fewshot.chosen(order, 10))
    assert set(fewshot.chosen(order, 5)) != set(fewshot.chosen(fewshot.orders(labels, 5, seed=2), 5))
    # big_vision's draw written out: one generator a seed, a permutation of each class's positions in turn
    rng = np.random.default_rng(1)
    np.testing.assert_array_equal(order, [rng.permutation(np.where(labels == c)[0]) for c in range(5)])
    assert len(fewshot.chosen(order, fewshot.ALL)) == 150


def test_rows_have_means_and_intervals_over_seeds() -> None:
    x, y = _clusters(20, 6, 4, seed=1, spread=1.5)
    test = _clusters(40, 6, 4, seed=2, spread=1.5)
    needed = fewshot.needed(y, 6, (1, 5), (0, 1, 2))
    assert len(needed) < len(y)
    assert (np.diff(needed) > 0).all()
    rows = fewshot.score("ridge", x[needed], y, test, 6, (1, 5), (0, 1, 2))
    assert [(r.per_class, r.examples, len(r.correct)) for r in rows] == [(1, 6, 3), (5, 30, 3)]
    assert rows[1].top1 > rows[0].top1 > 1 / 6
    assert rows[0].ci95 == intervals.clipped(intervals.t_interval(rows[0].values))
    assert rows[0].interval == "t over 3 seeds"
    for seed, correct in zip((0, 1, 2), rows[1].correct, strict=True):
        mine = fewshot.chosen(fewshot.orders(y, 6, seed), 5)
        assert correct == (_ridge_reference(x[mine], y[mine], test[0], 6).argmax(1) == test[1]).sum()


def test_the_whole_pool_is_one_draw_with_a_wilson_interval() -> None:
    x, y = _clusters(20, 3, 4, seed=1)
    test = _clusters(9, 3, 4, seed=2)
    needed = fewshot.needed(y, 3, (fewshot.ALL,), (0, 1, 2))
    rows = fewshot.score("knn", x[needed], y, test, 3, (fewshot.ALL,), (0, 1, 2))
    assert [row.k for row in rows] == [10, 20, 60]
    assert all(row.interval == "wilson" and row.examples == 60 and len(row.correct) == 1 for row in rows)
    assert rows[0].ci95 == intervals.wilson(rows[0].correct[0], 27)


def test_too_few_examples_are_named_or_stamped() -> None:
    labels = np.array([0, 0, 0, 1, 2, 2])
    short = fewshot.short_classes(labels, ("cat", "dog", "emu"), 3)
    assert short == [("dog", 1), ("emu", 2)]
    assert fewshot.short_classes(labels, ("cat", "dog", "emu", "fox"), 2) == [("fox", 0), ("dog", 1)]
    with pytest.raises(DataError, match=r"2 classes have fewer than 3 examples in 'train': 'dog' 1, 'emu' 2") as caught:
        fewshot.refuse_short(short, 3, "train")
    assert "up to 1" in str(caught.value)
    assert caught.value.exit_code == 3
    fewshot.refuse_short([], 3, "train")
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    row = fewshot.score("ridge", x, labels, (x, labels), 3, (3,), (0,))[0]
    assert (row.short_classes, row.fewest, row.examples) == (2, 1, 6)
    row = fewshot.score("ridge", x, labels, (x, labels), 5, (3,), (0,))[0]  # two classes without any example
    assert (row.short_classes, row.fewest, row.examples) == (4, 0, 6)


def test_the_pool_is_train() -> None:
    assert fewshot.pool_name(("train800", "train", "test")) == "train"
    assert fewshot.pool_name(("train800", "val200", "train800val200", "test")) == "train800"
    assert fewshot.pool_name(("test", "train800val200")) == "train800val200"
    for splits, told in ((("test", "val"), "Splits here: test, val."), ((), "Splits here: none.")):
        with pytest.raises(DataMissing, match="no 'train'") as caught:
            fewshot.pool_name(splits)
        assert told in str(caught.value)
