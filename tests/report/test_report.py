"""Tables of results: means by hand, holes, unlike results, and the same table through every format."""

import csv
import io
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import typed
from vitft.catalog import published
from vitft.catalog.tasks import TASKS
from vitft.errors import CheckpointError, UsageError
from vitft.evaluation.intervals import wilson
from vitft.report import formats, single, suite_table
from vitft.report import suite as summary
from vitft.report.table import HOLE, Column, Row, Table
from vitft.results.schema import to_json
from vitft.suites.document import load as suite_of
from vitft.suites.suite import Suite

VTAB, MINI = suite_of("vtab"), suite_of("mini")
PLAIN = {"source": "x", "reference": True, "why": "", "completeness": "full", "split_digest": "d", "split": "test"}


def _result(task: str, top1: float, seed: int = 0, **changes: Any) -> dict[str, Any]:
    n = next(sum(p.stop - p.start for p in t.splits["test"]) for t in TASKS if t.name == task)
    correct = round(n * top1)
    return {
        "phase": "final", "task": task, "model": "vit-l16", "recipe": "vtab-vit", "method": "full", "seed": seed,
        "metrics": {"top1": correct / n, "correct": correct, "n": n, "ci95": list(wilson(correct, n))},
        "protocol": {"id": "0123abcd", "recipe": "vtab-vit", "resolution": "384", "normalise": "checkpoint"},
        "provenance": PLAIN, "point": {},
        "checkpoint": {"timm_name": "vit_large_patch16_224.orig_in21k", "sha256": "s"},
    } | changes  # fmt: skip


def _summarise(suite: Suite, results: list[dict[str, Any]], **kwargs: Any) -> dict[str, Any]:
    columns: dict[str, dict[Path, Any]] = {}
    for i, r in enumerate(results):
        columns.setdefault(r["task"], {})[Path(str(i))] = typed.result(r)
    return to_json(summary.summarise(suite, columns, **kwargs))


def _table(suite: Suite, data: dict[str, Any], *args: Any) -> Table:
    return suite_table.table(suite, typed.suite(data), *args)


def _single(results: list[dict[str, Any]], *args: Any) -> Table:
    return single.table([typed.result(r) for r in results], *args)


def _render(results: list[dict[str, Any]]) -> str:
    return formats.text(single.table([typed.result(r) for r in results]), 100)


def _row() -> published.Published:
    return {r.key: r for r in published.rows()}["vit-vtab/vit-l16-in21k"]


def _reproduced(**changes: Any) -> list[dict[str, Any]]:
    return [_result(task, value / 100, **changes) for task, value in _row().tasks.items()]


def test_the_papers_row_gives_the_papers_means() -> None:
    data = _summarise(VTAB, _reproduced())
    assert data["complete"]
    assert not data["missing"]
    assert 100 * data["mean_of_tasks"] == pytest.approx(_row().mean_of_tasks, abs=0.05)
    assert 100 * data["mean_of_groups"] == pytest.approx(_row().mean_of_groups, abs=0.02)
    assert data["protocol"]["id"] == "0123abcd"
    assert sum(entry["n"] for entry in data["tasks"].values()) == 387_904
    low, high = data["tasks"]["kitti_distance"]["ci95"]
    assert low < data["tasks"]["kitti_distance"]["top1"] < high


def test_a_mean_over_a_hole_is_absent() -> None:
    results = [r for r in _reproduced() if r["task"] != "dmlab"]
    data = _summarise(VTAB, results, failed={"dmlab": "the loss became NaN"})
    assert set(data["groups"]) == {"natural", "specialized"}
    assert "mean_of_tasks" not in data
    assert "mean_of_groups" not in data
    assert not data["complete"]
    assert data["missing"] == {"dmlab": "the loss became NaN"}
    text = formats.text(_table(VTAB, data, suite_table.alone([_row()])), 120)
    assert HOLE in text
    assert "the loss became NaN" in text
    assert "Incomplete: 18 of 19" in text
    assert _summarise(VTAB, [])["tasks"] == {}
    assert "Incomplete: 0 of 19" in formats.text(_table(VTAB, _summarise(VTAB, [])))


