"""Which row of a column is the best: only the one that a paired test on stored predictions separates from all others.

Every two rows of a column are compared on the same images (`evaluation.contrasts`), and p values are adjusted by Holm's
method over all pairs of all columns: the highest row was chosen after looking, so that its comparisons alone would
promise too much. Rows that are not separated from the highest are ties, and so is it then. Where a row cannot be
compared (no stored predictions, other images) none is the best, and the reader is told.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from vitft.errors import DataDamaged
from vitft.evaluation import predictions
from vitft.evaluation.contrasts import ENOUGH_TASKS, Contrast, can_be_drawn, contrast, mcnemar, over_tasks, tasks_p
from vitft.evaluation.significance import LEVEL, holm
from vitft.report.lines import Line
from vitft.results.summary import Mark, PairTest, SummaryColumn

Flags = NDArray[np.bool_]


@dataclass
class Marks:
    """What the tests of a table found.

    Attributes:
        of: (row, column) -> mark.
        least: (row, column) -> smallest difference from the highest other row that its test could tell at 5 %.
        tests: of each column's highest row with each other.
        compared: pairs that Holm's adjustment counts.
        alone: column -> why rows in it are not compared.
        flags: column -> row -> (seeds, n) which images were answered rightly.
    """

    of: dict[tuple[int, str], Mark] = field(default_factory=dict)
    least: dict[tuple[int, str], float] = field(default_factory=dict)
    tests: list[PairTest] = field(default_factory=list)
    compared: int = 0
    alone: dict[str, str] = field(default_factory=dict)
    flags: dict[str, dict[int, Flags]] = field(default_factory=dict)


def of_columns(rows: Sequence[Line], columns: Sequence[str], values: Sequence[dict[str, float]]) -> Marks:
    """Compare the rows of each task's column.

    Args:
        columns: of tasks; others have no predictions, so nothing in them is compared.
        values: row -> column -> accuracy.

    Raises:
        DataDamaged: a file of predictions is (exit code 3).
    """
    out = Marks()
    flags = {c: _flags(rows, c, out.alone) for c in columns if sum(c in row.of for row in rows) > 1}
    out.flags = flags
    pairs = [(c, i, j) for c, own in flags.items() for i, j in combinations(own, 2) if _alike(rows, c, i, j)]
    p = _p_values(rows, flags, pairs)
    adjusted = dict(zip(pairs, holm(p), strict=True))
    out.compared = len(pairs)
    for column, own in flags.items():
        here = [i for i, row in enumerate(rows) if column in row.of]
        best = max(here, key=lambda i: values[i][column])
        others = sorted((i for i in here if i != best), key=lambda i: -values[i][column])
        found: dict[int, tuple[Contrast, float]] = {}
        for i in others:
            key = (column, *sorted((best, i)))
            if key in adjusted:
                both = contrast(own[best], own[i], _same_seeds(rows, column, best, i))
                found[i] = both, adjusted[key]
                out.tests.append(_test(rows, column, best, i, both, adjusted[key]))
        _mark(out, column, best, others, {i: p_holm for i, (_, p_holm) in found.items()})
        for i, (both, _) in found.items():
            out.least[i, column] = both.least(LEVEL)
            out.least.setdefault((best, column), both.least(LEVEL))
        if len(found) < len(others) and column not in out.alone:
            out.alone[column] = "other test images"
    return out


def of_means(out: Marks, columns: Sequence[SummaryColumn], values: Sequence[dict[str, float]]) -> None:
    """Mark the means over tasks, which are the sample: no row is ranked without a bootstrap interval of the difference.

    Nor without a p value that Holm's adjustment over all pairs of all such columns leaves below the level.
    """
    counted = [c for c in columns if len(c.tasks) >= ENOUGH_TASKS and can_be_drawn(list(map(len, c.of)))]
    having = {c.key: [i for i, row in enumerate(values) if c.key in row] for c in counted}
    pairs = [(c, i, j) for c in counted for i, j in combinations(having[c.key], 2)]
    p = holm([tasks_p(_gaps(c, values[i], values[j])) for c, i, j in pairs])
    adjusted = {(c.key, i, j): value for (c, i, j), value in zip(pairs, p, strict=True)}
    for column in counted:
        if len(here := having[column.key]) < 2:
            continue
        best = max(here, key=lambda i: values[i][column.key])
        flags = {}
        for i in here:
            if i != best:
                interval = over_tasks(_gaps(column, values[best], values[i]))
                shown = interval is not None and interval[0] > 0
                flags[i] = adjusted[column.key, min(best, i), max(best, i)] if shown else 1.0
        _mark(out, column.key, best, list(flags), flags)


def _gaps(column: SummaryColumn, a: Mapping[str, float], b: Mapping[str, float]) -> list[list[float]]:
    return [[a[task] - b[task] for task in group] for group in column.of]


def _mark(out: Marks, column: str, best: int, others: Sequence[int], p: dict[int, float]) -> None:
    """Mark a column's highest row, or it and its ties."""
    ties = [i for i in others if i in p and p[i] >= LEVEL]
    if ties:
        out.of |= {(i, column): "tie" for i in (best, *ties)}
    elif others and len(p) == len(others):
        out.of[best, column] = "best"


