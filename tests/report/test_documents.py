"""What result files say, recomputed from the predictions, the images and the settings: every key, not some of them."""

import dataclasses
import hashlib
import json
import math
import platform
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from pydantic import BaseModel
from scipy import stats

from tests.protocol.test_protocol import draw, job
from tests.report.test_report import _result, _summarise, _table
from vitft import __version__, recipes
from vitft.catalog.suites import SUITES
from vitft.catalog.tasks import TASKS
from vitft.data.sources.image_folder import ImageFolder
from vitft.engines.inline import run_job
from vitft.evaluation import evaluate, predictions
from vitft.evaluation.asked import SETTABLE
from vitft.evaluation.network import open_network
from vitft.protocol.jobs import Runtime
from vitft.protocol.run import run_unit
from vitft.protocol.units import final_units, tune_units
from vitft.results.schema import to_json
from vitft.settings import Preprocess, Settings


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VITFT_CACHE", str(tmp_path / "cache"))


def score(p: float, n: int) -> list[float]:
    """Wilson's interval as scipy has it."""
    found = stats.binomtest(round(p * n), n).proportion_ci(0.95, "wilson")
    return [found.low, found.high]


def student(values: list[float]) -> list[float]:
    return list(stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values)))


def digest(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def vit_macs(grid: int, width: int, depth: int, classes: int, patch: int) -> int:
    """Multiply-adds of a plain ViT with a class token: patches, then per block qkv, scores, sums, projection, MLP."""
    tokens = grid * grid + 1
    block = tokens * width * (3 * width + width + 8 * width) + 2 * tokens * tokens * width
    return grid * grid * 3 * patch * patch * width + depth * block + width * classes


def same(result: BaseModel, file: Path) -> dict[str, Any]:
    """Return what stands in the file, which is what was returned."""
    assert to_json(result) == json.loads(file.read_text())
    return json.loads(file.read_text())


KEYS = {"steps": 3, "batch_size": 8, "lr": 0.05, "warmup_steps": 1, "resolution": 32, "normalise": "half",
        "interpolation": "bicubic", "antialias": False, "resize": "resize-small",
        "flip": True, "crop": "random"}  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "method", "phase"),
    [({}, "full", "final"), ({"per_class": 4}, "linear", "final"), ({"limit": 9}, "full", "tune")],
)
def test_each_key_of_a_units_result_is_what_it_says(tmp_path, asked, method, phase):
    data = draw(tmp_path / "d", per_class=8)
    overrides = {**KEYS, "method": method}
    j, source = job(data, overrides=overrides if phase == "final" else {**overrides, "lr": 0.02}, **asked)
    if phase == "tune":
        j = dataclasses.replace(j, sweep={"lr": [0.02, 0.03]})
        unit = tune_units(j)[1]
    else:
        unit = final_units(j, [])[0]
    before = datetime.now(UTC).replace(microsecond=0)
    began = time.monotonic()
    returned = run_unit(unit, tmp_path / "run", Runtime(device="cpu"))
    elapsed = time.monotonic() - began
    got = same(returned, tmp_path / "run" / "units" / unit.id / "result.json")
    n = {"final": 24 if not asked.get("limit") else 9, "tune": 3}[phase]
    assert {k: got[k] for k in ("status", "kind", "task", "model", "recipe", "method", "phase", "seed")} == {
        "status": "finished", "kind": "finetune", "task": "d", "model": "timm:test_vit", "recipe": "tiny",
        "method": method, "phase": phase, "seed": 0,
    }  # fmt: skip
    assert got["schema_version"] == 2 and got["num_classes"] == 3 and got["point"] == unit.point
    m = got["metrics"]
    assert m["n"] == n and m["top1"] == m["correct"] / n
    assert m["ci95"] == pytest.approx(score(m["top1"], n))
    if phase == "final":
        saved = predictions.load(tmp_path / "run" / "units" / unit.id / "predictions.parquet")
        truth = dict(zip(source.open("test").keys, source.open("test").labels, strict=True))
        assert [truth[k] for k in saved.keys] == saved.labels.tolist()
        assert m["correct"] == int((saved.top5[:, 0] == saved.labels).sum())
    else:
        assert not (tmp_path / "run" / "units" / unit.id / "predictions.parquet").exists()
    protocol = {
        "recipe": "tiny",
        "recipe_digest": j.recipe_digest,
        "resolution": [32, 32],
        "resize": "resize-small",
        "interpolation": "bicubic",
        "antialias": False,
        "gelu": "exact",
        "normalise": "half",
        "selection": "none" if phase == "final" else "dev, best top1, ties to the smaller lr",
        "from_scratch": True,
        "train": asked,
    }
    assert {k: v for k, v in got["protocol"].items() if k != "id"} == protocol
    # Runs begun with the first schema go on to the same protocol: its words, and null for what is absent.
    train = {"per_class": None, "limit": None, **asked}
    assert got["protocol"]["id"] == recipes.digest({**protocol, "resolution": "32", "train": train})
    where = got["provenance"]
    trained = {"per_class": 12, "limit": 9}.get(next(iter(asked), ""), 24)
    assert where["train_n"] == trained and where["train_split"] == "train"
    assert where["split"] == ("test" if phase == "final" else "dev")
    assert where["completeness"] == ("partial" if asked.get("limit") else source.open("test").provenance.completeness)
    assert where["decoder"] == "Pillow" and where["checkpoint_sha256"] == ""
    own = source.open("test").provenance
    assert {k: where[k] for k in ("source", "reference", "why", "revision")} == {
        k: v for k, v in dataclasses.asdict(own).items() if k != "completeness"
    }
    if not asked:
        assert where["split_digest"] == source.open("test").digest
        assert where["train_digest"] == source.open("train").digest
    assert got["settings"] == {"device_kind": "cpu", "precision": "float32", "threads": torch.get_num_threads(),
                               "micro_batch": got["settings"]["micro_batch"]}  # fmt: skip
    assert 1 <= got["settings"]["micro_batch"] <= 8
    kept = got["recipe_settings"]
    given = {**KEYS, "method": method, "lr": 0.05 if phase == "final" else 0.03}
    assert {k: kept[k] for k in given} == given and set(kept) == set(Settings.model_fields)
    assert got["preprocess"] == {
        **got["preprocess"], "size": [32, 32], "resize": "resize-small", "interpolation": "bicubic",
        "antialias": False, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "crop": "none", "flip": False,
    }  # fmt: skip
    lines = [json.loads(x) for x in (tmp_path / "run/units" / unit.id / "metrics.jsonl").read_text().splitlines()]
    assert got["loss"] == {"first": lines[0]["loss"], "last": lines[-1]["loss"]}
    assert lines[0]["loss"] == pytest.approx(math.log(3), abs=1e-6) and [x["step"] for x in lines] == [1, 2, 3]
    net = timm.create_model("test_vit", num_classes=3, img_size=32)
    per_image = vit_macs(
        32 // net.patch_embed.patch_size[0], net.embed_dim, len(net.blocks), 3, net.patch_embed.patch_size[0]
    )
    hidden = net.blocks[0].mlp.fc1.out_features
    tokens = net.patch_embed.num_patches + 1
    per_image += len(net.blocks) * tokens * net.embed_dim * 2 * (hidden - 4 * net.embed_dim)
    assert got["cost"]["macs_per_image"] == pytest.approx(per_image, rel=0.02)
    assert got["cost"]["train_images"] == 24
    # Three passes of two operations a multiply-add; a frozen network has one, over what it sees.
    share = 6 if method == "full" else 2
    assert got["cost"]["train_flops"] == share * got["cost"]["macs_per_image"] * 24
    assert set(got["cost"]) == {"macs_per_image", "train_images", "train_flops"}
    env = got["env"]
    assert {k: env[k] for k in ("vitft", "torch", "python", "device")} == {
        "vitft": __version__, "torch": torch.__version__.split("+")[0], "python": platform.python_version(),
        "device": "cpu",
    }  # fmt: skip
    assert before <= datetime.fromisoformat(env["finished"]) <= datetime.now(UTC)
    assert re.fullmatch(r"[\d-]{10}T[\d:]{8}\+00:00", env["finished"])
    times = got["timing"]
    assert 0 < times["train_s"] + times["evaluate_s"] <= times["total_s"] + 0.002 <= elapsed + 0.004
    assert times["train_images_per_s"] == pytest.approx(24 / times["train_s"], rel=0.05)