def test_a_table_of_some_tasks_shows_those_and_the_means_that_belong_to_them() -> None:
    some = [t for t in VTAB.tasks if VTAB.group_of(t) == "specialized"] + ["dtd"]
    data = _summarise(VTAB, [r for r in _reproduced() if r["task"] in some and r["task"] != "eurosat"])
    table = _table(VTAB, data, suite_table.alone(published.for_suite("x", "vtab-vit", 384)), some)
    assert [c.key for c in table.columns[1:]] == ["dtd", *VTAB.groups["specialized"], "specialized"]
    assert table.rows[0].cells["eurosat"] == table.rows[0].cells["specialized"] == HOLE
    # A published row with nothing but a mean of all tasks has no place here.
    assert [row.cells["model"] for row in table.rows if row.kind == "published"] == [
        "ViT-H/14, JFT-300M", "ViT-L/16, JFT-300M", "ViT-L/16, ImageNet-21k",
    ]  # fmt: skip


def test_several_seeds_have_their_own_interval_and_a_missing_seed_is_a_hole() -> None:
    one = [_result(t, 0.5, 0) for t in MINI.tasks] + [_result(t, 0.6, 1) for t in MINI.tasks]
    data = _summarise(MINI, one)
    entry = data["tasks"]["mini-count"]
    # Student's t with 1 degree of freedom: 12.7062 * 0.1 / 2.
    assert entry["top1"] == pytest.approx(0.55)
    assert entry["ci95_over_seeds"] == pytest.approx([0.55 - 0.635310, 0.55 + 0.635310], abs=1e-5)
    assert "ci95" not in entry
    assert entry["seeds"] == {"0": 0.5, "1": 0.6}
    over = data["over_seeds"]["mean_of_groups"]
    assert over["seeds"]["1"] == pytest.approx(0.6, abs=1e-3)
    assert "over 2 seeds" in formats.text(_table(MINI, data))
    assert _summarise(MINI, one[:-1])["missing"] == {"mini-orientation": "not run"}
    assert not _summarise(MINI, one, seeds=[0, 1, 2])["tasks"]


@pytest.mark.parametrize(
    ("task", "change"),
    [
        ("dtd", {"model": "vit-b16"}),
        ("dtd", {"method": "linear"}),
        ("dtd", {"protocol": {"id": "f", "recipe": "vtab-vit", "resolution": "384", "normalise": "imagenet"}}),
        (
            "svhn",
            {"seed": 1, "protocol": {"id": "f", "recipe": "vtab-vit", "resolution": "224", "normalise": "checkpoint"}},
        ),
    ],
)
def test_unlike_results_are_refused(task: str, change: dict[str, Any]) -> None:
    results = [_result("caltech101", 0.9), _result("svhn", 0.8), _result(task, 0.7, **change)]
    with pytest.raises(UsageError, match="do not belong in one table"):
        _summarise(VTAB, results)
    with pytest.raises(UsageError, match="no task of the column 'dtd'"):
        summary.summarise(VTAB, {"dtd": {Path(): typed.result(results[0])}})


def test_a_recipe_may_vary_the_resolution_by_task() -> None:
    small = {"id": "other", "recipe": "vtab-vit", "resolution": "128", "normalise": "checkpoint"}
    data = _summarise(VTAB, [_result("dtd", 0.7), _result("svhn", 0.8, protocol=small)])
    assert data["resolutions"] == {"dtd": [384, 384], "svhn": [128, 128]}
    assert data["protocol"]["id"] not in ("other", "0123abcd")


def test_footnotes_name_what_is_not_official() -> None:
    jpeg = PLAIN | {"source": "vtab folder (JPEG re-encoded)"}
    results = _reproduced(provenance=jpeg)
    results[0]["provenance"] = jpeg | {"reference": False, "why": "a reason"}
    results[1]["provenance"] = jpeg | {"completeness": "partial"}
    results[1]["metrics"] = results[1]["metrics"] | {"n": 500}
    # The community's Caltech101 has one test image too many.
    results[2]["metrics"] = results[2]["metrics"] | {"n": 6085}
    data = _summarise(VTAB, results)
    notes = data["footnotes"]
    assert notes.pop(results[2]["task"])[0].startswith("6,085 test images, officially ")
    assert notes[""] == ["images re-encoded as JPEG"]
    tasks = [r["task"] for r in results]
    assert notes[tasks[0]] == ["not the reference split: a reason"]
    assert notes[tasks[1]] == ["partial: not all test images"]
    assert set(notes) == {"", tasks[0], tasks[1]}
    text = formats.text(_table(VTAB, data), 100)
    assert "¹ not the reference split: a reason" in text
    assert "All tasks: images re-encoded as JPEG." in text


