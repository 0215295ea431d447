"""What evaluations and few-shot rows say, recomputed: every key, not some of them."""

import dataclasses
import hashlib
import json
import platform
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from tests.protocol.test_documents import KEYS, digest, score
from tests.protocol.test_protocol import draw, job
from vitft import __version__
from vitft.data.sources.image_folder import ImageFolder
from vitft.engines.inline import run_job
from vitft.evaluation import evaluate, seeds
from vitft.evaluation.network import open_network
from vitft.evaluation.request import SETTABLE
from vitft.protocol.jobs import Runtime
from vitft.results.schema import to_json
from vitft.settings import Preprocess, Settings


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VITFT_CACHE", str(tmp_path / "cache"))


def saved_run(tmp_path: Path, **overrides: Any) -> Path:
    j, source = job(draw(tmp_path / "d"), overrides={**KEYS, **overrides})
    run_job(j, source, tmp_path / "run", Runtime(device="cpu"))
    return tmp_path / "run"


@pytest.mark.usefixtures("onednn")
def test_each_key_of_an_evaluation_is_what_it_says(tmp_path):
    run = saved_run(tmp_path, steps=20)
    network = open_network(str(run), {}, device="cpu")
    own = json.loads((run / "result.json").read_text())
    assert network.protocol == {
        "resolution": [32, 32], "resize": "resize-small", "crop_pct": None, "crop_mode": None,
        "interpolation": "bicubic", "antialias": False, "normalise": "checkpoint", "posembed_resize": "bilinear",
        "gelu": "exact",
    }  # fmt: skip
    assert {"architecture", "kwargs", "posembed_resize", "gelu"} <= set(network.made_of)
    assert network.made_of["architecture"] == "test_vit" and network.made_of["gelu"] == "exact"
    assert network.precision == "float32" and network.class_names == ("a", "b", "c")
    source = ImageFolder(tmp_path / "d", "d")
    what = evaluate.subject(source, with_real=False, limit=None, complete=False)
    done = evaluate.evaluate(network, what, workers=1)
    before = datetime.now(UTC).replace(microsecond=0)
    got = to_json(evaluate.result(done, per_class=True, with_confusion=True))
    assert done.network.info.assumed == network.info.assumed
    nameless = evaluate.evaluate(dataclasses.replace(network, class_names=()), what, workers=1)
    assert nameless.network.info.assumed == (*network.info.assumed, "classes in the data's order")
    test = source.open("test")
    answers = done.predictions.logits.argmax(1)
    correct = int((answers == test.labels).sum())
    # The run answered the same images before, and its network is the one that was saved.
    assert got["metrics"] == {
        "top1": correct / 24, "correct": correct, "n": 24, "ci95": pytest.approx(score(correct / 24, 24)),
    } and correct == own["metrics"]["correct"]  # fmt: skip
    assert got["per_class"] == [
        {"class": name, "correct": int((answers[test.labels == i] == i).sum()), "n": 8,
         "accuracy": float((answers[test.labels == i] == i).mean())}
        for i, name in enumerate("abc")
    ]  # fmt: skip
    assert got["confusion"] == [[int(((test.labels == i) & (answers == k)).sum()) for k in range(3)] for i in range(3)]
    plain = {k: got[k] for k in ("schema_version", "status", "kind", "task")}
    assert plain == {"schema_version": 2, "status": "finished", "kind": "eval", "task": "d"}
    assert not set(got) & {"recipe", "method", "phase", "seed"}  # of a fine-tune
    assert got["model"] == network.info.name and got["num_classes"] == 3
    assert (got["stamp"], got["missing"]) == ("", [])
    said = {k: v for k, v in network.protocol.items() if v is not None}
    assert got["protocol"] == {"id": digest(network.protocol), **said}
    where = got["provenance"]
    assert (where["split"], where["split_digest"], where["decoder"]) == ("test", test.digest, "Pillow")
    assert where["completeness"] == test.provenance.completeness
    assert where["checkpoint_sha256"] == hashlib.sha256((run / "weights.safetensors").read_bytes()).hexdigest()
    assert {k: where[k] for k in ("source", "reference", "why", "revision")} == {
        k: v for k, v in dataclasses.asdict(test.provenance).items() if k != "completeness"
    }
    settings = {"device_kind": "cpu", "precision": "float32", "threads": torch.get_num_threads(), "linear": "oneDNN"}
    assert got["settings"] == settings
    info = json.loads(json.dumps(network.info.to_dict()))
    assert got["checkpoint"] == {k: v for k, v in info.items() if v is not None}
    assert got["preprocess"] == {**own["preprocess"], "crop_from": 0}
    assert got["timing"]["images_per_s"] == pytest.approx(24 / done.seconds, rel=0.01)
    assert got["timing"]["evaluate_s"] == round(done.seconds, 3)
    assert {k: got["env"][k] for k in ("vitft", "torch", "python", "device")} == {
        "vitft": __version__, "torch": torch.__version__, "python": platform.python_version(),
        "device": "cpu",
    }  # fmt: skip
    assert datetime.fromisoformat(got["env"]["finished"]) >= before
    assert re.fullmatch(r"[\d-]{10}T[\d:]{8}\+00:00", got["env"]["finished"])
    short = to_json(evaluate.result(done))
    assert "per_class" not in short and "confusion" not in short

    few = evaluate.subject(source, with_real=False, limit=5, complete=False)
    part = to_json(evaluate.result(evaluate.evaluate(network, few, batch_size=2, workers=1)))
    assert (part["stamp"], part["provenance"]["completeness"], part["metrics"]["n"]) == ("subset 5", "partial", 5)
    # 5 of 24, the largest remainder to the lower labels; of each class those with the smallest digest of "0:key".
    drawn = []
    for label, share in enumerate((2, 2, 1)):
        of_class = [k for k, y in zip(test.keys, test.labels, strict=True) if y == label]
        drawn += sorted(of_class, key=lambda k: hashlib.blake2b(f"0:{k}".encode(), digest_size=8).digest())[:share]
    assert few.split.keys == [k for k in test.keys if k in drawn]
    assert evaluate.subject(source, with_real=False, limit=24, complete=False).stamp == ""


