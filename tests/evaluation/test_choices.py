"""What an evaluation opens, passes on, counts and keeps: each choice is heard, each limit stepped over."""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.data.test_edges import Owner, rows
from tests.layouts import refused
from vitft.errors import CheckpointError, DataDamaged, UsageError, VitftError
from vitft.evaluation import evaluate, features, files, network, onnx_network, predict, predictions, real, stored
from vitft.evaluation.class_names import translated
from vitft.evaluation.network import Network, open_network
from vitft.progress import Hooks
from vitft.settings import Preprocess


@pytest.fixture(scope="module")
def mini() -> Network:
    return open_network("vit-mini", {}, device="cpu")


# --- what is evaluated on --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("here", "absent", "told"), [(99, 1, False), (100, 1, True), (197, 2, False), (199, 2, True)])
def test_missing_names_are_told_below_one_in_a_hundred_of_the_official_images(here, absent, told, monkeypatch):
    names = tuple(f"n{i}" for i in range(absent))
    monkeypatch.setattr(evaluate, "_absent", lambda *_: (absent, names))
    source: Any = Owner("mine", {"val": here, "test": here})
    found = evaluate.subject(source, with_real=False, limit=None, complete=False)
    assert (found.missing, found.stamp, found.split.name) == (names if told else (), f"subset {here}", "test")


@pytest.mark.parametrize(
    ("n", "absent", "stamp"), [(6083, 1, "subset 6083"), (6084, 0, ""), (6085, 0, ""), (6086, None, "6086 images")]
)
def test_a_test_split_that_has_two_official_counts_is_whole_with_either(n, absent, stamp):
    source: Any = Owner("caltech101", {"test": n})
    found = evaluate.subject(source, with_real=False, limit=None, complete=False)
    assert (found.absent, found.stamp) == (absent, stamp)


@pytest.mark.parametrize("classes", [1000, 8])
def test_images_are_imagenets_by_their_classes_and_all_their_names(classes):
    keys = [real.file_name(2), "b" if classes == 1000 else real.file_name(3)]
    split = dataclasses.replace(rows(2, [0, 1], "test"), keys=keys, class_names=tuple(map(str, range(classes))))
    source: Any = SimpleNamespace(task="mine", splits=("test",), open=lambda _: split)
    found = evaluate.subject(source, with_real=False, limit=None, complete=False)
    assert (found.absent, found.stamp, found.real) == (None, "", None)


def test_val_is_evaluated_on_where_there_is_no_test():
    source: Any = Owner("mine", {"train": 3, "val": 4})
    assert evaluate.subject(source, with_real=False, limit=None, complete=False).split.name == "val"


def test_a_subject_is_called_by_its_part_of_what():
    split = dataclasses.replace(rows(3, [0, 1, 1], "val"), task="pets")
    subject = evaluate.Subject(split, None, "", (), None)
    assert evaluate.title(subject) == "pets, val, 3 images"
    part = dataclasses.replace(subject, stamp="subset 3")
    assert evaluate.title(part) == "pets, subset 3: not the accuracy on pets"
    whole = dataclasses.replace(part, split=dataclasses.replace(split, task="imagenet"))
    assert evaluate.title(whole) == "imagenet, subset 3: not ImageNet accuracy"


# --- what is counted -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [2, 5, 6, 7])
def test_the_five_best_of_five_classes_say_nothing_and_a_class_apart_is_left_out(k):
    rng = np.random.default_rng(k)
    labels = rng.integers(0, 2, 40)
    split = dataclasses.replace(rows(40, [int(y) for y in labels]), class_names=tuple("abcdefg"[:k]))
    logits = rng.normal(size=(40, k)).astype(np.float32)
    subject = evaluate.Subject(split, None, "", (), None, frozenset("ab"))
    done = evaluate.Evaluation(None, subject, predict.Predictions(logits), 1.0)  # type: ignore[arg-type]
    found = done.metrics
    among = sum(int(label in np.argsort(-row)[:5]) for row, label in zip(logits, labels, strict=True))
    assert (found.top5_correct, found.top5) == ((among, among / 40) if k > 5 else (None, None))
    two = int((logits[:, :2].argmax(1) == labels).sum())
    assert found.correct == (logits.argmax(1) == labels).sum() and found.n == 40
    if k == 2:
        assert done.among_present is None
    else:
        assert done.among_present is not None and done.among_present.correct == two
        assert done.among_present.top1 == two / 40 and done.among_present.ci95[0] < two / 40
        assert done.metrics == found  # the answers among all classes are still there


