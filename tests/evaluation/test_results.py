"""Few-shot results, evaluations over several seeds, comparisons of stored runs: every key of them, recomputed."""

import dataclasses
import hashlib
import io
import json
import platform
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from tests.data.test_edges import rows
from tests.evaluation.test_documents import saved_run
from tests.evaluation.test_fewshot import _ridge_reference
from tests.protocol.test_documents import digest, student
from vitft import __version__
from vitft.data.sources.image_folder import ImageFolder
from vitft.evaluation import evaluate, frozen, seeds, stored
from vitft.evaluation import predictions as saved
from vitft.evaluation.network import Network, open_network
from vitft.evaluation.predict import Predictions
from vitft.images import sizes
from vitft.images.preprocess import deterministic, normalise
from vitft.results.parts import Metrics, Provenance
from vitft.results.schema import ClassAccuracy, EvalResult, RunResult, to_json


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VITFT_CACHE", str(tmp_path / "cache"))


def features_of(network: Network, split: Any) -> np.ndarray:
    """What stands before the head, image by image."""
    out = []
    for i in range(len(split)):
        pixels = np.array(Image.open(io.BytesIO(split.read(i))).convert("RGB"))
        x = normalise(torch.from_numpy(deterministic(pixels, network.preprocess))[None].clone(), network.preprocess)
        net: Any = network.net
        with torch.no_grad():
            out.append(net.forward_head(net.forward_features(x), pre_logits=True)[0].numpy())
    return np.stack(out)


@pytest.mark.usefixtures("onednn")
def test_each_key_of_a_few_shot_result_is_what_it_says(tmp_path):
    run = saved_run(tmp_path, steps=2)
    network = open_network(str(run), {}, device="cpu")
    source = ImageFolder(tmp_path / "d", "d")
    train, test = source.open("train"), source.open("test")
    phases: list[tuple[str, int, int]] = []
    hooks = frozen.Hooks(phase=lambda what, done, of: phases.append((what, done, of)))
    data = frozen.examples(source)
    assert (data.pool.keys, data.test.keys, data.whole.keys) == (train.keys, test.keys, test.keys)
    assert not data.big_vision and not data.stands_in
    got = to_json(frozen.run(network, data, "ridge", (2, 0), (0, 5), workers=1, hooks=hooks))

    x, queries = features_of(network, train), features_of(network, test)
    y, truth = train.labels, test.labels

    def right(mine: np.ndarray) -> int:
        return int((_ridge_reference(x[mine], y[mine], queries, 3).argmax(1) == truth).sum())

    drawn = []
    for seed in (0, 5):
        rng = np.random.default_rng(seed)
        drawn.append(right(np.concatenate([rng.permutation(np.flatnonzero(y == c))[:2] for c in range(3)])))
    (alone,) = frozen.run(network, data, "ridge", (2,), (0, 5), workers=1).rows  # of the examples drawn, no others
    assert [alone.correct, alone.seeds] == [tuple(drawn), (0, 5)]
    whole = right(np.arange(24))
    two, everything = got["rows"]
    low, high = student([c / 24 for c in drawn]) if drawn[0] != drawn[1] else [np.mean(drawn) / 24] * 2
    assert two == {
        "per_class": 2, "examples": 6, "top1": pytest.approx(np.mean(drawn) / 24),
        "ci95": pytest.approx([max(0, low), min(1, high)]), "interval": "t over 2 seeds",
        "values": pytest.approx([c / 24 for c in drawn]), "correct": drawn, "n": 24, "seeds": [0, 5],
        "short_classes": 0,
    }  # fmt: skip
    wilson = stats.binomtest(whole, 24).proportion_ci(0.95, "wilson")
    assert everything == {
        "per_class": "all", "examples": 24, "top1": pytest.approx(whole / 24),
        "ci95": pytest.approx([wilson.low, wilson.high]), "interval": "wilson",
        "values": pytest.approx([whole / 24]), "correct": [whole], "n": 24, "seeds": [0], "short_classes": 0,
    }  # fmt: skip
    assert {k: got[k] for k in ("kind", "task", "model", "classifier", "stamps", "num_classes", "class_names")} == {
        "kind": "fewshot", "task": "d", "model": network.info.name, "classifier": "ridge", "stamps": [],
        "num_classes": 3, "class_names": ["a", "b", "c"],
    }  # fmt: skip
    what = {"classifier": "ridge", "l2": 1024.0, "pool": "train", **network.protocol}
    assert got["protocol"] == {"id": digest(what), **{k: v for k, v in what.items() if v is not None}}
    weights = hashlib.sha256((run / "weights.safetensors").read_bytes()).hexdigest()
    where = {k: v for k, v in dataclasses.asdict(test.provenance).items() if v is not None}
    files = b"".join(hashlib.blake2b(test.read(i), digest_size=16).digest() for i in range(len(test)))
    assert got["provenance"] == {
        "images_digest": hashlib.sha256(files).hexdigest(),
        **where, "decoder": "Pillow", "split": "test", "split_digest": test.digest, "train_split": "train",
        "train_digest": train.digest, "overlap": {"n": 0, "splits": {}}, "classes_without_test": [],
        "classes_without_train": [],
        "checkpoint_sha256": weights, "path": str(tmp_path / "d"),
    }  # fmt: skip
    settings = {"device_kind": "cpu", "precision": "float32", "threads": torch.get_num_threads(), "linear": "oneDNN"}
    assert got["settings"] == settings
    info = json.loads(json.dumps(network.info.to_dict()))
    assert got["checkpoint"] == {k: v for k, v in info.items() if v is not None}
    assert got["preprocess"]["size"] == [32, 32]
    assert {k: got["env"][k] for k in ("vitft", "torch", "python", "device")} == {
        "vitft": __version__, "torch": torch.__version__, "python": platform.python_version(), "device": "cpu",
    }  # fmt: skip
    fits = [(done, of) for what, done, of in phases if what == "ridge"]
    assert fits == [(1, 3), (2, 3), (3, 3)]
    seen = {(what, of) for what, done, of in phases if what.startswith("features")}
    assert seen == {("features train", 24), ("features test", 24)}


