"""Tables on a terminal: prose is broken at words, a path stands whole, a torn block keeps its heading."""

import re

import pytest

from vitft.report.table import Column, Row, Table
from vitft.report.text import text

PATH = "/scratch/a/rather/long/folder/of/runs/vit-mini-412a5d07/quick-01234567"
PROSE = "google-research/vision_transformer, configs/common.py and the small files beside it"
LIST = Table(
    "",
    (
        Column("a", "name"),
        Column("b", "what it is", "prose"),
        Column("c", "source", "prose"),
        Column("d", "folder", "path"),
    ),
    (Row({"a": "vit-paper", "b": "the paper's fine-tuning", "c": PROSE, "d": PATH}), Row({"a": "x", "b": "y"})),
)


@pytest.mark.parametrize("width", [72, 80, 120, 160, 10_000])
def test_a_list_is_broken_at_words_and_its_paths_are_whole(width: int) -> None:
    lines = text(LIST, width).splitlines()
    assert max(map(len, lines)) <= width and "…" not in "".join(lines)
    assert sum(PATH in line for line in lines) == 1
    words = " ".join(lines).split()
    for word in [*PROSE.split(), "paper's", "fine-tuning"]:
        assert words.count(word) >= 1, word
    assert (f"  {PATH}" in lines) == (width < 10_000)  # below its row where it does not fit beside the rest
    if width == 10_000:
        assert re.fullmatch(rf"vit-paper +the paper's fine-tuning +{re.escape(PROSE)} +{re.escape(PATH)}", lines[2])


def test_what_cannot_be_narrower_stands_in_blocks_and_words_stay_whole() -> None:
    lines = text(LIST, 40).splitlines()
    assert [line.split()[0] for line in lines if line.startswith("name")] == ["name", "name"]
    assert "google-research/vision_transformer," in " ".join(lines).split()


def test_no_heading_is_cut() -> None:
    columns = [Column("label", "model"), *(Column(str(i), f"c{i}", "percent", "a specialised block") for i in range(5))]
    table = Table("t", tuple(columns), (Row({"label": "a long name of a model", **{str(i): 0.5 for i in range(5)}}),))
    for width in (30, 40, 50, 60):
        lines = text(table, width).splitlines()
        heads = [line for line in lines if "block" in line]
        assert heads and all("a specialised block" in line for line in heads), (width, lines)
    (head, digits) = (
        text(Table("", (Column("a", ""), Column("b", name)), ()), 80) for name in ("Caltech101", "CIFAR-100")
    )
    assert "Caltech101" in head and digits.splitlines()[:2] == ["  CIFAR-", "  100"]


def test_an_interval_is_told_by_its_ends() -> None:
    table = Table("", (Column("a", ""), Column("b", "95 %", "interval")), (Row({"a": "x", "b": (0.7176, 0.8319)}),))
    assert text(table).splitlines()[2] == "x  [71.8, 83.2]"
