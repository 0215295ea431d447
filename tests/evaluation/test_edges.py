"""Answers at their edges: too few, in another shape, of other classes, tied."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.data.test_edges import Owner, rows
from tests.layouts import refused
from tests.protocol.test_protocol import draw
from vitft.errors import CheckpointError, DataError, DataMissing, VitftError
from vitft.evaluation import fewshot, real
from vitft.evaluation.predict import gather, predict
from vitft.models.build import build
from vitft.settings import Settings


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VITFT_CACHE", str(tmp_path / "cache"))


def test_a_network_that_answers_for_fewer_images_or_in_another_shape_is_refused():
    batches = [(torch.arange(3), torch.zeros(3, 3, 2, 2))]
    net = torch.nn.Identity()
    for function in (lambda x: x.flatten(1)[:2], lambda x: x, lambda x: x[:, 0, 0, 0]):
        with pytest.raises(VitftError, match="for 3 images"):
            gather(net, function, batches, 3, "logits")
    flat = torch.nn.Flatten()
    with pytest.raises(VitftError, match="12 logits an image, not 5"):
        predict(flat, batches, 3, 5)
    with pytest.raises(VitftError, match="no images"):
        gather(flat, flat, [], 0, "logits")


def test_with_complete_every_official_image_must_be_there(tmp_path):
    from vitft.data.sources.image_folder import ImageFolder
    from vitft.evaluation import evaluate

    source = ImageFolder(draw(tmp_path / "d"), "d")
    refused(
        lambda: evaluate.subject(source, with_real=False, limit=None, complete=True),
        "no official count",
        kind=DataMissing,
    )
    whole = Owner("svhn", {"test": 26032}, completeness="full")
    found = evaluate.subject(whole, with_real=False, limit=None, complete=True)
    assert (found.absent, found.stamp, found.missing) == (0, "", ())
    part = Owner("svhn", {"test": 26000})
    found = evaluate.subject(part, with_real=False, limit=None, complete=False)
    assert (found.absent, found.stamp) == (32, "subset 26000")
    refused(lambda: evaluate.subject(part, with_real=False, limit=None, complete=True), "32 images", kind=DataMissing)
    declared = Owner("mine", {"test": 12}, completeness="declared")
    assert evaluate.subject(declared, with_real=False, limit=None, complete=True).absent == 0
    assert evaluate.subject(declared, with_real=False, limit=7, complete=False).stamp == "subset 7"
    refused(
        lambda: evaluate.subject(declared, with_real=True, limit=None, complete=False), "1000 classes", kind=DataError
    )
    nothing = Owner("mine", {"train": 12})
    refused(
        lambda: evaluate.subject(nothing, with_real=False, limit=None, complete=False), "no split", kind=DataMissing
    )


def test_labels_of_images_that_nobody_judged_cannot_disagree():
    sets = (frozenset(), frozenset({1}), frozenset({2}))
    assert real.check(np.array([1]), np.array([5]), sets) == 1.0
    assert real.check(np.array([2, 3]), np.array([1, 2]), sets) == 1.0
    assert real.check(np.array([2, 3]), np.array([1, 0]), sets) == 0.5  # two images may be chance
    found = real.match(["ILSVRC2012_val_00000003.JPEG", "x/ilsvrc2012_val_00000001.jpg"], np.array([2, 7]), sets)
    assert found.numbers.tolist() == [3, 1] and found.labels == (frozenset({2}), frozenset())
    assert found.missing == ("ILSVRC2012_val_00000002.JPEG",) and found.stamp == "subset 2" and found.agreement == 1.0
    assert not real.is_validation([]) and not real.is_validation(["ILSVRC2012_val_00000001", "x"])


def test_few_shot_errors_name_four_classes_at_most():
    def of(n: int) -> str:
        short = [(f"c{i}", i) for i in range(n)]
        return str(refused(lambda: fewshot.refuse_short(short, 9, "train"), f"{n} classes", "up to 0", kind=DataError))

    assert "'c3' 3." in of(4) and "'c3' 3, ..." in of(5) and "'c4'" not in of(5)
    fewshot.refuse_short([], 9, "train")


def test_a_head_of_other_classes_is_refused_and_one_without_names_is_taken():
    from vitft.evaluation.network import head_fits
    from vitft.models.checkpoint import Checkpoint

    info = build("timm:test_vit", 2, Settings(resolution=32), from_scratch=True).info

    def network(outputs: int, names: tuple[str, ...]) -> Checkpoint:
        state = {"head.weight": torch.randn(max(outputs, 1), 4), "head.bias": torch.zeros(max(outputs, 1))}
        return Checkpoint(dataclasses.replace(info, num_classes=outputs, name="m"), state, names)

    split = dataclasses.replace(rows(3, [0, 1, 1]), task="t")
    assert head_fits(network(2, ()), split).labels.tolist() == [0, 1, 1]
    assert head_fits(network(2, ("a", "b")), split).labels.tolist() == [0, 1, 1]
    assert head_fits(network(2, ("b", "a")), split).labels.tolist() == [1, 0, 0]  # matched by name
    assert head_fits(network(3, ("a", "x", "b")), split).labels.tolist() == [0, 2, 2]
    for net, says in (
        (network(2, ("a", "c")), "Class 1 of 'm' is 'c', of 't' 'b'"),
        (network(3, ()), "has 3 classes; 't' has 2"),
        (network(21843, ()), "(an ImageNet-21k head)"),
        (network(0, ()), "has no head"),
    ):
        refused(lambda net=net: head_fits(net, split), says, kind=CheckpointError)


def test_equally_near_examples_vote_in_their_order():
    from vitft.evaluation import knn

    features = np.tile([[1.0, 2.0]], (60, 1))
    labels = np.array([2] * 5 + [0] * 4 + [1] * 51)
    votes = knn.votes(features, labels, features[:3], 3, 10)
    np.testing.assert_allclose(votes, np.tile([0.4, 0.1, 0.5], (3, 1)))


def test_an_image_that_came_twice_is_named_where_none_is_missing():
    flat = torch.nn.Flatten()
    batches = [(torch.arange(3), torch.zeros(3, 3, 2, 2)), (torch.tensor([1]), torch.zeros(1, 3, 2, 2))]
    with pytest.raises(VitftError, match="1 came more than once: 1"):
        gather(flat, flat, batches, 3, "logits")
    assert real.is_validation(["ILSVRC2012_val_00000001.JPEG"])