def test_an_evaluation_is_computed_as_it_was_asked_for(mini, monkeypatch):
    split = dataclasses.replace(rows(4, [0, 1, 1, 0], "test"), task="pets")
    turned = dataclasses.replace(split, class_names=split.class_names[::-1], labels=1 - split.labels)
    asked: list[Any] = []
    phases: list[tuple[str, int, int]] = []

    def computing(*given: Any, on_progress: Callable[[int], None], **how: Any) -> predict.Predictions:
        asked.append((given, how))
        on_progress(3)
        return predict.Predictions(np.zeros((4, 2), np.float32))

    def making(*given: Any, **how: Any) -> str:
        asked.append((given, how))
        return "batches"

    monkeypatch.setattr(evaluate, "eval_batches", making)
    monkeypatch.setattr(evaluate, "predict", computing)
    monkeypatch.setattr(evaluate, "evaluation_batch", lambda *of: 11 if of == (mini.net, mini.device) else 0)
    half = dataclasses.replace(mini, precision="bf16")
    hooks = Hooks(phase=lambda *told: phases.append(told))
    labels = real.Subset(np.arange(4), (frozenset({1}),) * 4, (), 1.0)
    for clock, way, expected, fitted, judged in (
        ([10.0, 12.5], {"batch_size": 3, "workers": 5, "keep": "make"}, (3, 5, "make"), turned, None),
        ([0.0, 0.5], {}, (11, 2, "no"), dataclasses.replace(split), labels),  # ReaL's, and classes in its order
    ):
        monkeypatch.setattr(evaluate, "head_fits", lambda *of, fitted=fitted: fitted if of[1] is split else None)
        subject = evaluate.Subject(split, judged, "", (), None)
        monkeypatch.setattr(evaluate, "time", SimpleNamespace(monotonic=iter(clock).__next__))
        done = evaluate.evaluate(half, subject, hooks=hooks, **way)  # type: ignore[arg-type]
        size, workers, keep = expected
        made, computed = asked[-2:]
        assert done.subject == dataclasses.replace(subject, split=fitted)
        assert made == ((fitted, mini.preprocess, size, mini.device, workers, hooks), {"keep": keep})
        assert computed == ((mini.net, "batches", 4, 2), {"precision": "bf16"})
        assert done.seconds == clock[1] - clock[0] and done.network.info.assumed == mini.info.assumed
    assert phases == [("evaluate pets test", 3, 4)] * 2


def test_an_evaluation_says_what_it_was_of(mini):
    split = dataclasses.replace(rows(4, [0, 1, 1, 0], "test", completeness="full"), class_names=tuple("abc"))
    logits = np.eye(3, dtype=np.float32)[[0, 1, 0, 2]]
    subject = evaluate.Subject(split, None, "", ("x", "y"), 2, frozenset("ab"), "/data/pets")
    done = evaluate.Evaluation(mini, subject, predict.Predictions(logits), 1.0)
    found = evaluate.result(done)
    where = found.provenance
    assert (where.path, where.classes_without_test, found.missing) == ("/data/pets", ("c",), ("x", "y"))
    assert (where.completeness, found.stamp) == ("full", "")
    assert found.among_present is not None and (found.among_present.correct, found.metrics.correct) == (3, 2)
    assert (found.num_classes, found.class_names, found.preprocess) == (3, ("a", "b", "c"), mini.preprocess)
    files_digest = b"".join(hashlib.blake2b(split.read(i), digest_size=16).digest() for i in range(4))
    assert where.images_digest == hashlib.sha256(files_digest).hexdigest()
    inside = dataclasses.replace(subject, path="", stamp="subset 4")
    part = evaluate.result(dataclasses.replace(done, subject=inside))
    assert (part.provenance.path, part.provenance.completeness, part.stamp) == (None, "partial", "subset 4")


# --- how a network is opened -----------------------------------------------------------------------------------------


def test_what_means_nothing_is_refused_by_whoever_opens_a_network():
    for crop in (0.0, 1.5):
        refused(lambda c=crop: open_network("vit-mini", {}, crop_pct=c), "no fraction", kind=UsageError)
    refused(lambda: open_network("vit-mini", {"lr": 0.1}), "without training", kind=UsageError)
    refused(lambda: open_network("vit-mini", {}, device="mars"), "not here", kind=UsageError)
    declared = open_network("vit-mini", {"norm_eps": 0.5}, device="cpu")  # what tensors do not tell reaches the file
    assert declared.info.architecture.norm_eps == 0.5


def test_a_checkpoint_that_is_open_is_not_opened_again(mini, monkeypatch):
    opened = network.loading.load("vit-mini")
    monkeypatch.setattr(network.loading, "load", lambda *_, **__: pytest.fail("it is open"))
    assert open_network(opened, {}, device="cpu").info == mini.info