def test_two_networks_are_compared_in_the_order_they_are_given(tmp_path):
    run = saved_run(tmp_path, steps=20)
    source = ImageFolder(tmp_path / "d", "d")
    what = evaluate.subject(source, with_real=False, limit=None, complete=False)
    first = evaluate.evaluate(open_network(str(run), {}, device="cpu"), what, workers=1)
    wrong = dataclasses.replace(first.predictions, logits=-first.predictions.logits)
    second = dataclasses.replace(first, predictions=wrong)
    named = [(e.network.info.name, {None: e}) for e in (first, second, first)]
    (found,) = seeds.comparisons(named[:2])
    a, b = first.correct, second.correct
    assert found.a == found.b == first.network.info.name
    assert (found.n, found.a_only, found.b_only) == (24, int((a & ~b).sum()), int((b & ~a).sum()))
    assert found.difference == pytest.approx(a.mean() - b.mean()) and isinstance(to_json(found)["ci95"], list)
    assert len(seeds.comparisons(named)) == 3 and seeds.comparisons(named[:1]) == []


@pytest.mark.parametrize(
    ("fixed", "crop_pct", "expected"),
    [
        (
            {},
            None,
            {
                "resize": "checkpoint",
                "interpolation": "bicubic",
                "antialias": True,
                "crop_pct": 0.95,
                "crop_mode": "center",
                "gelu": "exact",
                "resolution": [160, 160],
            },
        ),
        (
            {"resize": "squash"},
            None,
            {"resize": "squash", "interpolation": "bilinear", "crop_pct": None, "crop_mode": None},
        ),
        ({"resize": "resize-small", "resolution": 64}, None, {"interpolation": "bilinear", "resolution": [64, 64]}),
        (
            {"interpolation": "bilinear", "gelu": "tanh"},
            0.5,
            {"interpolation": "bilinear", "crop_pct": 0.5, "gelu": "tanh"},
        ),
        (
            {"antialias": False, "posembed_resize": "bicubic"},
            1.0,
            {"antialias": False, "posembed_resize": "bicubic", "crop_pct": 1.0},
        ),
        ({"normalise": "none"}, None, {"normalise": "none"}),
    ],
)
def test_an_evaluations_protocol_holds_what_was_asked_for(tmp_path, fixed, crop_pct, expected):
    from vitft.evaluation.network import own_preprocess, preprocess, settings_for
    from vitft.models.build import build

    info = build("timm:test_vit", 3, Settings(resolution=32), from_scratch=True).info
    published = timm.get_pretrained_cfg("test_vit")
    assert (info.interpolation, info.crop_pct, info.crop_mode) == (
        published.interpolation, published.crop_pct, published.crop_mode,
    )  # fmt: skip
    assert own_preprocess(info) is None
    lost = dataclasses.replace(info, kind="run", path=str(tmp_path / "weights.safetensors"))
    assert own_preprocess(lost) is None  # a run's weights without its result
    settings = settings_for(info, fixed)
    own = Preprocess(settings.size, mean=info.mean, std=info.std, crop_pct=crop_pct or 1.0, crop_mode=info.crop_mode)
    pp = preprocess(settings, info, own if crop_pct else None)
    found = {**settings.model_dump(), "resolution": list(settings.size)}
    found |= (
        {"crop_pct": pp.crop_pct, "crop_mode": pp.crop_mode}
        if pp.resize == "checkpoint"
        else {"crop_pct": None, "crop_mode": None}
    )
    assert {k: found[k] for k in expected} == expected
    assert (pp.resize, pp.interpolation, pp.antialias) == (settings.resize, settings.interpolation, settings.antialias)
    assert (pp.crop, pp.flip, pp.size) == ("none", False, settings.size)


