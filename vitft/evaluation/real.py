"""ImageNet-ReaL: the reassessed labels of the ImageNet validation images, matched by file number.

Each image has a set of right classes; images without any (3,163 of 50,000) leave the denominator.
Source: Beyer et al., "Are we done with ImageNet?", 2020; the file is the one timm ships (Apache-2.0).
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from vitft.errors import DataDamaged, DataError, DataMissing, some
from vitft.evaluation.intervals import wilson
from vitft.results.parts import Metrics

FULL = 50_000
LABELLED = 46_837
# Right labels lie in the ReaL set of about 90 % of the images, labels off by one in 1.7 %.
AGREEMENT = 0.9
REFUSED_BELOW = 0.8

_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})(?!\d)", re.IGNORECASE)

Sets = tuple[frozenset[int], ...]


@dataclass(frozen=True)
class Subset:
    """The ReaL side of a split.

    Attributes:
        numbers: (N,) file numbers 1..50000 of the split's images, in its order.
        labels: N sets of right classes; empty = not judged.
        missing: file names of the full set that the split lacks, sorted.
        agreement: share of the judged images whose given label is in the set.
    """

    numbers: NDArray[np.int64]
    labels: Sets
    missing: tuple[str, ...]
    agreement: float

    @property
    def stamp(self) -> str:
        """How a part of the 50,000 is marked, "subset n"; empty for the full set."""
        return "" if not self.missing else f"subset {len(self.labels)}"

    def correct(self, answers: NDArray[np.int64]) -> tuple[int, int]:
        """Return (right, judged) for (N,) answered classes."""
        hits = self.hits(answers)
        return int(hits.sum()), len(hits)

    def hits(self, answers: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return (judged,) whether each judged image was answered rightly, in the split's order."""
        pairs = zip(answers.tolist(), self.labels, strict=True)
        return np.array([answer in right for answer, right in pairs if right], dtype=bool)


def of_validation(keys: Sequence[str], labels: NDArray[np.int64], num_classes: int) -> Subset | None:
    """Return the ReaL side of images that are ImageNet's validation images by their names; None for any other.

    Raises:
        DataError: see `match`.
    """
    return match(keys, labels) if num_classes == 1000 and is_validation(keys) else None


def judged(metrics: Metrics, subset: Subset | None, answers: NDArray[np.int64]) -> Metrics:
    """Return metrics with the accuracy of the same (N,) answers under the ReaL labels; without a subset unchanged."""
    if subset is None:
        return metrics
    right, n = subset.correct(answers)
    share = {"real_top1": right / n, "real_ci95": wilson(right, n)} if n else {}
    return metrics.model_copy(update={"real_correct": right, "real_n": n, **share})


@cache
def real_labels() -> Sets:
    """Return the 50,000 sets of right classes; entry i is ILSVRC2012_val_{i+1:08d}.JPEG.

    Raises DataMissing or DataDamaged when timm's file is absent or not as published.
    """
    file = resources.files("timm") / "data" / "_info" / "imagenet_real_labels.json"
    if not file.is_file():
        raise DataMissing("The installed timm has no ReaL labels.", action="Install timm 1.0.20 or newer.")
    sets = tuple(frozenset(labels) for labels in json.loads(file.read_text(encoding="utf-8")))
    if len(sets) != FULL or sum(map(bool, sets)) != LABELLED:
        raise DataDamaged(f"timm's ReaL labels have {len(sets)} entries, not {FULL}: the file is damaged.")
    return sets


def file_name(number: int) -> str:
    """Return the name of the validation image with that number, 1..50000."""
    return f"ILSVRC2012_val_{number:08d}.JPEG"


def is_validation(keys: Sequence[str]) -> bool:
    """Tell whether every name holds the number of an ImageNet validation image."""
    return len(keys) > 0 and all(_NUMBER.search(key) for key in keys)


def match(keys: Sequence[str], labels: NDArray[np.int64], sets: Sets | None = None) -> Subset:
    """Find each image's ReaL set by its file number and check the given labels against the sets.

    Args:
        keys: N names that hold `ILSVRC2012_val_NNNNNNNN`, in any order; any part of the 50,000.
        labels: (N,) the labels the data set gives.
        sets: right classes of each file number; timm's by default.

    Raises:
        DataError: a name has no number, a number comes twice, or fewer than 80 % of the labels agree with the
            sets (permuted, shifted or off by one: the message says which).
    """
    sets = real_labels() if sets is None else sets
    numbers = np.array([_number(key, len(sets)) for key in keys], dtype=np.int64)
    twice = [number for number, times in Counter(numbers.tolist()).items() if times > 1]
    if twice:
        raise DataError(
            f"{len(twice)} validation images come more than once: {some([file_name(n) for n in twice])}.",
            "each file once, whatever its folder.",
        )
    agreement = check(numbers, labels, sets)
    absent = np.setdiff1d(np.arange(1, len(sets) + 1), numbers)
    own = tuple(sets[number - 1] for number in numbers.tolist())
    return Subset(numbers, own, tuple(file_name(int(number)) for number in absent), agreement)


