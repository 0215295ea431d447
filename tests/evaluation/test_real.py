"""ReaL labels: any part and any order of the validation images, and label files that do not belong to them."""

import json
from importlib import resources

import numpy as np
import pytest

from vitft.data.split import Provenance, Split
from vitft.errors import DataError, DataMissing
from vitft.evaluation import real
from vitft.evaluation.evaluate import subject

SETS = real.real_labels()
RNG = np.random.default_rng(0)


def _given(numbers: np.ndarray, agree: float = 0.9) -> np.ndarray:
    """Draw labels that lie in the ReaL set of about `agree` of the images, as the true ones do."""
    labels = RNG.integers(0, 1000, len(numbers))
    right = [min(SETS[n - 1]) if SETS[n - 1] else 0 for n in numbers]
    return np.where(RNG.random(len(numbers)) < agree, right, labels)


def _keys(numbers: np.ndarray) -> list[str]:
    return [f"val/{real.file_name(int(n))}" for n in numbers]


PART = np.sort(RNG.choice(np.arange(1, 50_001), 1500, replace=False))
LABELS = _given(PART)


def test_the_published_file() -> None:
    raw = json.loads((resources.files("timm") / "data" / "_info" / "imagenet_real_labels.json").read_text())
    assert len(SETS) == 50_000
    assert sum(not s for s in SETS) == 3_163
    assert [sorted(s) for s in SETS[:200]] == [sorted(x) for x in raw[:200]]


def test_the_full_set_has_46837_judged_images() -> None:
    numbers = np.arange(1, 50_001)
    first = np.array([min(s, default=0) for s in SETS])
    found = real.match(_keys(numbers), first)
    assert found.stamp == ""
    assert found.missing == ()
    assert found.agreement == 1.0
    assert found.correct(first) == (46_837, 46_837)
    assert found.correct(np.full(50_000, -1)) == (0, 46_837)


def test_any_part_in_any_order_gives_the_same_count() -> None:
    answers = _given(PART, 0.8)
    found = real.match(_keys(PART), LABELS)
    expected = sum(a in SETS[n - 1] for a, n in zip(answers.tolist(), PART.tolist(), strict=True) if SETS[n - 1])
    judged = sum(bool(SETS[n - 1]) for n in PART)
    assert found.correct(answers) == (expected, judged)
    assert judged < len(PART)
    assert found.hits(answers).sum() == expected
    assert len(found.hits(answers)) == judged
    assert found.stamp == "subset 1500"
    assert len(found.missing) == 48_500
    assert found.missing[0] == real.file_name(min(set(range(1, 50_001)) - set(PART.tolist())))
    order = RNG.permutation(len(PART))
    assert real.match(_keys(PART[order]), LABELS[order]).correct(answers[order]) == (expected, judged)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (LABELS + 1, "off by one: label -1 fits"),
        (LABELS - 1, "off by one: label +1 fits"),
        (np.roll(LABELS, 1), "shifted against the files: the label +1"),
        (np.roll(LABELS, -2), "shifted against the files: the label -2"),
        (LABELS[::-1], "reverse order"),
        (RNG.permutation(LABELS), "permuted over the images"),
    ],
    ids=["one-based", "minus-one", "shifted", "shifted-two", "reversed", "permuted"],
)
def test_labels_of_other_images_are_refused_with_the_reason(labels: np.ndarray, reason: str) -> None:
    with pytest.raises(DataError, match="do not belong") as caught:
        real.match(_keys(PART), labels)
    assert reason in str(caught.value)
    assert caught.value.exit_code == 3
    assert len(caught.value.lines) == 3


def test_file_numbers_off_by_one_are_refused() -> None:
    with pytest.raises(DataError, match=r"shifted: file number -1 fits"):
        real.match(_keys(PART[PART < 50_000] + 1), LABELS[PART < 50_000])


def test_another_numbering_of_the_classes_is_refused() -> None:
    numbers = np.array([n for n in range(1, 50_001) if SETS[n - 1] and min(SETS[n - 1]) < 40])
    with pytest.raises(DataError, match="another numbering of the 1000 classes fits"):
        real.match(_keys(numbers), RNG.permutation(1000)[_given(numbers, 0.95)])


