"""The table of a sweep: a row a setting, with its score on what the choice was made on; the chosen one is tested."""

from collections.abc import Mapping, Sequence

from vitft.report import sentences
from vitft.report.single import footnotes, model_title, row_names
from vitft.report.table import HOLE, Column, Footnotes, Row, Table, Value
from vitft.results import choice
from vitft.results.schema import Comparison, RunResult
from vitft.settings import Scalar
from vitft.words import sentence


def table(results: Sequence[RunResult], compared: Sequence[Comparison] = ()) -> Table:
    """Return one row a setting, for one model after the other, each with its own choice.

    Args:
        results: of `vitft sweep`, of one task.
        compared: of the models' chosen settings on the same images, named as `single.row_names` does.
    """
    first = results[0]
    several = len(results) > 1
    keys = list(dict.fromkeys(key for result in results for point in _points(result) for key in point))
    where = choice.made_on(first.protocol.selection, first.recipe_settings.dev_fraction)
    columns = [Column("model", "model")] * several
    columns += [Column(key, "px" if key == "resolution" else key) for key in keys]
    columns += _scores("val", where)
    columns += [] if choice.on_test(first) else _scores("test", first.provenance.split)
    notes = Footnotes()
    rows = [row for result in results for row in _rows(result, notes)]
    names = row_names(results)
    below = [f"{name}: {line}" if several else line for name, line in zip(names, map(_chosen, results), strict=True)]
    if choice.on_test(first):
        below.append(
            f"The choice was made on {first.provenance.split} itself: the best number is too high by it, and is "
            "comparable with none that was chosen on val or dev, as it is without --on test."
        )
    below += [sentences.paired_line(pair, pair.a, pair.b) for pair in compared]
    return Table(_caption(results), (*columns, Column("chosen", "")), tuple(rows), tuple(notes.texts), tuple(below))


def _caption(results: Sequence[RunResult]) -> str:
    first = results[0]
    n = len(first.tuned) + len({str(one.point) for one in first.lost})
    of = f"{n} settings of {model_title(first.model)}" if len(results) == 1 else f"{n} settings each"
    seeds = f"mean of seeds {', '.join(first.seeds)} (t interval)" if first.seeds else f"seed {first.seed}"
    ids = ", ".join(dict.fromkeys(result.protocol.id for result in results))
    return f"{first.task}: {of}, recipe {first.recipe}; top-1 in percent, {seeds}, protocol {ids}"


def _scores(key: str, where: str) -> list[Column]:
    return [
        Column(key, "top-1", "percent", where),
        Column(f"{key}_ci95", "95 %", "interval", where),
        Column(f"{key}_n", "n", "count", where),
    ]


def _rows(result: RunResult, notes: Footnotes) -> list[Row]:
    rows = []
    for one in result.tuned:
        cells: dict[str, Value] = {"model": model_title(result.model), **words(one.point)}
        cells |= _cells("val", one.top1, one.ci95, one.n)
        marks = {"val": notes.mark([sentence(text) for text in one.warnings[:1]])}
        if one.point == result.point:
            cells["chosen"] = "chosen"
            at = "val" if choice.on_test(result) else "test"
            cells |= _cells(at, result.metrics.top1, result.metrics.ci95, result.metrics.n)
            marks[f"{at}_n"] = notes.mark(footnotes(result))
        rows.append(Row(cells, marks=marks))
    for gone in {str(one.point): one for one in result.lost}.values():
        cells = {"model": model_title(result.model), **words(gone.point), "val": HOLE}
        rows.append(Row(cells, marks={"val": notes.mark([f"Seed {gone.seed}: {gone.why}"])}))
    return rows


def _cells(key: str, top1: float, interval: tuple[float, float] | None, n: int) -> dict[str, Value]:
    return {key: top1, f"{key}_ci95": interval, f"{key}_n": n}


def words(point: Mapping[str, Scalar]) -> dict[str, Value]:
    """Return the cells of a point."""
    return {key: choice.value(key, found).removesuffix(" px") for key, found in point.items()}


def _chosen(result: RunResult) -> str:
    return sentence(choice.line(result))


def _points(result: RunResult) -> list[dict[str, Scalar]]:
    return [*(one.point for one in result.tuned), *(one.point for one in result.lost)]
