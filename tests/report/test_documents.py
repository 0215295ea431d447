"""What suites and their tables say, recomputed: every key, not some of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import typed
from tests.protocol.test_documents import digest, student
from tests.report.test_measured import ASKED, SHARED
from tests.report.test_report import PLAIN, _result, _summarise, _table
from vitft.catalog.tasks import TASKS
from vitft.errors import UsageError
from vitft.report import suite_table
from vitft.report.suite import summarise
from vitft.results.parts import Metrics, Overlap
from vitft.results.reading import parse
from vitft.results.schema import EvalResult, FewshotResult, to_json
from vitft.suites.document import load as suite_of
from vitft.suites.suite import Column, Group, Mean, Suite


def suite_results(seeds: tuple[int, ...]) -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    return [
        _result(t, float(rng.uniform(0.3, 0.9)), s, point={"lr": 0.1}) for t in suite_of("vtab").tasks for s in seeds
    ]


def test_each_key_of_a_suite_is_what_it_says():
    results = suite_results((0,))
    suite = suite_of("vtab")
    data = _summarise(suite, [*results, {**results[0], "phase": "tune"}])
    top1 = {r["task"]: r["metrics"]["top1"] for r in results}
    groups = {g: float(np.mean([top1[t] for t in names])) for g, names in suite.groups.items()}
    assert data.pop("tasks") == {
        r["task"]: {
            "top1": r["metrics"]["top1"], "n": r["metrics"]["n"], "seeds": {"0": r["metrics"]["top1"]},
            "resolution": [384, 384], "point": {"lr": 0.1}, "protocol_id": "0123abcd", "ci95": r["metrics"]["ci95"],
            "provenance": {"source": "x", "reference": True, "why": "", "completeness": "full", "split_digest": "d",
                           "split": "test", "revision": "", "classes_without_test": [],
                           "classes_without_train": [], "decoder": "Pillow",
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
    # what holds of all checkpoints, in the first one's order
    for i, (r, notes) in enumerate(zip(results, ("axb", *["bxa"] * (len(results) - 1)), strict=True)):
        results[i] = {**r, "checkpoint": {**r["checkpoint"], "notes": [*notes] if i != 1 else ["b", "a"]}}
    assert _summarise(suite, results)["checkpoint"]["notes"] == ["a", "b"]
    unlike = [{**r, "protocol": {**r["protocol"], "id": r["task"]}} for r in results]
    assert _summarise(suite, unlike)["protocol"]["id"] == digest(
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
    suite = suite_of("vtab")
    for seeds in ((0,), (0, 2)):
        results = suite_results(seeds)
        data = _summarise(suite, results)
        table = _table(suite, data)
        model, bottom, top, count = table.rows
        for task in suite.tasks:
            values = [r["metrics"]["top1"] for r in results if r["task"] == task]
            assert model.cells[task] == pytest.approx(np.mean(values))
            low, high = (
                results[[r["task"] for r in results].index(task)]["metrics"]["ci95"]
                if len(seeds) == 1
                else student(values)
            )
            assert bottom.cells[task] == pytest.approx(max(0, low)) and top.cells[task] == pytest.approx(min(1, high))
            assert count.cells[task] == next(r["metrics"]["n"] for r in results if r["task"] == task)
        for name in (*suite.groups, "mean_of_tasks", "mean_of_groups"):
            assert model.cells[name] == pytest.approx(data.get(name, data["groups"].get(name)))
            assert (name in bottom.cells) == (name in top.cells) == (len(seeds) > 1)
        assert bottom.cells["model"] == "95 % low" + " (over 2 seeds)" * (len(seeds) > 1)
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
    full = _table(suite, _summarise(suite.trained_with("vtab-vit", "full"), results))
    assert full.caption.startswith("VTAB: top-1") and "all training data" in full.caption
    assert "Mean of tasks weighs" in " ".join(full.notes) and full.footnotes == ()


def test_a_published_row_stands_in_its_columns_as_printed():
    from vitft.catalog import published

    suite = suite_of("vtab")
    row = {r.key: r for r in published.rows()}["vit-vtab/vit-l16-in21k"]
    data = _summarise(suite, suite_results((0,)))
    shown = _table(suite, data, suite_table.alone([row])).rows[-1]
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
    suite = suite_of("vtab")
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


def test_what_all_tasks_share_is_said_once():
    suite = suite_of("vtab")
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


def test_a_caption_says_up_to_where_one_task_has_fewer_examples():
    suite = suite_of("vtab")
    results = suite_results((0,))
    data = _summarise(suite, results)
    data["tasks"][results[3]["task"]]["provenance"]["train_official"] = 1000
    assert ", up to 1,000 training examples a task," in _table(suite, data).caption


def test_a_suite_has_the_notes_that_all_its_networks_have():
    results = suite_results((0,))
    for i, r in enumerate(results):
        r["checkpoint"] = {**r["checkpoint"], "notes": ["EMA weights", f"own {i}"]}
    assert _summarise(suite_of("vtab"), results)["checkpoint"]["notes"] == ["EMA weights"]
    results[4]["checkpoint"] = {**results[4]["checkpoint"], "notes": []}
    assert _summarise(suite_of("vtab"), results)["checkpoint"]["notes"] == []


def test_what_a_checkpoint_does_not_say_stands_below_the_table():
    suite = suite_of("vtab")
    data = _summarise(suite, suite_results((0,)))
    data["checkpoint"] |= {"notes": ["weights were halved"], "assumptions": "assumed: mean"}
    notes = _table(suite, data).notes
    assert notes[:2] == ("Weights were halved.", "Assumed: mean.") and len(notes) == 3


def test_what_has_other_seeds_than_the_suite_is_its_mean_for_each_of_them():
    from vitft.report.suite import _Scores

    one = _Scores(None, (), {0: 0.2, 5: 0.6, 9: 0.7}, 10, (0.0, 1.0))  # type: ignore[arg-type]
    assert one.of((5, 0)) == [0.6, 0.2] and one.of(()) == []
    assert one.of((0, 1)) == one.of((7, 8)) == [pytest.approx(0.5)] * 2


def test_parts_of_a_suite_have_one_protocol_of_all_of_theirs():
    from tests import typed
    from vitft.report.suite import _shared

    one, two = (typed.result(_result("dtd", 0.5) | {"protocol": {"id": i, "resolution": "384"}}) for i in ("a", "b"))
    assert (_shared([[one]]).id, _shared([[two]]).id) == ("a", "b") and _shared([[one]]).recipe == "vtab-vit"
    both = _shared([[one], [two]])
    assert both.id == digest({"parts": ["a", "b"]}) and both.recipe is both.normalise is both.train is None


@pytest.mark.parametrize(
    ("mean", "columns", "there"), [(True, True, True), (True, False, True), (False, False, True), (False, True, False)]
)
def test_a_group_has_its_mean_where_it_is_asked_for_or_stands_for_its_columns(mean, columns, there):
    from types import SimpleNamespace

    from vitft.report.suite import _means

    group = SimpleNamespace(name="g", mean=mean, columns_shown=columns)
    suite = SimpleNamespace(groups={"g": ("a", "b")}, counted=lambda name: ("a", "b"), group_list=[group], means=())
    assert _means(suite, {"a": 0.2, "b": 0.4})["groups"] == ({"g": pytest.approx(0.3)} if there else {})  # type: ignore[arg-type]
    assert _means(suite, {"a": 0.2})["groups"] == {}  # type: ignore[arg-type]


OWN = {"source": "x", "reference": False, "completeness": "full", "split_digest": "d"}


def mixed() -> tuple[Suite, dict[str, list[Any]]]:
    """Return a suite of four parts, and results of it: two trainings, an evaluation with ReaL, and few-shot."""
    columns = (
        Column("dtd", "DTD", "a", "dtd", recipe="ra"), Column("mine", "Mine", "a", "/x/birds", recipe="ra"),
        Column("k", "K", "b", "cifar100", recipe="rb", shots="1000"), Column("in", "IN", "b", "imagenet", run="eval"),
        Column("real", "R", "b", "imagenet", run="eval", real=True),
        Column("few", "F", "c", "cifar10", run="fewshot", per_class=5),
    )  # fmt: skip
    groups = (Group("a", True, True), Group("b", True, True), Group("c", False, True))
    means = (Mean("mean_of_tasks", "t", ("dtd", "mine", "k", "in", "few"), "tasks"),
             Mean("mean_of_groups", "g", ("a", "b"), "groups"), Mean("own", "o", ("dtd", "few"), "tasks"))  # fmt: skip

    def trained(task: str, top1: float, seed: int, **more: Any) -> Any:
        n = 20
        result = _result("dtd", top1, seed) | {"task": task, "provenance": PLAIN, "metrics": {
            "top1": top1, "n": n, "correct": round(n * top1), "ci95": [0.1, 0.9]}}  # fmt: skip
        return typed.result(result | more)

    both = {"top1": 0.4, "n": 50, "ci95": [0.3, 0.5], "real_top1": 0.5, "real_n": 40, "real_ci95": [0.4, 0.6]}
    every: dict[str, Any] = {**SHARED, "model": "vit-l16"}
    every["checkpoint"] = every["checkpoint"] | {"sha256": "s", "notes": ["EMA"]}
    evaluated = every | {
        "kind": "eval", "stamp": "subset", "timing": {"evaluate_s": 1}, "protocol": ASKED, "metrics": both,
    }  # fmt: skip
    usual = {"correct": [1, 2, 3], "seeds": [0, 1, 2], "top1": 0.5, "n": 30, "ci95": [0.2, 0.8], "interval": "t",
             "examples": 5}  # fmt: skip
    rows = [usual | {"per_class": k, "values": own} for k, own in ((10, [0.9, 0.9, 0.9]), (5, [0.2, 0.3, 0.7]))]
    few = every | {
        "task": "cifar10", "kind": "fewshot", "classifier": "ridge", "rows": rows, "stamps": ["few"],
        "protocol": ASKED | {"classifier": "ridge", "pool": "train", "id": "f"},
    }  # fmt: skip
    a = {"recipe": "ra", "checkpoint": {"sha256": "s", "notes": ["EMA", "other"]}}
    b = a | {"recipe": "rb", "protocol": {"id": "pb", "recipe": "rb", "resolution": "224"}}
    in_tests = {"overlap": {"n": 3, "splits": {"train": 3}}}
    results: dict[str, list[Any]] = {
        "dtd": [trained("dtd", 0.5, 9, **a, point={"lr": 0.1}, warnings=["w"]), trained("dtd", 0.7, 4, **a),
                trained("dtd", 1.0, 7, **a, phase="tune"),
                trained("dtd", 0.3, 2, **a, provenance=PLAIN | in_tests)],
        "mine": [trained("birds", v, s, **a, provenance=OWN) for v, s in ((0.6, 4), (0.8, 9))],
        "k": [trained("cifar100", v, s, **b) for v, s in ((0.25, 4), (0.35, 9))],
        "in": [parse(evaluated, EvalResult, "x")],
        "few": [parse(few, FewshotResult, "x")],
    }  # fmt: skip
    results["real"] = results["in"]
    return Suite("s", "S", columns, groups, means), results


def of(suite: Suite, results: dict[str, list[Any]], **more: Any) -> dict[str, Any]:
    placed = {key: {Path(str(i)): one for i, one in enumerate(own)} for key, own in results.items()}
    return to_json(summarise(suite, placed, **more))


def test_a_suite_of_trainings_evaluations_and_few_shot_is_each_of_them_in_its_place():
    suite, results = mixed()
    found = of(suite, results, seeds=(9, 4))
    tasks: Any = found["tasks"]
    tops = {key: tasks[key]["top1"] for key in tasks}
    assert tops == {
        "dtd": pytest.approx(0.6), "mine": pytest.approx(0.7), "k": pytest.approx(0.3), "in": 0.4, "real": 0.5,
        "few": pytest.approx(0.4),
    }  # fmt: skip
    assert {key: (one["n"], one["seeds"], one["protocol_id"], one.get("run"), one.get("task"), one.get("recipe"),
                  one.get("labels"), one["warnings"]) for key, one in tasks.items()} == {
        "dtd": (20, {"9": 0.5, "4": 0.7}, "0123abcd", None, None, "ra", None, ["w"]),
        "mine": (20, {"4": 0.6, "9": 0.8}, "0123abcd", None, "birds", "ra", None, []),
        "k": (20, {"4": 0.25, "9": 0.35}, "pb", None, "cifar100", "rb", None, []),
        "in": (50, {}, "q", "eval", "imagenet", None, None, ["subset"]),
        "real": (40, {}, "q", "eval", "imagenet", None, "real", ["subset"]),
        "few": (30, {"0": 0.2, "1": 0.3, "2": 0.7}, "f", "fewshot", "cifar10", None, None, ["few"]),
    }  # fmt: skip
    assert [key for key in tasks if tasks[key].get("point")] == ["dtd"] and tasks["dtd"]["point"] == {"lr": 0.1}
    assert tasks["dtd"]["provenance"]["overlap"]["n"] == 3
    of_values = {"dtd": [0.5, 0.7], "mine": [0.6, 0.8], "k": [0.25, 0.35], "few": [0.2, 0.3, 0.7]}
    for key, one in tasks.items():
        own = of_values.get(key)
        assert one.get("ci95") == {"in": [0.3, 0.5], "real": [0.4, 0.6]}.get(key)
        assert one.get("ci95_over_seeds") == (pytest.approx(student(own)) if own else None)
    a, b, everything = (0.6 + 0.7) / 2, (0.3 + 0.4) / 2, (0.6 + 0.7 + 0.3 + 0.4 + 0.4) / 5
    assert found["groups"] == {"a": pytest.approx(a), "b": pytest.approx(b)}
    assert found["mean_of_tasks"] == pytest.approx(everything) and found["mean_of_groups"] == pytest.approx((a + b) / 2)
    assert found["means"] == {"own": pytest.approx(0.5)} and found["complete"] and found["missing"] == {}
    # What has seeds of its own, or none, is its mean for each of the suite's.
    by_seed = {
        "a": [(0.5 + 0.8) / 2, (0.7 + 0.6) / 2], "b": [(0.35 + 0.4) / 2, (0.25 + 0.4) / 2],
        "own": [(0.5 + 0.4) / 2, (0.7 + 0.4) / 2],
        "mean_of_tasks": [(0.5 + 0.8 + 0.35 + 0.4 + 0.4) / 5, (0.7 + 0.6 + 0.25 + 0.4 + 0.4) / 5],
    }  # fmt: skip
    by_seed["mean_of_groups"] = [(x + y) / 2 for x, y in zip(by_seed["a"], by_seed["b"], strict=True)]
    over: Any = found["over_seeds"]
    assert over.keys() == by_seed.keys() and found["seeds"] == [4, 9]
    for name, (nine, four) in by_seed.items():
        assert over[name]["seeds"] == {"4": pytest.approx(four), "9": pytest.approx(nine)}
        assert over[name]["ci95"] == pytest.approx(student([four, nine]))
    assert (found["model"], found["recipe"], found["method"], found.get("shots")) == ("vit-l16", "ra, rb", "full", None)
    assert found["checkpoint"]["notes"] == ["EMA"] and found["checkpoint"]["sha256"] == "s"
    assert found["protocol"] == {"id": digest({"parts": ["0123abcd", "pb", "q", "f"]})}
    fewer = of(suite, {key: own for key, own in results.items() if key != "k"}, seeds=(9, 4))
    assert fewer["protocol"] == {"id": digest({"parts": ["0123abcd", "q", "f"]})}
    seen = "3 images of test were trained or selected on, too, byte for byte: 3 in train"
    assert found["footnotes"] == {
        "": [], "dtd": ["20 test images, officially 1,880", "w", seen], "k": ["20 test images, officially 10,000"],
        "in": ["50 test images, officially 50,000", "subset"], "real": ["subset"],
        "few": ["30 test images, officially 10,000", "few"],
    }  # fmt: skip


def test_a_suite_has_the_number_of_examples_that_all_its_columns_have():
    suite, results = mixed()
    for numbers, expected in ((["1000"], 1000), (["1000", "800"], None), ([None], None), ([None, "1000"], None)):
        columns = tuple(replace(c, shots=numbers[i % len(numbers)]) for i, c in enumerate(suite.columns))
        assert of(replace(suite, columns=columns), results, seeds=(4,)).get("shots") == expected


def test_test_images_seen_before_are_told_of_the_worst_seed_and_of_what_has_none():
    suite, results = mixed()
    (few,), seen = results["few"], Overlap(n=4, splits={"train": 4})
    results["few"] = [few.model_copy(update={"provenance": few.provenance.model_copy(update={"overlap": seen})})]
    for n in (1, 5):
        first, *rest = results["dtd"]
        worse = first.provenance.model_copy(update={"overlap": Overlap(n=n, splits={"val": n})})
        given = results | {"dtd": [first.model_copy(update={"provenance": worse}), *rest]}
        tasks: Any = of(suite, given, seeds=(9, 4))["tasks"]
        assert tasks["few"]["provenance"]["overlap"] == {"n": 4, "splits": {"train": 4}}
        assert tasks["dtd"]["provenance"]["overlap"]["n"] == max(n, 3)
        assert "overlap" not in tasks["mine"]["provenance"]


def test_a_suite_without_a_seed_or_without_labels_has_a_hole_that_says_why():
    suite, results = mixed()
    every = of(suite, results)  # seeds that any has: of dtd 2, too
    assert every["seeds"] == [2, 4, 9] and every["missing"] == {"mine": "not run", "k": "not run"}
    assert not every["complete"] and "mean_of_tasks" not in every and every["over_seeds"].keys() == {"own"}
    bare = results["in"][0].model_copy(update={"metrics": Metrics(top1=0.4, n=50, ci95=(0.3, 0.5))})
    results |= {"in": [bare], "real": [bare]}
    without = of(suite, results, seeds=(4,), failed={"k": "lost"})
    why = "no ReaL labels: the test images do not have the official file names"
    assert without["missing"] == {"real": why} and without["seeds"] == [4] and "over_seeds" not in without
    assert without["tasks"]["dtd"]["seeds"] == {"4": 0.7} and without["tasks"]["dtd"]["ci95"] == [0.1, 0.9]
    assert of(suite, results, seeds=(4,), failed={"real": "x"})["missing"] == {"real": "x"}
    only = of(suite.only(["in", "few"]), results)
    assert (only["seeds"], only.get("recipe"), only.get("method"), only["model"]) == ([], None, None, "vit-l16")
    assert "over_seeds" not in only and only["missing"] == {}


@pytest.mark.parametrize(
    ("key", "change", "what"),
    [
        ("in", {"model": "other"}, "model"), ("few", {"checkpoint": {"sha256": "t"}}, "model"),
        ("mine", {"method": "bias"}, "method"), ("mine", {"protocol": {"recipe_digest": "z"}}, "protocol"),
        ("dtd", {"provenance": {"split_digest": "e"}}, "test images"), ("dtd", {"protocol": {"id": "z"}}, "protocol"),
    ],
)  # fmt: skip
def test_parts_of_one_suite_are_of_one_model_and_each_of_one_protocol(key, change, what):
    suite, results = mixed()
    last = results[key][-1]
    ((field, value),) = change.items()
    now = getattr(last, field)
    changed = now.model_copy(update=value) if hasattr(now, "model_copy") else value
    if field == "checkpoint":
        changed = replace(now, **value)
    results[key] = [*results[key][:-1], last.model_copy(update={field: changed})]
    with pytest.raises(UsageError, match=f"Results of unlike {what} do not belong in one table"):
        of(suite, results)


def test_tasks_of_one_suite_may_differ_in_what_a_recipe_says_of_each_and_in_nothing_else():
    suite, results = mixed()
    by_task: dict[str, Any] = {
        "id": "z", "resolution": (9, 9), "resize": "resize-small", "interpolation": "area", "antialias": False,
        "selection": "val", "chosen_by_pixels": 7,
    }  # fmt: skip
    other = {"normalise": "none", "gelu": "tanh", "recipe": "z", "recipe_digest": "z", "from_scratch": True}
    for key, value in (by_task | other).items():
        changed = [one.model_copy(update={"protocol": one.protocol.model_copy(update={key: value})})
                   for one in results["mine"]]  # fmt: skip
        assert getattr(changed[0].protocol, key) != getattr(results["mine"][0].protocol, key), key
        if key in by_task:
            assert len(of(suite, results | {"mine": changed}, seeds=(9, 4))["tasks"]) == 6  # type: ignore[arg-type]
        else:
            with pytest.raises(UsageError, match="unlike protocol"):
                of(suite, results | {"mine": changed})
    first, *rest = results["dtd"]
    with pytest.raises(UsageError, match="unlike method"):
        of(suite, results | {"dtd": [first.model_copy(update={"method": "bias"}), *rest]})


def test_examples_of_a_first_part_are_in_a_protocol_where_there_are_such():
    from vitft.report.suite import _protocol

    (one, *_) = mixed()[1]["dtd"]
    train = one.protocol.train
    for first in (None, 60):
        given = one.model_copy(
            update={"protocol": one.protocol.model_copy(update={"train": train.model_copy(update={"first": first})})}
        )
        assert _protocol(given)["train"].get("first", "absent") == (first or "absent")


def test_an_evaluation_on_a_part_of_the_data_lacks_test_images_and_a_training_may_lack_others():
    suite, results = mixed()
    (one,) = results["in"]
    partial = one.provenance.model_copy(update={"completeness": "partial"})
    whole = Metrics(top1=0.4, n=50_000, ci95=(0.3, 0.5))
    given = {"in": [one.model_copy(update={"provenance": partial, "metrics": whole})]}
    assert of(suite.only(["in"]), given)["footnotes"]["in"] == ["partial: not all test images", "subset"]  # type: ignore[index]
