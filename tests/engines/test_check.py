"""A recipe's number against the one it should be: every field of an outcome, and what makes it none."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tests import drawn_results as drawn
from vitft.engines import check
from vitft.errors import DataDamaged
from vitft.evaluation import predictions, significance
from vitft.recipes import Expect
from vitft.results.checks import Check, Entry, Flags, Stored, keys_digest, packed
from vitft.results.reading import parse
from vitft.results.schema import RunResult

BASE = Check(recipe="r", task="dtd", model="m", outcome="errored", seconds=3.0)
N = 40


def run(root: Path, *rights: np.ndarray, **changes: Any) -> RunResult:
    """Write a run of one or several seeds (4, 5, ...) and return its result."""
    several = len(rights) > 1
    made = [drawn.unit(root, "dtd", right, seed=4 + i, **changes) for i, right in enumerate(rights)]
    units = tuple(f"dtd/final-p-quick-seed{4 + i}" for i in range(len(rights)))
    rest: dict[str, Any] = {"unit": units[0]}
    if several:
        rest |= {"units": units, "seeds": {str(4 + i): one["metrics"] for i, one in enumerate(made)}}
    return parse(made[0] | rest, RunResult, "x")


def right(n: int) -> np.ndarray:
    return np.arange(N) < n


def entry(*rights: np.ndarray, **changes: Any) -> Entry:
    usual: dict[str, Any] = {
        "recipe": "r", "task": "dtd", "model": "m", "protocol": "p", "split_digest": "d", "keys_digest": "k", "n": N,
        "device_kind": "cpu", "precision": "float32", "vitft": "0.1", "finished": "2026-01-02T03",
    }  # fmt: skip
    flags = tuple(Flags(seed=i, correct=packed(one)) for i, one in enumerate(rights))
    return Entry(**{**usual, **changes}, flags=flags)


@pytest.mark.parametrize(
    ("value", "tolerance", "outcome", "why"),
    [
        (0.7, 0.02, "held", ""), (0.72, 0.02, "held", ""), (0.68, 0.02, "held", ""),
        (0.7201, 0.02, "regressed", "2.0 points below, 2 tolerated"),
        (0.6799, 0.02, "outside", "2.0 points above, 2 tolerated"),
        (0.6, 0.055, "outside", "10.0 points above, 5.5 tolerated"),
    ],
)  # fmt: skip
def test_a_number_within_its_tolerance_is_held(tmp_path: Path, value: float, tolerance: float, outcome: str, why: str):
    result = run(tmp_path, right(28))
    expect = Expect(task="dtd", value=value, tolerance=tolerance, source="a paper")
    assert check.expected(BASE, expect, result, "place") == Check(
        recipe="r", task="dtd", model="m", outcome=outcome, why=why, got=0.7, n=N, ci95=result.metrics.ci95,
        seeds=(4,), expected=value, tolerance=tolerance, source="a paper", seconds=3.0, folder="place",
    )  # type: ignore[arg-type] # fmt: skip
    assert check.written(BASE, result, "place") == Check(
        recipe="r", task="dtd", model="m", outcome="written", against="baseline", got=0.7, n=N,
        ci95=result.metrics.ci95, seeds=(4,), seconds=3.0, folder="place",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"n": N, "protocol": "p", "split_digest": "dtd-4", "device": "CPU"}, ""),
        ({"device": "cuda"}, "expected on cuda, this is cpu"),
        ({"n": 41}, "expected of 41 images, these are 40"),
        ({"protocol": "q"}, "expected by protocol q, this is p"),
        ({"split_digest": "x"}, "expected of the test split x, this is dtd-40"),
        ({"n": 3, "protocol": "q"}, "expected of 3 images, these are 40; expected by protocol q, this is p"),
    ],
)
def test_another_measurement_is_void_whatever_its_number(tmp_path: Path, said: dict[str, Any], why: str) -> None:
    expect = Expect(task="dtd", value=0.7, tolerance=0.01, source="s", **said)
    found = check.expected(BASE, expect, run(tmp_path, right(28)), "f")
    assert (found.outcome, found.why, found.got) == ("void" if why else "held", why, 0.7)
    assert (found.expected, found.tolerance, found.source) == (0.7, 0.01, "s")
    if "split_digest" in said and why:
        long = run(tmp_path, right(28), provenance={"split_digest": "0123456789abcdef"})
        assert check.expected(BASE, expect, long, "f").why == "expected of the test split x, this is 0123456789ab"


@pytest.mark.parametrize(
    ("wanted", "kind", "name", "why"),
    [
        ("", "cuda", "NVIDIA H100", ""), ("CUDA", "cuda", "NVIDIA H100", ""),
        ("nvidia h100", "cuda", "NVIDIA H100", ""),
        ("NVIDIA H200", "cuda", "NVIDIA H100", "expected on NVIDIA H200, this is NVIDIA H100"),
        ("cuda", "cpu", "", "expected on cuda, this is cpu"),
    ],
)  # fmt: skip
def test_a_device_is_named_by_its_kind_or_its_own_name(wanted: str, kind: str, name: str, why: str) -> None:
    assert check.elsewhere(wanted, kind, name) == why


def test_a_run_is_compared_with_a_baseline_and_with_the_oldest(tmp_path: Path) -> None:
    old, new = [right(n) for n in (30, 32, 31)], [right(20), right(22)]
    result = run(tmp_path, *new)
    mine, current, oldest = entry(*new), entry(*old), entry(right(24), vitft="0.0", model="o")
    found = check.against(BASE, result, mine, Stored(current=current, oldest=oldest), 0.03, "place")
    drops = [significance.compare(np.stack(one), np.stack(new), 0.03) for one in (old, [right(24)])]
    sources = ["m, seeds 0, 1, 2, vitft 0.1, 2026-01-02", "o, seeds 0, vitft 0.0, 2026-01-02"]
    means = [np.mean([30, 32, 31]) / N, 24 / N]
    for one, name, drop, source, mean in zip(found, ("baseline", "oldest"), drops, sources, means, strict=True):
        assert one == Check(
            recipe="r", task="dtd", model="m", outcome="held", against=name, got=result.metrics.top1, n=N,
            ci95=result.metrics.ci95, seeds=(4, 5), expected=one.expected, tolerance=drop.least, source=source,
            drop=drop.drop, p=drop.p, test=drop.test, seconds=3.0, folder="place",
        )  # type: ignore[arg-type] # fmt: skip
        assert one.expected == pytest.approx(mean)
    assert [
        one.against for one in check.against(BASE, result, mine, Stored(current=current, oldest=current), 0.03, "")
    ] == ["baseline"]
    other = entry(*old, protocol="q", n=N)
    (void,) = check.against(BASE, result, mine, Stored(current=other, oldest=other), 0.03, "")
    assert (void.outcome, void.why, void.p, void.drop) == ("void", "protocol: q there, p here", None, None)
    assert void.source == sources[0] and void.expected == pytest.approx(means[0])


def test_a_drop_is_red_where_it_is_significant_over_all_and_larger_than_the_margin() -> None:
    def one(p: float | None, drop: float, least: float = 0.01) -> Check:
        return BASE.model_copy(
            update={"p": p, "drop": drop, "tolerance": least, "against": "oldest", "outcome": "void"}
        )

    given = [one(0.001, 0.05), one(None, 0.5), one(0.03, 0.05), one(0.002, 0.01), one(0.002, 0.0101)]
    found = check.judged(given)
    # Holm over the four: 0.004, 0.03, then 3 and 2 times 0.002
    assert [c.p_holm for c in found] == [pytest.approx(0.004), None, 0.03, pytest.approx(0.006), pytest.approx(0.006)]
    assert [c.outcome for c in found] == ["regressed", "void", "regressed", "held", "regressed"]
    assert found[0].why == "5.0 points below the oldest, p = 0.004, margin 1" and found[3].why == ""
    assert found[1] == given[1] and check.judged([]) == []
    assert check.judged([one(0.05, 0.5)])[0].outcome == "held"
    assert check.judged([one(0.0, -0.5)])[0].outcome == "held"
    for p, drop, least, outcome in ((0.0, 0.5, 0.0, "regressed"), (0.0, 0.0, 0.0, "held"), (0.0, 0.0, 0.5, "held")):
        assert check.judged([one(p, drop, least)])[0].outcome == outcome


def stored(folder: Path, right: np.ndarray) -> None:
    """Write whole predictions of two classes, label 0 throughout."""
    keys, logits = [str(i) for i in range(len(right))], np.eye(2, dtype=np.float32)[(~right).astype(int)]
    predictions.save(folder / "predictions.parquet", keys, np.zeros(len(right), np.int64), logits, "ab")


def test_a_baseline_keeps_what_each_seed_answered(tmp_path: Path) -> None:
    rights = [np.random.default_rng(i).random(N) < 0.6 for i in range(2)]
    result = run(tmp_path / "a", *rights, env={"finished": "2026-05-06"})
    for i, one in enumerate(rights):
        stored(tmp_path / f"a/units/dtd/final-p-quick-seed{4 + i}", one)
    found = check.entry(BASE, result, tmp_path / "a")
    assert found == Entry(
        recipe="r", task="dtd", model="m", protocol="p", split_digest="dtd-40",
        keys_digest=keys_digest([str(i) for i in range(N)]), n=N, device_kind="cpu", precision="float32",
        vitft=result.env.vitft, finished="2026-05-06",
        flags=tuple(Flags(seed=4 + i, correct=packed(one)) for i, one in enumerate(rights)),
    )  # fmt: skip
    assert np.array_equal(found.correct(), rights)
    alone = run(tmp_path / "b", rights[0])
    stored(tmp_path / "b/units/dtd/final-p-quick-seed4", rights[0])
    assert [f.seed for f in check.entry(BASE, alone, tmp_path / "b").flags] == [4]
    stored(tmp_path / "a/units/dtd/final-p-quick-seed5", rights[0][:-1])
    with pytest.raises(DataDamaged, match="answered different images"):
        check.entry(BASE, result, tmp_path / "a")
    with pytest.raises(DataDamaged, match="holds no predictions"):  # a result that names no unit
        check.entry(BASE, alone.model_copy(update={"unit": None}), tmp_path / "b")


def test_one_seed_of_each_is_mcnemars_test(tmp_path: Path) -> None:
    result = run(tmp_path, right(20))
    base = entry(right(30))
    (found,) = check.against(BASE, result, entry(right(20)), Stored(current=base, oldest=base), 0.001, "")
    assert found.p == pytest.approx(float(stats.binom.sf(9, 10, 0.5))) and found.tolerance == significance.IMAGES_FLOOR
