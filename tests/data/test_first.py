"""The first N of VTAB-1k's examples: nested, in the benchmark's order, and never called VTAB-1k."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from vitft import recipes
from vitft.catalog import shots
from vitft.cli.app import app
from vitft.data.find import find
from vitft.data.split import Provenance, Split
from vitft.data.vtab_splits import FirstShots
from vitft.errors import DataError, DataMissing, UsageError
from vitft.protocol.jobs import make
from vitft.protocol.units import DEV, scheme
from vitft.report import sentences
from vitft.report.gather import gather
from vitft.report.summary import summarise
from vitft.results.parts import Provenance as Stamp


def test_the_first_n_are_nested_and_are_those_of_vtab_1k_in_its_order() -> None:
    whole = find("mini-digits", None, "1000").open("train800val200")
    for n in (1, 7, 100, 900):
        source = find("mini-digits", None, str(n))
        assert source.splits == (f"train800val200[:{n}]", "test")
        split = source.open(f"train800val200[:{n}]")
        assert list(split.keys) == list(whole.keys[:n]) and split.labels.tolist() == whole.labels[:n].tolist()
        assert split.class_names == whole.class_names and shots.first_in(split.name) == n
        assert split.read(n - 1) == whole.read(n - 1)
        assert source.open("test").digest == find("mini-digits", None, "1000").open("test").digest
        with pytest.raises(DataMissing, match="no split 'val200'"):
            source.open("val200")


def test_without_the_joined_split_val200_follows_train800() -> None:
    class Two:
        task, splits = "dtd", ("train800", "val200", "test")

        def open(self, split: str) -> Split:
            n = {"train800": 800, "val200": 200, "test": 5}[split]
            keys = [f"{split}-{i}" for i in range(n)]
            labels = np.arange(n, dtype=np.int64) % 3
            return Split("dtd", split, ("a", "b", "c"), keys, labels, lambda i: b"", Provenance("x", True))

    found = FirstShots(Two(), 850).open("train800val200[:850]")
    assert list(found.keys) == [f"train800-{i}" for i in range(800)] + [f"val200-{i}" for i in range(50)]


def test_fewer_examples_than_are_asked_for_are_refused() -> None:
    class Short:
        task, splits = "dtd", ("train800val200", "test")

        def open(self, split: str) -> Split:
            labels = np.arange(40, dtype=np.int64) % 3
            return Split("dtd", split, tuple("abc"), [*map(str, range(40))], labels, lambda i: b"", Provenance("x"))

    assert len(FirstShots(Short(), 40).open("train800val200[:40]")) == 40
    with pytest.raises(DataError, match="'dtd' has 40 training examples, not 41"):
        FirstShots(Short(), 41).open("train800val200[:41]")


def test_examples_sorted_by_class_have_no_first_ones() -> None:
    class Sorted:
        task, splits = "dtd", ("train800val200", "test")

        def open(self, split: str) -> Split:
            labels = np.sort(np.arange(1000) % 5).astype(np.int64)
            return Split(
                "dtd", split, tuple("abcde"), [*map(str, range(1000))], labels, lambda i: b"", Provenance("x", True)
            )

    with pytest.raises(DataError, match="sorted by class"):
        FirstShots(Sorted(), 100).open("train800val200[:100]")


@pytest.mark.parametrize("text", ["0", "-5", "1001", "many", "", "1.5"])
def test_other_numbers_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="1 to 1000"):
        shots.checked(text)


def test_words_become_numbers() -> None:
    assert [shots.checked(word) for word in ("full", "1000", "0050")] == ["full", "1000", "50"]
    assert [shots.first_of(word) for word in ("full", "1000", "50", None)] == [None, None, 50, None]
    assert [shots.number(word) for word in ("full", "1000", "50")] == [0, 1000, 50]


def test_choices_see_no_label_beyond_the_first_n() -> None:
    splits = ("train800", "val200", "train800val200", "test")
    found = scheme(splits, "dtd", "60")
    first = "train800val200[:60]"
    assert (found.tune_train, found.tune_val, found.final_train, found.test) == (first, DEV, first, "test")


def test_results_say_that_it_is_no_vtab_1k(tmp_path: Path) -> None:
    job, _ = make("mini-digits", model="vit-mini", recipe=recipes.load("vtab-mini"), overrides={}, shots="60")
    assert job.identity()["shots"] == "60"
    stamp = Stamp(source="x", split_digest="d", train_split="train800val200[:60]")
    assert sentences.of_data(stamp) == ["no VTAB-1k: trained on the first 60 of its 1,000 examples"]
    assert sentences.of_data(stamp.model_copy(update={"train_split": "train800val200"})) == []


def test_a_suite_runs_with_few_examples_and_its_table_says_so(tmp_path: Path) -> None:
    args = ["vtab", "--suite", "mini", "--tasks", "mini-digits", "--shots", "20", "--steps", "1", "-b", "4"]
    done = CliRunner().invoke(app, [*args, "-o", str(tmp_path / "few")], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert (
        "20 training examples a task" in " ".join(done.stdout.split())
        and "no VTAB-1k: trained on the first 20" in done.stdout
    )
    result = json.loads(next((tmp_path / "few/units").rglob("result.json")).read_text())
    assert result["provenance"]["train_split"] == "train800val200[:20]" and result["provenance"]["train_n"] == 20
    assert result["protocol"]["train"] == {"first": 20} and result["provenance"]["train_whole"] == 20
    (row,) = summarise(gather([tmp_path]).numbers).rows
    assert row.what.examples == "20"
    wrong = CliRunner().invoke(app, [*args[:5], "--shots", "1001"])
    assert wrong.exit_code == 2 and "1 to 1000" in wrong.stderr