def test_a_probe_of_features_computed_once_counts_what_it_computed(tmp_path):
    j, _ = job(draw(tmp_path / "d"), overrides={**KEYS, "method": "linear", "crop": "none", "steps": 9})
    cost = to_json(run_unit(final_units(j, [])[0], tmp_path / "run", Runtime(device="cpu")))["cost"]
    assert (
        cost["train_images"] == 72 and cost["train_flops"] == 2 * cost["macs_per_image"] * 24 * 2
    )  # as it is, mirrored


def test_a_job_tells_what_it_tuned_on_and_what_each_seed_gave(tmp_path):
    data = draw(tmp_path / "d", ("train", "val", "test"))
    j, source = job(data, overrides={"steps": 2}, seeds=(4, 7))
    returned = run_job(j, source, tmp_path / "run", Runtime(device="cpu"))
    result = same(returned, tmp_path / "run/result.json")
    units = [json.loads((tmp_path / "run/units" / u / "result.json").read_text()) for u in result["units"]]
    assert [u["seed"] for u in units] == [4, 7] == [int(s) for s in result["seeds"]]
    assert [u["metrics"] for u in units] == list(result["seeds"].values())
    values = [u["metrics"]["top1"] for u in units]
    assert result["metrics"]["top1"] == pytest.approx(np.mean(values))
    if len(set(values)) > 1:
        assert result["metrics"]["ci95"] == pytest.approx(np.clip(student(values), 0, 1))
    assert result["metrics"]["n"] == 24 and result["metrics"]["ci95_of"] == "the mean over seeds"
    assert [t["point"] for t in result["tuned"]] == [{"lr": x} for x in (0.001, 0.01, 0.1)]
    tune = [json.loads(f.read_text()) for f in (tmp_path / "run/units").rglob("tune-*/result.json")]
    told = {(t["point"]["lr"], t["metrics"]["top1"], t["metrics"]["n"]) for t in tune}
    assert told == {(t["point"]["lr"], t["top1"], t["n"]) for t in result["tuned"]}
    assert {t["seed"] for t in tune} == {0} and {t["provenance"]["split"] for t in tune} == {"val"}
    best = max(t["metrics"]["top1"] for t in tune)
    assert result["point"] == {"lr": min(t["point"]["lr"] for t in tune if t["metrics"]["top1"] == best)}
    assert result["protocol"]["selection"] == "val, best top1, ties to the smaller lr"
    for name in ("weights.safetensors", "predictions.parquet"):
        assert (tmp_path / "run" / name).read_bytes() == (
            tmp_path / "run/units" / result["units"][0] / name
        ).read_bytes()


