"""Answers at their edges: too few, in another shape, of other classes, tied."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.data.test_edges import Owner, rows
from tests.layouts import refused
from tests.protocol.test_protocol import draw
from vitft.data.split import Split
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

    assert "'c3' 3." in of(4) and "'c3' 3 and 1 more" in of(5) and "'c4'" not in of(5)
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


def test_files_are_answered_in_their_order_batch_by_batch_and_broken_ones_are_told(tmp_path):
    from pathlib import Path

    from tests.data.test_label_rules import picture
    from vitft.evaluation.files import answers
    from vitft.evaluation.network import open_network

    net = build("timm:test_vit", 3, Settings(resolution=32), from_scratch=True)
    network = open_network("vit-mini", {}, device="cpu")
    head: torch.nn.Linear = network.net.head  # type: ignore[assignment]
    names = tuple(f"n{i}" for i in range(head.out_features))
    assert net.net is not network.net
    paths = []
    for i in range(5):
        paths.append(tmp_path / f"{i}.png")
        paths[-1].write_bytes(b"broken" if i in (1, 4) else picture(40 * i, "PNG", (20, 30, 3)))
    broken: list[Path] = []
    done: list[int] = []

    def asked(some: list[Path], size: int, top: int = 2):
        return list(answers(network, some, names, top=top, batch_size=size, on_broken=lambda p, e: broken.append(p),
                            on_progress=done.append))  # fmt: skip

    found = asked(paths, 2)
    assert [a.path for a in found] == [str(paths[i]) for i in (0, 2, 3)]
    assert broken == [paths[1], paths[4]] and done == [2, 4, 5]
    for answer in found:
        (first, name, chance), (second, _, less) = answer.top
        assert name == f"n{first}" and first != second and 1 >= chance >= less > 0
    alone = [asked([path], 7)[0] for path in (paths[0], paths[2], paths[3])]
    for one, other in zip(alone, found, strict=True):
        assert [t[:2] for t in one.top] == [t[:2] for t in other.top]
        assert [t[2] for t in one.top] == pytest.approx([t[2] for t in other.top], abs=1e-5)
    everything = asked([paths[0]], 1, top=len(names))[0].top
    assert sum(t[2] for t in everything) == pytest.approx(1, abs=1e-5) and len(everything) == len(names)


def test_what_means_nothing_without_training_is_refused_before_anything_is_opened():
    from vitft.errors import UsageError
    from vitft.evaluation import asked

    asked.check({"resolution": 64, "gelu": "tanh"}, 1.0)
    asked.check({}, 0.001)
    for crop in (0.0, -0.5, 1.001):
        refused(lambda c=crop: asked.check({}, c), f"--crop-pct {crop:g}", kind=UsageError)
    refused(lambda: asked.check({"steps": 3, "lr": 0.1}), "'lr' means nothing without training", kind=UsageError)
    refused(lambda: asked.check({"interpolation": "nearest"}), "interpolation 'nearest'", kind=UsageError)
    for name in ("auto", "cpu", "cuda", "cuda:1", "mps", "xpu:0", "hpu"):
        asked.device(name)
    for name in ("gpu", "cuda:", "cuda:x", "cpu ", "acuda", ""):
        refused(lambda n=name: asked.device(n), kind=UsageError)


def test_a_loss_counts_as_diverged_above_twice_that_of_a_guess_over_its_last_updates(tmp_path):
    import json
    import math

    from vitft.protocol import diverged

    def warned(*losses: float) -> str:
        (tmp_path / "m").write_text("".join(json.dumps({"loss": x}) + "\n" for x in losses) + "\n")
        return diverged.warning(tmp_path / "m", 4)

    guess = math.log(4)
    assert warned(*[2 * guess] * 30) == "" and warned() == "" and warned(2 * guess) == ""
    assert "last 1 updates is 99 " in warned(99.0) and "(ln 4)" in warned(99.0) and "1.39" in warned(99.0)
    assert "last 10 updates" in warned(*[0.0] * 20, *[99.0] * 10) and "last 4 updates" in warned(*[99.0] * 9)
    assert warned(*[99.0] * 20, *[0.0] * 10) == ""
    assert warned(*[0.0] * 19, 20 * guess) == "" and warned(*[0.0] * 19, 20.1 * guess) != ""


def test_images_in_both_splits_count_once_in_the_first_that_has_them():
    from vitft.images.overlap import overlap
    from vitft.progress import Hooks

    split = dataclasses.replace(rows(6, [0, 1, 0, 1, 0, 1]), read=lambda i: bytes([i // 2]))  # three images, twice each

    def prints(*values: int) -> np.ndarray:
        return np.frombuffer(b"".join(fingerprint(bytes([v])) for v in values), np.uint8).reshape(-1, 16)

    from vitft.images.fingerprints import fingerprint

    got = overlap(split, {"train": prints(0, 9)}, {"val": prints(0, 2), "train": prints(1)}, Hooks())
    assert got.n == 6 and got.splits == {"train": 4, "val": 2}
    assert overlap(split, {"train": prints(7)}, {}, Hooks()).splits == {}
    assert overlap(split, {}, {"val": prints(1)}, Hooks()).n == 2


def test_a_network_that_computes_in_bf16_says_so(tmp_path):
    from vitft.evaluation.network import computed, open_network

    for asked, expected in (("bf16", "bf16"), ("float32", "float32"), ("auto", "float32")):
        network = open_network("vit-mini", {}, device="cpu", precision=asked)
        said = computed(network)
        assert (said.precision, said.device_kind, said.threads) == (expected, "cpu", torch.get_num_threads())
        assert said.micro_batch is None and not network.net.training


def test_intervals_end_at_what_a_difference_can_be():
    from vitft.evaluation.intervals import paired

    assert paired([True] * 2, [False] * 2).ci95[1] == 1.0 and paired([False] * 2, [True] * 2).ci95[0] == -1.0
    assert paired([True] * 2, [True] * 2).p == 1.0


def test_a_batch_that_does_not_fit_is_halved_and_any_other_error_is_itself():
    from vitft.errors import OutOfMemory
    from vitft.evaluation.predict import _fitting

    tried: list[int] = []

    def scarce(x: torch.Tensor, most: int = 2) -> torch.Tensor:
        tried.append(len(x))
        if len(x) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return 2 * x

    x = torch.arange(5.0)[:, None]
    assert torch.equal(_fitting(scarce, x), 2 * x) and tried == [5, 2, 3, 1, 2]
    with pytest.raises(OutOfMemory, match="one image"):
        _fitting(lambda x: scarce(x, 0), x)
    other = RuntimeError("shapes cannot be multiplied")

    def broken(x: torch.Tensor) -> torch.Tensor:
        raise other

    for n in (1, 4):
        with pytest.raises(RuntimeError) as caught:
            _fitting(broken, x[:n])
        assert caught.value is other


def test_classes_without_a_test_image_are_those_that_none_was_there_of_before_a_limit(tmp_path):
    from vitft.evaluation import evaluate

    class Two(Owner):
        def open(self, name: str) -> Split:
            return dataclasses.replace(rows(6, [0, 0, 2, 2, 2, 2], name), class_names=("a", "b", "c"), task="mine")

    for limit in (None, 1):
        found = evaluate.subject(Two("mine", {"test": 6}), with_real=False, limit=limit, complete=False)
        assert found.classes_without_test == ("b",) and found.present == {"a", "c"} and len(found.split) == (limit or 6)


@pytest.mark.parametrize(("change", "refused_"), [({}, False), ({"crop": "random"}, True), ({"flip": True}, True)])
def test_an_evaluation_draws_nothing(change, refused_):
    from tests.data.test_label_rules import picture
    from vitft.images.batches import eval_batches
    from vitft.settings import Preprocess

    split = dataclasses.replace(rows(3, [0, 1, 0]), read=lambda i: picture(i, "PNG", (4, 4, 3)))
    pp = dataclasses.replace(Preprocess((4, 4)), **change)
    if refused_:
        with pytest.raises(ValueError, match="draws nothing"):
            list(eval_batches(split, pp, 2, torch.device("cpu"), 1))
    else:
        assert [len(i) for i, _ in eval_batches(split, pp, 2, torch.device("cpu"), 1)] == [2, 1]