def test_what_means_something_without_training():
    assert SETTABLE == (
        "resolution", "resize", "interpolation", "antialias", "normalise", "posembed_resize", "gelu",
        "num_heads", "norm_eps", "activation", "pool", "grid",
    )  # fmt: skip
    assert set(SETTABLE) <= set(Settings.model_fields)


def test_few_shot_rows_say_what_was_drawn_and_chosen():
    from vitft.evaluation import fewshot

    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), [9, 6, 2])
    x = (np.eye(4)[labels] + 0.8 * rng.normal(size=(17, 4))).astype(np.float32)
    test_y = np.repeat(np.arange(3), 10)
    test = ((np.eye(4)[test_y] + 0.8 * rng.normal(size=(30, 4))).astype(np.float32), test_y)
    asked, seeds = (1, 4, fewshot.ALL), (0, 3)
    where = fewshot.needed(labels, 3, asked, seeds)
    assert where.tolist() == list(range(17))
    for classifier in ("ridge", "knn", "logistic"):
        told: list[tuple[int, int]] = []
        rows = fewshot.score(classifier, x, labels, test, 3, asked, seeds, lambda a, b, told=told: told.append((a, b)))
        assert told == [(i, 5) for i in range(1, 6)]
        by_count = {c: [r for r in rows if r.per_class == (c or "all")] for c in asked}
        assert [r.examples for r in rows] == [{1: 3, 4: 10, "all": 17}[r.per_class] for r in rows]
        for count, of_count in by_count.items():
            for r in of_count:
                assert r.n == 30
                assert r.seeds == (seeds if count else (0,)) and len(r.correct) == len(r.seeds)
                assert (r.short_classes, r.fewest) == ((1, 2) if count == 4 else (0, None))
                assert r.interval == ("t over 2 seeds" if count else "wilson")
                assert r.top1 == pytest.approx(np.mean(r.correct) / 30) and r.values == tuple(c / 30 for c in r.correct)
                if not count:
                    assert r.ci95 == pytest.approx(score(r.correct[0] / 30, 30))
        if classifier == "knn":
            assert [r.k for r in by_count[4]] == [10] and [r.k for r in by_count[fewshot.ALL]] == [10, 17]
            assert [r.k for r in by_count[1]] == [3]
        else:
            assert {r.k for r in rows} == {None} and len(rows) == 3
        if classifier == "logistic":
            from vitft.evaluation import probe

            assert [len(r.C or ()) for r in rows] == [2, 2, 1]
            order = fewshot.orders(labels, 3, 3)
            mine = fewshot.chosen(order, 4)
            fitted = probe.fit(x[mine], labels[mine], 3)
            assert rows[1].C is not None and rows[1].C[1] == fitted.strength
            assert rows[1].correct[1] == int((fitted.answers(test[0]) == test_y).sum())
        else:
            assert {r.C for r in rows} == {None}
    part = fewshot.needed(labels, 3, (1, 2), seeds)
    drawn = [np.random.default_rng(s) for s in seeds]
    expected = {int(i) for rng in drawn for c in range(3) for i in rng.permutation(np.flatnonzero(labels == c))[:2]}
    assert part.tolist() == sorted(expected)
    assert fewshot.short_classes(labels, ("x", "y", "z"), 7) == [("z", 2), ("y", 6)]
    assert fewshot.short_classes(labels, ("x", "y", "z"), 2) == []
