"""Bars in a terminal: as long as their numbers, whole at any width, and no colour."""

import numpy as np
import pytest
from typer.testing import CliRunner

from tests import drawn_results as drawn
from vitft.cli.app import app
from vitft.report.bars import bars
from vitft.report.gather import gather
from vitft.report.summary import summarise


@pytest.fixture
def root(tmp_path):
    random = np.random.default_rng(5)
    for model, share in (("vit-a", 0.8), ("vit-b-with-a-long-name-of-more-than-forty-letters", 0.35)):
        drawn.unit(tmp_path / model, "cifar10", drawn.flags(random, 400, share), model=model)
        drawn.unit(tmp_path / model, "svhn", drawn.flags(random, 100, 1.0), model=model)
    return tmp_path


@pytest.mark.parametrize("width", [60, 80, 160])
def test_a_bar_is_as_long_as_its_number_says(root, width):
    text = bars(summarise(gather([root]).numbers), width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width and "\x1b" not in text
    assert "CIFAR-10, n 400" in lines and any(line.endswith("SVHN, n 100") for line in lines)
    drawn_bars = [line for line in lines if "█" in line and "[" in line]
    longest = max(line.count("█") + line.count("▒") for line in drawn_bars)
    for line in drawn_bars:
        low, high = (float(end) / 100 for end in line[line.index("[") + 1 : line.index("]")].split(", "))
        whole = longest / 1.0  # SVHN's interval ends at 100 %
        assert abs(line.count("█") - low * whole) <= 0.6
        assert abs(line.count("█") + line.count("▒") - high * whole) <= 0.6 + (high - low < 1 / whole)
    assert len([line for line in drawn_bars if "80.0* " in line]) == 1


def test_the_verb_prints_them_with_their_marks(root):
    done = CliRunner().invoke(app, ["report", str(root), "--format", "bars"])
    assert done.exit_code == 0 and "80.0*" in done.stdout and "100.0≈" in done.stdout
    assert "separated from every other row" in done.stdout and "'least'" not in done.stdout
