"""What one job's results become: the mean over seeds, the score of each setting, what is shown in the run folder."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tests import drawn_results as drawn
from tests.protocol.test_protocol import draw, job
from vitft.engines import inline
from vitft.errors import CheckpointError, DataError, Interrupted, NonFiniteLoss, PeerLost, UsageError, VitftError
from vitft.progress import Hooks, noting_once
from vitft.protocol.jobs import Runtime
from vitft.protocol.run import run_unit
from vitft.protocol.units import Job, Point, Scheme, Unit
from vitft.protocol.warm import Warm
from vitft.results.parts import Overlap
from vitft.results.reading import load, parse
from vitft.results.schema import Lost, RunResult, UnitResult
from vitft.settings import Settings


def result(root: Path, seed: int, right: int, **changes: Any) -> UnitResult:
    return parse(drawn.unit(root, "dtd", np.arange(20) < right, seed=seed, **changes), UnitResult, "x")


def test_several_seeds_are_their_mean_and_one_is_itself(tmp_path):
    units: Any = [SimpleNamespace(id=f"u{i}") for i in range(3)]
    seen = {"n": 2, "splits": {"train": 2}}
    finals = [
        result(tmp_path, 0, 10, warnings=["a"], provenance={"overlap": {"n": 1, "splits": {"train": 1}}}),
        result(tmp_path, 3, 12, warnings=["b", "a"], provenance={"overlap": seen}), result(tmp_path, 5, 17),
    ]  # fmt: skip
    tuned = [
        result(tmp_path, s, n, phase="tune", point={"lr": lr}) for lr, s, n in ((0.1, 0, 8), (0.1, 1, 12), (0.2, 0, 20))
    ]
    tuned[1] = tuned[1].model_copy(update={"warnings": ("w",)})
    lost = [Lost(point={"lr": 9.0}, seed=0, why="nan")]
    found = inline.summary(units, finals, tuned, lost)
    tops = [0.5, 0.6, 0.85]
    low, high = stats.t.interval(0.95, 2, np.mean(tops), stats.sem(tops))
    assert (found.metrics.top1, found.metrics.n, found.metrics.correct) == (pytest.approx(np.mean(tops)), 20, None)
    assert found.metrics.ci95 == pytest.approx((max(0, low), min(1, high)))
    assert found.seeds == {"0": finals[0].metrics, "3": finals[1].metrics, "5": finals[2].metrics}
    assert (found.unit, found.units, found.seed) == ("u0", ("u0", "u1", "u2"), 0)
    assert found.warnings == ("a", "b") and found.provenance.overlap == Overlap(n=2, splits={"train": 2})
    assert found.lost == tuple(lost)
    first, second = found.tuned
    low, high = stats.t.interval(0.95, 1, 0.5, stats.sem([0.4, 0.6]))
    assert (first.point, first.top1, first.n, first.seeds) == (
        {"lr": 0.1},
        pytest.approx(0.5),
        20,
        {"0": 0.4, "1": 0.6},
    )
    assert first.ci95 == pytest.approx((max(0, low), min(1, high))) and first.warnings == ("w",)
    assert (second.point, second.top1, second.seeds, second.ci95) == ({"lr": 0.2}, 1.0, None, tuned[2].metrics.ci95)
    alone = inline.summary(units[:1], finals[:1], [])
    assert (alone.metrics, alone.seeds, alone.units, alone.unit) == (finals[0].metrics, None, None, "u0")
    assert alone.tuned == () == alone.lost and alone.model == finals[0].model
    for key in ("split_digest", "images_digest"):  # other names or labels; other bytes under the same names
        one, two = (result(tmp_path, s, 12, provenance={key: str(s)}) for s in (4, 5))
        with pytest.raises(DataError, match=r"The test images of .* changed between its seeds"):
            inline.summary(units[:2], [one, two], [])
        with pytest.raises(DataError, match=r"The val images of .* changed between its seeds"):
            inline.summary(units[:1], finals[:1], [one, two])
    trained = [
        result(tmp_path, s, 12, provenance={"train_digest": names, "train_images_digest": images})
        for s, (names, images) in enumerate([("a", "x"), ("b", "y"), ("b", None), ("b", "z")])
    ]
    inline.summary(units, trained[:3], [])  # the seeds of --per-class draw their own; who does not say is let pass
    with pytest.raises(DataError, match=r"The training images of .* changed between its seeds"):
        inline.summary(units, trained[1:], [])


@pytest.mark.parametrize(
    ("grid", "on", "phase", "spared"),
    [
        (2, "val", "tune", True), (2, "val", "final", False), (2, "test", "final", True), (1, "test", "final", False),
        (0, "val", "tune", False), (0, "val", "final", False),
    ],
)  # fmt: skip
def test_a_grid_goes_on_without_a_setting_that_diverges(grid: int, on: Any, phase: Any, spared: bool) -> None:
    points = tuple(Point({"lr": i / 10}, Settings(lr=i / 10)) for i in range(grid))
    job = Job("t", "t", "m", "", "r", "d", Settings(), Scheme("train", "val", "train", "test"),
              sweep={} if grid else {"lr": [0.1, 0.2]}, grid=points, on=on)  # fmt: skip
    assert inline._spared(Unit(job, phase, 0, Settings(), {})) is spared


def test_a_units_file_is_shown_without_a_second_copy_where_that_can_be(tmp_path: Path, monkeypatch: Any) -> None:
    own, shown = tmp_path / "own", tmp_path / "shown"
    inline._share(own, shown)
    assert not shown.exists()
    for text in ("one", "two"):
        own.unlink(missing_ok=True)
        own.write_text(text)
        inline._share(own, shown)
        assert shown.read_text() == text and shown.samefile(own)

    def refused(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(os, "link", refused)
    inline._share(own, shown)
    assert shown.read_text() == "two" and not shown.samefile(own)


def test_a_note_is_told_once_a_run() -> None:
    told: list[str] = []
    hooks = noting_once(Hooks(note=told.append))
    for text in ("a", "b", "a"):
        hooks.note(text)
    assert told == ["a", "b"]


def test_after_a_first_success_a_checkpoint_that_fails_stops_its_own_task_alone(
    tmp_path: Path, monkeypatch: Any
) -> None:
    jobs = [job(draw(tmp_path / name), overrides={"lr": 0.1, "steps": 1})[0] for name in ("one", "two")]

    def failing(bad: str) -> Any:
        def run(unit: Any, *rest: Any) -> Any:
            if unit.job.name == bad:
                raise CheckpointError("damaged")
            return run_unit(unit, *rest)

        return run

    monkeypatch.setattr(inline, "run_unit", failing("two"))
    assert inline.run(jobs, tmp_path / "run", Runtime(device="cpu")) == {"two": "damaged"}
    monkeypatch.setattr(inline, "run_unit", failing("one"))
    with pytest.raises(CheckpointError, match="damaged"):
        inline.run(jobs, tmp_path / "other", Runtime(device="cpu"))


def test_units_are_of_one_group_of_processes_and_a_network_that_failed_is_not_kept(tmp_path: Path, monkeypatch: Any):
    jobs = [job(draw(tmp_path / name), overrides={"lr": 0.1, "steps": 1})[0] for name in ("one", "two", "three")]
    group, given = SimpleNamespace(name="torchrun's"), list[Any]()

    def run(unit: Unit, folder: Path, runtime: Runtime, hooks: Hooks, warm: Any) -> UnitResult:
        given.append(warm)
        if unit.job.name == "two":
            raise DataError("damaged")
        return run_unit(unit, folder, runtime)

    monkeypatch.setattr("vitft.engines.inline.together.group", lambda: group)
    monkeypatch.setattr(inline, "run_unit", run)
    told: list[str] = []
    hooks = Hooks(note=told.append)
    assert inline.run(jobs, tmp_path / "run", Runtime(device="cpu"), hooks=hooks) == {"two": "damaged"}
    assert told == ["two: final, seed 0 failed: damaged"]
    assert [warm.group for warm in given] == [group] * 3
    assert given[0] is given[1] is not given[2]


@pytest.mark.parametrize("error", [Interrupted(15, "stop"), PeerLost("gone")])
def test_whoever_is_asked_to_stop_or_alone_goes_on_with_no_other_job(
    error: VitftError, monkeypatch: Any, tmp_path: Path
):
    seen: list[Unit] = []

    def run(unit: Unit, *rest: Any) -> None:
        seen.append(unit)
        raise error

    monkeypatch.setattr(inline, "run_unit", run)
    jobs = [grid_of("a", (), "val"), grid_of("b", (), "val")]
    with pytest.raises(type(error)):
        inline.run(jobs, tmp_path, Runtime(device="cpu"))
    assert [unit.job.name for unit in seen] == ["a"]
    with pytest.raises(UsageError, match="--devices shares units between workers"):
        inline.run(jobs, tmp_path, Runtime(device="cpu"), devices=("cuda:0",))
    assert len(seen) == 1


def grid_of(name: str, values: tuple[float, ...], on: Any) -> Job:
    points = tuple(Point({"lr": lr}, Settings(lr=lr)) for lr in values)
    return Job(name, name, "m", "", "r", "d", Settings(), Scheme("train", "val", "train", "test"), seeds=(4, 7),
               grid=points, on=on)  # fmt: skip


@pytest.mark.parametrize("on", ["val", "test"])
def test_a_grid_is_run_to_its_best_setting_whose_files_are_shown(on: str, tmp_path: Path, monkeypatch: Any) -> None:
    job, group, source = grid_of("t", (0.3, 0.1, 0.2), on), SimpleNamespace(), SimpleNamespace(task="t")
    right = {(0.1, 4): 10, (0.1, 7): 12, (0.2, 4): 15, (0.2, 7): 13}
    given, held, told, places = list[Any](), list[Any](), list[str](), dict[Any, Path]()
    diverges = {(on.replace("val", "tune").replace("test", "final"), 0.3)}

    def run(unit: Unit, folder: Path, runtime: Runtime, hooks: Hooks, warm: Any) -> None:
        at: Any = unit.point["lr"], unit.seed
        if len(given) > 20:
            pytest.fail("units that were lost or done are run again")
        given.append(((unit.phase, *at), warm))
        hooks.note("a checkpoint's")
        if (unit.phase, at[0]) in diverges:
            raise NonFiniteLoss("Loss is nan.")
        place = unit.id.partition("/")[2].rpartition("-seed")[0]
        drawn.unit(folder, "t", np.arange(20) < right[at] + (unit.phase == "tune"), seed=unit.seed, phase=unit.phase,
                   point=unit.point, place=place)  # fmt: skip
        places[unit.phase, *at] = folder / "units" / unit.id

    monkeypatch.setattr(inline, "run_unit", run)
    monkeypatch.setattr("vitft.engines.inline.together.group", lambda: group)
    monkeypatch.setattr("vitft.protocol.unchanged.hold", lambda *what: held.append(what))
    own: Any = Warm(source=source, group=SimpleNamespace()) if on == "test" else None  # type: ignore[arg-type]
    hooks = Hooks(note=told.append) if on == "test" else None
    found = inline.run_job(job, source, tmp_path, Runtime(device="cpu"), hooks, own)  # type: ignore[arg-type]
    compared = [(lr, seed) for lr in (0.1, 0.2) for seed in (4, 7)]
    if on == "test":
        assert [what for what, _ in given] == [("final", 0.3, 4), *(("final", *at) for at in compared)]
        assert told == ["a checkpoint's", "t: final (lr 0.3), seed 4: Loss is nan. The other settings go on."]
    else:
        tuned = [("tune", 0.3, 4), *(("tune", *at) for at in compared)]
        assert [what for what, _ in given] == [*tuned, ("final", 0.2, 4), ("final", 0.2, 7)]
    first, second, *rest = [warm for _, warm in given]
    assert (first is own) == (own is not None) and first.group is (own.group if own else group)
    assert second is not first and all(warm is second for warm in rest)
    assert first.source is second.source is source and second.group is first.group
    ((folder, held_source, _),) = held
    assert (folder, held_source) == (tmp_path, source)
    extra = on == "val"
    assert [one.point for one in found.tuned] == [{"lr": 0.1}, {"lr": 0.2}]
    assert [one.top1 for one in found.tuned] == pytest.approx([(11 + extra) / 20, (14 + extra) / 20])
    assert found.lost == (Lost(point={"lr": 0.3}, seed=4, why="Loss is nan."),)
    assert found.seeds is not None and {s: m.correct for s, m in found.seeds.items()} == {"4": 15, "7": 13}
    assert found.units == tuple(f"t/{places['final', 0.2, seed].name}" for seed in (4, 7))
    shown = places["final", 0.2, 4] / "predictions.parquet"
    assert (tmp_path / "predictions.parquet").samefile(shown)
    assert load(tmp_path / "result.json", RunResult) == found
    if on == "val":
        diverges.add(("final", 0.2))
        with pytest.raises(NonFiniteLoss):
            inline.run_job(job, source, tmp_path / "other", Runtime(device="cpu"))  # type: ignore[arg-type]
