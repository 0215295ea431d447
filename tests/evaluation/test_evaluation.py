"""Exact prediction, intervals, features and the classifiers on them, each against a closed form or a second way."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, top_k_accuracy_score
from torch import nn

from vitft.data.split import Provenance, Split
from vitft.errors import OutOfMemory, UsageError, VitftError
from vitft.evaluation import features, intervals, metrics
from vitft.evaluation.predict import predict
from vitft.settings import Preprocess

K = 7


class Toy(nn.Module):
    """A network whose answer for an image is a fixed function of its pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, K)
        self.calls = 0

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return images.flatten(1)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        return x if pre_logits else self.head(x)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(images))


def _images(n: int) -> torch.Tensor:
    return torch.randn(n, 3, 2, 2, generator=torch.Generator().manual_seed(n))


def _batches(images: torch.Tensor, size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.arange(i, min(i + size, len(images))), images[i : i + size]) for i in range(0, len(images), size)]


@pytest.mark.parametrize("n", range(12, 17))
@pytest.mark.parametrize("size", [1, 2, 3, 4, 6])
def test_every_image_once_whatever_the_batch_size_and_equal_to_scikit_learn(n: int, size: int) -> None:
    torch.manual_seed(0)
    net, images = Toy().train(), _images(n)
    labels = np.random.default_rng(n).integers(0, K, n)
    done: list[int] = []
    logits = predict(net, _batches(images, size), n, K, on_progress=done.append).logits
    with torch.no_grad():
        np.testing.assert_allclose(logits, net(images).numpy(), rtol=1e-5, atol=1e-6)
    assert done[-1] == n
    assert len(done) == math.ceil(n / size)
    assert net.training, "the network's mode is given back"
    answers = logits.argmax(axis=1)
    assert metrics.top1(logits, labels).mean() == accuracy_score(labels, answers)
    assert metrics.top5(logits, labels).mean() == pytest.approx(
        top_k_accuracy_score(labels, logits, k=5, labels=range(K))
    )
    np.testing.assert_array_equal(
        metrics.confusion(answers, labels, K), confusion_matrix(labels, answers, labels=range(K))
    )
    names = tuple("abcdefg")
    table = metrics.per_class(answers, labels, names)
    assert sum(row.correct for row in table) == (answers == labels).sum()
    assert sum(row.n for row in table) == n
    assert all(row.accuracy is None for row in table if not row.n)


def test_shuffled_batches_land_in_their_rows() -> None:
    net, images = Toy(), _images(13)
    whole = predict(net, _batches(images, 13), 13, K).logits
    order = torch.randperm(13, generator=torch.Generator().manual_seed(1))
    parts = [(order[i : i + 4], images[order[i : i + 4]]) for i in range(0, 13, 4)]
    np.testing.assert_allclose(predict(net, parts, 13, K).logits, whole, rtol=1e-5, atol=1e-6)


def test_doubled_missing_foreign_and_broken_images_are_named() -> None:
    net, images = Toy(), _images(6)
    with pytest.raises(VitftError, match=r"1 came more than once: 2; 1 never came: 5"):
        predict(net, [(torch.tensor([0, 1, 2, 2, 3, 4]), images)], 6, K)
    with pytest.raises(VitftError, match="2 never came: 4, 5"):
        predict(net, _batches(images[:4], 2), 6, K)
    with pytest.raises(VitftError, match=r"Image 6 .* only 6"):
        predict(net, [(torch.arange(1, 7), images)], 6, K)
    with pytest.raises(VitftError, match="not 9"):
        predict(net, _batches(images, 3), 6, 9)
    with pytest.raises(VitftError, match="no images"):
        predict(net, [], 0, K)
    images[3] = math.nan
    with pytest.raises(VitftError, match="NaN or infinite for 1 of 6 images: 3"):
        predict(net, _batches(images, 4), 6, K)
    assert not torch.is_inference_mode_enabled()


def test_what_does_not_fit_into_memory_is_halved_down_to_one_image() -> None:
    net, images = Toy(), _images(13)
    whole = predict(net, _batches(images, 13), 13, K).logits
    sizes: list[int] = []

    def short_of_memory(most: int) -> Toy:
        small = Toy()
        small.load_state_dict(net.state_dict())
        plain = small.forward_features

        def forward(x: torch.Tensor) -> torch.Tensor:
            if len(x) > most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            sizes.append(len(x))
            return plain(x)

        small.forward_features = forward  # type: ignore[method-assign, assignment]
        return small

    np.testing.assert_allclose(
        predict(short_of_memory(3), _batches(images, 13), 13, K).logits, whole, rtol=1e-5, atol=1e-6
    )
    assert sum(sizes) == 13
    with pytest.raises(OutOfMemory, match="Not even one image"):
        predict(short_of_memory(0), _batches(images, 4), 13, K)


def test_ties_go_to_the_lower_class() -> None:
    logits, labels = np.zeros((7, 7), dtype=np.float32), np.arange(7)
    assert metrics.top1(logits, labels).tolist() == [True] + [False] * 6
    assert metrics.top5(logits, labels).tolist() == [True] * 5 + [False] * 2
    assert metrics.top(logits, 5)[0].tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(metrics.probabilities(logits + 900), 1 / 7, rtol=1e-6)
    with pytest.raises(UsageError, match="label '7'"):
        metrics.confusion(np.zeros(1, dtype=np.int64), np.array([7]), 7)