def test_few_shot_says_which_examples_are_missing_and_which_are_in_both(tmp_path):
    run = saved_run(tmp_path, steps=2)
    network = open_network(str(run), {}, device="cpu")
    shutil.rmtree(tmp_path / "d" / "test" / "c")
    for i in (0, 3):  # two test images that are training images, too
        (tmp_path / "d" / "test" / "a" / f"{i}.png").write_bytes(
            (tmp_path / "d" / "train" / "a" / f"{i}.png").read_bytes()
        )
    source = ImageFolder(tmp_path / "d", "d")
    got = frozen.run(network, frozen.examples(source), "knn", (9,), (1,), workers=1)
    assert got.provenance.classes_without_test == ("c",)
    assert got.provenance.overlap is not None and got.provenance.overlap.n == 2
    assert got.provenance.overlap.splits == {"train": 2}
    assert got.stamps == ("3 of 3 classes have fewer than 9 examples (the fewest 8)",)
    assert [(r.k, r.short_classes, r.fewest, r.examples) for r in got.rows] == [
        (10, 3, 8, 24),
        (20, 3, 8, 24),
        (24, 3, 8, 24),
    ]
    assert got.protocol.temperature == 0.07 and got.protocol.l2 is None
    few = frozen.examples(source, 5)
    assert len(few.test) == 5 and len(few.whole) == 16
    stamps = frozen.run(network, few, "logistic", (2,), (1,), workers=1).stamps
    assert stamps == ("subset 5 of the 16 test images",)
    (tmp_path / "d" / "test").rename(tmp_path / "d" / "val")
    on_val = frozen.run(network, frozen.examples(ImageFolder(tmp_path / "d", "d")), "knn", (2,), (1,), workers=1)
    assert on_val.provenance.split == "val"


# --- several seeds ---------------------------------------------------------------------------------------------------