def test_a_few_images_are_refused_only_when_it_cannot_be_chance() -> None:
    judged = np.array([n for n in range(1, 200) if SETS[n - 1]])[:10]
    right = np.array([min(SETS[n - 1]) for n in judged])
    foreign = np.array([min(set(range(1000)) - SETS[n - 1]) for n in judged])
    real.match(_keys(judged), np.where(np.arange(10) < 7, right, foreign))  # 7 of 10 happens
    with pytest.raises(DataError, match=r"0\.0% of 10"):
        real.match(_keys(judged), foreign)
    unjudged = np.array([n for n in range(1, 200) if not SETS[n - 1]])[:3]
    assert real.match(_keys(unjudged), np.zeros(3, dtype=np.int64)).correct(np.zeros(3, dtype=np.int64)) == (0, 0)


@pytest.mark.parametrize("key", ["cat.jpg", "ILSVRC2012_val_1.JPEG", "ILSVRC2012_val_00050001.JPEG", "x_00000000"])
def test_names_without_a_validation_number_are_named(key: str) -> None:
    with pytest.raises(DataError) as caught:
        real.match([key], np.zeros(1, dtype=np.int64))
    assert f"'{key}'" in str(caught.value)


def test_hub_spellings_match_and_doubled_files_are_refused() -> None:
    key = "data/ILSVRC2012_val_00000002_n01751748.JPEG"
    assert real.match([key], np.array([970])).numbers.tolist() == [2]
    with pytest.raises(DataError, match=r"more than once: ILSVRC2012_val_00000002\.JPEG"):
        real.match([key, "ILSVRC2012_val_00000002.JPEG"], np.array([970, 970]))


class Validation:
    """A source with the names and labels of the validation images that are there, and no pixels."""

    task, splits = "imagenet", ("test",)

    def __init__(self, absent: list[int]) -> None:
        self.numbers = np.setdiff1d(np.arange(1, 50_001), absent)

    def open(self, split: str) -> Split:
        labels = np.array([min(SETS[n - 1], default=0) for n in self.numbers])
        names = tuple(str(i) for i in range(1000))
        return Split(self.task, split, names, _keys(self.numbers), labels, lambda i: b"", Provenance("drawn"))


def test_missing_names_are_listed_when_few_are_missing() -> None:
    few = subject(Validation([7, 49_999]), with_real=True, limit=None, complete=False)
    assert few.missing == ("ILSVRC2012_val_00000007.JPEG", "ILSVRC2012_val_00049999.JPEG")
    assert (few.stamp, few.absent) == ("subset 49998", 2)
    with pytest.raises(DataMissing, match=r"2 images of 'test' are missing.*\n.*00000007.JPEG, .*00049999.JPEG"):
        subject(Validation([7, 49_999]), with_real=False, limit=None, complete=True)
    many = subject(Validation(list(range(1, 501))), with_real=True, limit=None, complete=False)
    assert (many.missing, many.absent, many.stamp) == ((), 500, "subset 49500")
    whole = subject(Validation([]), with_real=True, limit=None, complete=True)
    assert (whole.missing, whole.absent, whole.stamp) == ((), 0, "")
    part = subject(Validation([]), with_real=True, limit=1000, complete=False)
    assert (part.missing, part.stamp, len(part.split)) == ((), "subset 1000", 1000)
    assert part.real is not None and [real.file_name(n) for n in part.real.numbers] == [k[4:] for k in part.split.keys]


def test_the_real_sample_agrees(shared) -> None:  # type: ignore[no-untyped-def]
    lines = (shared / "data" / "imagenet-val-sample" / "labels.txt").read_text().split()
    keys, labels = lines[::2], np.array(lines[1::2], dtype=np.int64)
    found = real.match(keys, labels)
    assert found.correct(labels)[1] == 1243
    assert found.agreement == pytest.approx(0.930, abs=0.001)
