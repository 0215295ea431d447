"""Numbers of a suite with several recipes: one row a model, and the columns of the suite's document. No torch.

Such a suite fills a run folder for each recipe. What its document says of each column is one protocol, so that they
stand in one row; what was run otherwise than it says stays a row of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from vitft.catalog.shots import number
from vitft.errors import VitftError
from vitft.evaluation.request import SETTABLE
from vitft.report.layout import REAL
from vitft.report.measured import Measured
from vitft.suites import document
from vitft.suites.suite import Column, Suite

SUITE = "suite"
"""The key of a row that names its suite."""


def placed(run: Mapping[str, Any], numbers: Sequence[Measured]) -> list[Measured]:
    """Return the numbers of a suite's run folder in the columns of its document, where that has several recipes.

    Args:
        run: what run.json says of the folder.
    """
    word = str(run.get("document") or run.get("suite"))
    suite = _document(word)
    if suite is None or len(suite.parts()) < 2:
        return list(numbers)
    changed: dict[str, dict[str, str]] = {"images": {}, "training": {}}
    for key, value in sorted((run.get("overrides") or {}).items()):
        changed["images" if key in SETTABLE else "training"][key] = str(value)
    own = {SUITE: word, **{part: ", ".join(map(" ".join, of.items())) for part, of in changed.items()}}
    if "run" in run:  # trains nothing: it belongs to whatever was changed of the training beside it
        del own["training"]
    return [_placed(one, suite, own) for one in numbers]


def joined(numbers: Sequence[Measured]) -> list[Measured]:
    """Return numbers, those of a suite's parts that train nothing in the row of what was trained, if it is one."""
    trained: dict[tuple[object, ...], set[str]] = {}
    for one in numbers:
        row = dict(one.row)
        if SUITE in row and "training" in row:
            trained.setdefault(_rest(row), set()).add(row["training"])
    out = []
    for one in numbers:
        row = dict(one.row)
        known = trained.get(_rest(row), set()) if SUITE in row and "training" not in row else set()
        own = (*one.row, ("training", next(iter(known)))) if len(known) == 1 else one.row
        out.append(replace(one, row=own))
    return out


def _rest(row: Mapping[str, str]) -> tuple[object, ...]:
    return row.get("model"), row.get(SUITE), row.get("images")


def document_of(numbers: Sequence[Measured]) -> Suite | None:
    """Return the suite that all of these numbers are columns of, None where there is no such one."""
    names = {dict(one.row).get(SUITE, "") for one in numbers}
    return _document(names.pop()) if len(names) == 1 and "" not in names else None


def _placed(one: Measured, suite: Suite, own: Mapping[str, str]) -> Measured:
    column = next((column for column in suite.columns if _fits(column, one)), None)
    if column is None:
        return one
    return replace(one, column=column.key, row=(("model", dict(one.row)["model"]), *own.items()))


def _fits(column: Column, one: Measured) -> bool:
    """Tell whether a number was run as a suite's document states for a column."""
    if Path(column.task).name != one.task or column.real != (one.column == REAL):
        return False
    if column.run == "eval":
        return one.what.method == "as it is"
    if column.run == "fewshot":
        return one.what.method.startswith("frozen") and one.what.examples == f"{column.per_class} a class"
    if Path(column.recipe).stem != one.what.recipe:
        return False
    if column.shots is None or one.tuning:
        return True
    return one.what.examples == (f"{number(column.shots):,}" if number(column.shots) else "all")


@cache
def _document(name: str) -> Suite | None:
    try:
        return document.load(name)
    except VitftError:  # of another vitft, or moved since
        return None
