"""What the results of units and runs say, recomputed: every key, not some of them."""

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
from vitft import __version__
from vitft.engines.inline import run_job
from vitft.evaluation import predictions
from vitft.protocol.jobs import Runtime
from vitft.protocol.run import run_unit
from vitft.protocol.units import final_units, tune_units
from vitft.results.schema import to_json
from vitft.settings import Settings


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
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:8]


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


@pytest.mark.usefixtures("onednn")
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
    assert got["protocol"]["id"] == digest({**protocol, "resolution": "32", "train": train})
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
                               "linear": "oneDNN", "micro_batch": got["settings"]["micro_batch"]}  # fmt: skip
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
        "vitft": __version__, "torch": torch.__version__, "python": platform.python_version(),
        "device": "cpu",
    }  # fmt: skip
    assert before <= datetime.fromisoformat(env["finished"]) <= datetime.now(UTC)
    assert re.fullmatch(r"[\d-]{10}T[\d:]{8}\+00:00", env["finished"])
    times = got["timing"]
    assert 0 < times["train_s"] + times["evaluate_s"] <= times["total_s"] + 0.002 <= elapsed + 0.004
    assert times["train_images_per_s"] == pytest.approx(24 / times["train_s"], rel=0.05)
    digits = {"train_s": 3, "evaluate_s": 3, "total_s": 3, "train_images_per_s": 2}  # milliseconds say enough
    assert {k: round(times[k], n) for k, n in digits.items()} == times


def test_a_probe_of_features_computed_once_counts_what_it_computed(tmp_path):
    j, _ = job(draw(tmp_path / "d"), overrides={**KEYS, "method": "linear", "crop": "none", "steps": 9})
    cost = to_json(run_unit(final_units(j, [])[0], tmp_path / "run", Runtime(device="cpu")))["cost"]
    assert (
        cost["train_images"] == 72 and cost["train_flops"] == 2 * cost["macs_per_image"] * 24 * 2
    )  # as it is, mirrored


def test_a_job_tells_what_it_tuned_on_and_what_each_seed_gave(tmp_path):
    data = draw(tmp_path / "d", ("train", "val", "test"))
    for split, i in (("train", 1), ("val", 2), ("val", 3)):  # seen before they are tested on
        (data / "test" / "b" / f"{i}.png").write_bytes((data / split / "b" / f"{i}.png").read_bytes())
    j, source = job(data, overrides={"steps": 2}, seeds=(4, 7))
    returned = run_job(j, source, tmp_path / "run", Runtime(device="cpu"))
    result = same(returned, tmp_path / "run/result.json")
    assert result["provenance"]["overlap"] == {"n": 3, "splits": {"train": 1, "val": 2}}
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