def test_a_runs_way_of_preparing_images_is_its_evaluations_where_nothing_is_fixed(mini, tmp_path, monkeypatch):
    own = Preprocess((48, 64), "resize-small", "bicubic", False, (0.1,) * 3, (0.2,) * 3, 0.7, "squash")
    asked: list[tuple[Path, type]] = []

    def reading(path: Path, kind: type) -> Any:
        asked.append((path, kind))
        return None if "lost" in str(path) else SimpleNamespace(preprocess=own)

    monkeypatch.setattr(network, "load", reading)
    info = dataclasses.replace(mini.info, kind="run", path=str(tmp_path / "w.safetensors"), before=(9, 9))
    assert network.own_preprocess(info) == own and asked == [(tmp_path / "result.json", network.RunResult)]
    assert network.own_preprocess(dataclasses.replace(info, path=str(tmp_path / "lost" / "w"))) is None
    assert network.own_preprocess(dataclasses.replace(info, path="")) is None
    assert network.own_preprocess(dataclasses.replace(info, kind="npz")) is None and len(asked) == 2
    settings = network.settings_for(info, {})
    assert (settings.resize, settings.interpolation, settings.antialias) == ("resize-small", "bicubic", False)
    assert settings.size == info.native
    fixed = network.settings_for(info, {"resize": "squash", "antialias": True, "resolution": [40, 56]})
    assert (fixed.resize, fixed.interpolation, fixed.antialias, fixed.size) == ("squash", "bicubic", True, (40, 56))
    plain = network.settings_for(dataclasses.replace(info, kind="npz"), {})
    assert (plain.resize, plain.antialias, plain.size) == ("checkpoint", True, info.native)
    for says, mean, crop, mode in ((own, 0.1, 0.7, "squash"), (None, info.mean[0], info.crop_pct, info.crop_mode)):
        pp = network.preprocess(fixed, info, says)
        assert (pp.size, pp.resize, pp.interpolation, pp.antialias) == ((40, 56), "squash", "bicubic", True)
        assert (pp.mean[0], pp.crop_pct, pp.crop_mode, pp.before) == (mean, crop, mode, (9, 9))
        assert pp.std == ((0.2,) * 3 if says else info.std)