@given(st.integers(1, 3000), st.data())
def test_wilson_solves_the_score_equation(n: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, n))
    low, high = intervals.wilson(correct, n)
    share = correct / n
    assert 0 <= low <= share <= high <= 1
    for end in {low, high} - {0.0, 1.0}:
        # |share - p| = z sqrt(p (1 - p) / n) holds at both ends, by definition
        assert (share - end) ** 2 == pytest.approx(1.959963985**2 * end * (1 - end) / n, rel=1e-5, abs=1e-12)
    mirrored = intervals.wilson(n - correct, n)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-12)


def test_intervals_of_seeds() -> None:
    low, high = intervals.t_interval([0.1, 0.2, 0.3])
    assert (low, high) == pytest.approx((0.2 - 4.302653 * 0.1 / math.sqrt(3), 0.2 + 4.302653 * 0.1 / math.sqrt(3)))
    with pytest.raises(ValueError, match="at least two"):
        intervals.t_interval([0.5])
    with pytest.raises(ValueError, match="0 of 0"):
        intervals.wilson(0, 0)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_paired_comparison_is_antisymmetric_and_exact(pairs: list[tuple[bool, bool]]) -> None:
    a, b = [p[0] for p in pairs], [p[1] for p in pairs]
    one, other = intervals.paired(a, b), intervals.paired(b, a)
    assert one.difference == pytest.approx(np.mean(a) - np.mean(b)) == pytest.approx(-other.difference)
    assert one.p == other.p
    assert one.ci95 == pytest.approx((-other.ci95[1], -other.ci95[0]))
    discordant = one.a_only + one.b_only
    tail = sum(math.comb(discordant, i) for i in range(min(one.a_only, one.b_only) + 1)) / 2**discordant
    assert one.p == pytest.approx(min(1.0, 2 * tail))
    assert one.ci95[0] <= one.difference <= one.ci95[1]


def test_models_are_paired_on_the_same_images_only() -> None:
    with pytest.raises(ValueError, match="same images"):
        intervals.paired([True], [True, False])


def _split(n: int = 6, fill: int = 0, label: int = 0) -> Split:
    labels = np.arange(n) % 3
    labels[0] = label
    return Split(
        "drawn",
        "train",
        ("a", "b", "c"),
        [f"{i}.png" for i in range(n)],
        labels.astype(np.int64),
        lambda i: bytes([fill, i]),
        Provenance("drawn"),
    )


def _identity(
    checkpoint: str = "a" * 64, size: int = 2, crop: float = 1.0, split: Split | None = None, **network: str
) -> features.Identity:
    pp = Preprocess((size, size), crop_pct=crop)
    return features.identity(checkpoint, {"gelu": "exact", **network}, pp, split or _split(), "float32")


def test_features_come_from_the_cache_until_anything_changes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VITFT_CACHE", str(tmp_path))
    net, images = Toy(), _images(6)

    def compute(who: features.Identity) -> np.ndarray:
        return features.cached(who, 6, lambda: features.extract(net, _batches(images, 4), 6, "float32"))

    first = compute(_identity())
    np.testing.assert_allclose(first, images.flatten(1).numpy())
    calls = net.calls
    np.testing.assert_array_equal(compute(_identity()), first)
    assert net.calls == calls, "the second time nothing is computed"
    exif = Split(**{**_split().__dict__, "exif": True})
    others = [
        _identity(checkpoint="b" * 64),
        _identity(size=4),
        _identity(crop=0.9),
        _identity(gelu="tanh"),
        _identity(split=_split(fill=1)),
        _identity(split=_split(label=1)),
        _identity(split=_split().select([1, 0, 2, 3, 4, 5])),
        _identity(split=exif),
    ]
    assert len({_identity().digest, *(who.digest for who in others)}) == len(others) + 1
    for who in others:
        calls = net.calls
        compute(who)
        assert net.calls > calls


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign", "rows"])
def test_a_damaged_cache_file_is_rebuilt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damage: str) -> None:
    monkeypatch.setenv("VITFT_CACHE", str(tmp_path))
    who = _identity()
    wanted = np.arange(12, dtype=np.float32).reshape(6, 2)
    features.cached(who, 6, lambda: wanted)
    file = features.path(who)
    good = file.read_bytes()
    if damage == "rows":
        features.cached(who, 5, lambda: wanted[:5])
    else:
        bad = {"cut": good[:-3], "flipped": good[:-1] + bytes([good[-1] ^ 1]), "empty": b"", "foreign": b"x" * 99}
        file.write_bytes(bad[damage])
    computed: list[int] = []
    again = features.cached(who, 6, lambda: computed.append(1) or wanted)  # type: ignore[func-returns-value]
    assert computed == [1]
    np.testing.assert_array_equal(again, wanted)
    features.cached(who, 6, lambda: pytest.fail("it was rebuilt, and is found again"))


def test_a_cache_that_cannot_be_written_is_no_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "features").write_text("a file where the folder should be")
    monkeypatch.setenv("VITFT_CACHE", str(tmp_path))
    wanted = np.ones((6, 2), dtype=np.float32)
    np.testing.assert_array_equal(features.cached(_identity(), 6, lambda: wanted), wanted)
    np.testing.assert_array_equal(features.cached(None, 6, lambda: wanted), wanted)
