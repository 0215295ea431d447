"""`vitft runs table`: any runs in one table, what differs between them as its columns."""

import csv
import io
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.command import vitft
from tests.protocol.test_protocol import draw
from vitft.report import formats
from vitft.report.table import Column, Row, Table

TINY = ("-m", "vit-mini", "-b", 4, "--device", "cpu", "--no-save-weights")


def rows(*args: object) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(vitft("runs", "table", *args, "--format", "csv").stdout)))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Two fine-tunes, a sweep, an evaluation of one of them and a few-shot number, below one folder."""
    root = tmp_path_factory.mktemp("runs")
    data = draw(root / "d", ("train", "test"), 4)
    vitft("finetune", data, *TINY, "--steps", 2, "--lr", 0.003, "-o", root / "r/a")
    vitft("finetune", data, *TINY, "--steps", 4, "--lr", 0.01, "-o", root / "r/b", "--seeds", "0,1", "-r", 40)
    vitft("sweep", data, *TINY, "--steps", 2, "--lr", "0.001,0.1", "-r", "32,40", "-o", root / "s")
    vitft("fewshot", data, "-m", "vit-mini", "--per-class", "1,2", "-o", root / "f")
    return root


def test_without_columns_those_are_shown_that_differ(runs):
    found = rows(runs / "r")
    assert list(found[0]) == ["lr", "resolution", "steps", "seeds", "top1", "ci95_low", "ci95_high", "n", "notes"]
    for row, name in zip(found, "ab", strict=True):
        result = json.loads((runs / "r" / name / "result.json").read_text())
        assert float(row["lr"]) == result["recipe_settings"]["lr"] and int(row["n"]) == 12
        assert int(row["resolution"]) == result["protocol"]["resolution"][0]
        assert float(row["top1"]) == pytest.approx(100 * result["metrics"]["top1"])
        assert [float(row["ci95_low"]), float(row["ci95_high"])] == pytest.approx(
            [100 * end for end in result["metrics"]["ci95"]]
        )
    assert [row["seeds"] for row in found] == ["0", "0, 1"]
    text = vitft("runs", "table", runs / "r").stdout
    ids = [json.loads((runs / "r" / name / "result.json").read_text())["protocol"]["id"] for name in "ab"]
    assert all(one in text for one in ids) and "Student's 95 % interval" in " ".join(text.split())
    alone = rows(runs / "r/a")
    assert (alone[0]["task"], alone[0]["model"]) == ("d", "vit-mini")  # nothing differs


def test_a_sweep_has_a_row_for_each_setting_and_others_one(runs):
    found = rows(runs / "s")
    assert [(row["lr"], row["resolution"]) for row in found] == [(a, b) for a in ("0.001", "0.1") for b in ("32", "40")]
    result = json.loads((runs / "s/result.json").read_text())
    assert [float(row["val"]) for row in found] == pytest.approx([100 * one["top1"] for one in result["tuned"]])
    assert [bool(row["top1"]) for row in found] == [one["point"] == result["point"] for one in result["tuned"]]
    (chosen,) = rows(runs / "s", "--chosen")
    assert float(chosen["top1"]) == pytest.approx(100 * result["metrics"]["top1"])
    everything = rows(runs / "r", runs / "s", runs / "f", runs / "s")
    assert len(everything) == 2 + 4 + 2  # a folder named twice counts once
    assert {row["method"] for row in everything} == {"full", "frozen, ridge"}
    assert [row["per_class"] for row in everything[-2:]] == ["1", "2"]


def test_columns_are_those_asked_for_in_their_order(runs):
    found = rows(runs / "r", "--columns", "px,optimizer,top1,protocol,folder")
    assert list(found[0]) == ["resolution", "optimizer", "top1", "protocol", "folder", "notes"]
    assert [row["folder"] for row in found] == [str(runs / "r/a"), str(runs / "r/b")]
    assert list(rows(runs / "r", "--columns", "lr")[0]) == ["lr", "top1", "ci95_low", "ci95_high", "n", "notes"]
    assert "Did you mean 'resolution'" in vitft("runs", "table", runs, "--columns", "resolutoin", code=2).stderr
    assert "names a column twice" in vitft("runs", "table", runs, "--columns", "px,resolution", code=2).stderr
    assert "no folder" in vitft("runs", "table", runs / "gone", code=3).stderr
    assert "No results" in vitft("runs", "table", runs / "d", code=3).stderr


def test_a_damaged_and_an_unfinished_run_hide_no_other(runs, tmp_path):
    for name in "abc":
        shutil.copytree(runs / "r/a", tmp_path / name)
    (tmp_path / "b/result.json").write_text("{}")
    shutil.rmtree(tmp_path / "c/units")
    (tmp_path / "c/result.json").unlink()
    done = vitft("runs", "table", tmp_path, "--format", "csv")
    assert len(done.stdout.splitlines()) == 2
    assert f"Unfinished, not in the table: '{tmp_path / 'c'}'" in done.stderr
    assert f"Not in the table: '{tmp_path / 'b/result.json'}' is damaged" in done.stderr


def test_runs_of_the_version_before_are_read(runs, tmp_path):
    shutil.copytree(runs / "r/a", tmp_path / "old")
    file = tmp_path / "old/result.json"
    result = json.loads(file.read_text())
    result["schema_version"] = 1
    result["protocol"]["resolution"] = "32"
    for key in ("class_names", "lost", "tuned"):
        result.pop(key, None)
    file.write_text(json.dumps(result))
    assert rows(tmp_path)[0]["top1"] == rows(runs / "r/a")[0]["top1"]


def test_other_test_images_are_said(runs, tmp_path):
    for name in "ab":
        shutil.copytree(runs / "r/a", tmp_path / name)
    file = tmp_path / "b/result.json"
    result = json.loads(file.read_text())
    result["provenance"]["split_digest"] = "0" * 64
    file.write_text(json.dumps(result))
    assert "The rows of d were tested on 2 different sets of images." in vitft("runs", "table", tmp_path).stdout


def test_a_narrow_table_in_latex_needs_no_package_and_turns_no_head(runs, tmp_path):
    made = vitft("runs", "table", runs / "s", runs / "r", "--format", "latex").stdout
    strange = Table("c", (Column("a", "<a|b>"), Column("b", "–×−…")), (Row({"a": "[0.1]"}), Row({"a": "*", "b": "~^"})))
    wide = Table("w", tuple(Column(str(i), f"head {i}") for i in range(13)), (Row({"0": "x"}),))
    commands = r"rotatebox|toprule|midrule|multirow|usepackage"
    import re

    assert not re.search(commands, made) and "\\hline" in made
    assert "needs \\usepackage{booktabs,graphicx}" in formats.latex(wide)
    if shutil.which("pdflatex") is None:
        pytest.skip("needs pdflatex, which is not here")
    body = f"{made}\n\n{formats.latex(strange)}"
    (tmp_path / "t.tex").write_text(f"\\documentclass{{article}}\n\\begin{{document}}\n{body}\n\\end{{document}}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "Missing character" not in done.stdout, done.stdout[-2000:]


def test_a_table_of_runs_needs_no_torch(runs):
    code = (
        "import sys\nsys.modules['torch'] = None\nfrom typer.testing import CliRunner\n"
        "from vitft.cli.app import app\n"
        "done = CliRunner().invoke(app, ['runs', 'table', sys.argv[1]], catch_exceptions=False)\n"
        "sys.exit(done.exit_code)"
    )
    import sys

    assert subprocess.run([sys.executable, "-c", code, str(runs / "s")], check=False).returncode == 0
