"""The main tables as they stand on a terminal of 80 and of 160 columns; a change of them is made on purpose.

`python -m tests.report.test_screens` writes `screens.txt` anew: look at what changed before it is committed.
"""

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.report.test_report import MINI, PLAIN, _result, _single, _summarise, _table
from vitft.cli import console
from vitft.cli.app import app
from vitft.models.memory import Plan
from vitft.protocol.estimate import Estimate
from vitft.protocol.units import Job, Scheme
from vitft.report import estimate, runs
from vitft.report.table import Table
from vitft.report.text import text
from vitft.results.listing import Run
from vitft.settings import Settings
from vitft.training.speed import Speed

FILE = Path(__file__).with_name("screens.txt")
WIDTHS = (80, 160)


def _finetune() -> Table:
    one = _result("cifar100", 0.93, recipe="vit-paper")
    several = _result("cifar100", 0.915, recipe="vit-paper", model="vit-b16-in1k-384")
    several["seeds"] = {str(seed): several["metrics"] for seed in (0, 1, 2)}
    several["provenance"] = PLAIN | {"reference": False, "why": "your own split (seed 0, 30 % test)"}
    return _single([one, several])


def _suite() -> Table:
    results = [_result(task, 0.5 + i / 20) for i, task in enumerate(MINI.tasks[:-1])]
    return _table(MINI, _summarise(MINI, results, failed={MINI.tasks[-1]: "the loss became NaN"}))


def _runs() -> Table:
    settings = {"lr": "0.03", "resolution": "384", "method": "full", "steps": "500"}
    pets = Run(
        "finetune", "oxford_iiit_pet", "vit-b16-augreg", "vit-paper", settings, (0, 1, 2), 3, True, 0.934,
        (0.925, 0.943), 3669, "", "2024-05-01 12:00", "runs/oxford_iiit_pet/vit-b16-augreg-0123abcd/vit-paper-0123abcd",
    )  # fmt: skip
    other = {"method": "linear", "lr": "0.1"}
    return runs.table([pets, replace(pets, settings=settings | other, seeds=(0,), top1=0.9, folder="runs/b")])


def _estimate() -> Table:
    scheme = Scheme("train", "dev", "train", "test")
    job = Job("cifar10", "cifar10", "vit-b16", "", "vit-paper", "0123abcd", Settings(), scheme)
    speed = Speed(5e10, "cpu", "measured")
    plan = Plan(16, False, 1_000_000_000, 2_800_000_000, 64_000_000_000)
    of = Estimate((384, 384), 5, 50_000, 25_600_000, 14_000, 8.5e18, 1.6e8, plan, 10**9, speed)
    return estimate.table([job], [of])


def screens() -> str:
    """Return every table at every width, a heading above each."""
    tables = {"finetune": _finetune(), "vtab": _suite(), "runs ls": _runs(), "finetune --dry-run": _estimate()}
    shown = {f"{name}, {width} columns": text(table, width) for name, table in tables.items() for width in WIDTHS}
    for width in WIDTHS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(console, "width", lambda width=width, **_: width)
            for words in ("recipes ls", "models ls flexivit", "models show vit-h14"):
                shown[f"{words}, {width} columns"] = CliRunner().invoke(app, words.split()).stdout
    return "".join(f"=== {name} ===\n{table}\n" for name, table in shown.items())


def test_the_screens_are_the_ones_that_were_looked_at() -> None:
    assert screens() == FILE.read_text()


@pytest.mark.parametrize("width", WIDTHS)
def test_no_line_is_longer_than_the_terminal_but_for_what_is_copied(width: int) -> None:
    for part in FILE.read_text().split("=== "):
        if f"{width} columns" in part.split("\n")[0]:
            long = [line for line in part.splitlines()[1:] if len(line) > width]
            assert all(
                line.lstrip().startswith(("vitft ", "note: ", "source ", "2024-05-01 12:00  runs")) for line in long
            ), long


if __name__ == "__main__":
    FILE.write_text(screens())