def of_seed(tops: tuple[float, ...], **more: Any) -> dict[int | None, EvalResult]:
    """Results of seeds 3, 4, ...: what the combination does not look at is that of any evaluation."""
    found: dict[int | None, EvalResult] = {}
    for i, top1 in enumerate(tops):
        fields = {name: values[i] for name, values in more.items()}
        m = Metrics(top1=top1, n=100, ci95=(0.0, 1.0), correct=round(100 * top1), **fields)
        found[3 + i] = EvalResult.model_construct(  # type: ignore[call-arg]
            task="t", model="m", metrics=m, among_present=m, per_class=None, confusion=None
        )
    return found


def test_a_result_over_seeds_is_the_mean_with_students_interval():
    tops, fives, reals = (0.5, 0.6, 0.8), (0.9, 0.95, 0.97), (0.55, 0.7, 0.71)
    plain = of_seed(tops)
    got = seeds.combined(plain).metrics
    low, high = student(list(tops))
    assert to_json(got) == {
        "top1": pytest.approx(np.mean(tops)), "n": 100, "ci95": pytest.approx([low, min(1, high)]),
        "ci95_of": "the mean over seeds",
    }  # fmt: skip
    both = of_seed(tops, top5=fives, real_top1=reals, real_n=(90, 90, 90))
    got = seeds.combined(both).metrics
    low, high = student(list(reals))
    assert got.top5 == pytest.approx(np.mean(fives)) and got.real_top1 == pytest.approx(np.mean(reals))
    assert got.real_ci95 == pytest.approx((max(0, low), min(1, high))) and got.real_n == 90
    assert (got.correct, got.top5_correct, got.real_correct) == (None, None, None)
    whole = seeds.combined(both)
    assert whole.among_present == whole.metrics
    assert whole.seeds == {"3": both[3].metrics, "4": both[4].metrics, "5": both[5].metrics}
    assert (whole.task, whole.model, whole.per_class, whole.confusion) == ("t", "m", None, None)
    alone = of_seed((0.5,))
    assert seeds.combined(alone) is alone[3]


def test_counts_of_classes_are_summed_over_seeds():
    plain = of_seed((0.5, 0.25))
    rows = [[("a", 2, 4), ("b", 0, 0)], [("a", 1, 4), ("b", 0, 0)]]
    tables = [((2, 2), (0, 0)), ((1, 3), (5, 0))]
    results = {
        seed: r.model_copy(
            update={
                "per_class": tuple(ClassAccuracy(class_name=a, correct=c, n=n, accuracy=None) for a, c, n in own),
                "confusion": table,
            }
        )
        for (seed, r), own, table in zip(plain.items(), rows, tables, strict=True)
    }
    got = seeds.combined(results)
    assert [to_json(row) for row in got.per_class or ()] == [
        {"class": "a", "correct": 3, "n": 8, "accuracy": 3 / 8}, {"class": "b", "correct": 0, "n": 0},
    ]  # fmt: skip
    assert got.confusion == ((3, 5), (5, 0))


def test_models_are_compared_seed_by_seed_or_one_with_every_seed():
    split = rows(4, [0, 1, 1, 0])
    subject = evaluate.Subject(split, None, "", (), None)

    def answered(*right: bool) -> evaluate.Evaluation:
        labels = np.where(right, split.labels, 1 - split.labels)
        return evaluate.Evaluation(None, subject, Predictions(np.eye(2, dtype=np.float32)[labels]), 1.0)  # type: ignore[arg-type]

    a = {0: answered(True, True, False, False), 2: answered(True, False, True, True)}
    b = {2: answered(True, True, False, True), 7: answered(False, False, False, False)}
    one = {None: answered(True, False, False, False)}
    found = seeds.comparisons([("a", a), ("b", b), ("one", one)])
    assert [(c.a, c.b, c.seed, c.a_only, c.b_only, c.n, c.difference) for c in found] == [
        ("a", "b", 2, 1, 1, 4, 0.0),
        ("a", "one", 0, 1, 0, 4, 0.25), ("a", "one", 2, 2, 0, 4, 0.5),
        ("b", "one", 2, 2, 0, 4, 0.5), ("b", "one", 7, 0, 1, 4, -0.25),
    ]  # fmt: skip
    assert [c.seed for c in seeds.comparisons([("one", one), ("a", a)])] == [0, 2]
    assert seeds.comparisons([("a", a), ("c", {9: one[None]})]) == []


