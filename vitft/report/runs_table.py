"""A table over any runs: a row each, with the settings in which they differ, or those that are asked for. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vitft.errors import UnknownName, UsageError, some
from vitft.report import facts
from vitft.report.facts import ASKED, MEASURED, STAMPS, Fact
from vitft.report.gather import every_folder, no_results
from vitft.report.table import Column, Footnotes, Row, Table, Value
from vitft.words import listed, sentence

_TITLES = {
    "resolution": "px",
    "top1": "top-1",
    "ci95": "95 %",
    "val_ci95": "95 %",
    "val_n": "n",
    "per_class": "a class",
}
_TITLES |= {"val": "top-1", "chosen": ""}
_PERCENT, _INTERVAL = ("val", "top1"), ("val_ci95", "ci95")
_COUNT = ("val_n", "n", "per_class", "limit", "train_n")
_OTHER_NAMES = {"px": "resolution", "top-1": "top1", "seed": "seeds"}
_FOLLOWS_STEPS = ("warmup_steps", "decay_steps")


@dataclass(frozen=True)
class Found:
    """The rows of some folders, and the folders that gave none: not finished, or with a damaged file (a line each)."""

    rows: tuple[Fact, ...]
    unfinished: tuple[Path, ...]
    damaged: tuple[str, ...]


def find(places: Sequence[Path], chosen: bool = False) -> Found:
    """Read every run at or below some folders; one that is damaged does not hide the others.

    Raises:
        DataMissing: there is no such folder, or no result below any of them (exit code 3).
    """
    rows: list[Fact] = []
    unfinished, broken = [], []
    every, _ = every_folder(places)
    for folder in every:
        own, wrong = facts.damaged(folder, chosen)
        rows += own
        broken += [wrong] * bool(wrong)
        unfinished += [folder] * (not own and not wrong)
    if not rows:
        raise no_results(places, unfinished, f"; {broken[0].rstrip('.')}" if broken else "")
    return Found(tuple(rows), tuple(unfinished), tuple(broken))


def columns(text: str) -> tuple[str, ...]:
    """Turn "lr,resolution" into keys; none for "". Raises UnknownName or UsageError (exit code 2)."""
    words = listed(text)
    names = [_OTHER_NAMES.get(word, word.replace("-", "_")) for word in words]
    legal = (*ASKED, *MEASURED, *STAMPS)
    for word, name in zip(words, names, strict=True):
        if name not in legal:
            raise UnknownName("column", word, legal, legal=f"keys of a recipe, {', '.join((*ASKED[:3], *STAMPS))}.")
    if len(set(names)) < len(names):
        raise UsageError(f"--columns {text} names a column twice.", "each once.")
    return tuple(names)


def table(found: Found, wanted: Sequence[str] = ()) -> Table:
    """Return a row a run, or a setting of a sweep.

    Args:
        wanted: keys of the columns, in their order; where none of them is a number, the numbers follow. Empty = all in
            which the rows differ.
    """
    rows = found.rows
    keys = list(wanted) or differing(rows)
    if not any(key in MEASURED for key in keys):
        keys += [key for key in MEASURED if any(row.cells.get(key) is not None for row in rows)]
    notes = Footnotes()
    shown = [_row(row, keys, notes) for row in rows]
    made = tuple(_column(key, rows) for key in keys)
    return Table(_caption(rows, keys), made, tuple(shown), tuple(notes.texts), tuple(_notes(rows, keys)))


def differing(rows: Sequence[Fact]) -> list[str]:
    """Return the keys of what was asked for that have several values, but for those that follow from the steps."""
    keys = [key for key in ASKED if len({_value(row, key) for row in rows if key in row.cells}) > 1]
    steps = {_value(row, "steps") for row in rows}
    for key in _FOLLOWS_STEPS:
        if key in keys and len({(_value(row, "steps"), _value(row, key)) for row in rows}) == len(steps):
            keys.remove(key)
    return keys or ["task", "model"]


def _value(row: Fact, key: str) -> str:
    return str(row.cells.get(key))


def _row(row: Fact, keys: Sequence[str], notes: Footnotes) -> Row:
    marks: dict[str, tuple[int, ...]] = {}
    for texts, wanted in ((row.val_notes, ("val", "top1")), (row.notes, ("n", "ci95", "top1"))):
        at = next((key for key in wanted if key in keys and row.cells.get(key) is not None), None)
        if at is not None:
            marks[at] = (*marks.get(at, ()), *notes.mark([sentence(text) for text in texts]))
    return Row({key: row.cells.get(key) for key in keys}, marks=marks)


def _column(key: str, rows: Sequence[Fact]) -> Column:
    title = _TITLES.get(key, key)
    if key in _PERCENT:
        return Column(key, title, "percent", _block(key, rows))
    if key in _INTERVAL:
        return Column(key, title, "interval", _block(key, rows))
    if key == "folder":
        return Column(key, title, "path")
    return Column(key, title, "count" if key in _COUNT else "text", _block(key, rows))


def _block(key: str, rows: Sequence[Fact]) -> str:
    """Return the heading over the numbers: what they were measured on, where that is one split."""
    if key not in MEASURED or key == "chosen":
        return ""
    if key.startswith("val"):
        places = {row.where for row in rows if row.where}
        return places.pop() if len(places) == 1 else "chosen on"
    splits = {str(row.cells["split"]) for row in rows if row.cells.get("top1") is not None and "split" in row.cells}
    return splits.pop() if len(splits) == 1 else ""


def _caption(rows: Sequence[Fact], keys: Sequence[str]) -> str:
    one = [key for key in ("task", "model", "recipe", "seeds") if key not in keys]
    parts = []
    for key in one:
        values = {_value(row, key) for row in rows if row.cells.get(key) is not None}
        if len(values) == 1:
            parts.append(f"{key} {values.pop()}" if key != "seeds" else f"seeds {values.pop()}")
    ids = list(dict.fromkeys(_value(row, "protocol") for row in rows if row.cells.get("protocol")))
    parts += [f"protocol {ids[0]}"] if len(ids) == 1 else []
    return f"Top-1 in percent{''.join(f', {text}' for text in parts)}"


def _notes(rows: Sequence[Fact], keys: Sequence[str]) -> list[str]:
    lines = []
    ids = list(dict.fromkeys(_value(row, "protocol") for row in rows if row.cells.get("protocol")))
    if len(ids) > 1 and "protocol" not in keys:
        lines.append(f"Protocols {some(ids, 4)}; --columns ...,protocol says which row has which.")
    tested: dict[Value, set[str]] = {}
    for row in rows:
        if row.digest:
            tested.setdefault(row.cells.get("task"), set()).add(row.digest)
    for task, digests in tested.items():
        if len(digests) > 1:
            lines.append(f"The rows of {task} were tested on {len(digests)} different sets of images.")
    if any("," in str(row.cells.get("seeds", "")) for row in rows):
        lines.append("Over several seeds: their mean, with Student's 95 % interval; else Wilson's on n.")
    return lines