@pytest.mark.parametrize(
    ("word", "mean", "std"),
    [
        ("none", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        ("half", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("checkpoint", (0.3, 0.2, 0.1), (0.6, 0.5, 0.4)),
    ],
)
def test_pixels_are_normalised_by_the_word_for_it(mini, word, mean, std):
    info = dataclasses.replace(mini.info, mean=(0.3, 0.2, 0.1), std=(0.6, 0.5, 0.4))
    pp = network.preprocess(network.settings_for(info, {"normalise": word}), info)
    assert (pp.mean, pp.std) == (mean, std)


def test_heads_of_imagenet_21k_are_told_by_their_width(mini):
    split = rows(2, [0, 1])
    for outputs, known in ((21840, False), (21841, True), (21842, True), (21843, True), (21844, False)):
        head = dataclasses.replace(mini, info=dataclasses.replace(mini.info, num_classes=outputs), class_names=())
        error = refused(lambda h=head: network.head_fits(h, split), f"has {outputs} classes", kind=CheckpointError)
        assert ("(an ImageNet-21k head)" in str(error)) == known
    named = dataclasses.replace(mini, info=dataclasses.replace(mini.info, num_classes=3), class_names=("x", "b", "c"))
    error = refused(lambda: network.head_fits(named, split), "the class 'a'", kind=CheckpointError)
    assert error.lines[1:] == (
        "Legal: the classes of the head, or some of them, by their names.",
        f"Fine-tune it first: vitft finetune drawn --model {mini.info.name}.",
    )


# --- ONNX files ------------------------------------------------------------------------------------------------------


class Session:
    """Answers as onnxruntime does, and keeps what it is given."""

    def __init__(self, said: str | None = None) -> None:
        self.given: list[Any] = []
        self.said = said

    def run(self, outputs: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.given.append((outputs, inputs))
        [images] = inputs.values()
        return [images.sum((2, 3)), images]

    def get_modelmeta(self) -> Any:
        return SimpleNamespace(custom_metadata_map={} if self.said is None else {"vitft": self.said})


def test_an_onnx_file_answers_for_float_images_and_has_no_head_of_its_own():
    net = onnx_network.OnnxNetwork(session := Session())
    images = torch.arange(24.0).reshape(2, 3, 2, 2)
    assert torch.equal(net(images.to(torch.bfloat16)), images.sum((2, 3)))
    [(outputs, inputs)] = session.given
    assert outputs == ["logits"] and inputs["images"].dtype == np.float32
    assert not [*net.get_classifier().parameters()] and (onnx_network.KEY, onnx_network.FILE) == ("vitft", "model.onnx")


def test_an_onnx_files_record_is_read_as_it_was_written_but_for_its_places(mini, tmp_path, monkeypatch):
    info = dataclasses.replace(mini.info, name="far/away/run", path="/far/away/w", notes=("n",), resolution=(24, 40))
    pp = Preprocess((24, 40), "squash", "bicubic", False, (0.1,) * 3, (0.2,) * 3, 0.7, "squash", (9, 9))
    text = onnx_network.Record(info, pp, ("a", "b")).to_json()
    assert "far/away" not in text and json.loads(text)["checkpoint"]["name"] == "run"
    file = tmp_path / "m.onnx"
    file.write_bytes(b"weights")
    session = Session(text)
    monkeypatch.setattr(onnx_network, "start", lambda path: session if path == file else None)
    net, record = onnx_network.read(file)
    assert net.session is session and (record.preprocess, record.class_names) == (pp, ("a", "b"))
    assert record.checkpoint == dataclasses.replace(
        info, name="run", kind="onnx", path=str(file), sha256=hashlib.sha256(b"weights").hexdigest(), notes=()
    )
    for device in ("auto", "cpu"):
        opened = open_network(str(file), {}, device=device)
        assert isinstance(opened.net, onnx_network.OnnxNetwork) and opened.info == record.checkpoint
        assert (opened.preprocess, opened.class_names, opened.precision) == (pp, ("a", "b"), "float32")
        assert (opened.settings.size, opened.settings.resize, str(opened.device)) == ((24, 40), "squash", "cpu")
    for fixed, crop, device, baked in (
        ({"gelu": "tanh"}, None, "cpu", "gelu"), ({}, 0.5, "auto", "crop_pct"), ({}, None, "cuda", "device"),
        ({"resize": "squash", "gelu": "tanh"}, 0.5, "mps", "resize, gelu, crop_pct, device"),
    ):  # fmt: skip
        refused(
            lambda f=fixed, c=crop, d=device: open_network(str(file), f, crop_pct=c, device=d),
            f"has {baked} baked in.", kind=UsageError,
        )  # fmt: skip
    for said, words in ((None, "does not say how"), ("{}", "2 fields are wrong")):
        session.said = said
        refused(lambda: onnx_network.read(file), words, kind=CheckpointError)


def test_onnxruntime_runs_a_file_quietly_on_the_cpu_with_torchs_threads(monkeypatch):
    made: list[Any] = []
    runtime = SimpleNamespace(
        SessionOptions=SimpleNamespace, InferenceSession=lambda *of, **how: made.append((of, how)) or "a session"
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    assert onnx_network.start(Path("x.onnx")) == "a session"
    [((path, options), how)] = made
    assert (path, how) == ("x.onnx", {"providers": ["CPUExecutionProvider"]})
    assert (options.log_severity_level, options.intra_op_num_threads) == (3, torch.get_num_threads())  # 3: errors alone
    monkeypatch.setattr(onnx_network, "find_spec", lambda name: None if name == "onnxruntime" else name)
    for call in (onnx_network.available, lambda: onnx_network.read(Path("x.onnx"))):
        refused(call, "which is not installed", kind=UsageError)


# --- predictions -----------------------------------------------------------------------------------------------------


class Two:
    """A group of two, this process's part of which is all that is looked at."""

    size = 2
    entered = 0

    def together(self) -> Any:
        self.entered += 1
        return nullcontext()

    def all(self, own: Any) -> list[Any]:
        return [own]

    def sum(self, tensors: list[torch.Tensor]) -> None:
        tensors[0][-1] += 7
        tensors[1][-1] += 1


def test_batches_are_run_in_the_precision_and_the_group_they_are_given(monkeypatch):
    computed: list[tuple[str, str]] = []
    sizes: list[tuple[int, int]] = []
    monkeypatch.setattr(
        predict, "forward_in", lambda device, asked: computed.append((str(device), asked)) or nullcontext()
    )
    monkeypatch.setattr(predict.compiling, "usual", lambda *of: sizes.append(of) or nullcontext())
    parts = [(torch.arange(a, b), torch.full((b - a, 2, 1, 1), float(a + 1))) for a, b in ((0, 2), (2, 4))]
    done: list[int] = []
    group: Any = Two()
    found = predict.predict(torch.nn.Flatten(), predict.EvalBatches(2, iter(parts)), 5, 2, precision="bf16",
                            on_progress=done.append, group=group)  # fmt: skip
    assert found.logits.tolist() == [[1, 1], [1, 1], [3, 3], [3, 3], [7, 7]] and found.logits.dtype == np.float32
    assert (done, computed, sizes, group.entered) == ([4, 5], [("cpu", "bf16")], [(2, 2)] * 2, 1)
    assert found.answers.tolist() == [0] * 5
    assert predict.Predictions(np.array([[1, 3, 2], [5, 0, 5]], np.float32)).answers.tolist() == [1, 0]
    own = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 3))
    modes: list[bool] = []
    own.register_forward_hook(lambda *_: modes.append(own.training))
    predict.predict(own, parts, 4, 3)
    assert computed[1:] == [("cpu", "auto")] and sizes[2:] == [(2, 0)] * 2
    assert modes == [False] * 2 and own.training
    with pytest.raises(VitftError, match=r"Image -1 .* only 4"):
        predict.predict(own, [(torch.tensor([0, -1]), torch.zeros(2, 2, 1, 1))], 4, 3)


def test_answers_are_computed_where_the_network_is_and_kept_as_float32(monkeypatch):
    computed: list[str] = []
    devices: list[str] = []
    monkeypatch.setattr(predict, "forward_in", lambda _, asked: computed.append(asked) or nullcontext())
    monkeypatch.setattr(predict, "moved", lambda images, device: devices.append(device.type) or images)
    away = torch.nn.Linear(2, 2, device="meta")
    images = torch.tensor([[1.0, 2.0], [0.5, -3.0]])
    found = predict.gather(away, lambda x: x.bfloat16(), [(np.arange(2), images)], 2, "logits")
    assert found.tolist() == images.tolist() and found.dtype == np.float32
    assert (computed, devices) == (["auto"], ["meta"])


def test_answers_that_are_no_numbers_are_named_one_by_one_up_to_eight():
    def told(n: int, broken: int) -> str:
        images = torch.zeros(n, 2, 1, 1)
        images[:broken, 1] = float("inf")  # one of two answers
        flat = torch.nn.Flatten()
        return str(refused(lambda: predict.predict(flat, [(np.arange(n), images)], n, 2), kind=VitftError))

    assert "The network's logits are NaN or infinite for 8 of 9 images: 0, 1, 2, 3, 4, 5, 6, 7." in told(9, 8)
    assert "infinite for 10 of 11 images" in told(11, 10) and "7 and 2 more" in told(11, 10)


def test_what_was_answered_is_read_back_as_it_was(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = tmp_path / "predictions.parquet"
    for k, names in ((3, ("a", "b", "c")), (7, ("a", "b"))):
        logits = np.random.default_rng(k).normal(size=(9, k)).astype(np.float32)
        labels = np.arange(9) % k
        predictions.save(file, [f"k{i}" for i in range(9)], labels, logits, names)
        back = predictions.load(file)
        order = np.argsort(-logits, axis=1)[:, :5]
        chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        assert back.keys == tuple(f"k{i}" for i in range(9)) and back.labels.tolist() == labels.tolist()
        assert (back.labels.dtype, back.top5.dtype, back.probabilities.dtype) == (np.int64, np.int64, np.float32)
        assert back.top5.tolist() == order.tolist() and back.top5.shape == (9, min(5, k))
        np.testing.assert_allclose(back.probabilities, np.take_along_axis(chances, order, 1), rtol=1e-5)
        said = dict(enumerate(names))
        assert back.label_names == tuple(said.get(int(y), "") for y in labels)
        assert back.answer_names == tuple(said.get(int(y), "") for y in order[:, 0])
        right = (order[:, 0] == labels).tolist()
        assert back.correct.tolist() == predictions.load_correct(file).tolist() == right and any(right)
    old = pq.read_table(file).drop_columns(["label_name"])
    pq.write_table(old, file, row_group_size=2)  # an older file, in parts
    again = predictions.load(file)
    assert (again.label_names, again.answer_names) == (("",) * 9, back.answer_names)
    assert again.top5.tolist() == back.top5.tolist() and again.correct.tolist() == right
    assert predictions.load_correct(file).tolist() == right
    pq.write_table(old.drop_columns(["probabilities"]), file)
    refused(lambda: predictions.load(file), f"'{file}' holds no predictions", kind=DataDamaged)
    whole = pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.int32()))
    assert predictions._rows(whole.slice(1, 2), 2).tolist() == [[3, 4], [5, 6]]
    assert predictions._rows(whole.slice(0, 2), 2).tolist() == [[1, 2], [3, 4]]
    assert predictions._name("ab", -1) == predictions._name("ab", 2) == "" and predictions._name("ab", 1) == "b"
    inner = pa.ListArray.from_arrays(pa.array([0, 2, 4], pa.int32()), pa.array([9, 1, 2, 3, 4, 9], pa.int64())[1:5])
    assert predictions._rows(inner, 2).tolist() == [[1, 2], [3, 4]]
    assert predictions._ints(pa.array([5, 6, 7, 8])[1:3]).tolist() == [6, 7]


@pytest.mark.parametrize("gone", [(), ("a",), ("b",), ("a", "b")])
def test_runs_are_compared_where_both_have_their_predictions(gone, tmp_path, monkeypatch):
    for name in {"a", "b"} - {*gone}:
        (tmp_path / name).mkdir()
        predictions.save(
            tmp_path / name / "predictions.parquet", ["x"], np.array([0]), np.ones((1, 2), np.float32), "pq"
        )
    for seeds, units in ((None, None), ({"3": 0}, None), (None, ("u",))):  # those of one seed lie in the run's folder
        result: Any = SimpleNamespace(
            seeds=seeds, units=units, seed=3, task="t", provenance=SimpleNamespace(tested=lambda task: task)
        )
        found, notes = stored.comparisons([(name, result, tmp_path / name) for name in "ab"])
        assert (len(found), len(notes)) == ((0, 1) if gone else (1, 0))


# --- files, names, features ------------------------------------------------------------------------------------------


def test_files_are_answered_in_the_networks_precision(mini, tmp_path, monkeypatch):
    from PIL import Image

    computed: list[str] = []
    monkeypatch.setattr(predict, "forward_in", lambda _, asked: computed.append(asked) or nullcontext())
    Image.new("RGB", (9, 7)).save(tmp_path / "a.png")
    half = dataclasses.replace(mini, precision="bf16")
    way: dict[str, Any] = {"top": 1, "batch_size": 1, "on_broken": lambda path, error: pytest.fail(str(error))}
    [answer] = files.answers(half, [tmp_path / "a.png"], mini.class_names, **way)
    assert computed == ["bf16"] and answer.path == str(tmp_path / "a.png")


def test_outputs_are_called_by_what_is_known_of_them():
    def named(count: int, names: tuple[str, ...] = (), texts: tuple[str, ...] = ()) -> tuple[str, ...]:
        net: Any = SimpleNamespace(class_names=names, descriptions=texts, info=SimpleNamespace(num_classes=count))
        return files.names_of(net)

    assert named(4, ("a", "b", "c", "d"), ("ant", "", "c", "dog")) == ("a (ant)", "b", "c", "d (dog)")
    assert named(2, ("a", "b")) == ("a", "b")
    assert named(3) == ("class 0", "class 1", "class 2")
    imagenet = named(1000)
    assert (imagenet[0], imagenet[-1]) == ("tench, Tinca tinca", "toilet tissue, toilet paper, bathroom tissue")
    assert len(imagenet) == 1000 and len(named(21841)) == 21841


def test_a_class_is_meant_by_each_of_its_spellings_and_by_its_place_where_two_share_one():
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    ids = tuple(info.index_to_label_name(i) for i in range(1000))
    words = tuple(info.index_to_description(i) for i in range(1000))
    tench, tabby, bird, machine = (ids[i] for i in (0, 281, 134, 517))
    assert words[134].split(",")[0] == words[517].split(",")[0] == "crane"
    some = (tench, tabby, bird, machine)
    assert translated(("Tabby", " TENCH ", "crane", "crane"), some) == (tabby, tench, bird, machine)
    assert translated(("crane", "tabby-CAT", "tench,  tinca_tinca", "x", "tabby"), some) == (
        "crane", "tabby-CAT", tench, "x", tabby,
    )  # fmt: skip
    assert translated((tabby, tench), (tench, tabby)) == (tabby, tench)
    assert translated(("", "B"), ("a", "b")) == ("", "b")
    assert translated(("x", tabby.upper()), (tabby, tench)) == ("x", tabby)
    assert translated((), some) == () and translated(some, some) is some
    odd = tuple(f"other {i}" for i in range(101))
    assert translated((*odd[:100], *words[100:]), ids) == ids  # nine of ten mean the same, place by place
    assert translated((*odd, *words[101:]), ids)[:101] == odd
    assert translated((*words, "one more"), ids) == (*ids, "one more")
    own = tuple(f"a{i}" for i in range(10))
    assert translated(("odd", *own[1:]), own) == ("odd", *own[1:])  # no WordNet ids: nothing is known of the rest


def test_features_are_named_by_all_they_depend_on_and_kept_where_there_is_room(tmp_path, monkeypatch):
    monkeypatch.setenv("VITFT_CACHE", str(tmp_path))
    split = rows(2, [0, 1])
    pp = Preprocess((4, 6), "squash")
    who = features.identity("abc", {"gelu": "tanh"}, pp, split, "bf16")
    told = {
        "version": 1, "checkpoint": "abc", "network": {"gelu": "tanh"}, "split": split.digest, "precision": "bf16",
        "preprocess": json.loads(json.dumps(dataclasses.asdict(pp))), "images": who.images,
    }  # fmt: skip
    name = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]
    assert features.path(who) == tmp_path / "features" / f"{name}.safetensors"
    wanted = np.arange(6.0).reshape(2, 3)[:, ::-1]
    monkeypatch.setattr(features.room, "make", lambda size: size < 100)
    assert features.cached(who, 2, lambda: wanted).tolist() == wanted.tolist() and not features.path(who).exists()
    monkeypatch.setattr(features.room, "make", lambda size: size > 100)
    assert features.cached(who, 2, lambda: wanted).dtype == np.float32 and features.path(who).is_file()
    touched: list[Path] = []
    monkeypatch.setattr(features.room, "touch", touched.append)
    again = features.cached(who, 2, lambda: pytest.fail("it is there"))
    assert again.tolist() == wanted.tolist() and touched == [features.path(who)]
    from safetensors import safe_open
    from safetensors.numpy import save_file

    with safe_open(features.path(who), framework="numpy") as opened:
        assert json.loads(opened.metadata()["identity"]) == {k: v for k, v in told.items() if k != "version"}
    for bad in (np.zeros((2, 3)), np.zeros((2, 3, 1), np.float32), np.zeros((3, 2), np.float32)):
        digest = hashlib.sha256(f"{bad.shape}".encode() + bad.tobytes()).hexdigest()
        save_file({"features": bad}, features.path(who), metadata={"sha256": digest})
        assert features._load(features.path(who), 2) is None
    save_file({"features": wanted.astype(np.float32)}, features.path(who))  # nothing to hold it against
    assert features._load(features.path(who), 2) is None