# --- what runs have stored -------------------------------------------------------------------------------------------


def stored_run(
    folder: Path, seeds_of: dict[int, tuple[bool, ...]], digest_: str = "same", images: str | None = None
) -> tuple[str, RunResult, Path]:
    """A run's folder with nothing but predictions of four images, right or wrong, and a result that names them."""
    units = {seed: f"t/final-x-seed{seed}" for seed in seeds_of}
    for seed, right in seeds_of.items():
        at = folder if len(seeds_of) == 1 else folder / "units" / units[seed]
        at.mkdir(parents=True)
        answers = [1 if r else 0 for r in right]
        saved.save(
            at / "predictions.parquet", list("wxyz"), np.ones(4, np.int64), np.eye(2, dtype=np.float32)[answers], "ab"
        )
    several = len(seeds_of) > 1
    fields: dict[str, Any] = {
        "seed": next(iter(seeds_of)),
        "task": "photos",
        "provenance": Provenance(source="drawn", split_digest=digest_, images_digest=images),
        "seeds": {str(s): Metrics(top1=0.5, n=4, ci95=(0, 1)) for s in seeds_of} if several else None,
        "units": tuple(units.values()) if several else None,
    }
    return folder.name, RunResult.model_construct(**fields), folder


def test_stored_runs_are_compared_seed_by_seed_where_they_answered_the_same_images(tmp_path):
    a = stored_run(tmp_path / "a", {0: (True, True, False, False), 1: (True, True, True, False)})
    b = stored_run(tmp_path / "b", {1: (False, True, False, True), 4: (True, True, True, True)})
    found, notes = stored.comparisons([a, b])
    assert [(c.a, c.b, c.seed, c.a_only, c.b_only, c.n, c.difference) for c in found] == [("a", "b", 1, 2, 1, 4, 0.25)]
    assert notes == []
    one, two = (
        stored_run(tmp_path / n, {7: r}) for n, r in (("one", (True, False, False, False)), ("two", (True,) * 4))
    )
    found, notes = stored.comparisons([one, two])
    assert [(c.seed, c.a_only, c.b_only, c.difference) for c in found] == [(None, 0, 3, -0.75)] and notes == []
    other = stored_run(tmp_path / "other", {0: (True,) * 4}, "another")
    found, notes = stored.comparisons([a, other, one])
    assert found == [] and notes == [
        "a and other were tested on different images: they are not compared in pairs.",
        "a and one have no stored predictions of the same seed: they are not compared in pairs.",
        "other and one were tested on different images: they are not compared in pairs.",
    ]
    # Two folders of one's own may hold other images under the same names; those of a known task are known by theirs.
    mine, yours = (stored_run(tmp_path / n, {7: (True,) * 4}, images=n) for n in ("mine", "yours"))
    assert stored.comparisons([mine, yours])[1] == [
        "mine and yours were tested on different images: they are not compared in pairs."
    ]
    assert mine[1].provenance.tested("cifar10") == yours[1].provenance.tested("cifar10") == "same"
    (one[2] / "predictions.parquet").unlink()
    assert "no stored predictions" in stored.comparisons([one, two])[1][0]
    assert stored.comparisons([a]) == ([], [])


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 7, 256, 300, 1000])
def test_the_median_is_of_256_images_spread_evenly_and_an_area_that_one_of_them_has(n):
    looked: list[int] = []

    def read(i: int) -> bytes:
        looked.append(i)
        out = io.BytesIO()
        Image.new("L", (2 + i % 5, 1 + i % 7)).save(out, "PNG")
        return out.getvalue()

    seen = sizes.median(dataclasses.replace(rows(n, [i % 2 for i in range(n)]), read=read))
    count = min(256, n)
    spread = sorted({round(i * (n - 1) / max(1, count - 1)) for i in range(count)})
    assert looked == spread and seen.of == len(spread)
    areas = sorted((2 + i % 5) * (1 + i % 7) for i in spread)
    assert seen.pixels == areas[(len(areas) - 1) // 2]
