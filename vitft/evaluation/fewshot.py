"""What frozen features are worth: k examples of each class, a classifier without a network, all of the test split."""

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from vitft.errors import DataError, DataMissing, some
from vitft.evaluation import intervals, knn, probe, ridge
from vitft.results.schema import FewshotRow
from vitft.settings import Classifier

BIG_VISION = {
    "resolution": 224,
    "resize": "squash-crop",
    "interpolation": "bilinear",
    "antialias": False,
    "normalise": "half",
    "gelu": "original",
}
"""How big_vision prepares images for its few-shot evaluation: `resize(256)|central_crop(224)|value_range(-1,1)`
(configs/common_fewshot.py); and the GELU of its networks."""
ALL = 0
"""As a number of examples of each class: everything there is."""

Ints = NDArray[np.int64]


def pool_name(splits: Sequence[str]) -> str:
    """Return the split the examples are drawn from: `train`, or what a VTAB-1k folder has instead of it.

    Raises DataMissing when there is neither.
    """
    for name in ("train", "train800", "train800val200"):
        if name in splits:
            return name
    raise DataMissing(
        "There is no 'train' split to draw examples from.",
        fact=f"Splits here: {', '.join(splits) or 'none'}.",
        action="Give a data set with train and test.",
    )


def orders(labels: Ints, num_classes: int, seed: int) -> list[Ints]:
    """Return each class's pool positions in the seed's order; the first k of them are its k examples.

    Source: big_vision fewshot_lsr.py (one generator a seed, one permutation a class), so more examples contain fewer.
    """
    rng = np.random.default_rng(seed)
    return [rng.permutation(np.flatnonzero(labels == label)) for label in range(num_classes)]


def chosen(order: list[Ints], per_class: int) -> Ints:
    """Return the pool positions of the first `per_class` examples of each class, class by class."""
    return np.concatenate([members[: per_class or None] for members in order]).astype(np.int64)


def short_classes(labels: Ints, names: Sequence[str], per_class: int) -> list[tuple[str, int]]:
    """Return (name, examples) of the classes with fewer than `per_class` examples, fewest first."""
    counts = np.bincount(labels, minlength=len(names))
    short = [(name, int(count)) for name, count in zip(names, counts, strict=True) if count < per_class]
    return sorted(short, key=lambda item: item[1])


def refuse_short(short: list[tuple[str, int]], per_class: int, pool: str) -> None:
    """Raise DataError naming the classes that have too few examples; nothing when there are none."""
    if not short:
        return
    few = some([f"'{name}' {count}" for name, count in short], 4)
    raise DataError(
        f"{len(short)} classes have fewer than {per_class} examples in '{pool}': {few}.",
        f"--per-class up to {short[0][1]}.",
        "Ask for fewer, or take what there is with --allow-fewer (stamped in the result).",
    )


def needed(labels: Ints, num_classes: int, per_class: Sequence[int], seeds: Sequence[int]) -> Ints:
    """Return the pool positions any draw uses, sorted: the only ones whose features are computed."""
    if ALL in per_class:
        return np.arange(len(labels), dtype=np.int64)
    most = max(per_class)
    return np.unique(np.concatenate([chosen(orders(labels, num_classes, seed), most) for seed in seeds]))


def score(
    classifier: Classifier,
    pool: NDArray[np.float32],
    all_labels: Ints,
    test: tuple[NDArray[np.float32], Ints],
    num_classes: int,
    per_class: Sequence[int],
    seeds: Sequence[int],
    on_progress: Callable[[int, int], None] | None = None,
) -> list[FewshotRow]:
    """Fit and test every (per_class, seed) and return one row a per_class (times neighbours for kNN).

    Args:
        pool: (P, D) features of the examples at the positions of the pool that are `needed`.
        all_labels: labels of the whole pool.
        test: ((T, D), (T,)).
        num_classes: K.
        per_class: examples of each class, or ALL.
        seeds: the draws.
        on_progress: called with (fits done, fits).
    """
    positions = needed(all_labels, num_classes, per_class, seeds)
    counts = np.bincount(all_labels, minlength=num_classes)
    rows: list[FewshotRow] = []
    jobs = sum(1 if k == ALL else len(seeds) for k in per_class)
    done = 0
    for count in per_class:
        used = tuple(seeds[:1]) if count == ALL else tuple(seeds)  # the whole pool is one draw, whatever the seed
        found: dict[int, list[int]] = {}
        strengths: list[float] = []
        examples = 0
        for seed in used:
            mine = chosen(orders(all_labels, num_classes, seed), count)
            examples = examples or len(mine)
            train = pool[np.searchsorted(positions, mine)], all_labels[mine]
            for k, answers, strength in _answers(classifier, *train, test[0], num_classes, seed):
                found.setdefault(k, []).append(int((answers == test[1]).sum()))
                if strength:
                    strengths.append(strength)
            done += 1
            if on_progress is not None:
                on_progress(done, jobs)
        for k, correct in found.items():
            same = {"k": k or None, "C": tuple(strengths) or None, "per_class": count or "all", "examples": examples}
            rows.append(row(correct, len(test[1]), used, counts[counts < count], **same))
    return rows


def row(correct: Sequence[int], n: int, seeds: tuple[int, ...], short: Ints, **same: Any) -> FewshotRow:
    """Return the row of one number of examples.

    Its interval is Student's over the draws, clipped to [0, 1], or Wilson's on the test images for a single draw.

    Args:
        correct: right answers of each draw.
        n: test images.
        seeds: the draws.
        short: examples of the classes that have fewer than were asked for.
        same: the other fields.
    """
    values, several = tuple(c / n for c in correct), len(correct) > 1
    return FewshotRow(
        top1=fmean(values),
        ci95=intervals.clipped(intervals.t_interval(values)) if several else intervals.wilson(correct[0], n),
        interval=f"t over {len(correct)} seeds" if several else "wilson",
        values=values,
        correct=tuple(correct),
        n=n,
        seeds=seeds,
        short_classes=len(short),
        fewest=int(short.min()) if len(short) else None,
        **same,
    )


def _answers(
    classifier: Classifier,
    features: NDArray[np.float32],
    labels: Ints,
    queries: NDArray[np.float32],
    num_classes: int,
    seed: int,
) -> list[tuple[int, Ints, float]]:
    """Return (neighbours or 0, answers (T,), chosen C or 0) for each variant of the classifier."""
    match classifier:
        case "ridge":
            return [(0, ridge.fit(features, labels, num_classes).scores(queries).argmax(axis=1), 0.0)]
        case "knn":
            ks = knn.neighbours(len(features))
            return [(k, knn.votes(features, labels, queries, num_classes, k).argmax(axis=1), 0.0) for k in ks]
        case "logistic":
            fitted = probe.fit(features, labels, seed)
            return [(0, fitted.answers(queries), fitted.strength)]
        case _:
            assert_never(classifier)
