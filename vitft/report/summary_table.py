"""A typed summary drawn as the one table that every format knows."""

from collections.abc import Sequence

from vitft.report.single import method_title
from vitft.report.table import HOLE, Column, Footnotes, Row, Sign, Table, Value, ends
from vitft.results.checkpoint import side
from vitft.results.summary import Described, Summary, SummaryRow
from vitft.words import seed_list

_TITLES = {
    "pretraining": "pretrained on", "method": "method", "recipe": "recipe", "resolutions": "px",
    "examples": "examples", "selected": "selected", "device": "device",
}  # fmt: skip
_COSTS = {"macs": "MACs an image", "FLOPs": "FLOPs", "seconds": "seconds"}


def table(summary: Summary, details: bool = True) -> Table:
    """Return the table of a summary.

    Args:
        details: rows for intervals, seeds, n and the least difference below each row.
    """
    feet = Footnotes()
    results = [row for row in summary.rows if row.kind == "result"]
    varying = [key for key in _TITLES if _varies(results, key)]
    numbers = [Column(c.key, c.title, "percent", c.group) for c in summary.columns]
    how = [Column(key, _TITLES[key], block="how") for key in varying]
    cost = [Column(key, title, block="cost") for key, title in _COSTS.items() if _known(results, key)]
    columns = [Column("row", ""), *(cost + numbers + how if summary.view == "compute" else numbers + how + cost)]
    rows = []
    for i, row in enumerate(summary.rows):
        rows += _difference(row) if row.kind == "difference" else [_row(row, feet)]
        if details and row.kind != "published":
            after = [other for other in summary.rows[i + 1 :] if other.kind != "published"]
            rows += _details(row, summary, last=not after)
    caption = f"{summary.title}; {_shared(results, varying)}".rstrip("; ")
    notes = (*summary.notes, *(_explained(summary) if details else ()))
    return Table(caption, tuple(columns), tuple(rows), tuple(feet.texts), notes)


_LEAST = "'least' is the smallest difference from the highest other row that the test could tell by itself."


def _explained(summary: Summary) -> list[str]:
    """Return the notes on rows and columns that only the detailed table has."""
    notes = []
    if any(cell.least is not None for row in summary.rows for cell in row.cells.values()):
        notes.append(_LEAST)
    if any(_known([row], key) for row in summary.rows if row.kind == "result" for key in ("FLOPs", "seconds")):
        notes.append(
            "FLOPs (of training) and device-seconds are those of all tasks of a row for one seed, tuning included."
        )
    return notes


def _row(row: SummaryRow, feet: Footnotes) -> Row:
    cells: dict[str, Value] = {"row": row.label, **_described(row.what)}
    cells |= {"macs": _flops(row.macs_per_image), "FLOPs": _flops(row.flops), "seconds": _seconds(row.seconds)}
    marks: dict[str, tuple[int, ...]] = {}
    signs: dict[str, Sign] = {}
    notes = [f"differs: {'; '.join(row.differs)}"] if row.differs else []
    if row.source:
        notes = [f"{row.source}. Differs: {', '.join(row.differs) or 'nothing known'}"]
    if not row.reproducible:
        notes.append("not reproducible: the weights were never released")
    marks["row"] = feet.mark([*notes, *row.notes])
    for key, cell in row.cells.items():
        cells[key] = cell.value if cell.value is not None else HOLE
        why = [cell.why] if cell.value is None and cell.why not in ("", "not run") and not cell.n else []
        why = [text for text in why if not text.startswith("no mean over holes")]
        if found := feet.mark([*why, *cell.notes]):
            marks[key] = found
        if cell.mark:
            signs[key] = cell.mark
    if row.kind == "published":
        cells = {key: value for key, value in cells.items() if value != HOLE}
    return Row(cells, "published" if row.kind == "published" else "result", marks, signs)


def _difference(row: SummaryRow) -> list[Row]:
    """Return a difference in points and its interval, with their signs."""
    known = {key: cell for key, cell in row.cells.items() if cell.value is not None}
    points: dict[str, Value] = {key: _points(cell.value) for key, cell in known.items()}
    out = [Row({"row": row.label, **points}, "detail")]
    for end, title in enumerate(("95 % low", "95 % high")):
        shown: dict[str, Value] = {key: _points(cell.ci95[end]) for key, cell in known.items() if cell.ci95}
        out += [Row({"row": title, **shown}, "detail")] * bool(shown)
    return out


def _points(share: float | None) -> str:
    return "" if share is None else f"{100 * share:+.1f}"


def _details(row: SummaryRow, summary: Summary, last: bool) -> list[Row]:
    """Return the rows below a result: its intervals, the least difference, n (once where it is that of all)."""
    cells = row.cells.items()
    least: dict[str, Value] = {key: f"{100 * c.least:.1f}" for key, c in cells if c.least is not None}
    n: dict[str, Value] = {key: c.n for key, c in cells if c.n}
    seeds = {c.seeds for c in row.cells.values() if c.seeds}
    counts = {len(own) for own in seeds}
    over = f"{counts.pop()} seeds" if len(counts) == 1 and counts != {1} else ""
    out = ends("row", over, {key: c.ci95 for key, c in cells}) if row.kind == "result" else []
    out += [Row({"row": "least", **least}, "detail")] if least else []
    if not _same_n(summary) and row.kind == "result":
        out.append(Row({"row": "n", **n}, "detail"))
    elif last and _same_n(summary):
        every = {key: c.n for r in summary.rows if r.kind == "result" for key, c in r.cells.items() if c.n}
        out.append(Row({"row": "n", **every}, "detail"))
    return out


def _same_n(summary: Summary) -> bool:
    results = [row for row in summary.rows if row.kind == "result"]
    return all(
        len({r.cells[c.key].n for r in results if c.key in r.cells and r.cells[c.key].n}) < 2 for c in summary.columns
    )


def _described(what: Described) -> dict[str, Value]:
    return {
        "pretraining": what.pretraining,
        "method": method_title(what.method),
        "recipe": what.recipe,
        "resolutions": ", ".join(side(size) for size in what.resolutions),
        "examples": what.examples,
        "selected": what.selected,
        "device": what.device,
    }


def _varies(rows: Sequence[SummaryRow], key: str) -> bool:
    """Tell whether a column is needed: rows differ in it, or it is how numbers were selected."""
    return len({getattr(row.what, key) for row in rows}) > 1 or key == "selected"


def _known(rows: Sequence[SummaryRow], key: str) -> bool:
    names = {"macs": "macs_per_image", "FLOPs": "flops", "seconds": "seconds"}
    return any(getattr(row, names[key]) is not None for row in rows)


def _shared(rows: Sequence[SummaryRow], varying: Sequence[str]) -> str:
    """Return what all rows have in common, in words."""
    if not rows:
        return ""
    what = _described(rows[0].what)
    words = {"resolutions": "{} px", "device": "on {}", "recipe": "recipe {}", "pretraining": "pretrained on {}"}
    number, each, _ = rows[0].what.examples.partition(" a class")
    what["examples"] = f"{number} training examples{each}" if number else ""
    parts = [words.get(key, "{}").format(what[key]) for key in _TITLES if key not in varying and what[key]]
    seeds = {c.seeds for row in rows for c in row.cells.values() if c.seeds}
    if len(seeds) == 1:
        own = next(iter(seeds))
        parts.append(seed_list(own))
    return ", ".join(parts)


def _flops(value: float | None) -> str:
    if not value:
        return ""
    digits, _, power = f"{value:.1e}".partition("e")
    return f"{digits}e{int(power)}"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"
