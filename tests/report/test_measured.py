"""Each kind of result as numbers of a table: every field, and what must be equal for two to stand in one row."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import drawn_results as drawn
from tests.typed import CHECKPOINT, PROTOCOL, REST
from vitft.report.measured import Measured, architecture, of_any, of_suite
from vitft.results.reading import parse
from vitft.results.schema import EvalResult, FewshotResult, RunResult, SuiteResult, UnitResult
from vitft.results.summary import Described

TIMM = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
SHAPE = {"name": "vit_tiny_patch16_224", "kwargs": {"img_size": 32, "patch_size": 8, "num_classes": 3, "depth": 2,
                                                    "global_pool": "avg"}}  # fmt: skip
NAMED = "vit_tiny_patch16 (depth=2, patch_size=8)"
RIGHT = np.arange(10) < 7


def unit(root: Path, kind: type[UnitResult] = UnitResult, **changes: Any) -> UnitResult:
    usual = {
        "seed": 3, "model": "place/vit-a.npz", "point": {"lr": 0.25}, "recipe_settings": {"lr": 0.25, "steps": 7},
        "checkpoint": {"sha256": "ab", "part": ".ema", "timm_name": TIMM, "architecture": SHAPE},
        "protocol": {"normalise": "half", "gelu": "tanh", "selection": "val, best of 2 settings"},
        "provenance": {"train_split": "train800val200"},
        "cost": {"macs_per_image": 5.0, "train_flops": 60.0}, "timing": {"evaluate_s": 2.0, "train_s": 5.0},
        "settings": {"device_kind": "cuda"}, "env": {"device": "NVIDIA H100", "finished": "2026-01-02"},
        "warnings": ["diverged"],
    }  # fmt: skip
    made = drawn._merged(usual, changes)
    return parse(drawn.unit(root, made.pop("task", "dtd"), RIGHT, **made), kind, "'x'")


def only(found: Any) -> Measured:
    (one,) = found
    return one


def test_each_field_of_a_fine_tunes_number(tmp_path: Path) -> None:
    result = unit(tmp_path)
    folder = next(tmp_path.rglob("predictions.parquet")).parent
    found = only(of_any(result, folder))
    what = Described(
        model="vit-a", sha256="ab", architecture=NAMED, pretraining="ImageNet-21k then 1k", timm_name=TIMM,
        method="full", recipe="quick", resolutions=((32, 32),), examples="1,000", selected="best on val",
        device="NVIDIA H100",
    )  # fmt: skip
    row = (("model", "ab.ema"), ("method", "full"), ("recipe", "quick"), ("settings", "r"), ("examples", "1,000"),
           ("normalise", "half"), ("GELU", "tanh"))  # fmt: skip
    assert found == Measured(
        column="dtd", task="dtd", seed=3, top1=0.7, n=10, correct=7, row=row, what=what, protocol="p",
        split_digest="dtd-10", settings=found.settings, point=frozenset({"lr"}),
        predictions=folder / "predictions.parquet", cost=(60.0, 7.0), macs=5.0, finished="2026-01-02",
        notes=("diverged",),
    )  # fmt: skip
    assert (found.settings["lr"], found.settings["steps"], found.settings["decay_steps"]) == (0.25, 7, [])
    assert only(of_any(result)).predictions is None and only(of_any(result, tmp_path)).predictions is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"timing": {"total_s": 11.0}}, {"cost": (60.0, 11.0)}),
        ({"timing": {"train_s": None}}, {"cost": (60.0, 2.0)}),
        ({"phase": "tune"}, {"tuning": True}),
        ({"provenance": {"train_digest": "td"}}, {"trained": "td"}),
        ({"protocol": {"selection": "none"}}, {"selected": "last"}),
        ({"protocol": {"selection": "dev, best of 3"}}, {"selected": "best on val"}),
        ({"protocol": {"selection": "test, best of 3"}}, {"selected": "best on test"}),
        ({"protocol": {"gelu": None}}, {"GELU": ""}),
        ({"checkpoint": {"sha256": ""}}, {"model": "place/vit-a.npz", "sha256": ""}),
        ({"protocol": {"from_scratch": True}},
         {"model": f"{NAMED} from scratch", "called": "vit-a from scratch", "sha256": "", "timm_name": "",
          "pretraining": "none"}),
        ({"model": "vit-mini"}, {"called": "vit-mini", "pretraining": "CIFAR-10"}),
        ({"model": "vit-mini", "protocol": {"from_scratch": True}},
         {"model": f"{NAMED} from scratch", "called": "vit-mini from scratch", "sha256": "", "timm_name": "",
          "pretraining": "none"}),
        ({"protocol": {"train": {"per_class": 1500, "limit": 20}}}, {"examples": "1,500 a class"}),
        ({"protocol": {"train": {"limit": 1200}}}, {"examples": "1,200 drawn"}),
        ({"provenance": {"train_split": "train800val200[:60]"}},
         {"examples": "60", "notes": ("no VTAB-1k: trained on the first 60 of its 1,000 examples", "diverged")}),
        ({"provenance": {"train_split": "train800"}}, {"examples": "800"}),
        ({"provenance": {"train_split": "train"}}, {"examples": "all"}),
        ({"provenance": {"train_split": None}}, {"examples": "all"}),
        ({"provenance": {"reference": False}}, {}),
        ({"provenance": {"reference": True, "why": "drawn"}}, {}),
        ({"provenance": {"reference": False, "why": "drawn"}},
         {"notes": ("not the reference split: drawn", "diverged")}),
        ({"provenance": {"completeness": "partial"}},
         {"notes": ("partial: not all images of the official split", "diverged")}),
        ({"provenance": {"completeness": "partial", "train_official": 100, "train_whole": 7}},
         {"notes": ("partial: trained on 7 of 100 official examples", "diverged")}),
        ({"task": "mine", "provenance": {"completeness": "partial"}}, {"task": "mine"}),
        ({"env": {"device": "CUDA"}}, {"device": "cuda"}),
        ({"env": {"device": ""}}, {"device": "cuda"}),
    ],
)  # fmt: skip
def test_what_a_fine_tune_says_is_in_its_number(tmp_path: Path, changes: Any, expected: dict[str, Any]) -> None:
    usual, found = only(of_any(unit(tmp_path / "a"))), only(of_any(unit(tmp_path / "b", **changes)))

    def told(one: Measured) -> dict[str, Any]:
        what = one.what.model_dump() | {"called": one.what.model}
        rest = {key: getattr(one, key) for key in ("cost", "tuning", "notes", "task", "column", "trained")}
        return what | rest | dict(one.row) | {"examples": one.what.examples}

    if "task" in expected:
        expected["column"] = expected["task"]
    assert told(found) == told(usual) | expected
    assert dict(found.row)["examples"] == found.what.examples


def test_real_labels_are_a_number_of_their_own(tmp_path: Path) -> None:
    real = {"real_top1": 0.75, "real_n": 8, "real_correct": 6, "real_ci95": [0.4, 0.9]}
    own, other = of_any(unit(tmp_path, metrics=real))
    expected = replace(
        own, column="imagenet_real", top1=0.75, n=8, correct=6, given=(0.4, 0.9), predictions=None, cost=(0.0, 0.0)
    )
    assert other == expected and (own.top1, own.given) == (0.7, None)
    assert len(list(of_any(unit(tmp_path, metrics=real | {"real_n": 0})))) == 1


def test_a_run_without_its_units_is_a_number_a_seed(tmp_path: Path) -> None:
    of = {s: {"top1": v, "n": 10, "ci95": [0, 1], "correct": round(10 * v)} for s, v in (("4", 0.5), ("9", 0.6))}
    run = unit(tmp_path, RunResult, seeds=of)
    folder = next(tmp_path.rglob("predictions.parquet")).parent
    found = list(of_any(run, folder))
    assert [(f.seed, f.top1, f.correct, f.predictions) for f in found] == [(4, 0.5, 5, None), (9, 0.6, 6, None)]
    alone = only(of_any(run.model_copy(update={"seeds": None}), folder))
    assert (alone.seed, alone.top1, alone.predictions) == (3, 0.7, folder / "predictions.parquet")
    one = only(of_any(run.model_copy(update={"seeds": {"4": run.seeds["4"]}}), folder))  # type: ignore[attr-defined]
    assert (one.seed, one.top1, one.predictions) == (4, 0.5, folder / "predictions.parquet")


SHARED = {
    "task": "imagenet", "model": "timm:vit-a", "num_classes": 10, "preprocess": {"size": [32, 32]},
    "provenance": {"source": "x", "split_digest": "d", "reference": True, "completeness": "full"},
    "settings": REST["settings"], "env": {"vitft": "0", "device": "cpu", "finished": "2026-03-04"},
    "checkpoint": {**CHECKPOINT, "sha256": "cd", "timm_name": TIMM, "architecture": SHAPE},
    "schema_version": 2,
}  # fmt: skip
ASKED = {key: value for key, value in PROTOCOL.items() if key != "recipe"} | {
    "id": "q", "resolution": [32, 48], "posembed_resize": "bicubic", "normalise": "none", "gelu": "exact",
}  # fmt: skip
EVALUATED = Described(
    model="vit-a", sha256="cd", architecture=NAMED, pretraining="ImageNet-21k then 1k", timm_name=TIMM,
    method="as it is", resolutions=((32, 48),), device="cpu",
)  # fmt: skip


def test_each_field_of_an_evaluations_number(tmp_path: Path) -> None:
    metrics = {"top1": 0.7, "n": 10, "correct": 7, "ci95": [0, 1]}
    data = {**SHARED, "kind": "eval", "metrics": metrics, "protocol": ASKED, "timing": {"evaluate_s": 3.0}}
    row = (("model", "cd"), ("method", "as it is"), ("normalise", "none"), ("GELU", "exact"),
           ("position embeddings", "bicubic"))  # fmt: skip
    expected = Measured(
        column="imagenet", task="imagenet", seed=None, top1=0.7, n=10, correct=7, row=row, what=EVALUATED,
        protocol="q", split_digest="d", cost=(0.0, 3.0), finished="2026-03-04",
    )  # fmt: skip
    assert list(of_any(parse(data, EvalResult, "x"), tmp_path)) == [expected]
    drawn.answers(tmp_path / "predictions.parquet", RIGHT)
    (tmp_path / "seed-5").mkdir()
    drawn.answers(tmp_path / "seed-5/predictions.parquet", RIGHT)
    real = metrics | {"real_top1": 0.5, "real_n": 4, "real_correct": 2}
    stamped = data | {"stamp": "subset 10", "metrics": real}
    stamped["provenance"] = SHARED["provenance"] | {"completeness": "partial"}  # type: ignore[operator]
    notes = ("subset 10", "partial: not all images of the official split")
    whole, judged = of_any(parse(stamped, EvalResult, "x"), tmp_path)
    assert whole == replace(expected, notes=notes, predictions=tmp_path / "predictions.parquet")
    assert judged == replace(whole, column="imagenet_real", top1=0.5, n=4, correct=2, predictions=None, cost=(0.0, 0.0))
    several = data | {"seeds": {"5": metrics, "6": metrics | {"top1": 0.8, "correct": 8}}}
    assert list(of_any(parse(several, EvalResult, "x"), tmp_path)) == [
        replace(expected, seed=5, predictions=tmp_path / "seed-5/predictions.parquet"),
        replace(expected, seed=6, top1=0.8, correct=8),
    ]
    nothing = parse(several | {"protocol": ASKED | {"gelu": None}}, EvalResult, "x")
    assert [(dict(one.row)["GELU"], one.predictions) for one in of_any(nothing)] == [("", None)] * 2


def test_each_field_of_a_few_shot_number() -> None:
    usual = {"top1": 0.6, "ci95": [0, 1], "interval": "wilson", "n": 10, "examples": 9}
    of_rows = [
        usual | {"per_class": 5, "values": [0.5, 0.7], "correct": [5, 7], "seeds": [0, 4], "short_classes": 2},
        usual | {"per_class": "all", "values": [0.6], "correct": [6], "seeds": [0], "C": [1.0], "k": 20},
    ]
    data = {**SHARED, "kind": "fewshot", "classifier": "knn", "rows": of_rows,
            "protocol": ASKED | {"classifier": "knn", "pool": "train"}}  # fmt: skip
    found = list(of_any(parse(data, FewshotResult, "x")))

    def expected(method: str, examples: str, selected: str, seed: int, right: int, *notes: str) -> Measured:
        row = (("model", "cd"), ("method", method), ("examples", examples), ("normalise", "none"), ("GELU", "exact"),
               ("pool", "train"))  # fmt: skip
        what = EVALUATED.model_copy(update={"method": method, "examples": examples, "selected": selected})
        return Measured(
            column="imagenet", task="imagenet", seed=seed, top1=right / 10, n=10, correct=right, row=row, what=what,
            protocol="q", split_digest="d", cost=(0.0, None), finished="2026-03-04", notes=notes,
        )  # fmt: skip

    short = "2 classes have fewer than 5 examples"
    assert found == [
        expected("frozen + knn", "5 a class", "last", 0, 5, short),
        expected("frozen + knn", "5 a class", "last", 4, 7, short),
        expected("frozen + knn k=20", "all", "best on val", 0, 6),
    ]
    unsaid = parse(data | {"protocol": {**data["protocol"], "gelu": None}}, FewshotResult, "x")  # type: ignore[dict-item]
    assert {dict(one.row)["GELU"] for one in of_any(unsaid)} == {""}


def test_each_field_of_the_numbers_of_a_suite_without_units() -> None:
    one = {"n": 10, "resolution": [32, 32], "protocol_id": "p"}
    provenance = {"source": "x", "split_digest": "d", "completeness": "partial", "train_split": "train800"}
    tasks = {
        "dtd": one | {"top1": 0.65, "seeds": {"2": 0.6, "5": 0.7}, "provenance": provenance, "point": {"lr": 0.1},
                      "recipe": "own", "warnings": ["w"]},
        "ReaL": one | {"top1": 0.8, "seeds": {}, "provenance": provenance, "labels": "real", "task": "imagenet",
                       "run": "eval"},
        "few": one | {"top1": 0.5, "seeds": {"0": 0.5}, "provenance": provenance, "task": "cifar10",
                      "run": "fewshot"},
    }  # fmt: skip
    suite = {
        "schema_version": 2, "kind": "suite", "suite": "s", "complete": True, "model": "timm:vit-a", "recipe": "quick",
        "method": "linear", "checkpoint": {"sha256": "cd", "timm_name": TIMM}, "tasks": tasks,
        "protocol": {"id": "z", "recipe_digest": "r", "normalise": "half", "gelu": "tanh", "train": {"limit": 40}},
    }  # fmt: skip
    note = "partial: not all images of the official split"
    what = Described(
        model="vit-a", sha256="cd", pretraining="ImageNet-21k then 1k", timm_name=TIMM, method="linear", recipe="own",
        resolutions=((32, 32),), examples="40 drawn", selected="best on val",
    )  # fmt: skip
    row = {"model": "cd", "method": "linear", "recipe": "own", "settings": "r", "examples": "40 drawn",
           "normalise": "half", "GELU": "tanh"}  # fmt: skip
    first = Measured(
        column="dtd", task="dtd", seed=2, top1=0.6, n=10, correct=6, row=tuple(row.items()), what=what, protocol="p",
        split_digest="d", notes=(note, "w"),
    )  # fmt: skip

    def other(key: str, task: str, seed: int | None, right: int, method: str) -> Measured:
        said = what.model_copy(update={"method": method, "recipe": "quick", "selected": "last"})
        of_row = tuple((row | {"method": method, "recipe": "quick"}).items())
        return replace(
            first, column=key, task=task, seed=seed, top1=right / 10, correct=right, row=of_row, what=said,
            notes=(note,),
        )  # fmt: skip

    assert list(of_suite(parse(suite, SuiteResult, "x"))) == [
        first, replace(first, seed=5, top1=0.7, correct=7), other("imagenet_real", "imagenet", None, 8, "as it is"),
        other("cifar10", "cifar10", 0, 5, "frozen"),
    ]  # fmt: skip
    mini = next(of_suite(parse(suite | {"model": "vit-mini", "checkpoint": {}}, SuiteResult, "x")))
    assert (mini.what.model, mini.what.pretraining) == ("vit-mini", "CIFAR-10")
    bare = suite | {"protocol": {"id": "z", "from_scratch": True}, "checkpoint": {}, "model": None, "recipe": None}
    bare["tasks"] = {"dtd": tasks["dtd"] | {"recipe": None}}
    del bare["method"]
    found = next(of_suite(parse(bare, SuiteResult, "x")))
    assert (found.what.model, found.what.sha256, found.what.timm_name) == ("no result from scratch", "", "")
    assert found.what.pretraining == "none" and found.what.examples == "800"
    assert found.row == (("model", ""), ("method", ""), ("recipe", ""), ("settings", ""), ("examples", "800"),
                         ("normalise", ""), ("GELU", ""))  # fmt: skip


def test_an_architecture_is_named_without_the_size_of_its_images(tmp_path: Path) -> None:
    for words, expected in (
        ({}, "vit_tiny_patch16"),
        ({"img_size": 5, "num_classes": 5, "global_pool": ""}, "vit_tiny_patch16"),
        ({"b": 1, "a": "x"}, "vit_tiny_patch16 (a=x, b=1)"),
    ):
        shape = {"name": "vit_tiny_patch16_224", "kwargs": words}
        info = parse({**SHARED, "kind": "eval", "metrics": {"top1": 1, "n": 1, "ci95": [0, 1]}, "protocol": ASKED,
                      "timing": {"evaluate_s": 1}, "checkpoint": {**CHECKPOINT, "architecture": shape}},
                     EvalResult, "x").checkpoint  # fmt: skip
        assert architecture(info) == expected