def check(numbers: NDArray[np.int64], labels: NDArray[np.int64], sets: Sets) -> float:
    """Return the share of given labels that lie in the ReaL set of their file number.

    Raises:
        DataError: below 80 %, unless so few images are judged that right labels could look like this
            (probability above 1 %); names what would fit.
    """
    from scipy.stats import binom

    agreement, n = _agreement(numbers, labels, sets)
    if not n:
        return 1.0
    if agreement >= REFUSED_BELOW or binom.cdf(round(agreement * n), n, AGREEMENT) > 0.01:
        return agreement
    raise DataError(
        f"The labels do not belong to these images: {agreement:.1%} of {n} agree with ReaL by file number.",
        fact=f"{_diagnosis(numbers, labels, sets)} Right labels agree at about 90 %.",
        action="Check the label file; nothing was evaluated.",
    )


def _number(key: str, full: int) -> int:
    found = _NUMBER.search(key)
    if found is None:
        raise DataError(
            f"'{key}' has no validation number, so it has no ReaL label.",
            "names with ILSVRC2012_val_00000001 to ILSVRC2012_val_00050000.",
            "Keep the official file names, or leave out --real.",
        )
    number = int(found[1])
    if not 1 <= number <= full:
        raise DataError(f"'{key}' has the number {number}; the validation set has 1 to {full}.")
    return number


def _agreement(numbers: NDArray[np.int64], labels: NDArray[np.int64], sets: Sets) -> tuple[float, int]:
    """Return (share, n) over the images whose number exists and is judged."""
    found = [
        label in sets[number - 1]
        for number, label in zip(numbers.tolist(), labels.tolist(), strict=True)
        if 1 <= number <= len(sets) and sets[number - 1]
    ]
    return (sum(found) / len(found), len(found)) if found else (0.0, 0)


def _diagnosis(numbers: NDArray[np.int64], labels: NDArray[np.int64], sets: Sets) -> str:
    """Return the mistake that explains the labels: the first alternative under which 80 % agree."""
    order = np.argsort(numbers)

    def shifted(step: int) -> float:
        # Along the files that are there, not along the numbers: a label list is shifted against its images.
        moved = labels[order][np.clip(np.arange(len(order)) + step, 0, len(order) - 1)]
        inside = slice(max(0, -step), len(order) - max(0, step))
        return _agreement(numbers[order][inside], moved[inside], sets)[0]

    offsets: tuple[tuple[str, Callable[[int], float]], ...] = (
        ("off by {1}: label {0:+d} fits ({2:.0%})", lambda d: _agreement(numbers, labels + d, sets)[0]),
        ("shifted: file number {0:+d} fits ({2:.0%})", lambda d: _agreement(numbers + d, labels, sets)[0]),
        ("shifted against the files: the label {0:+d} places on fits ({2:.0%})", shifted),
    )
    for text, agrees in offsets:
        for step in (-1, 1, -2, 2, -3, 3):
            if (share := agrees(step)) >= REFUSED_BELOW:
                return "They are " + text.format(step, {1: "one"}.get(abs(step), abs(step)), share) + "."
    if (share := _agreement(numbers[order], labels[order][::-1], sets)[0]) >= REFUSED_BELOW:
        return f"They stand in reverse order ({share:.0%} fit then)."
    if (share := _renamed(numbers, labels, sets)) >= REFUSED_BELOW:
        return f"The classes are permuted: another numbering of the 1000 classes fits ({share:.0%})."
    if (share := _same_histogram(numbers, labels, sets)) >= REFUSED_BELOW:
        return f"The labels are permuted over the images: as a whole {share:.0%} of them occur, on other files."
    return "They are permuted, or of another label set: no shift by up to 3 and no renaming of classes fits."


def _renamed(numbers: NDArray[np.int64], labels: NDArray[np.int64], sets: Sets) -> float:
    """Return how well a renaming of classes fits: each image is judged by the other images of its given class."""
    votes: dict[int, Counter[int]] = {}
    pairs = [(sets[number - 1], label) for number, label in zip(numbers.tolist(), labels.tolist(), strict=True)]
    for right, label in pairs:
        votes.setdefault(label, Counter()).update(right)
    hits = judged_images = 0
    for right, label in pairs:
        others = votes[label] - Counter(right)
        if right and others:
            judged_images += 1
            hits += max(others, key=lambda c: (others[c], -c)) in right
    # With two or three images a class the vote is noise; then nothing is claimed.
    return hits / judged_images if judged_images >= 2 * len(votes) else 0.0


def _same_histogram(numbers: NDArray[np.int64], labels: NDArray[np.int64], sets: Sets) -> float:
    """Return the share of given labels that the ReaL sets of these files contain, counted with multiplicity."""
    wanted: Counter[int] = Counter()
    for number in numbers.tolist():
        wanted.update(sets[number - 1])
    given = Counter(labels.tolist())
    return sum((given & wanted).values()) / len(labels)
