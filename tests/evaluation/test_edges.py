"""Answers at their edges: too few, in another shape, of other classes, tied."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch

from tests.data.test_edges import Owner, rows
from tests.layouts import refused
from tests.protocol.test_protocol import draw
from vitft.data import lists
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
    more = evaluate.subject(Owner("svhn", {"test": 26040}), with_real=False, limit=None, complete=False)
    assert (more.absent, more.stamp) == (None, "26040 images")  # not the whole of what is official either
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


def test_classes_called_by_numbers_are_those_outputs_of_a_head_without_names():
    from vitft.evaluation.network import head_fits, order_assumed
    from vitft.models.checkpoint import Checkpoint

    info = build("timm:test_vit", 2, Settings(resolution=32), from_scratch=True).info
    state = {"head.weight": torch.randn(12, 4), "head.bias": torch.zeros(12)}
    head = Checkpoint(dataclasses.replace(info, num_classes=12, name="m"), state, ())

    def folders(names: list[str]) -> Split:
        names = sorted(names)  # as folders are read: 0, 1, 10, 11, 2, ...
        return dataclasses.replace(rows(12, list(range(12))[::-1]), class_names=tuple(names), task="t")

    for name in ("{}", "{:02}"):
        split = folders([name.format(i) for i in range(12)])
        fits = head_fits(head, split)
        assert fits.labels.tolist() == [int(split.class_names[label]) for label in split.labels]
        assert order_assumed(head, fits) == ("classes in the order of their numbers",)  # type: ignore[arg-type]
    words = folders([f"class {i}" for i in range(12)])
    assert head_fits(head, words) is words
    assert order_assumed(head, words) == ("classes in the data's order",)  # type: ignore[arg-type]
    mixed = folders(["1", *(f"class {i}" for i in range(11))])  # a number first makes no numbers of the others
    assert head_fits(head, mixed) is mixed
    assert order_assumed(head, mixed) == ("classes in the data's order",)  # type: ignore[arg-type]
    assert order_assumed(head, dataclasses.replace(words, task="cifar10")) != ()  # type: ignore[arg-type]
    own = dataclasses.replace(words, task="cifar10", class_names=lists.names("cifar10"))
    assert order_assumed(head, own) == ()  # type: ignore[arg-type]
    named = dataclasses.replace(head, class_names=words.class_names)
    assert order_assumed(named, words) == ()  # type: ignore[arg-type]
    refused(lambda: head_fits(head, folders([str(i + 1) for i in range(12)])), "numbers, 1 to 12", kind=DataError)


def test_answers_among_the_classes_that_have_images_are_counted_too():
    from vitft.evaluation.evaluate import Evaluation, Subject
    from vitft.evaluation.predict import Predictions

    rng = np.random.default_rng(0)
    split = dataclasses.replace(rows(90, [(1, 3, 4)[i % 3] for i in range(90)]), class_names=tuple("abcdef"))
    logits = rng.normal(size=(90, 6)).astype(np.float32)

    def counted(present: str) -> object:
        subject = Subject(split, None, "", (), None, frozenset(present))
        return Evaluation(None, subject, Predictions(logits), 1.0).among_present  # type: ignore[arg-type]

    right = sum(
        int((1, 3, 4)[int(row[[1, 3, 4]].argmax())] == label) for row, label in zip(logits, split.labels, strict=True)
    )
    found = counted("bde")
    assert (found.correct, found.n, found.top1) == (right, 90, right / 90)  # type: ignore[attr-defined]
    assert counted("abcdef") is None and counted("") is None and counted("b") is None


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
    silent = answers(network, paths[:1], names, top=1, batch_size=1, on_broken=lambda p, e: None)
    assert [a.top[0] for a in silent] == [everything[0]]
    assert sum(t[2] for t in everything) == pytest.approx(1, abs=1e-5) and len(everything) == len(names)


def test_what_means_nothing_without_training_is_refused_before_anything_is_opened():
    from vitft.errors import UsageError
    from vitft.evaluation import request

    request.check({"resolution": 64, "gelu": "tanh"}, 1.0)
    request.check({}, 0.001)
    for crop in (0.0, -0.5, 1.001):
        refused(lambda c=crop: request.check({}, c), f"--crop-pct {crop:g}", kind=UsageError)
    many = {"steps": 3, "warmup": 1, "lr": 0.1, "mixup": 0.0, "seed": 1, "flip": True, "clip": 1.0, "batch_size": 4}
    refused(lambda: request.check(many), "'batch_size' means nothing without training", kind=UsageError)
    refused(lambda: request.check({"interpolation": "nearest"}), "interpolation 'nearest'", kind=UsageError)
    for name in ("auto", "cpu", "cuda", "cuda:1", "mps", "xpu:0", "hpu"):
        request.device(name)
    for name in ("gpu", "cuda:", "cuda:x", "cpu ", "acuda", ""):
        refused(lambda n=name: request.device(n), kind=UsageError)


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
    assert torch.equal(_fitting(scarce, x, 0), 2 * x) and tried == [5, 2, 3, 1, 2]
    with pytest.raises(OutOfMemory, match="one image"):
        _fitting(lambda x: scarce(x, 0), x, 0)
    other = RuntimeError("shapes cannot be multiplied")

    def broken(x: torch.Tensor) -> torch.Tensor:
        raise other

    for n in (1, 4):
        with pytest.raises(RuntimeError) as caught:
            _fitting(broken, x[:n], 0)
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


# --- what is refused -------------------------------------------------------------------------------------------------


def test_real_labels_are_numbered_as_imagenets_classes_are(monkeypatch):
    from vitft.evaluation import evaluate
    from vitft.evaluation.network import open_network

    split = dataclasses.replace(rows(2, [0, 1]), class_names=("a", "b"))
    turned = dataclasses.replace(split, class_names=("b", "a"))
    monkeypatch.setattr(evaluate, "head_fits", lambda network, _: turned)
    subject = evaluate.Subject(split, real.Subset(np.arange(2), (frozenset(),) * 2, (), 1.0), "", (), None)
    network = open_network("vit-mini", {}, device="cpu")
    refused(lambda: evaluate.evaluate(network, subject), "another order", kind=CheckpointError)


@pytest.mark.parametrize("labels", [[[1]] * 3, [[]] * real.FULL, [[1]] * real.LABELLED])
def test_real_labels_that_are_not_as_published_are_damaged(labels, tmp_path, monkeypatch):
    import json

    from vitft.errors import DataDamaged

    monkeypatch.setattr(real.resources, "files", lambda _: tmp_path)
    real.real_labels.cache_clear()
    try:
        refused(real.real_labels, "no ReaL labels", kind=DataMissing)
        (tmp_path / "data" / "_info").mkdir(parents=True)
        (tmp_path / "data/_info/imagenet_real_labels.json").write_text(json.dumps(labels))
        refused(real.real_labels, f"{len(labels)} entries", kind=DataDamaged)
    finally:
        real.real_labels.cache_clear()


def test_files_to_answer_for_come_once_each_folders_sorted(tmp_path):
    from vitft.evaluation import files

    for name in ("b.png", "a.png", "note.txt", "x.raw", "0.raw"):
        (tmp_path / name).write_bytes(b"x")
    one = tmp_path / "b.png"
    found = files.images([one, tmp_path, one])
    assert [path.name for path in found] == ["b.png", "0.raw", "a.png", "x.raw"]
    (tmp_path / "empty").mkdir()
    refused(lambda: files.images([tmp_path / "empty"]), "holds no image", kind=DataMissing)
    refused(lambda: files.images([tmp_path / "gone.png"]), "no image", "gone.png", kind=DataMissing)
    refused(lambda: files.read(tmp_path), "cannot be read", kind=DataMissing)


def test_what_holds_no_predictions_is_named(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from vitft.errors import DataDamaged
    from vitft.evaluation import predictions

    for read in (predictions.load, predictions.load_correct):
        (tmp_path / "p").write_bytes(b"no parquet")
        refused(lambda read=read: read(tmp_path / "p"), "holds no predictions", kind=DataDamaged)
        pq.write_table(pa.table({"key": ["a"]}), tmp_path / "p")
        refused(lambda read=read: read(tmp_path / "p"), "holds no predictions", kind=DataDamaged)
        refused(lambda read=read: read(tmp_path / "none"), "holds no predictions", kind=DataDamaged)


def test_an_onnx_file_is_told_by_its_ending_or_its_folder(tmp_path, monkeypatch):
    from vitft.errors import UsageError
    from vitft.evaluation import onnx_network

    folder, other = tmp_path / "export", tmp_path / "run"
    for path in (folder, other):
        path.mkdir()
    for path in (folder / onnx_network.FILE, tmp_path / "own.onnx", tmp_path / "own.pth"):
        path.write_bytes(b"x")
    cases = {folder: folder / onnx_network.FILE, tmp_path / "own.onnx": tmp_path / "own.onnx", other: None,
             tmp_path / "own.pth": None, tmp_path / "gone.onnx": None}  # fmt: skip
    assert {path: onnx_network.file_of(str(path)) for path in cases} == cases
    onnx_network.available()
    monkeypatch.setattr(onnx_network, "find_spec", lambda name: None)
    refused(onnx_network.available, "pip install 'vitft[onnx]'", kind=UsageError)


class Sized:
    """A split of so many images, of which nothing else is asked."""

    def __init__(self, n: int, name: str = "train", task: str = "d", num_classes: int = 9) -> None:
        self.n, self.name, self.task, self.num_classes = n, name, task, num_classes

    def __len__(self) -> int:
        return self.n


@pytest.mark.parametrize(
    ("pool", "big_vision", "rows_", "tested", "expected"),
    [
        (Sized(50), False, [], 8, []),
        (Sized(50), False, [], 5, ["subset 5 of the 8 test images"]),
        (Sized(800, "train800"), False, [], 8,
         ["examples are drawn from 'train800' (800 images): there is no 'train' here"]),
        (Sized(800, "train800"), True, [], 8,
         ["examples are drawn from 'train800' (800 images): there is no 'train' here"]),
        (Sized(50), True, [], 8, ["examples are drawn from 'train' (50 images), all that stands there"]),
        (Sized(1880, task="dtd"), True, [], 8,
         ["examples are drawn from 'train' (1,880 images), the owner's whole train"]),
        (Sized(1879, task="dtd"), True, [], 8,
         ["examples are drawn from 'train' (1,879 images), not the owner's whole train (1,880)"]),
        (Sized(50), False, [(5, 0, 0), (9, 2, 7), (9, 2, 7), (10, 3, 7)], 8,
         ["2 of 9 classes have fewer than 9 examples (the fewest 7)",
          "3 of 9 classes have fewer than 10 examples (the fewest 7)"]),
    ],
)  # fmt: skip
def test_what_a_few_shot_reader_must_know(pool, big_vision, rows_, tested, expected):
    from types import SimpleNamespace

    from vitft.evaluation import frozen

    made = [SimpleNamespace(per_class=k, short_classes=short, fewest=fewest) for k, short, fewest in rows_]
    data = frozen.Examples(pool, Sized(tested), Sized(8), big_vision)  # type: ignore[arg-type]
    assert frozen._stamps(made, data) == expected  # type: ignore[arg-type]


def test_data_without_a_split_to_evaluate_on_is_told(tmp_path):
    from vitft.data.sources.image_folder import ImageFolder
    from vitft.evaluation import frozen

    source = ImageFolder(draw(tmp_path / "d", ("train",), 2), "d")
    refused(lambda: frozen.examples(source), "'test'", kind=DataMissing)


def test_few_shot_is_tested_on_test_and_a_limit_draws_as_an_evaluation_does():
    import hashlib

    from vitft.evaluation import frozen

    class Three(Owner):
        def open(self, name: str) -> Split:
            return rows(self.sizes[name], [0] * self.sizes[name], name)

    source: Any = Three("mine", {"train": 3, "val": 2, "test": 9})
    whole = frozen.examples(source)
    assert (whole.pool.name, whole.test.name, len(whole.test), whole.big_vision) == ("train", "test", 9, False)
    part, keys = frozen.examples(source, 4), whole.test.keys
    drawn = sorted(keys, key=lambda key: hashlib.blake2b(f"0:{key}".encode(), digest_size=8).digest())[:4]
    assert len(part.whole) == 9 and part.test.keys == [key for key in keys if key in drawn]


def test_a_renaming_is_told_by_the_other_images_of_a_class_never_by_an_image_itself():
    rng = np.random.default_rng(0)
    numbers = np.arange(1, 61)
    classes = np.repeat(np.arange(10), 6)
    renamed = rng.permutation(10)[classes]
    sets = tuple(frozenset({int(c)}) for c in classes)
    assert real._renamed(numbers, renamed, sets) == 1.0
    # each given class over images of other classes: no two others agree, so that the first of them is said
    spread = np.tile(np.arange(10), 6)
    by_hand = []
    for i, label in enumerate(spread):
        others = [int(classes[j]) for j in np.flatnonzero(spread == label) if classes[j] != classes[i]]
        best = max(sorted(set(others)), key=others.count)
        by_hand.append(best == classes[i])
    assert real._renamed(numbers, spread, sets) == np.mean(by_hand) == 0.0
    one = tuple(frozenset({int(c)} if i else set()) for i, c in enumerate(classes))
    assert real._renamed(numbers, renamed, one) == 1.0  # an image that nobody judged is not asked
    for votes, given, share in (
        ((5, 5, 5, 1), (0, 0, 0, 0), 0.75), ((5, 5, 1), (0, 0, 0), 0.0),  # the most often given; of a tie the lower
        ((0, 0, 1, 1), (5, 5, 6, 6), 1.0), ((0, 0, 1), (5, 5, 6), 0.0),  # two images a class on average, or nothing
    ):  # fmt: skip
        sets = tuple(frozenset({c}) for c in votes)
        assert real._renamed(np.arange(1, len(votes) + 1), np.array(given), sets) == share
    few = tuple(frozenset({i}) for i in range(4))
    assert real._renamed(np.arange(1, 5), np.array([0, 0, 1, 1]), few) == 0.0


@pytest.mark.parametrize(
    ("resize", "mode", "before", "expected"),
    [
        ("checkpoint", "center", None, {"crop_pct": 0.9, "crop_mode": "center"}),
        ("checkpoint", "squash", (40, 36), {"crop_pct": 0.9, "crop_mode": "squash", "before": [40, 36]}),
        ("squash", "center", (40, 36), {"crop_pct": None, "crop_mode": None}),
    ],
)
def test_a_protocol_says_how_images_become_inputs(resize, mode, before, expected):
    from vitft.evaluation.network import open_network
    from vitft.settings import Preprocess

    network = open_network("vit-mini", {}, device="cpu")
    pp = Preprocess((32, 48), resize, "bicubic", False, crop_pct=0.9, crop_mode=mode, before=before)
    settings = network.settings.model_copy(update={"normalise": "half", "posembed_resize": "bicubic"})
    found = dataclasses.replace(network, preprocess=pp, settings=settings).protocol
    assert found == {
        "resolution": [32, 48], "resize": resize, "interpolation": "bicubic", "antialias": False, "normalise": "half",
        "posembed_resize": "bicubic", "gelu": network.info.architecture.gelu, **expected,
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["linear", "two heads", "convolution"])
def test_a_head_of_zeros_is_refused_and_one_that_tells_classes_apart_is_not(kind):
    from types import SimpleNamespace

    from vitft.evaluation.network import refuse_zero_head
    from vitft.models.checkpoint import Checkpoint

    info = build("timm:test_vit", 2, Settings(resolution=32), from_scratch=True).info

    def layers(weight: float, bias: tuple[float, float]) -> list[torch.nn.Module]:
        made: list[torch.nn.Module] = []
        for _ in range(2 if kind == "two heads" else 1):
            layer = torch.nn.Conv2d(3, 2, 1) if kind == "convolution" else torch.nn.Linear(3, 2)
            torch.nn.init.zeros_(layer.weight).view(-1)[-1] = weight
            with torch.no_grad():
                layer.bias.copy_(torch.tensor(bias))  # type: ignore[union-attr]
            made.append(layer)
        return made

    def network(made: list[torch.nn.Module]) -> object:
        inside = [torch.nn.Sequential(torch.nn.Linear(3, 3), layer) for layer in made]
        head = tuple(inside) if len(inside) > 1 else inside[0]
        return SimpleNamespace(net=SimpleNamespace(get_classifier=lambda: head), info=info)

    def checkpoint(made: list[torch.nn.Module]) -> Checkpoint:
        names = ("head", "head_dist") if len(made) > 1 else ("head.fc",) if kind == "convolution" else ("head",)
        pairs = zip(names, made, strict=True)
        return Checkpoint(info, {f"{n}.{k}": t.detach() for n, m in pairs for k, t in m.named_parameters()}, ())

    with torch.no_grad():
        for form in (network, checkpoint):
            for bias in ((0.0, 0.0), (-3.0, -3.0)):
                refused(lambda form=form, bias=bias: refuse_zero_head(form(layers(0.0, bias))), "all zeros",
                        kind=CheckpointError)  # fmt: skip
            refuse_zero_head(form(layers(0.5, (0.0, 0.0))))  # type: ignore[arg-type]
            refuse_zero_head(form(layers(0.0, (0.0, 0.1))))  # type: ignore[arg-type]
            if kind == "two heads":
                refuse_zero_head(form([layers(0.0, (0.0, 0.0))[0], layers(0.5, (0.0, 0.0))[0]]))  # type: ignore[arg-type]
    refuse_zero_head(Checkpoint(info, {}, ()))


@pytest.mark.parametrize(("mode", "expected"), [("none", "center"), ("squash", "squash"), ("center", "center")])
def test_a_crop_fraction_stands_in_for_the_checkpoints_own_pixels(mode, expected, monkeypatch):
    from vitft.evaluation import network as networks
    from vitft.settings import Preprocess

    own = Preprocess((32, 32), "checkpoint", crop_pct=0.9, crop_mode=mode, before=(40, 40))
    monkeypatch.setattr(networks, "preprocess", lambda *_: own)
    plain = networks.open_network("vit-mini", {}, device="cpu").preprocess
    cropped = networks.open_network("vit-mini", {}, crop_pct=0.5, device="cpu").preprocess
    assert plain == own
    assert cropped == dataclasses.replace(own, crop_pct=0.5, before=None, crop_mode=expected)


def test_seconds_are_told_to_the_millisecond_and_images_by_them():
    from vitft.evaluation import evaluate
    from vitft.evaluation.network import open_network
    from vitft.evaluation.predict import Predictions

    network = open_network("vit-mini", {}, device="cpu")
    split = dataclasses.replace(rows(7, [0, 1, 0, 1, 0, 1, 1]), class_names=("a", "b"))
    subject = evaluate.Subject(split, None, "", (), None)
    for seconds, told, speed in ((1.21357, 1.214, 5.77), (0.0, 0.0, None)):
        done = evaluate.Evaluation(network, subject, Predictions(np.zeros((7, 2), np.float32)), seconds)
        timing = evaluate.result(done).timing
        assert (timing.evaluate_s, timing.images_per_s) == (told, speed)


def test_several_models_are_opened_as_one_is(monkeypatch):
    from vitft.evaluation import several
    from vitft.progress import Hooks

    seen: list[tuple[object, ...]] = []

    def opening(model: object, fixed: object, **how: object) -> None:
        seen.append((model, fixed, how))
        raise CheckpointError("enough")

    monkeypatch.setattr(several, "open_network", opening)
    how = several.How({"resolution": 64}, 0.5, "cpu", "bf16")
    with pytest.raises(CheckpointError, match="enough"):
        several._evaluated("m", None, "m", "", None, how, Hooks(), False)  # type: ignore[arg-type]
    assert seen == [("m", {"resolution": 64}, {"crop_pct": 0.5, "device": "cpu", "precision": "bf16"})]


def test_imagenet_is_its_name_or_its_classes_and_its_files():
    from vitft.evaluation.evaluate import is_imagenet

    def split(task: str, classes: int, keys: list[str]) -> Split:
        names = tuple(map(str, range(classes)))
        return dataclasses.replace(rows(2, [0, 1]), task=task, keys=keys, class_names=names)

    val, other = ["ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000002.JPEG"], ["a", "b"]
    for task, classes, keys, yes in (
        ("imagenet", 2, other, True), ("t", 1000, val, True), ("t", 1000, other, False), ("t", 10, val, False),
    ):  # fmt: skip
        assert is_imagenet(split(task, classes, keys)) is yes, (task, classes)


def test_pixels_are_resampled_as_the_way_of_resizing_has_it_or_as_the_checkpoint_says():
    from vitft.evaluation.network import settings_for
    from vitft.models import loading

    info = loading.load("vit-mini").info
    for said, resize, expected in (
        ("bilinear", "checkpoint", "bilinear"), ("bicubic", "checkpoint", "bicubic"), ("", "checkpoint", "bicubic"),
        ("bicubic", "squash", "bilinear"), ("bilinear", "squash", "bilinear"),
    ):  # fmt: skip
        own = dataclasses.replace(info, kind="hub", interpolation=said)
        assert settings_for(own, {"resize": resize}).interpolation == expected
        assert settings_for(own, {"resize": resize, "interpolation": "bicubic"}).interpolation == "bicubic"


def test_images_are_numbered_from_one_and_those_that_nobody_judged_count_for_nothing():
    sets = [frozenset({0}), frozenset({1, 2}), frozenset()]
    agreed = real._agreement(np.array([0, 1, 2, 3, 4]), np.array([0, 0, 2, 5, 1]), sets)
    assert agreed == (1.0, 2)
    assert real._agreement(np.array([1, 2]), np.array([3, 2]), sets) == (0.5, 2)


def test_rows_of_other_processes_are_joined_to_ones_own_and_to_none():
    from vitft.evaluation import predict as module

    class Two:
        size = 2

        def __init__(self, widths: list[int | None], other: np.ndarray, seen: list[int]) -> None:
            self.widths, self.other, self.seen = widths, other, seen

        def all(self, own: int | None) -> list[int | None]:
            return [own, *self.widths]

        def sum(self, tensors: list[torch.Tensor]) -> None:
            tensors[0] += torch.from_numpy(self.other)
            tensors[1] += torch.tensor(self.seen)

    theirs = np.array([[0, 0], [3, 4]], dtype=np.float32)
    for own, mine in ((None, [0, 0]), (np.array([[1, 2], [0, 0]], dtype=np.float32), [1, 0])):
        seen = np.array(mine)
        found = module._joined(own, seen, Two([2], theirs, [0, 1]))  # type: ignore[arg-type]
        assert found is not None and found.tolist() == [[1, 2] if own is not None else [0, 0], [3, 4]]
        assert seen.tolist() == [mine[0], 1] and found.dtype == np.float32
    assert module._joined(None, np.zeros(2, int), Two([None], theirs, [0, 0])) is None  # type: ignore[arg-type]


def test_what_a_network_is_made_of_changes_with_each_of_its_parts():
    from vitft.evaluation.network import open_network

    network = open_network("vit-mini", {}, device="cpu")
    arch, settings = network.info.architecture, network.settings
    others = [
        *(dataclasses.replace(arch, **{name: value}) for name, value in (
            ("name", "x"), ("kwargs", {**arch.kwargs, "depth": 1}), ("norm_eps", 0.5), ("activation", "silu"),
            ("gelu", "tanh"),
        )),
    ]  # fmt: skip
    infos = [dataclasses.replace(network.info, architecture=one) for one in others]
    infos.append(dataclasses.replace(network.info, part="ema"))
    networks = [dataclasses.replace(network, info=info) for info in infos]
    resized = settings.model_copy(update={"posembed_resize": "bicubic"})
    networks += [network, dataclasses.replace(network, settings=resized)]
    made = [json.dumps(one.made_of, sort_keys=True, default=str) for one in networks]
    assert settings.posembed_resize != "bicubic" and len(set(made)) == len(made) == 8