@pytest.fixture(scope="module")
def full() -> Table:
    results = _reproduced()
    results[3]["provenance"] = PLAIN | {"reference": False, "why": "50 % & more_"}
    return _table(VTAB, _summarise(VTAB, results), suite_table.alone(published.for_suite("x", "vtab-vit", 384)))


def test_both_means_are_named_and_published_rows_stand_beside(full: Table) -> None:
    text = formats.text(full, 240)
    assert re.search(r"mean of +mean of\n.* tasks +groups\n", text)
    line = next(line for line in text.splitlines() if line.startswith("ViT-L/16, ImageNet-21k"))
    assert line.split()[-2:] == ["72.7", "75.1"]
    assert "Differs: other weights" in text
    assert "arXiv 2010.11929" in text
    assert formats.text(full, 240).count("natural") == 1


def number(cell: object) -> float:
    assert isinstance(cell, int | float)
    return cell


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200, 300])
def test_text_keeps_to_the_terminal_and_shows_every_number_once(full: Table, width: int) -> None:
    text = formats.text(full, width)
    assert max(map(len, text.splitlines())) <= width
    ours = [line for line in text.splitlines() if line.startswith("vit-l16")]
    shown = [cell.rstrip("⁰¹²³⁴⁵⁶⁷⁸⁹") for line in ours for cell in line.removeprefix("vit-l16, fine-tuned").split()]
    assert shown == [f"{100 * number(full.rows[0].cells[c.key]):.1f}" for c in full.columns[1:]]


def test_csv_round_trip(full: Table) -> None:
    rows = list(csv.DictReader(io.StringIO(formats.csv(full))))
    assert [row["model"] for row in rows] == [row.cells["model"] for row in full.rows]
    for task, value in _row().tasks.items():
        assert float(rows[0][task]) == pytest.approx(value, abs=0.1)
        assert int(rows[3][task]) == full.rows[3].cells[task]
    mean = number(full.rows[0].cells["mean_of_tasks"])
    assert float(rows[0]["mean_of_tasks"]) == pytest.approx(100 * mean, abs=1e-7)
    assert "50 % & more_" in rows[0]["notes"]


def test_json_holds_shares(full: Table) -> None:
    data = json.loads(json.dumps(asdict(full), allow_nan=False))
    assert data["rows"][0]["cells"] == dict(full.rows[0].cells)
    assert data["footnotes"] == list(full.footnotes)
    assert all(0 <= v <= 1 for v in data["rows"][0]["cells"].values() if isinstance(v, float))


def _unescaped(cell: str, raised: str) -> str:
    cell = re.sub(raised, "", cell.strip()).replace("$\\pm$", "±").replace("--", HOLE)
    return re.sub(r"\\(.)", r"\1", cell)


@pytest.mark.parametrize(
    ("name", "split", "raised"),
    [("markdown", r"(?<!\\)\|", r"<sup>[\d,]+</sup>"), ("latex", r"(?<!\\)&", r"\\textsuperscript\{[\d,]+\}")],
)
def test_markdown_and_latex_hold_the_same_cells(full: Table, name: str, split: str, raised: str) -> None:
    found = []
    for line in formats.FORMATS[name](full).splitlines():
        body = line.strip().removesuffix(r"\\").strip("|") if name == "markdown" else line.removesuffix(r" \\")
        cells = [_unescaped(cell, raised) for cell in re.split(split, body)]
        if len(cells) == len(full.columns) and "rotatebox" not in line and ":--" not in line:
            found.append(cells)
    if name == "markdown":
        assert found.pop(0)[1:3] == ["Caltech101", "CIFAR-100"]
    plain = [
        [f"{100 * v:.1f}" if isinstance(v, float) else f"{v:,}" if isinstance(v, int) else v or "" for v in values]
        for values in ([row.cells.get(c.key) for c in full.columns] for row in full.rows)
    ]
    assert found == plain
    assert "50 % & more_" in formats.FORMATS[name](full).replace("\\", "")


