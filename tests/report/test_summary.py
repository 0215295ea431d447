"""Many results in one table: what stands together, what is marked, what is a hole; nothing is lost on the way."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from tests import drawn_results as drawn
from vitft.errors import CheckpointError, DataDamaged, DataMissing
from vitft.report import formats, in_suites, summary_table
from vitft.report.gather import gather
from vitft.report.suite_table import suite_columns
from vitft.report.summary import summarise
from vitft.results.summary import Described, Summary, SummaryRow
from vitft.suites.document import load as suite_of

MINI = suite_of("mini").tasks
N = 400


def report(*places: Path, **kwargs: Any) -> Summary:
    return summarise(gather(places).numbers, **kwargs)


def rows(summary: Summary) -> dict[str, SummaryRow]:
    return {row.label: row for row in summary.rows}


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def three_models(root: Path, rng: np.random.Generator) -> dict[str, dict[str, np.ndarray]]:
    """Write three models on two tasks: on the first one is far ahead, on the second two are alike."""
    answers = {
        "vit-a": {"cifar10": drawn.flags(rng, N, 0.9), "dtd": drawn.flags(rng, N, 0.7)},
        "vit-b": {"cifar10": drawn.flags(rng, N, 0.7), "dtd": drawn.flags(rng, N, 0.68)},
        "vit-c": {"cifar10": drawn.flags(rng, N, 0.6), "dtd": drawn.flags(rng, N, 0.4)},
    }
    for model, own in answers.items():
        for task, right in own.items():
            drawn.unit(root / model / task, task, right, model=model)
    return answers


def test_marks_are_those_of_mcnemar_and_holm_over_all_pairs_of_all_columns(tmp_path: Path, rng: np.random.Generator):
    answers = three_models(tmp_path, rng)
    made = report(tmp_path)
    pairs = [
        (t, x, y) for t in ("cifar10", "dtd") for x, y in (("vit-a", "vit-b"), ("vit-a", "vit-c"), ("vit-b", "vit-c"))
    ]
    p = []
    for task, x, y in pairs:
        a, b = answers[x][task], answers[y][task]
        p.append(mcnemar([[sum(a & b), sum(a & ~b)], [sum(b & ~a), sum(~a & ~b)]], exact=True).pvalue)
    adjusted = dict(zip(pairs, multipletests(p, method="holm")[1], strict=True))
    assert made.compared == 6
    assert {(t.column, t.a, t.b): t.p_holm for t in made.tests} == pytest.approx(
        {key: value for key, value in adjusted.items() if key[1] == "vit-a"}
    )
    found = {
        (label, key): cell.mark for label, row in rows(made).items() for key, cell in row.cells.items() if cell.mark
    }
    assert found == {("vit-a", "cifar10"): "best", ("vit-a", "dtd"): "tie", ("vit-b", "dtd"): "tie"}
    cell = rows(made)["vit-a"].cells["cifar10"]
    assert (cell.value, cell.n, cell.seeds) == (0.9, N, (0,))
    assert cell.ci95 == pytest.approx(proportion_confint(360, N, method="wilson"))
    text = formats.text(summary_table.table(made), 160)
    assert "90.0*" in text and "70.0≈" in text and "68.0≈" in text and "Holm over all 6 pairs" in text


def test_without_predictions_or_on_other_images_nothing_is_the_best(tmp_path: Path, rng: np.random.Generator):
    three_models(tmp_path, rng)
    next((tmp_path / "vit-c/cifar10").rglob("predictions.parquet")).unlink()
    made = report(tmp_path)
    assert not rows(made)["vit-a"].cells["cifar10"].mark
    assert any(note.startswith("Not compared (no stored predictions of some rows): CIFAR-10") for note in made.notes)
    drawn.unit(
        tmp_path / "vit-c/cifar10", "cifar10", drawn.flags(rng, N, 0.5), model="vit-c",
        provenance={"split_digest": "another"},
    )  # fmt: skip
    made = report(tmp_path)
    assert not rows(made)["vit-a"].cells["cifar10"].mark
    assert any(note.startswith("Not compared (other test images): CIFAR-10") for note in made.notes)


def test_several_seeds_are_averaged_with_their_interval_and_cost_tuning_counts(
    tmp_path: Path, rng: np.random.Generator
):
    tops = [0.8, 0.84, 0.85]
    for seed, top1 in enumerate(tops):
        for model, less in (("vit-a", 0.0), ("vit-b", 0.4)):
            right = drawn.flags(rng, N, top1 - less)
            drawn.unit(
                tmp_path / model, "dtd", right, model=model, seed=seed,
                cost={"train_flops": 100.0 + seed}, timing={"evaluate_s": 1.0, "total_s": 10.0 + seed},
            )  # fmt: skip
    tune: dict[str, Any] = {
        "phase": "tune",
        "cost": {"train_flops": 7.0},
        "timing": {"total_s": 3.0},
        "protocol": {"id": "t"},
    }
    drawn.unit(tmp_path / "vit-a", "dtd", drawn.flags(rng, 200, 0.5), predictions=False, **tune)
    made = rows(report(tmp_path))
    cell = made["vit-a"].cells["dtd"]
    half = 4.302652729911275 * np.std(tops, ddof=1) / np.sqrt(3)  # Student's t, 2 degrees of freedom
    assert cell.value == pytest.approx(fmean(tops)) and cell.seeds == (0, 1, 2)
    assert cell.ci95 == pytest.approx((fmean(tops) - half, fmean(tops) + half))
    assert cell.ci95_of == "Student's t over 3 seeds" and cell.mark == "best"
    assert (cell.flops, cell.seconds) == (101.0, 11.0)
    assert (made["vit-a"].flops, made["vit-a"].seconds) == (108.0, 14.0)
    assert (made["vit-b"].flops, made["vit-b"].seconds) == (101.0, 11.0)


def test_means_are_over_whole_suites_and_never_over_holes(tmp_path: Path, rng: np.random.Generator):
    accuracy = {"vit-a": 0.8, "vit-b": 0.5}
    for model, level in accuracy.items():
        for i, task in enumerate(MINI):
            drawn.unit(tmp_path / model, task, drawn.flags(rng, N, level + 0.02 * i), model=model)
    made = report(tmp_path)
    values = [0.8 + 0.02 * i for i in range(6)]
    cells = rows(made)["vit-a"].cells
    assert [c.key for c in made.columns] == [
        *MINI[:2], "natural", *MINI[2:4], "specialized", *MINI[4:], "structured", "mean_of_tasks", "mean_of_groups",
    ]  # fmt: skip
    assert cells["natural"].value == pytest.approx(fmean(values[:2]))
    assert cells["mean_of_tasks"].value == pytest.approx(fmean(values)) and cells["mean_of_tasks"].n == 6
    assert cells["mean_of_groups"].value == pytest.approx(fmean([fmean(values[i : i + 2]) for i in (0, 2, 4)]))
    assert cells["mean_of_tasks"].ci95_of == "bootstrap over tasks"
    assert cells["mean_of_tasks"].mark == "best" and not cells["natural"].mark, "two tasks are no sample to rank by"
    for path in (tmp_path / "vit-b").rglob("result.json"):
        if "mini-count" in str(path):
            path.unlink()
    without = rows(report(tmp_path))
    assert without["vit-b"].cells["mean_of_tasks"].value is None and without["vit-b"].cells["specialized"].value is None
    assert without["vit-b"].cells["natural"].value is not None
    assert "no mean over holes: mini-count" in without["vit-b"].cells["mean_of_tasks"].why
    assert without["vit-a"].cells["mean_of_tasks"].value == pytest.approx(fmean(values)) and not any(
        row.cells["mean_of_tasks"].mark for row in without.values()
    )


def test_unlike_protocols_are_rows_of_their_own_and_the_key_is_named(tmp_path: Path, rng: np.random.Generator):
    right = drawn.flags(rng, N, 0.8)
    drawn.unit(tmp_path / "0", "dtd", right)
    drawn.unit(tmp_path / "1", "dtd", right, protocol={"id": "q", "recipe_digest": "s"}, recipe_settings={"lr": 0.5})
    drawn.unit(tmp_path / "2", "dtd", right, seed=1, provenance={"split_digest": "other"})
    drawn.unit(tmp_path / "3", "dtd", right, protocol={"train": {"per_class": 5}})
    drawn.unit(tmp_path / "4", "dtd", right, method="linear")
    drawn.unit(tmp_path / "5", "dtd", right, checkpoint={"sha256": "ff" * 32})
    drawn.unit(tmp_path / "6", "dtd", right, protocol={"id": "z", "resolution": [64, 64]}, seed=2)
    found = [row.differs for row in report(tmp_path).rows]
    first = next(row for row in report(tmp_path).rows)
    assert first.what.examples == "5 a class" and first.differs == ()
    told = ["; ".join(one) for one in found]
    all_here = "examples all, not 5 a class"
    assert sorted(told) == sorted(
        [
            "",
            all_here,
            f"{all_here}; lr 0.5, not 0.01",
            f"{all_here}; other test images or labels of dtd (400, not 400)",
            f"method linear, not fine-tuned; {all_here}",
            f"{all_here}; other weights of the same name (sha256 ffffffff, not vit-a)",
            f"{all_here}; resolution 64, not 32",
        ]
    )
    assert len({row.label for row in report(tmp_path).rows}) == 7


@pytest.mark.parametrize("by", ["model", "recipe", "method"])
def test_rows_are_called_by_what_is_asked_for_and_hold_the_same_numbers(tmp_path, rng, by):
    for recipe, method in (("quick", "full"), ("quick", "linear"), ("linear", "linear")):
        for model in ("vit-a", "vit-b"):
            place = tmp_path / recipe / method / model
            own = {"recipe": recipe, "method": method, "protocol": {"recipe_digest": recipe}}
            drawn.unit(place, "dtd", drawn.flags(rng, N, rng.uniform(0.3, 0.9)), model=model, **own)
    made = report(tmp_path, by=by)
    first = {"model": ["vit-a", "vit-b"], "recipe": ["linear", "quick"], "method": ["linear", "fine-tuned"]}[by]
    heads = [row.label.split(", ")[0] for row in made.rows]
    assert list(dict.fromkeys(heads)) == first and len({row.label for row in made.rows}) == 6
    values = sorted(row.cells["dtd"].value for row in made.rows)
    assert values == sorted(row.cells["dtd"].value for row in report(tmp_path).rows)


def test_void_results_are_holes_with_the_reason(tmp_path: Path, rng: np.random.Generator):
    drawn.unit(tmp_path / "a", "caltech101", drawn.flags(rng, 6485, 0.9))
    drawn.unit(tmp_path / "a", "dtd", drawn.flags(rng, N, 0.7))
    drawn.unit(tmp_path / "b", "caltech101", drawn.flags(rng, 6084, 0.8), model="vit-b")
    made = report(tmp_path)
    cell = rows(made)["vit-a"].cells["caltech101"]
    assert cell.value is None and "void" in cell.why and "6,485 test images" in cell.why
    assert rows(made)["vit-b"].cells["caltech101"].value == pytest.approx(round(6084 * 0.8) / 6084)
    text = formats.text(summary_table.table(made), 120)
    assert "before its rule was mended" in text


def test_every_format_holds_the_same_numbers(tmp_path: Path, rng: np.random.Generator):
    answers = three_models(tmp_path, rng)
    made = report(tmp_path)
    assert Summary.model_validate_json(made.model_dump_json()) == made
    table = summary_table.table(made)
    read = list(csv.DictReader(io.StringIO(formats.csv(table))))
    expected = {(m, t): 100 * own[t].mean() for m, own in answers.items() for t in own}
    of_csv = {(r["row"], t): float(r[t]) for r in read if r["row"] in answers for t in ("cifar10", "dtd")}
    assert of_csv == pytest.approx(expected)
    lines = [[c.strip() for c in line.split("|")[1:-1]] for line in formats.markdown(table).splitlines() if "|" in line]
    of_markdown = {
        (line[0], t): float(line[lines[0].index(head)].strip("\\*≈"))
        for line in lines[2:]
        if line[0] in answers
        for t, head in (("cifar10", "CIFAR-10"), ("dtd", "DTD"))
    }
    assert of_markdown == pytest.approx(expected, abs=0.051)
    assert "90.0*" in formats.latex(table) and "70.0$\\approx$" in formats.latex(table)
    assert table.rows[0].signs == {"cifar10": "best", "dtd": "tie"}


def test_the_same_run_counts_once_and_of_two_of_one_seed_the_later_stays(tmp_path: Path, rng: np.random.Generator):
    drawn.unit(tmp_path / "a", "dtd", drawn.flags(rng, N, 0.5), env={"finished": "2026-01-01"})
    drawn.unit(tmp_path / "b", "dtd", drawn.flags(rng, N, 0.6), env={"finished": "2026-02-01"})
    (row,) = report(tmp_path, tmp_path / "a", tmp_path / "a" / "units").rows
    assert row.cells["dtd"].value == 0.6 and row.cells["dtd"].seeds == (0,)
    assert row.notes == ("dtd, seed 0: of several results the latest is shown",)
    (row,) = report(tmp_path / "a").rows
    assert row.notes == ()


def test_version_1_and_folders_without_units_are_read(tmp_path: Path, rng: np.random.Generator):
    result = drawn.unit(tmp_path / "a", "dtd", drawn.flags(rng, N, 0.5))
    old = result | {"schema_version": 1, "protocol": result["protocol"] | {"resolution": "224x320"}}
    metrics = {str(s): result["metrics"] | {"top1": v, "correct": round(N * v)} for s, v in ((0, 0.5), (3, 0.75))}
    (tmp_path / "old").mkdir()
    (tmp_path / "old/result.json").write_text(json.dumps(old | {"seeds": metrics, "model": "vit-old"}))
    row = rows(report(tmp_path))["vit-old"]
    assert row.what.resolutions == ((224, 320),)
    assert row.cells["dtd"].value == 0.625 and row.cells["dtd"].seeds == (0, 3)


def test_mistakes_are_told_all_at_once(tmp_path: Path, rng: np.random.Generator):
    with pytest.raises(DataMissing, match="There is no folder"):
        gather([tmp_path / "nix"])
    with pytest.raises(DataMissing, match="No results in"):
        gather([tmp_path])
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun/run.json").write_text('{"kind": "finetune"}')
    with pytest.raises(DataMissing, match=r"unfinished: .*begun"):
        gather([tmp_path])
    for name in ("a", "b"):
        drawn.unit(tmp_path / name, "dtd", drawn.flags(rng, N, 0.5), model=name)
    assert [p.name for p in gather([tmp_path]).unfinished] == ["begun"]
    for name in ("a", "b"):
        path = next((tmp_path / name).rglob("result.json"))
        broken = json.loads(path.read_text())
        del broken["metrics"]
        path.write_text(json.dumps(broken) if name == "a" else "{")
    with pytest.raises(
        CheckpointError, match=r"2 result files are damaged: .*says nothing of metrics.*; .*b.*result.json"
    ):
        gather([tmp_path])


def test_predictions_that_are_not_those_of_the_result_are_refused(tmp_path: Path, rng: np.random.Generator):
    three_models(tmp_path, rng)
    path = next((tmp_path / "vit-b/dtd").rglob("predictions.parquet"))
    drawn.answers(path, drawn.flags(rng, N, 0.1))
    with pytest.raises(DataDamaged, match="other answers than the result"):
        report(tmp_path)
    path.write_text("no parquet")
    with pytest.raises(DataDamaged, match="holds no predictions"):
        report(tmp_path)


def test_of_a_grid_compared_on_test_the_chosen_setting_is_the_number(tmp_path: Path, rng: np.random.Generator) -> None:
    said = "test, best of 2 settings by top1 on the test split itself"
    for lr, top1 in ((0.1, 0.5), (0.2, 0.7)):
        for seed in (0, 1):
            result = drawn.unit(
                tmp_path / "s", "dtd", drawn.flags(rng, N, top1), seed=seed, point={"lr": lr}, place=f"final-{lr}",
                protocol={"selection": said}, cost={"train_flops": 10.0},
            )  # fmt: skip
    (tmp_path / "s/run.json").write_text('{"kind": "sweep", "on": "test"}')
    with pytest.raises(DataMissing, match="unfinished"):
        gather([tmp_path])
    units = ["dtd/final-0.2-seed0", "dtd/final-0.2-seed1"]
    (tmp_path / "s/result.json").write_text(json.dumps(result | {"units": units}))
    (row,) = report(tmp_path).rows
    assert row.cells["dtd"].value == 0.7 and row.cells["dtd"].seeds == (0, 1) and row.notes == ()
    assert row.what.selected == "best on test"
    assert row.flops == 30.0, "one seed of the chosen setting, and all that was tried beside it"


def test_a_suite_of_which_suite_json_alone_is_left_is_read(tmp_path: Path) -> None:
    provenance = {"source": "x", "split_digest": "d", "reference": True, "train_split": "train800val200"}
    one = {"n": 500, "resolution": [32, 32], "protocol_id": "p", "provenance": provenance}
    tasks = {
        "dtd": {**one, "top1": 0.6, "seeds": {"0": 0.5, "1": 0.7}},
        "imagenet": {**one, "top1": 0.8, "seeds": {}, "run": "eval"},
        "ReaL": {**one, "top1": 0.9, "seeds": {}, "run": "eval", "labels": "real", "task": "imagenet"},
    }
    suite = {"schema_version": 2, "kind": "suite", "suite": "x", "model": "vit-a", "method": "linear", "complete": True}
    (tmp_path / "suite.json").write_text(json.dumps({**suite, "protocol": {"id": "q"}, "tasks": tasks}))
    made = rows(report(tmp_path))
    cells = {key: cell for row in made.values() for key, cell in row.cells.items() if cell.value is not None}
    assert {key: cell.value for key, cell in cells.items()} == {"dtd": 0.6, "imagenet": 0.8, "imagenet_real": 0.9}
    assert cells["dtd"].seeds == (0, 1) and cells["imagenet"].seeds == () and cells["dtd"].examples == "1,000"


SUITE = """
title = "mine"
[[group]]
name = "a"
mean = false
columns = [{ task = "cifar10", recipe = "quick" }, { task = "cifar100", recipe = "quick" }]
[[group]]
name = "b"
prefix = "vtab_"
recipe = "linear"
shots = 1000
columns = ["cifar100", "dtd"]
"""


def test_a_suite_of_several_recipes_is_one_row_a_model_and_the_columns_of_its_document(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    document = tmp_path / "mine.toml"
    document.write_text(SUITE)
    parts = {"quick": (("cifar10", "cifar100"), "train"), "linear": (("cifar100", "dtd"), "train800val200")}
    for model in ("vit-a", "vit-b"):
        for recipe, (tasks, train) in parts.items():
            place = tmp_path / model / recipe
            for task in tasks:
                drawn.unit(
                    place, task, drawn.flags(rng, N, 0.9 if train == "train" else 0.6), model=model, recipe=recipe,
                    protocol={"recipe_digest": recipe}, provenance={"train_split": train},
                )  # fmt: skip
            (place / "run.json").write_text(json.dumps({"kind": "suite", "suite": "mine", "document": str(document)}))
    other: dict[str, Any] = {"recipe": "other", "protocol": {"recipe_digest": "o"}}
    drawn.unit(tmp_path / "vit-c", "dtd", drawn.flags(rng, N, 0.5), model="vit-c", **other)
    numbers = gather([tmp_path]).numbers
    assert in_suites.document_of(numbers) is None, "one of them was run otherwise than the suite says"
    assert [row.label for row in summarise(numbers).rows] == ["vit-a", "vit-b", "vit-c"]
    own = gather([tmp_path / "vit-b"]).numbers
    suite = in_suites.document_of(own)
    assert suite is not None
    (row,) = summarise(own, suite_columns(suite, {*suite.keys})).rows
    found = {key: cell.value for key, cell in row.cells.items()}
    assert found == {"cifar10": 0.9, "cifar100": 0.9, "vtab_cifar100": 0.6, "vtab_dtd": 0.6, "b": pytest.approx(0.6)}
    assert row.what.recipe == "linear, quick" and row.what.examples == "1,000, all"


def test_parts_of_a_suite_that_train_nothing_stand_with_its_only_training(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    drawn.unit(tmp_path, "dtd", drawn.flags(rng, N, 0.5))
    (one,) = gather([tmp_path]).numbers
    shared = (("model", "m"), ("suite", "s"), ("images", ""))
    frozen, other = replace(one, row=shared), replace(one, row=(("model", "n"), *shared[1:]))
    trained = [replace(one, row=(*shared, ("training", steps))) for steps in ("steps 20", "steps 30")]
    assert [x.row for x in in_suites.joined([frozen, trained[0], other])] == [trained[0].row, trained[0].row, other.row]
    assert [x.row for x in in_suites.joined([frozen, *trained])] == [shared, *(x.row for x in trained)]


@pytest.mark.parametrize(
    ("examples", "words"),
    [("1,000", ", 1,000 training examples"), ("5 a class", ", 5 training examples a class"),
     ("40 drawn", ", 40 drawn training examples"), ("", "")],
)  # fmt: skip
def test_what_all_rows_share_stands_above_them_in_words(examples: str, words: str) -> None:
    what = Described(model="m", method="full", recipe="quick", examples=examples)
    row: Any = SimpleNamespace(what=what, cells={})
    assert summary_table._shared([row], ["method", "selected"]) == f"recipe quick{words}"