# --- eval ------------------------------------------------------------------------------------------------------------


def saved_run(tmp_path: Path, **overrides: Any) -> Path:
    j, source = job(draw(tmp_path / "d"), overrides={**KEYS, **overrides})
    run_job(j, source, tmp_path / "run", Runtime(device="cpu"))
    return tmp_path / "run"


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
    assert got["protocol"] == {"id": recipes.digest(network.protocol), **said}
    where = got["provenance"]
    assert (where["split"], where["split_digest"], where["decoder"]) == ("test", test.digest, "Pillow")
    assert where["completeness"] == test.provenance.completeness
    assert where["checkpoint_sha256"] == hashlib.sha256((run / "weights.safetensors").read_bytes()).hexdigest()
    assert {k: where[k] for k in ("source", "reference", "why", "revision")} == {
        k: v for k, v in dataclasses.asdict(test.provenance).items() if k != "completeness"
    }
    assert got["settings"] == {"precision": "float32", "threads": torch.get_num_threads(), "device_kind": "cpu"}
    info = json.loads(json.dumps(network.info.to_dict()))
    assert got["checkpoint"] == {k: v for k, v in info.items() if v is not None}
    assert got["preprocess"] == {**own["preprocess"], "crop_from": 0}
    assert got["timing"]["images_per_s"] == pytest.approx(24 / done.seconds, rel=0.01)
    assert got["timing"]["evaluate_s"] == round(done.seconds, 3)
    assert {k: got["env"][k] for k in ("vitft", "torch", "python", "device")} == {
        "vitft": __version__, "torch": torch.__version__.split("+")[0], "python": platform.python_version(),
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
    (found,) = evaluate.comparisons([first, second])
    a, b = first.correct, second.correct
    assert found.a == found.b == first.network.info.name
    assert (found.n, found.a_only, found.b_only) == (24, int((a & ~b).sum()), int((b & ~a).sum()))
    assert found.difference == pytest.approx(a.mean() - b.mean()) and isinstance(to_json(found)["ci95"], list)
    assert len(evaluate.comparisons([first, second, first])) == 3 and evaluate.comparisons([first]) == []


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
def test_an_evaluations_protocol_holds_what_was_asked_for(fixed, crop_pct, expected):
    from vitft.evaluation.network import own_preprocess, preprocess, settings_for
    from vitft.models.build import build

    info = build("timm:test_vit", 3, Settings(resolution=32), from_scratch=True).info
    published = timm.get_pretrained_cfg("test_vit")
    assert (info.interpolation, info.crop_pct, info.crop_mode) == (
        published.interpolation, published.crop_pct, published.crop_mode,
    )  # fmt: skip
    assert own_preprocess(info) is None
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
    means_nothing = {"method", "steps", "lr", "batch_size", "mixup", "crop", "flip", "seed"}
    assert set(SETTABLE) <= set(Settings.model_fields) and not set(SETTABLE) & means_nothing
    assert {"resolution", "resize", "interpolation", "antialias", "normalise", "posembed_resize", "gelu"} <= set(
        SETTABLE
    )


# --- suites ----------------------------------------------------------------------------------------------------------


def suite_results(seeds: tuple[int, ...]) -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    return [_result(t, float(rng.uniform(0.3, 0.9)), s, point={"lr": 0.1}) for t in SUITES["vtab"].tasks for s in seeds]


def test_each_key_of_a_suite_is_what_it_says():
    results = suite_results((0,))
    suite = SUITES["vtab"]
    data = _summarise(suite, [*results, {**results[0], "phase": "tune"}])
    top1 = {r["task"]: r["metrics"]["top1"] for r in results}
    groups = {g: float(np.mean([top1[t] for t in names])) for g, names in suite.groups.items()}
    assert data.pop("tasks") == {
        r["task"]: {
            "top1": r["metrics"]["top1"], "n": r["metrics"]["n"], "seeds": {"0": r["metrics"]["top1"]},
            "resolution": [384, 384], "point": {"lr": 0.1}, "protocol_id": "0123abcd", "ci95": r["metrics"]["ci95"],
            "provenance": {"source": "x", "reference": True, "why": "", "completeness": "full", "split_digest": "d",
                           "split": "test", "revision": "", "classes_without_test": [], "decoder": "Pillow",
                           "checkpoint_sha256": ""}, "warnings": [],
        }
        for r in results
    }  # fmt: skip
    assert data == {
        "schema_version": 2, "kind": "suite", "suite": "vtab", "shots": 1000, "model": "vit-l16",
        "checkpoint": {"timm_name": "vit_large_patch16_224.orig_in21k", "sha256": "s", "notes": [], "assumptions": ""},
        "recipe": "vtab-vit",
        "method": "full", "resolutions": {task: [384, 384] for task in suite.tasks}, "seeds": [0],
        "protocol": {"id": "0123abcd", "recipe": "vtab-vit", "recipe_digest": "", "normalise": "checkpoint",
                     "from_scratch": False, "train": {}},
        "groups": pytest.approx(groups), "mean_of_tasks": pytest.approx(np.mean(list(top1.values()))),
        "mean_of_groups": pytest.approx(np.mean(list(groups.values()))), "complete": True, "missing": {},
        "footnotes": data["footnotes"],
    }  # fmt: skip
    assert data["footnotes"] == {"": []}
    unlike = [{**r, "protocol": {**r["protocol"], "id": r["task"]}} for r in results]
    assert _summarise(suite, unlike)["protocol"]["id"] == recipes.digest(
        {
            "recipe": "vtab-vit",
            "recipe_digest": "",
            "normalise": "checkpoint",
            "gelu": None,
            "from_scratch": False,
            "train": {"per_class": None, "limit": None},
        }
    )


def test_a_table_shows_each_number_in_its_place():
    suite = SUITES["vtab"]
    for seeds in ((0,), (0, 2)):
        results = suite_results(seeds)
        data = _summarise(suite, results, shots=1000)
        table = _table(suite, data)
        model, half, count = table.rows
        for task in suite.tasks:
            values = [r["metrics"]["top1"] for r in results if r["task"] == task]
            assert model.cells[task] == pytest.approx(np.mean(values))
            low, high = (
                results[[r["task"] for r in results].index(task)]["metrics"]["ci95"]
                if len(seeds) == 1
                else student(values)
            )
            assert half.cells[task] == f"±{50 * (high - low):.1f}"
            assert count.cells[task] == next(r["metrics"]["n"] for r in results if r["task"] == task)
        for name in (*suite.groups, "mean_of_tasks", "mean_of_groups"):
            assert model.cells[name] == pytest.approx(data.get(name, data["groups"].get(name)))
            assert (name in half.cells) == (len(seeds) > 1)
        assert half.cells["model"] == ("± 95 % over 2 seeds" if len(seeds) > 1 else "± 95 % (Wilson)")
        said = "seeds 0, 2" if len(seeds) > 1 else "seed 0"
        assert table.caption == (
            f"VTAB-1k: top-1 in percent; recipe vtab-vit, 384 px, 1,000 training examples a task, {said}, "
            "protocol 0123abcd"
        )
        assert [c.key for c in table.columns] == [
            "model", *suite.groups["natural"], "natural", *suite.groups["specialized"], "specialized",
            *suite.groups["structured"], "structured", "mean_of_tasks", "mean_of_groups",
        ]  # fmt: skip
        assert {c.kind for c in table.columns[1:]} == {"percent"}
    full = _table(suite, _summarise(suite, results, shots=0))
    assert full.caption.startswith("VTAB: top-1") and "all training data" in full.caption
    assert "Mean of tasks weighs" in " ".join(full.notes) and full.footnotes == ()


def test_a_published_row_stands_in_its_columns_as_printed():
    from vitft.catalog import published

    suite = SUITES["vtab"]
    row = {r.key: r for r in published.rows()}["vit-vtab/vit-l16-in21k"]
    data = _summarise(suite, suite_results((0,)))
    shown = _table(suite, data, [row]).rows[-1]
    assert shown.kind == "published" and shown.cells["model"] == row.title and shown.marks == {"model": (1,)}
    for name, value in {**row.tasks, **row.groups}.items():
        assert shown.cells[name] == pytest.approx(value / 100)
    for name, value in (("mean_of_tasks", row.mean_of_tasks), ("mean_of_groups", row.mean_of_groups)):
        assert shown.cells.get(name) == (None if value is None else pytest.approx(value / 100))


@pytest.mark.parametrize(
    ("change", "n", "expected"),
    [
        ({}, None, []),
        ({"reference": False}, None, ["not the reference split"]),
        ({"reference": False, "why": "drawn"}, None, ["not the reference split: drawn"]),
        ({"completeness": "partial"}, None, ["partial: fewer training images"]),
        ({"completeness": "partial"}, 7, ["partial: not all test images"]),
        ({}, 7, ["7 test images, officially 10,000"]),
        (
            {"completeness": "declared"},
            7,
            ["7 test images, officially 10,000", "counts are those its manifest declares"],
        ),
        ({"completeness": "declared"}, None, ["counts are those its manifest declares"]),
        (
            {"reference": False, "why": "7 of the official 10,000"},
            7,
            ["not the reference split: 7 of the official 10,000"],
        ),
        ({"source": "re-encoded JPEG"}, None, ["images re-encoded as JPEG"]),
    ],
)
def test_what_is_not_official_is_said_beside_the_number(change, n, expected):
    suite = SUITES["vtab"]
    results = suite_results((0,))
    one = next(r for r in results if r["task"] == "cifar100")
    one["provenance"] = {**one["provenance"], **change}
    one["metrics"] = {**one["metrics"], "n": n or 10_000}
    assert next(t for t in TASKS if t.name == "cifar100").sizes["test"] == 10_000
    notes = _summarise(suite, results)["footnotes"]
    assert notes == {"": [], **({"cifar100": expected} if expected else {})}
    for r in results:
        r["provenance"] = {**r["provenance"], "source": "re-encoded"}
    both = _summarise(suite, results)["footnotes"]
    assert both[""] == ["images re-encoded as JPEG"] and "images re-encoded as JPEG" not in both.get("cifar100", [])


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
    for classifier in fewshot.CLASSIFIERS:
        told: list[tuple[int, int]] = []
        rows = fewshot.score(
            classifier, (x, labels), where, labels, test, 3, asked, seeds, lambda a, b, told=told: told.append((a, b))
        )
        assert told == [(i, 5) for i in range(1, 6)]
        by_count = {c: [r for r in rows if r.per_class == c] for c in asked}
        assert [r.examples for r in rows] == [{1: 3, 4: 10, fewshot.ALL: 17}[r.per_class] for r in rows]
        for count, of_count in by_count.items():
            for r in of_count:
                assert r.classifier == classifier and r.n == 30
                assert r.seeds == (seeds if count else (0,)) and len(r.correct) == len(r.seeds)
                assert (r.short, r.fewest) == ((1, 2) if count == 4 else (0, 0))
                assert r.interval == ("t over 2 seeds" if count else "wilson")
                assert r.top1 == pytest.approx(np.mean(r.correct) / 30) and r.values == tuple(c / 30 for c in r.correct)
                if not count:
                    assert r.ci95 == pytest.approx(score(r.correct[0] / 30, 30))
        if classifier == "knn":
            assert [r.k for r in by_count[4]] == [10] and [r.k for r in by_count[fewshot.ALL]] == [10, 17]
            assert [r.k for r in by_count[1]] == [3]
        else:
            assert {r.k for r in rows} == {0} and len(rows) == 3
        if classifier == "logistic":
            from vitft.evaluation import probe

            assert [len(r.strengths) for r in rows] == [2, 2, 1]
            order = fewshot.orders(labels, 3, 3)
            mine = fewshot.chosen(order, 4)
            fitted = probe.fit(x[mine], labels[mine], 3)
            assert rows[1].strengths[1] == fitted.strength
            assert rows[1].correct[1] == int((fitted.answers(test[0]) == test_y).sum())
        else:
            assert {r.strengths for r in rows} == {()}
    part = fewshot.needed(labels, 3, (1, 2), seeds)
    drawn = [np.random.default_rng(s) for s in seeds]
    expected = {int(i) for rng in drawn for c in range(3) for i in rng.permutation(np.flatnonzero(labels == c))[:2]}
    assert part.tolist() == sorted(expected)
    assert fewshot.short_classes(labels, ("x", "y", "z"), 7) == [("z", 2), ("y", 6)]
    assert fewshot.short_classes(labels, ("x", "y", "z"), 2) == []


def test_what_all_tasks_share_is_said_once():
    suite = SUITES["vtab"]
    results = suite_results((0,))
    for r in results:
        r["provenance"] = {**r["provenance"], "source": "re-encoded"}
    line = "images re-encoded as JPEG"
    for n in (1, 2, 3):
        notes = _summarise(suite, results[:n])["footnotes"]
        assert notes == ({"": [], results[0]["task"]: [line]} if n == 1 else {"": [line]})
    results[1]["provenance"] = {**results[1]["provenance"], "source": "x"}
    assert _summarise(suite, results[:3])["footnotes"] == {
        "": [],
        **{r["task"]: [line] for r in (results[0], results[2])},
    }
    assert _summarise(suite, [])["footnotes"] == {"": []}