def _flags(rows: Sequence[Line], column: str, alone: dict[str, str]) -> dict[int, Flags]:
    """Return row -> (seeds, n) which images were answered rightly, of the rows that have it stored."""
    found = {}
    for i, row in enumerate(rows):
        own = row.of.get(column, ())
        files = [one.predictions for one in own if one.predictions is not None]
        if own and len(files) == len(own):
            flags = [predictions.load_correct(file) for file in files]
            for one, right in zip(own, flags, strict=True):
                if len(right) != one.n or one.correct not in (None, int(right.sum())):
                    raise DataDamaged(
                        f"'{one.predictions}' holds other answers than the result beside it counts.",
                        f"{one.n:,} images, {one.correct} answered rightly; "
                        f"it has {len(right):,} and {int(right.sum()):,}.",
                        "Delete the folder and run the same command again.",
                    )
            found[i] = np.stack(flags)
        elif own:
            alone[column] = "no stored predictions of some rows"
    return found


def _p_values(
    rows: Sequence[Line], flags: dict[str, dict[int, Flags]], pairs: Sequence[tuple[str, int, int]]
) -> list[float]:
    """Return p of every pair; those of one seed each all at once, as there may be thousands."""
    single = [(c, i, j) for c, i, j in pairs if len(flags[c][i]) == len(flags[c][j]) == 1]
    a_only = [int((flags[c][i] & ~flags[c][j]).sum()) for c, i, j in single]
    b_only = [int((flags[c][j] & ~flags[c][i]).sum()) for c, i, j in single]
    known = dict(zip(single, mcnemar(a_only, b_only).tolist(), strict=True))
    return [
        known[pair] if pair in known else contrast(flags[c][i], flags[c][j], _same_seeds(rows, c, i, j)).p
        for pair in pairs
        for c, i, j in [pair]
    ]


def _alike(rows: Sequence[Line], column: str, i: int, j: int) -> bool:
    return rows[i].of[column][0].split_digest == rows[j].of[column][0].split_digest


def _same_seeds(rows: Sequence[Line], column: str, i: int, j: int) -> bool:
    seeds, others = ([one.seed for one in rows[k].of[column]] for k in (i, j))
    return seeds == others


def _test(rows: Sequence[Line], column: str, a: int, b: int, contrast: Contrast, p_holm: float) -> PairTest:
    return PairTest(
        column=column,
        a=rows[a].label,
        b=rows[b].label,
        difference=contrast.difference,
        ci95=contrast.ci95,
        p=contrast.p,
        p_holm=p_holm,
        test=contrast.test,
    )