def test_features_stand_before_the_head_in_the_precision_that_was_asked_for(monkeypatch):
    class Net(torch.nn.Module):
        def forward_features(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1

        def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
            return 2 * x if pre_logits else x.flatten(1)[:, :1]

    computed: list[str] = []
    monkeypatch.setattr(predict, "forward_in", lambda _, asked: computed.append(asked) or nullcontext())
    images, done = torch.arange(12.0).reshape(2, 3, 2, 1), list[int]()
    found = features.extract(Net(), [(np.arange(2), images)], 2, "bf16", done.append)
    assert found.tolist() == (2 * (images + 1)).flatten(1).tolist() and computed == ["bf16"] and done == [2]
    images[1] = torch.nan
    nan = "The network's features are NaN or infinite for 1 of 2 images: 1."
    refused(lambda: features.extract(Net(), [(np.arange(2), images)], 2, "float32"), nan, kind=VitftError)


# --- ReaL ------------------------------------------------------------------------------------------------------------


def test_metrics_under_real_labels_count_judged_images_alone():
    sets = (frozenset({1, 2}), frozenset(), frozenset({0}))
    subset = real.Subset(np.array([1, 2, 3]), sets, (), 1.0)
    split = rows(3, [0, 1, 1])
    logits = np.eye(3, dtype=np.float32)[[2, 0, 1]]
    done = evaluate.Evaluation(
        None, evaluate.Subject(split, subset, "", (), 0), predict.Predictions(logits), 1.0  # type: ignore[arg-type]
    )  # fmt: skip
    found = done.metrics
    assert (found.real_correct, found.real_n, found.real_top1) == (1, 2, 0.5) and found.correct == 1
    assert found.real_ci95 is not None and found.real_ci95[0] < 0.5 < found.real_ci95[1]
    plain = dataclasses.replace(done.subject, real=None)
    assert dataclasses.replace(done, subject=plain).metrics.real_n is None
    unjudged = dataclasses.replace(done.subject, real=real.Subset(np.array([1, 2, 3]), (frozenset(),) * 3, (), 1.0))
    none = dataclasses.replace(done, subject=unjudged).metrics
    assert (none.real_correct, none.real_n, none.real_top1) == (0, 0, None)
    assert subset.hits(np.array([2, 0, 1])).tolist() == [True, False]
    assert (subset.stamp, dataclasses.replace(subset, missing=("x",)).stamp) == ("", "subset 3")


@pytest.mark.parametrize("step", [-3, -2, -1, 1, 2, 3])
def test_labels_that_are_off_are_told_by_how_far_and_where(step):
    rng = np.random.default_rng(9)
    right = rng.permutation(200)[:12] * 5  # no two near each other
    places = np.arange(10, 70, 5)
    sets = [frozenset[int]()] * 70
    for number, label in zip(places, right, strict=True):
        sets[number - 1] = frozenset({int(label)})
    much = "one" if abs(step) == 1 else abs(step)

    def told(numbers: np.ndarray, labels: np.ndarray) -> str:
        order = rng.permutation(12)
        return str(refused(lambda: real.check(numbers[order], labels[order], tuple(sets)), "0.0% of 12 agree"))

    assert f"They are off by {much}: label {step:+d} fits (100%). Right" in told(places, right - step)
    assert f"shifted against the files: the label {step:+d} places on fits (100%)." in told(
        places, np.roll(right, step)
    )
    for number in places:
        sets[number - step - 1] = frozenset({999})
    assert f"They are shifted: file number {step:+d} fits (100%)." in told(places - step, right)


@pytest.mark.parametrize(("n", "few"), [(5, 3), (10, 6), (20, 14), (40, 31), (100, 80), (1000, 800)])
def test_labels_are_refused_where_right_ones_would_agree_so_rarely_once_in_a_hundred(n, few):
    from scipy.stats import binom

    classes = np.arange(n) * 7
    sets = tuple(frozenset({int(label)}) for label in classes)
    numbers = np.arange(1, n + 1)
    assert few / n >= 0.8 or binom.cdf(few, n, 0.9) > 0.01 >= binom.cdf(few - 1, n, 0.9)
    wrong = np.where(np.arange(n) < few, classes, -1 - np.arange(n))
    assert real.check(numbers, wrong, sets) == few / n
    error = refused(lambda: real.check(numbers, np.where(np.arange(n) < few - 1, classes, -1 - np.arange(n)), sets))
    assert f"{(few - 1) / n:.1%} of {n} agree" in str(error)
    assert "or of another label set: no shift by up to 3 and no renaming of classes fits. Right" in str(error)


def test_labels_in_another_order_are_told_by_what_fits_wholly():
    classes = np.random.default_rng(1).permutation(1000)[:30]
    sets = tuple(frozenset({int(label)}) for label in classes)
    numbers = np.arange(1, 31)
    for labels, words in (
        (classes[::-1], "They stand in reverse order (100% fit then)."),
        (np.roll(classes, 9), "permuted over the images: as a whole 100% of them occur, on other files."),
        (np.r_[np.roll(classes[:26], 9), [-1] * 4], "as a whole 87% of them occur"),
    ):
        refused(lambda y=labels: real.check(numbers, y, sets), words)


@pytest.mark.parametrize("fit", [7, 8])
@pytest.mark.parametrize("kind", ["off by one", "file number +1", "+1 places on", "reverse order", "another numbering",
                                  "over the images"])  # fmt: skip
def test_a_mistake_is_told_where_four_in_five_labels_fit_then(kind, fit):
    renamed, n = kind == "another numbering", 11 if "places" in kind else 10
    right = np.repeat([70, 30], 5) if renamed else np.random.default_rng(4).permutation(100)[:n] * 5
    places, sets = np.arange(10, 10 + 5 * n, 5), [frozenset[int]()] * 70
    for number, label in zip(places, right, strict=True):
        sets[number - 1] = frozenset({int(label)})
        if kind == "file number +1":
            sets[number - 2] = frozenset({999})
    labels = {
        "off by one": right - 1, "+1 places on": np.roll(right, 1), "reverse order": right[::-1].copy(),
        "another numbering": np.repeat([1, 2], 5), "over the images": np.roll(right, 4),
    }.get(kind, right)  # fmt: skip
    wrong = [1, 3, 4][: 10 - fit]
    labels[wrong] = [2] * len(wrong) if renamed else [-7 - 3 * i for i in range(len(wrong))]
    numbers = places - (kind == "file number +1")
    error = str(refused(lambda: real.check(numbers, labels, tuple(sets)), f" of {n} agree"))
    assert (kind in error and "80%" in error) == (fit == 8), error


def test_validation_images_are_known_by_their_names_and_their_classes():
    keys = [real.file_name(n) for n in (2, 50_000)]
    assert keys == ["ILSVRC2012_val_00000002.JPEG", "ILSVRC2012_val_00050000.JPEG"]
    labels = np.array([min(real.real_labels()[n - 1], default=0) for n in (2, 50_000)])
    found = real.of_validation(keys, labels, 1000)
    assert found is not None and found.numbers.tolist() == [2, 50_000] and len(found.missing) == 49_998
    assert real.of_validation(keys, labels, 999) is None and real.of_validation(keys, labels, 1001) is None
    assert real.of_validation(["a", keys[0]], labels, 1000) is None
    assert real.of_validation([], labels[:0], 1000) is None
    for number in (0, 50_001):
        refused(lambda n=number: real.match([real.file_name(n)], labels[:1]), f"number {number}; the validation set")
