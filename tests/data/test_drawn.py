"""The suite `mini`: the same pictures everywhere, official counts, learnable but not trivial."""

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from vitft.catalog.tasks import MINI, Task
from vitft.data.sources.drawn import SIDE, Drawn, label, picture
from vitft.errors import DataMissing, UnknownName, UsageError
from vitft.suites.document import load as suite_of
from vitft.suites.suite import choose

TASKS = pytest.mark.parametrize("task", MINI, ids=lambda task: task.name)

# sha256 of keys and labels of all 1,000 training and all test examples, and of the pixels of 40 pictures.
DIGESTS = {
    "mini-digits": ("bf0c30bf11ffb355", "f43182cff22e77f1"),
    "mini-shapes": ("02099d07a0c02bba", "0b7fdcb33a26d62b"),
    "mini-texture": ("578b177446323282", "1b6f689fc6ee3f8c"),
    "mini-count": ("bb853c4cfeeb8209", "15a6c99ec0b1534f"),
    "mini-location": ("2a21bcc9fcebb2cb", "c542e7fcceba1a2b"),
    "mini-orientation": ("03ec04bebb6d06ce", "31a7a5516da581d3"),
}


def _pixels(task: str, split: str, stop: int | None = None) -> np.ndarray:
    opened = Drawn(task).open(split)
    images = [np.asarray(Image.open(io.BytesIO(opened.read(i)))) for i in range(len(opened))[:stop]]
    return np.stack(images)


@TASKS
def test_the_pictures_never_change(task: Task) -> None:
    source = Drawn(task.name)
    train, test = source.open("train800val200"), source.open("test")
    index = hashlib.sha256((train.digest + test.digest).encode()).hexdigest()[:16]
    pixels = np.concatenate([_pixels(task.name, "train800", 20), _pixels(task.name, "test", 20)])
    assert (index, hashlib.sha256(pixels.tobytes()).hexdigest()[:16]) == DIGESTS[task.name]


@TASKS
def test_counts_and_disjoint_splits(task: Task) -> None:
    source = Drawn(task.name)
    assert source.task == task.name
    assert set(source.splits) == set(task.splits)
    opened = {name: source.open(name) for name in source.splits}
    assert {name: len(split) for name, split in opened.items()} == {
        "train": 1000, "test": task.sizes["test"], "train800": 800, "val200": 200, "train800val200": 1000,
    }  # fmt: skip
    assert len(opened["test"]) >= 500
    assert not set(opened["train"].keys) & set(opened["test"].keys)
    assert [*opened["train800"].keys, *opened["val200"].keys] == list(opened["train800val200"].keys)
    for split in opened.values():
        assert split.num_classes == task.num_classes
        assert set(split.labels.tolist()) == set(range(task.num_classes))
        assert len(set(split.keys)) == len(split)
        assert (split.provenance.completeness, split.provenance.reference) == ("full", True)


def test_what_the_labels_say_is_in_the_pictures() -> None:
    for number in range(30):
        # The column of the sprite: the centre of all that differs from the border lies in the label's bin.
        image = picture("mini-location", number).astype(float)
        away = np.abs(image - np.median(image[[0, -1]].reshape(-1, 3), axis=0)).sum(-1)
        away[away < 60] = 0
        centre = (away.sum(0) * (np.arange(SIDE) + 0.5)).sum() / away.sum()
        assert abs(centre - (4 + 3 * (label("mini-location", number) + 0.5))) < 2
        # Each cell has one dark nucleus; debris has none.
        from scipy.ndimage import label as components

        dark = picture("mini-count", number).astype(float).sum(-1) < 330
        assert components(dark)[1] == label("mini-count", number) + 1


def _features(images: np.ndarray) -> np.ndarray:
    """Return contrast to the border: its gradient's directions, its spectrum and its columns."""
    border = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], axis=1)
    contrast = np.abs(images - np.median(border, axis=1)[:, None, None]).sum(-1)
    dy, dx = np.gradient(contrast, axis=(1, 2))
    weight = dx**2 + dy**2
    direction = (np.arctan2(dy, dx) / (2 * np.pi) % 1 * 16).astype(int) % 16
    histogram = np.stack([(weight * (direction == k)).sum((1, 2)) for k in range(16)], axis=1)
    spectrum = np.abs(np.fft.fft2(contrast))[:, :8, :8].reshape(len(images), -1)
    columns = contrast.sum(1) / contrast.sum((1, 2))[:, None]
    share = histogram / histogram.sum(1, keepdims=True)
    return np.concatenate([4 * share, np.log1p(spectrum), 8 * columns, np.log1p(histogram)], axis=1)


@pytest.mark.parametrize("task", [t for t in MINI if t.name != "mini-digits"], ids=lambda task: task.name)
def test_learnable_but_not_from_pixels_alone(task: Task) -> None:
    from sklearn.linear_model import LogisticRegression, RidgeClassifier

    train, test = Drawn(task.name).open("train800val200").labels, Drawn(task.name).open("test").labels
    train, test = train[:500], test[:200]
    a, b = _pixels(task.name, "train800val200", 500) / 255, _pixels(task.name, "test", 200) / 255
    flat = RidgeClassifier(alpha=1000).fit(a.reshape(len(a), -1) - 0.5, train)
    assert flat.score(b.reshape(len(b), -1) - 0.5, test) < 0.6
    seen, asked = _features(a), _features(b)
    mean, std = seen.mean(0), seen.std(0) + 1e-6
    model = LogisticRegression(C=0.05, max_iter=100).fit((seen - mean) / std, train)
    assert model.score((asked - mean) / std, test) > 2 / task.num_classes


def test_unknown_names_and_splits() -> None:
    with pytest.raises(UnknownName, match="mini-count"):
        Drawn("mini-counts")
    with pytest.raises(DataMissing, match="train800val200"):
        Drawn("mini-count").open("val")


def test_suites_and_the_choice_of_tasks() -> None:
    vtab, mini = suite_of("vtab"), suite_of("mini")
    assert [len(names) for names in vtab.groups.values()] == [7, 4, 8]
    assert [len(names) for names in mini.groups.values()] == [2, 2, 2]
    assert choose(vtab, "all") == vtab.tasks
    assert choose(vtab, "kitti, cifar,specialized")[0] == "cifar100"
    assert len(choose(vtab, "kitti,cifar,specialized")) == 6
    assert choose(mini, "count,mini-digits") == ("mini-digits", "mini-count")
    assert vtab.group_of("dmlab") == "structured"
    with pytest.raises(UnknownName, match="'dtd'"):
        choose(vtab, "dtdd")
    with pytest.raises(UnknownName):
        choose(mini, "cifar100")
    with pytest.raises(UsageError):
        choose(vtab, " ,")
    with pytest.raises(UnknownName, match="mini"):
        suite_of("mimi")
