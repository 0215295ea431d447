"""A learning curve as a table: means over updates and seeds, the last look at val, bars in proportion."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import drawn_results as drawn
from vitft.report.curve import Curve, full, read, table
from vitft.report.table import Column


def curve(name: str, losses: list[float], looks: dict[int, float] | None = None) -> Curve:
    lines = [{"step": i, "loss": loss, "lr": i / 1000} for i, loss in enumerate(losses, 1)]
    for step, top1 in (looks or {}).items():
        lines[step - 1] |= {"val_top1": top1, "val_loss": 0.5, "val_n": 10}
    return Curve(name, Path(name), tuple(lines))


def test_rows_are_means_over_their_updates_and_the_last_look_among_them() -> None:
    made = table([curve("seed 0", [4.0, 2.0, 1.0, 1.0, 0.5], {1: 0.1, 2: 0.4, 5: 0.7})], 3, bars=True)
    assert made.caption == "seed 0: 5 updates, the loss a mean of 2 each; val top-1 in percent" and made.notes == ()
    assert made.columns == (
        Column("step", "step", "count"), Column("loss", "loss"), Column("loss_bar", ""), Column("lr", "lr"),
        Column("val", "val", "percent"), Column("val_bar", ""), Column("val_ci95", "95 %", "interval"),
        Column("val_n", "n", "count"),
    )  # fmt: skip
    first, second, third = (dict(row.cells) for row in made.rows)
    # Wilson's interval of 4 and of 7 in 10, by statsmodels
    assert first.pop("val_ci95") == pytest.approx((0.1681803, 0.6873262))
    assert third.pop("val_ci95") == pytest.approx((0.3967781, 0.8922087))
    assert first == {"step": 2, "loss": "3.0000", "lr": "0.002", "loss_bar": "█" * 20, "val": 0.4, "val_n": 10,
                     "val_bar": "█" * 8}  # fmt: skip
    assert second == {"step": 4, "loss": "1.0000", "lr": "0.004", "loss_bar": "█" * 7, "val_bar": None}
    assert third == {"step": 5, "loss": "0.5000", "lr": "0.005", "loss_bar": "█" * 3, "val": 0.7, "val_n": 10,
                     "val_bar": "█" * 14}  # fmt: skip


def test_several_seeds_are_averaged_up_to_the_shortest_and_have_no_interval() -> None:
    both = [curve("seed 0", [4.0, 2.0, 9.0], {2: 0.4}), curve("seed 1", [2.0, 1.0], {2: 0.7})]
    made = table(both, 9, bars=False)
    assert made.caption == "mean of seed 0, seed 1: 2 updates; val top-1 in percent"
    assert [c.key for c in made.columns] == ["step", "loss", "lr", "val", "val_n"]
    assert [(row.cells["loss"], row.cells.get("val")) for row in made.rows] == [
        ("3.0000", None), ("1.5000", pytest.approx(0.55)),
    ]  # fmt: skip
    # a row has no accuracy where one of the seeds was not looked at
    one = table([both[0], curve("seed 1", [2.0, 1.0])], 9, bars=True)
    assert [c.key for c in one.columns] == ["step", "loss", "loss_bar", "lr"]
    assert one.notes == ("No val accuracy was written; --val-every N does it.",)
    assert one.caption == "mean of seed 0, seed 1: 2 updates"
    for losses, drawn_ in (([0.0, 0.0], [0, 0]), ([0.5, 0.25], [20, 10]), ([0.0, 3.0], [0, 20])):
        assert [row.cells["loss_bar"] for row in table([curve("a", losses)], 2, bars=True).rows] == [
            "█" * n for n in drawn_
        ]


def test_every_update_of_every_curve_for_other_programs() -> None:
    made = full([curve("seed 0", [4.0], {1: 0.4}), curve("seed 1", [0.1, 2.0])])
    assert [(c.key, c.title, c.kind) for c in made.columns] == [
        ("unit", "unit", "text"), ("step", "step", "count"), ("loss", "loss", "text"), ("lr", "lr", "text"),
        ("grad_norm", "grad_norm", "text"), ("val_top1", "val_top1", "percent"), ("val_loss", "val_loss", "text"),
        ("val_n", "val_n", "count"),
    ]  # fmt: skip
    assert [dict(row.cells) for row in made.rows] == [
        {"unit": "seed 0", "step": 1, "loss": "4.0", "lr": "0.001", "val_top1": 0.4, "val_loss": "0.5", "val_n": 10},
        {"unit": "seed 1", "step": 1, "loss": "0.1", "lr": "0.001"},
        {"unit": "seed 1", "step": 2, "loss": "2.0", "lr": "0.002"},
    ]


def test_a_line_that_lacks_a_key_is_damaged_and_one_being_written_is_not(tmp_path: Path) -> None:
    from vitft.errors import CheckpointError, UsageError

    folder = tmp_path / "final-x-seed7"
    folder.mkdir()
    line = '{"step": 1, "loss": 2.0, "lr": 0.1, "grad_norm": 3.0, "images": 8}\n'
    (folder / "metrics.jsonl").write_text(line + line[:9])
    (found,) = read(folder)
    assert found == Curve("seed 7", folder, ({"step": 1, "loss": 2.0, "lr": 0.1, "grad_norm": 3.0},))
    for text in ('{"loss": 2.0, "lr": 0.1}\n', '{"step": 1, "lr": 0.1}\n', '{"step": 1, "loss": 2.0}\n', "[]\n"):
        (folder / "metrics.jsonl").write_text(text + line)
        with pytest.raises(CheckpointError, match="is damaged in line 1"):
            read(folder)
    (folder / "metrics.jsonl").write_text("{")
    with pytest.raises(UsageError, match="no update yet"):
        read(folder)


def test_the_curves_of_a_run_are_those_of_its_final_units(tmp_path: Path) -> None:
    from vitft.errors import UsageError

    def unit(root: Path, place: str, seed: int) -> dict[str, Any]:
        made = drawn.unit(root, "dtd", np.arange(4) < 2, seed=seed, place=place, predictions=False)
        line = {"step": 1, "loss": float(seed), "lr": 0.1}
        (root / f"units/dtd/{place}-seed{seed}/metrics.jsonl").write_text(json.dumps(line) + "\n")
        return made

    run, one = tmp_path / "run", tmp_path / "one"
    made = next(iter([unit(run, "final-p", seed) for seed in (5, 4)]))
    unit(run, "tune-p", 7)

    def found(folder: Path) -> list[tuple[str, float]]:
        return [(curve.name, curve.lines[0]["loss"]) for curve in read(folder)]

    with pytest.raises(UsageError, match="has several units"):
        found(run)
    units = [f"dtd/final-p-seed{seed}" for seed in (5, 4)]
    usual = {"unit": units[0], "seeds": {"5": made["metrics"], "4": made["metrics"]}}
    for more, expected in (({"units": units}, [5, 4]), ({"units": units[:1]}, [5]), ({}, [5])):
        (run / "result.json").write_text(json.dumps(made | usual | more))
        assert found(run) == [(f"seed {seed}", float(seed)) for seed in expected]
    assert found(run / "units" / units[1]) == [("seed 4", 4.0)]
    for name in units:  # gone: what else is there
        (run / "units" / name / "metrics.jsonl").unlink()
    unit(run, "tune-p", 6)
    assert found(run) == [("seed 6", 6.0), ("seed 7", 7.0)]
    unit(one, "final-p", 3)
    assert found(one) == [("seed 3", 3.0)]  # not finished yet
    with pytest.raises(UsageError, match=r"holds no metrics\.jsonl"):
        found(tmp_path)


def test_an_accuracy_is_of_whole_images() -> None:
    line = {"step": 1, "loss": 1.0, "lr": 0.1, "val_top1": 0.29, "val_n": 100}
    (row,) = table([Curve("a", Path(), (line,))], 9, bars=False).rows
    assert row.cells["val_ci95"] == pytest.approx((0.2101484, 0.3853889))  # of 29 in 100, by statsmodels
