"""A table for a terminal: what is too wide goes below, at words and between columns; no number, no path is cut."""

import itertools
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from vitft.report.table import Column, Row, Table, signed

_GAP = 2
_LONGEST_WORD = 40
"""Columns that a word of prose may claim; a longer one (an address) stands out at the end of its line."""

_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def text(table: Table, width: int = 80) -> str:
    """Return the table for a terminal, wrapped to `width` columns: block after block, the label repeated.

    Prose is broken at words; a path that does not fit beside the rest stands below its row.
    """
    label, *others = table.columns
    cells = {
        (i, c.key): signed(row, c) + _raised(row, c.key) for i, row in enumerate(table.rows) for c in table.columns
    }
    indent = {"result": "", "published": "", "detail": "  "}
    labels = [indent[row.kind] + cells[i, label.key] for i, row in enumerate(table.rows)]
    label_width = max(map(len, [label.title, *labels]))
    columns = {c.key: [cells[i, c.key] for i in range(len(labels))] for c in others}
    beside, below = _beside(others, columns, width - label_width)
    widths = _widths(beside, columns, width - label_width)

    lines = [*folded(table.caption, width), ""] if table.caption else []
    parts = _parts(beside, widths, width - label_width)
    for part in parts or [[]]:
        lines += _part(part, label, label_width, widths, width)
        own = True
        for i, row in enumerate(table.rows):
            if row.kind != "result" and not any(cells[i, c.key] for c in part):
                continue
            if own and row.kind == "published":
                lines.append("")
            own = row.kind != "published"
            deep = [_cell(cells[i, c.key], c, widths[c.key]) for c in part]
            for level in range(max([1, *map(len, deep)])):
                values = [
                    _aligned(cell[level] if level < len(cell) else "", c, widths[c.key])
                    for c, cell in zip(part, deep, strict=True)
                ]
                lines.append((" " * _GAP).join([(labels[i] * (not level)).ljust(label_width), *values]).rstrip())
            if part is parts[-1]:
                under = [cells[i, c.key] for c in below if cells[i, c.key]]
                lines += ["  " + (" " * _GAP).join(under)] * bool(under)
        lines.append("")
    for number, note in enumerate(table.footnotes, 1):
        lines += folded(f"{str(number).translate(_RAISED)} {note}", width, "  ")
    for note in table.notes:
        lines += folded(note, width, "  ")
    return "\n".join(lines).rstrip() + "\n"


def blocks(columns: list[Column]) -> Iterator[tuple[str, list[Column]]]:
    """Yield runs of neighbouring columns with the same block."""
    run: list[Column] = []
    for column in columns:
        if run and column.block != run[-1].block:
            yield run[-1].block, run
            run = []
        run.append(column)
    if run:
        yield run[-1].block, run


def _beside(others: Sequence[Column], cells: Mapping[str, list[str]], room: int) -> tuple[list[Column], list[Column]]:
    """Return the columns that stand beside the labels, and the paths that go below the rows for want of room."""
    whole = sum(_GAP + max(map(len, [*_head(c), *cells[c.key]])) for c in others)
    below = [c for c in others if c.kind == "path" and whole > room]
    return [c for c in others if c not in below], below


def _widths(columns: Sequence[Column], cells: Mapping[str, list[str]], room: int) -> dict[str, int]:
    """Return how wide each column is: as its widest cell, but prose shares what room is left, by whole words."""
    widths = {c.key: max(map(len, [*_head(c), *cells[c.key]])) for c in columns}
    for block, run in blocks(list(columns)):
        # A block of one or two columns is at least as wide as its own heading.
        widths[run[0].key] += max(0, len(block) - sum(widths[c.key] for c in run) - _GAP * (len(run) - 1))
    room -= sum(_GAP + widths[c.key] for c in columns)
    least = {
        c.key: min(_LONGEST_WORD, max(map(len, " ".join([c.title, *cells[c.key]]).split()), default=1))
        for c in columns
        if c.kind == "prose"
    }
    while room < 0 and (wide := [key for key in least if widths[key] > least[key]]):
        widths[max(wide, key=lambda key: widths[key])] -= 1
        room += 1
    return widths


def _cell(cell: str, column: Column, width: int) -> list[str]:
    return folded(cell, width) if column.kind == "prose" else [cell]


def _raised(row: Row, key: str) -> str:
    return "˒".join(str(n).translate(_RAISED) for n in row.marks.get(key, ()))


def _head(column: Column) -> list[str]:
    """Return a column's head in one or two lines: a long one is broken after a hyphen, or at the middlemost space."""
    title = column.title
    if len(title) <= 7 or column.kind in ("prose", "path"):
        return [title]
    if " " in title:
        ends = [match.start() for match in re.finditer(" ", title)]
        cut = min(ends, key=lambda end: max(end, len(title) - end - 1))
        return [title[:cut], title[cut + 1 :]]
    match = re.fullmatch(r"(.+-)(.+)", title)
    return list(match.groups()) if match else [title]


def _aligned(cell: str, column: Column, width: int) -> str:
    return cell.rjust(width) if column.kind in ("percent", "count") else cell.ljust(width)


def _parts(columns: list[Column], widths: dict[str, int], room: int) -> list[list[Column]]:
    """Return the columns in parts that fit side by side: whole blocks, or even pieces of one that is too wide."""

    def fits(run: list[Column]) -> bool:
        return sum(widths[c.key] + _GAP for c in run) <= room

    parts: list[list[Column]] = [[]]
    for _, run in blocks(columns):
        if fits(parts[-1] + run):
            parts[-1] += run
            continue
        pieces = 1
        while pieces < len(run) and not all(map(fits, _evenly(run, pieces))):
            pieces += 1
        # What is torn stands alone, so that no block begins beside the rest of another.
        parts += [*_evenly(run, pieces), *([[]] if pieces > 1 else [])]
    return [part for part in parts if part]


def _evenly(run: list[Column], pieces: int) -> list[list[Column]]:
    cuts = [round(i * len(run) / pieces) for i in range(pieces + 1)]
    return [run[a:b] for a, b in itertools.pairwise(cuts)]


def _part(part: list[Column], label: Column, label_width: int, widths: dict[str, int], width: int) -> list[str]:
    """Return the heads of the columns that stand side by side; a piece of a torn block is as wide as its heading."""
    gap = " " * _GAP
    lines = []
    if any(c.block for c in part):
        titles = []
        for block, run in blocks(part):
            wide = sum(widths[c.key] for c in run) + _GAP * (len(run) - 1)
            widths[run[-1].key] += max(0, len(block) - wide)
            wide = max(wide, len(block))
            titles.append(f" {block} ".center(wide, "─") if block and len(block) + 2 <= wide else block.ljust(wide))
        lines.append(gap.join([" " * label_width, *titles]).rstrip())
    heads = {c.key: _head(c) for c in part}
    deep = max((len(head) for head in heads.values()), default=1)
    for level in range(deep):
        cells = [(label.title if level == deep - 1 else "").ljust(label_width)]
        for c in part:
            head = [""] * (deep - len(heads[c.key])) + heads[c.key]
            cells.append(_aligned(head[level], c, widths[c.key]))
        lines.append(gap.join(cells).rstrip())
    lines.append("─" * min(width, label_width + sum(widths[c.key] + _GAP for c in part)))
    return lines


def folded(line: str, width: int, indent: str = "") -> list[str]:
    return textwrap.wrap(
        line, max(width, 12), subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
    ) or [""]