# One line of any characters, as a model's or a folder's name may be.
_WORDS = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=20)


@settings(max_examples=60, deadline=None)
@given(_WORDS, _WORDS)
def test_any_text_survives_csv_and_json_and_breaks_no_format(label: str, note: str) -> None:
    table = Table(
        "c", (Column("a", "A"), Column("b", "B", "percent")), (Row({"a": label, "b": 0.5}, marks={"b": (1,)}),), (note,)
    )
    parsed = list(csv.DictReader(io.StringIO(formats.csv(table), newline="")))
    assert (parsed[0]["a"], parsed[0]["b"], parsed[0]["notes"]) == (label, "50", f"B: {note}")
    assert json.loads(json.dumps(asdict(table)))["rows"][0]["cells"]["a"] == label
    for name in ("text", "markdown", "latex"):
        assert "50.0" in formats.FORMATS[name](table)


def test_a_single_result_with_the_papers_numbers_beside_it() -> None:
    result = _result("cifar100", 0.93, recipe="vit-paper")
    text = _render([result])
    assert "93.0" in text
    assert "[92.5, 93.5]" in text
    assert "10,000" in text
    # ViT-L/16 ImageNet-21k on CIFAR-100: 93.25 in Table 2, 93.44 in Table 5.
    assert [line.split()[2] for line in text.splitlines() if line.startswith("ViT-L/16")] == ["93.2", "93.4"]
    scratch = _result("cifar100", 0.2, recipe="vit-paper", protocol=result["protocol"] | {"from_scratch": True})
    both = _single([result, scratch])
    assert [row.kind for row in both.rows].count("result") == 2
    assert "from scratch" in str(both.rows[1].cells["model"])
    assert "Table 5" not in _render([scratch])
    few = _result("cifar100", 0.9, recipe="vit-paper", provenance=result["provenance"] | {"train_split": "train800"})
    assert "ViT-L/16" not in _render([few])  # a thousand images are not the whole training set


def test_own_images_are_no_part_of_an_official_split() -> None:
    part = {**PLAIN, "completeness": "partial"}
    protocol = {"id": "0", "resolution": "32", "train": {"limit": None}}
    own = {**_result("dtd", 0.5), "task": "insects", "provenance": part, "protocol": protocol}
    limited = {**own, "protocol": {**protocol, "train": {"limit": 8}}}
    assert not any("Partial" in note for note in _single([own], []).footnotes)
    assert _single([limited], []).footnotes == ("Partial: --limit left out images of the split.",)
    official = _single([{**own, "task": "dtd"}], []).footnotes
    assert official == ("Partial: not all images of the official split.",)


@pytest.mark.parametrize("lacking", ["task", "metrics", "protocol", "provenance", "seed"])
def test_a_damaged_result_is_named(lacking: str) -> None:
    result = {key: value for key, value in _result("dtd", 0.5).items() if key != lacking}
    with pytest.raises(CheckpointError, match=f"'runs/x' is damaged: it says nothing of {lacking}"):
        _single([{**result, "folder": "runs/x"}])
    with pytest.raises(CheckpointError, match="damaged"):
        _single([{"folder": "runs/x"}])


def test_reading_a_report_needs_no_torch() -> None:
    import subprocess
    import sys

    rooms = "vitft.report.suite, vitft.report.suite_table, vitft.report.single, vitft.report.formats"
    code = f"import sys, {rooms}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_users_own_split_is_called_that_and_a_known_task_is_not_the_reference():
    from vitft.data.sources.own_split import footnote, unchecked

    assert footnote(unchecked("photos-split", "folder")) == "your own split"
    assert footnote("your own split (seed 0, 30 % test)") == "your own split (seed 0, 30 % test)"
    assert footnote(unchecked("cifar10", "folder")) == "not the reference split: a folder's membership is not checked"
    assert footnote("a data set of the hub") == "not the reference split: a data set of the hub"
