"""Rows of a table: what stands in one, how it is called, what its cells say, and which means there are."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import drawn_results as drawn
from vitft.errors import DataDamaged
from vitft.evaluation.contrasts import contrast
from vitft.evaluation.significance import holm
from vitft.report import marks
from vitft.report.lines import labels, lines, name
from vitft.report.measured import Measured
from vitft.report.summary import interval, summarise
from vitft.results.summary import Described, SummaryColumn
from vitft.suites.document import load as suite_of

WILSON = (0.3967781473, 0.8922087326)  # of 7 in 10: statsmodels' proportion_confint, method "wilson"


MINI = suite_of("mini").tasks[:2]


def number(**changes: Any) -> Measured:
    what = Described(model="m", method="full", recipe="quick", resolutions=((32, 32),), examples="all")
    usual = Measured(
        column="dtd", task="dtd", seed=0, top1=0.7, n=10, correct=7, what=what, protocol="p", split_digest="d",
        row=(("model", "m"), ("method", "full"), ("settings", "s"), ("examples", "all"), ("GELU", "")),
        settings={"lr": 0.1}, finished="1",
    )  # fmt: skip
    said = {key: changes.pop(key) for key in list(changes) if key in Described.model_fields}
    of_row = {key: changes.pop(key) for key in ("settings_", "model_", "GELU_") if key in changes}
    row = dict(usual.row) | {key.rstrip("_"): value for key, value in of_row.items()}
    row |= {key: said[key] for key in ("method", "examples") if key in said}
    return replace(usual, what=what.model_copy(update=said), row=tuple(row.items()), **changes)


def test_of_two_results_of_one_seed_the_later_stays_and_unlike_ones_are_rows_of_their_own() -> None:
    (row,) = lines([number(top1=0.1), number(top1=0.2, finished="1"), number(top1=0.3, finished="0")])
    assert [one.top1 for one in row.of["dtd"]] == [0.2] and row.notes == (
        "dtd, seed 0: of several results the latest is shown",
    )
    (row,) = lines([number(seed=None, top1=0.1), number(seed=None, top1=0.2)])
    assert row.notes == ("dtd: of several results the latest is shown",)
    for digests in (("a", ""), ("", "a"), "aa"):
        (row,) = lines([number(trained=digest) for digest in digests])
        assert row.notes == ("dtd, seed 0: of several results the latest is shown",)
    (row,) = lines([number(seed=s) for s in (3, 0, None, 1)])
    assert [one.seed for one in row.of["dtd"]] == [None, 0, 1, 3] and row.notes == ()
    unlike = [number(), number(protocol="q"), number(split_digest="e"), number(n=11, correct=7)]
    rows = lines([*unlike, number(column="svhn", task="svhn"), number(seed=1), number(tuning=True, protocol="t")])
    assert [sorted(row.of) for row in rows] == [["dtd", "svhn"], ["dtd"], ["dtd"], ["dtd"]]
    assert [len(row.of["dtd"]) for row in rows] == [2, 1, 1, 1]
    assert [len(row.tuning) for row in rows] == [1, 0, 0, 0] and [row.first for row in rows] == unlike
    assert lines([number(tuning=True)]) == []
    void = number(column="caltech101", task="caltech101", n=6485)
    (row,) = lines([void, number(tuning=True)])
    assert row.of == {} and list(row.void) == ["caltech101"] and row.first == void and len(row.tuning) == 1
    (row,) = lines([void, replace(void, n=6084), number()])
    assert row.void == {} and sorted(row.of) == ["caltech101", "dtd"]


def test_rows_of_one_model_stand_together_fewer_examples_first() -> None:
    shown = [("b", "25 a class"), ("a", "all"), ("b", "5 a class"), ("a", "100"), ("a", "1,000"), ("b", "1 a class"),
             ("b", "")]  # fmt: skip
    found = lines([number(model=m, model_=m, examples=e) for m, e in shown])
    assert [(row.what.model, row.what.examples) for row in found] == [
        ("b", ""), ("b", "1 a class"), ("b", "5 a class"), ("b", "25 a class"),
        ("a", "100"), ("a", "1,000"), ("a", "all"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("model", ["m, fine-tuned, quick", "m, fine-tuned, other", "m, linear", "m, as it is", "k"]),
        ("recipe", ["quick, m, fine-tuned", "quick, m, linear", "quick, k", "other", "as it is"]),
        ("method", ["fine-tuned, m, quick", "fine-tuned, m, other", "fine-tuned, k", "linear", "as it is"]),
    ],
)
def test_rows_are_told_by_as_few_words_as_do(by: Any, expected: list[str]) -> None:
    rows = lines([number(), number(recipe="other", settings_="o"), number(method="linear"),
                  number(model="k", model_="k"), number(method="as it is", recipe="")], by)  # fmt: skip
    name(rows, by)
    assert [row.label for row in rows] == expected


def test_seeds_that_were_trained_on_other_images_are_no_seeds_of_one_row() -> None:
    """Files of the same names were replaced between the runs; who does not say stands with the first."""
    own = [number(seed=0, trained="a"), number(seed=1, trained="b"), number(seed=2, trained="a"), number(seed=3)]
    rows = lines(own)
    assert [[one.seed for one in row.of["dtd"]] for row in rows] == [[0, 2, 3], [1]]
    name(rows, "model")
    assert [(row.label, row.differs) for row in rows] == [
        ("m", ()),
        ("m, other training images or labels of dtd", ("other training images or labels of dtd",)),
    ]


def test_rows_that_nothing_tells_apart_are_numbered_and_what_differs_comes_before() -> None:
    def named(*numbers: Measured) -> list[tuple[str, tuple[str, ...]]]:
        rows = lines(numbers)
        name(rows, "model")
        return [(row.label, row.differs) for row in rows]

    assert named(number(), number(examples="100"), number(examples="5 a class"), number(examples="9 drawn")) == [
        ("m, 5 a class", ()),
        ("m, 9 drawn examples", ("examples 9 drawn, not 5 a class",)),
        ("m, 100 examples", ("examples 100, not 5 a class",)),
        ("m, all examples", ("examples all, not 5 a class",)),
    ]
    assert named(number(), number(resolutions=((64, 32),), protocol="q")) == [
        ("m, 32 px", ()), ("m, 64x32 px", ("resolution 64x32, not 32",)),
    ]  # fmt: skip
    assert named(number(), number(settings_="o", settings={"lr": 0.2})) == [
        ("m", ()), ("m, lr 0.2", ("lr 0.2, not 0.1",)),
    ]  # fmt: skip
    # against the first of those that are called alike, not the latest
    each = [number(settings_=str(i), settings={"a": a, "b": b}) for i, (a, b) in enumerate(((1, 1), (2, 2), (1, 2)))]
    assert [label for label, _ in named(*each)] == ["m", "m, a 2", "m, b 2"]
    assert named(number(), number(protocol="q")) == [("m", ()), ("m, protocol q", ("protocol q, not p",))]
    assert named(number(), number(n=12, split_digest="e")) == [
        ("m", ()), ("m, other test images or labels of dtd (12", ("other test images or labels of dtd (12, not 10)",)),
    ]  # fmt: skip
    assert named(number(), number(GELU_="tanh")) == [("m", ()), ("m, GELU tanh", ("GELU tanh, not none",))]
    # a protocol is named only where nothing else tells two rows apart
    assert named(number(), number(GELU_="tanh", protocol="q"))[1][1] == ("GELU tanh, not none",)
    two = named(number(sha256="a" * 64), number(sha256="b" * 64, model_="n"))
    assert two[1][1] == ("other weights of the same name (sha256 bbbbbbbb, not aaaaaaaa)",)
    # the same settings, chosen on val: nothing tells them apart but their number
    point = frozenset({"lr"})
    same = [number(point=point), number(settings_="o", settings={"lr": 0.2}, point=point)]
    assert named(*same) == [("m", ()), ("m (2)", ())]
    for unknown in ((number(settings={}), number(settings_="o")), (number(), number(settings={}, settings_="o"))):
        assert named(*unknown) == [("m", ()), ("m, settings", ("settings",))]
    assert named() == [] and labels([]) == {}
    assert named(number(), number(n=11)) == [("m", ()), ("m (2)", ())]  # of a column's images, but not which ones
    ways = [number(method=m, settings_=m, settings={"method": m, "decay": d, "steps": n})
            for m, d, n in (("full", 1.0, 1_000_000), ("linear", 0.1, 2_000_000))]  # fmt: skip
    assert named(*ways)[1][1] == (
        "method linear, not fine-tuned", "decay 0.1, not 1", "steps 2000000, not 1000000",
    )  # fmt: skip
    many = {f"k{i}": i for i in range(9)}
    shown = named(number(settings=many), number(settings_="o", settings={k: v + 1 for k, v in many.items()}))[1][1]
    assert shown == (*(f"k{i} {i + 1}, not {i}" for i in range(6)), "and 3 more settings")
    lists = named(number(settings={"k": [3, 4.5], "l": ()}), number(settings_="o", settings={"k": (), "l": (1,)}))
    assert lists[1][1] == ("k none, not 3x4.5", "l 1, not none")
    elsewhere = named(number(), number(column="svhn", task="svhn", GELU_="x", protocol="q"))
    assert elsewhere[1][1] == ("GELU x, not none",)

    # of several columns the first in which they are unlike, wherever it stands
    def three(gelu: str, *of: dict[str, Any]) -> list[Measured]:
        return [number(column=c, task=c, GELU_=gelu, **own) for c, own in zip("abc", of, strict=True)]

    wide, other = {"resolutions": ((64, 64),), "protocol": "q"}, {"split_digest": "e"}
    images = "other test images or labels of {} (10, not 10)"
    for of, told in (
        (({}, wide, other), "resolution 64, not 32"), (({}, {}, other), images.format("c")),
        ((other, wide, {}), images.format("a")), ((wide, {}, {}), "resolution 64, not 32"),
    ):  # fmt: skip
        assert named(*three("", {}, {}, {}), *three("x", *of))[1][1] == ("GELU x, not none", told)
    # what is not trained has no settings that could be others
    plain = replace(number(method="as it is"), row=(("model", "m"), ("method", "as it is"), ("GELU", "")))
    assert named(number(), plain)[1][1] == ("method as it is, not fine-tuned",)
    assert named(replace(plain, settings={}), replace(plain, settings={}, row=(*plain.row[:2], ("GELU", "tanh")))) == [
        ("m", ()), ("m, GELU tanh", ("GELU tanh, not none",)),
    ]  # fmt: skip
    assert named(number(model="", method="", recipe="", examples=""))[0][0] == "unnamed"
    called = labels([number(file="f"), number(file="g", GELU_="x", column="svhn")])
    assert {place[:2]: label for place, label in called.items()} == {("f", "dtd"): "m", ("g", "svhn"): "m, GELU x"}


def test_a_row_is_what_all_its_numbers_are() -> None:
    (row,) = lines([
        number(architecture="a", selected="last", resolutions=((64, 64), (32, 48)), device="cpu"),
        number(column="svhn", architecture="b", selected="best on val", device="", pretraining="p"),
        number(column="eurosat", architecture="a", selected="", device="cuda"),
    ])  # fmt: skip
    what = row.what
    assert (what.architecture, what.device, what.pretraining, what.selected) == (
        "a, b",
        "cpu, cuda",
        "p",
        "best on val",
    )
    assert what.resolutions == ((32, 32), (32, 48), (64, 64))
    (row,) = lines([number(selected="best on val"), number(seed=1, selected="best on test")])
    assert row.what.selected == "best on test"
    (row,) = lines([number(selected="last"), number(seed=1, model="n", recipe="other")])
    assert (row.what.selected, row.what.model, row.what.recipe) == ("last", "m", "quick, other")


def test_a_cell_is_the_mean_over_seeds_with_the_interval_that_it_can_have():
    one = number()
    assert interval([one]) == (pytest.approx(WILSON), "Wilson on the images")
    assert interval([replace(one, correct=None, given=(0.1, 0.2))]) == ((0.1, 0.2), "as the result has it")
    assert interval([replace(one, correct=None)]) == (None, "")
    # Student's t with one degree of freedom: 12.7062 times half the distance, clipped
    assert interval([one, replace(one, top1=0.9)]) == ((0.0, 1.0), "Student's t over 2 seeds")
    low, high = interval([one, replace(one, top1=0.701)])[0] or (0, 0)
    assert (low, high) == (pytest.approx(0.7005 - 12.7062047 * 0.0005), pytest.approx(0.7005 + 12.7062047 * 0.0005))
    shown = [replace(one, cost=(6.0, None), notes=("a", "b"), macs=2.0),
             replace(one, seed=1, top1=0.8, correct=8, cost=(8.0, 4.0), notes=("b", "c"), macs=2.0)]  # fmt: skip
    (row,) = summarise([*shown, number(seed=None, column="svhn", task="svhn", cost=(1.0, 3.0), macs=3.0)]).rows
    cell = row.cells["dtd"]
    assert (cell.value, cell.n, cell.seeds, cell.notes) == (pytest.approx(0.75), 10, (0, 1), ("a", "b", "c"))
    assert (cell.flops, cell.seconds, cell.protocol, cell.split_digest, cell.examples) == (7.0, None, "p", "d", "all")
    assert (row.flops, row.seconds, row.macs_per_image) == (8.0, None, None)
    assert row.cells["svhn"].seeds == () and row.cells["svhn"].seconds == 3.0
    (row,) = summarise([replace(one, cost=(6.0, 2.0), macs=2.0), number(tuning=True, cost=(1.0, None))]).rows
    assert (row.flops, row.seconds, row.macs_per_image) == (7.0, None, 2.0)


def test_a_row_costs_what_its_shown_columns_do() -> None:
    both = [number(cost=(6.0, 2.0)), number(column="svhn", task="svhn", cost=(8.0, 4.0))]
    (row,) = summarise(both, [SummaryColumn(key="svhn", title="SVHN")]).rows
    assert (list(row.cells), row.flops, row.seconds) == (["svhn"], 8.0, 4.0)


def test_holes_say_why_and_means_are_of_whole_columns_only() -> None:
    columns = [
        *(SummaryColumn(key=k, title=k.upper()) for k in ("dtd", "svhn", "eurosat", "caltech101", "dmlab", "pets")),
        SummaryColumn(key="two", title="2", of=(("dtd", "svhn"),)),
        SummaryColumn(key="groups", title="g", of=(("dtd",), ("svhn", "eurosat"))),
        SummaryColumn(key="all", title="a", of=(("dtd", "svhn", "eurosat", "caltech101", "dmlab", "pets"),)),
    ]
    numbers = [
        number(column=k, task=k, top1=v, correct=round(10 * v))
        for k, v in (("dtd", 0.2), ("svhn", 0.4), ("eurosat", 0.8))
    ]
    void = number(column="caltech101", task="caltech101", n=6485)
    made = summarise([*numbers, void], columns, missing={"dmlab": "no data", "caltech101": "x"})
    cells = made.rows[0].cells
    assert cells["two"].value == pytest.approx(0.3) and cells["groups"].value == pytest.approx((0.2 + 0.6) / 2)
    assert (cells["two"].n, cells["groups"].n, cells["two"].ci95, cells["two"].ci95_of) == (2, 3, None, "")
    assert cells["all"].why == "no mean over holes: caltech101, dmlab, pets" and cells["all"].value is None
    assert cells["caltech101"].why.startswith("void: ") and cells["dmlab"].why == "no data"
    assert cells["pets"].why == "not run"
    only = summarise([void], columns).rows[0]
    assert (only.flops, only.seconds, only.macs_per_image) == (None, None, None), "of nothing there is no sum"
    both = [number(model=m, model_=m, column=c, task=c) for m, c in zip("ab", MINI, strict=True)]
    assert [c.key for c in summarise(both).columns] == [*MINI], "no row has both"
    both += [number(model="a", model_="a", column=MINI[1], task=MINI[1])]
    assert [c.key for c in summarise(both).columns] == [*MINI, "natural", "mean_of_tasks"]
    few = summarise(numbers[:2], columns).rows[0].cells["all"]
    assert few.why == "no mean over holes: eurosat, caltech101, dmlab ..."
    assert made.columns == tuple(columns) and made.compared == 0 and made.tests == ()
    assert [note for note in made.notes if note.startswith("The interval of a mean")] and not any(
        "best of its column" in note or "one seed" in note for note in made.notes
    )


def test_what_holds_for_a_table_is_said_below_it(tmp_path: Path) -> None:
    drawn.answers(tmp_path / "a.parquet", np.arange(40) < 30)
    drawn.answers(tmp_path / "b.parquet", np.arange(40) < 20)

    def one(model: str, seed: int, **more: Any) -> Measured:
        right = 30 if model == "a" else 20
        return number(model=model, model_=model, seed=seed, n=40, top1=right / 40, correct=right,
                      predictions=tmp_path / f"{model}.parquet", **more)  # fmt: skip

    def notes(*numbers: Measured) -> str:
        return "\n".join(summarise(numbers).notes)

    single = notes(one("a", 0), one("b", 0))
    assert "(exact McNemar; Holm over 1 pair, 5 %)" in single and "not of other seeds" in single
    several = notes(*(one(m, s) for m in "ab" for s in (0, 1)))
    assert "(a t-test over images and seeds; Holm over 1 pair, 5 %)" in several and "not of other" not in several
    both = notes(*(one(m, s) for m in "ab" for s in (0, 1)), *(one(m, 0, column="svhn", task="svhn") for m in "ab"),
                 one("a", 0, cost=(1.0, None), column="x", task="x"))  # fmt: skip
    assert "(exact McNemar, a t-test over images and seeds; Holm over all 2 pairs, 5 %)" in both
    assert "best of its" not in notes(one("a", 0))
    assert "Means are" not in single and "interval of a mean" not in single
    # each column by its own reason
    unlike = [replace(one(m, 0, column=c, task=c), split_digest=m) for c in ("dtd", "svhn") for m in "ab"]
    gone = [replace(one(m, 0, column="pets", task="pets"), predictions=None) for m in "ab"]
    made = summarise([*unlike, *gone], [SummaryColumn(key=c, title=c) for c in ("dtd", "pets", "svhn")])
    assert made.notes == (
        "Not compared (no stored predictions of some rows): pets.", "Not compared (other test images): dtd, svhn.",
    )  # fmt: skip


def test_means_that_are_compared_say_so_and_have_the_interval_of_the_bootstrap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from vitft.evaluation.contrasts import over_tasks
    from vitft.report import marks

    keys = [f"t{i}" for i in range(7)]
    columns = [*(SummaryColumn(key=k, title=k) for k in keys), SummaryColumn(key="all", title="all", of=(tuple(keys),))]
    tops = {"a": [0.9, 0.8, 0.85, 0.95, 0.7, 0.88, 1.0], "b": [0.5, 0.4, 0.42, 0.6, 0.3, 0.5, 0.55]}
    numbers = [
        number(model=m, model_=m, column=k, task=k, top1=v, correct=round(10 * v))
        for m, own in tops.items()
        for k, v in zip(keys, own, strict=True)
    ]
    made = summarise(numbers, columns)
    told = "Means are compared over tasks, from six on: bootstrap interval and t-test of the differences, Holm."
    assert told in made.notes and [row.cells["all"].mark for row in made.rows] == ["best", ""]
    for row, own in zip(made.rows, tops.values(), strict=True):
        low, high = over_tasks([own]) or (0.0, 0.0)
        cell = row.cells["all"]
        assert (cell.ci95, cell.n) == ((max(0.0, low), min(1.0, high)), 7)
        assert cell.ci95_of == "bootstrap over tasks"
    for shown, mark in (((-0.1, 0.3), "tie"), (None, "tie"), ((0.1, 0.3), "best")):
        monkeypatch.setattr(marks, "over_tasks", lambda gaps, shown=shown: shown)
        assert summarise(numbers, columns).rows[0].cells["all"].mark == mark
    alone = summarise(numbers[:7], columns)
    assert told not in alone.notes and alone.rows[0].cells["all"].mark == ""


def test_what_has_no_seed_is_not_said_to_have_one(tmp_path: Path) -> None:
    for model, right in (("a", 30), ("b", 20)):
        drawn.answers(tmp_path / f"{model}.parquet", np.arange(40) < right)

    def notes(seed: int | None) -> str:
        return "\n".join(summarise([
            number(model=m, model_=m, seed=seed, n=40, top1=k / 40, correct=k, predictions=tmp_path / f"{m}.parquet")
            for m, k in (("a", 30), ("b", 20))
        ]).notes)  # fmt: skip

    assert "not of other seeds" in notes(3) and "not of other seeds" not in notes(None)
    assert "best of its column" in notes(None)


def test_a_column_compares_its_best_row_with_the_next_best_first(tmp_path: Path) -> None:
    rng, flags, numbers = np.random.default_rng(5), {}, []
    for model, share, seeds in (("c", 0.6, (0, 2)), ("a", 0.9, (0, 1)), ("b", 0.8, (0, 1))):
        flags[model] = rng.random((2, 200)) < share
        for seed, right in zip(seeds, flags[model], strict=True):
            file = tmp_path / f"{model}{seed}.parquet"
            drawn.answers(file, right)
            known = int(right.sum()) if model != "c" else None  # a result may count nothing
            numbers.append(number(model=model, model_=model, seed=seed, n=200, top1=right.mean(), correct=known,
                                  predictions=file))  # fmt: skip
    rows = lines(numbers)
    name(rows, "model")
    found = marks.of_columns(rows, ["dtd"], [{"dtd": float(flags[row.label].mean())} for row in rows])
    assert [row.label for row in rows] == ["c", "a", "b"] and found.compared == 3 and marks.Marks().compared == 0
    assert all(np.array_equal(found.flags["dtd"][i], flags[row.label]) for i, row in enumerate(rows))
    ab, ac, bc = (
        contrast(flags[x], flags[y], same) for x, y, same in (("a", "b", True), ("a", "c", False), ("b", "c", False))
    )
    p = holm([ac.p, bc.p, ab.p])
    assert [(t.a, t.b, t.difference, t.p) for t in found.tests] == [
        ("a", "b", ab.difference, ab.p), ("a", "c", ac.difference, ac.p),
    ]  # fmt: skip
    assert [t.p_holm for t in found.tests] == pytest.approx([p[2], p[0]])
    level = 0.05
    assert {i: found.least[i, "dtd"] for i in range(3)} == {0: ac.least(level), 1: ab.least(level), 2: ab.least(level)}
    assert len(found.least) == 3 and found.of == {(1, "dtd"): "best"} and found.alone == {}
    right = int(flags["c"][0].sum())  # of 200
    for n, correct, told in ((200, None, ""), (201, None, "201 images, None"), (201, right, f"201 images, {right}"),
                             (200, right - 1, f"200 images, {right - 1}")):  # fmt: skip
        one = replace(numbers[0], n=n, correct=correct)
        if told:
            with pytest.raises(DataDamaged, match=rf"{told} answered rightly; it has 200 and {right}\."):
                marks._flags(lines([one]), "dtd", {})
        else:
            assert np.array_equal(marks._flags(lines([one]), "dtd", {})[0], flags["c"][:1])
    for p_holm, mark in ((level, {(0, "x"): "tie", (1, "x"): "tie"}), (level / 2, {(0, "x"): "best"})):
        out = marks.Marks()
        marks._mark(out, "x", 0, [1], {1: p_holm})
        assert out.of == mark
