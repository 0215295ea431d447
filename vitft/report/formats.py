"""The formats a table can be written in. To add one: a function and its line in `FORMATS`."""

import csv as csv_module
import io
import itertools
import json as json_module
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict

from vitft.report.table import HOLE, Column, Row, Table, shown

_GAP = 2
_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_SIGNS = {"best": "*", "tie": "≈"}


def text(table: Table, width: int = 80) -> str:
    """Return the table for a terminal, wrapped to `width` columns: block after block, the label repeated."""
    label, *others = table.columns
    cells = {
        (i, c.key): _signed(row, c) + _raised(row, c.key) for i, row in enumerate(table.rows) for c in table.columns
    }
    indent = {"result": "", "published": "", "detail": "  "}
    labels = [indent[row.kind] + cells[i, label.key] for i, row in enumerate(table.rows)]
    label_width = max(map(len, [label.title, *labels]))
    heads = {c.key: _head(c.title) for c in others}
    widths = {c.key: max(map(len, [*heads[c.key], *(cells[i, c.key] for i in range(len(labels)))])) for c in others}
    for block, run in _blocks(others):
        # A block of one or two columns is at least as wide as its own heading.
        widths[run[0].key] += max(0, len(block) - sum(widths[c.key] for c in run) - _GAP * (len(run) - 1))

    lines = [*_folded(table.caption, width), ""]
    for part in _parts(others, widths, width - label_width):
        lines += _part(part, label, label_width, heads, widths)
        own = True
        for i, row in enumerate(table.rows):
            if row.kind != "result" and not any(cells[i, c.key] for c in part):
                continue
            if own and row.kind == "published":
                lines.append("")
            own = row.kind != "published"
            values = [_aligned(cells[i, c.key], c, widths[c.key]) for c in part]
            lines.append((" " * _GAP).join([labels[i].ljust(label_width), *values]).rstrip())
        lines.append("")
    for number, note in enumerate(table.footnotes, 1):
        lines += _folded(f"{str(number).translate(_RAISED)} {note}", width, "  ")
    for note in table.notes:
        lines += _folded(note, width, "  ")
    return "\n".join(lines).rstrip() + "\n"


def markdown(table: Table) -> str:
    """Return the table as GitHub Markdown, with its footnotes below."""
    rule = [":--" if c.kind == "text" else "--:" for c in table.columns]
    lines = [f"**{_md(table.caption)}**", "", _pipes([_md(c.title) for c in table.columns]), _pipes(rule)]
    for row in table.rows:
        cells = [_md(_signed(row, c)) + _raised(row, c.key, "<sup>{}</sup>", ",") for c in table.columns]
        lines.append(_pipes(cells))
    lines += [f"\n<sup>{i}</sup> {_md(note)}" for i, note in enumerate(table.footnotes, 1)]
    lines += [f"\n{_md(note)}" for note in table.notes]
    return "\n".join(lines) + "\n"


def csv(table: Table) -> str:
    """Return the table as CSV: keys as heads, percentages unrounded, each row's footnotes in a last column."""
    out = io.StringIO()
    writer = csv_module.writer(out, lineterminator="\n")
    writer.writerow([*(c.key for c in table.columns), "notes"])
    for row in table.rows:
        values = []
        for column in table.columns:
            value = row.cells.get(column.key)
            number = column.kind == "percent" and isinstance(value, float)
            values.append("" if value in (None, HOLE) else f"{100 * value:.10g}" if number else str(value))
        notes = [f"{c.title}: {row.signs[c.key]}" for c in table.columns if c.key in row.signs]
        notes += [
            f"{c.title}: {table.footnotes[i - 1]}" if c is not table.columns[0] else table.footnotes[i - 1]
            for c in table.columns
            for i in row.marks.get(c.key, ())
        ]
        writer.writerow([*values, "; ".join(notes)])
    return out.getvalue()


def latex(table: Table) -> str:
    """Return the table as a LaTeX `tabular` for booktabs and graphicx, heads turned, with its footnotes below."""
    blocks = list(_blocks(list(table.columns)))
    spec = "l" + "".join("r" if c.kind != "text" else "l" for c in table.columns[1:])
    lines = [f"% {table.caption}", f"\\begin{{tabular}}{{{spec}}}", "\\toprule"]
    if any(block for block, _ in blocks):
        heads = [f"\\multicolumn{{{len(columns)}}}{{c}}{{{_tex(block)}}}" for block, columns in blocks]
        lines.append(" & ".join(heads) + " \\\\")
    heads = [_tex(c.title) if i == 0 else f"\\rotatebox{{90}}{{{_tex(c.title)}}}" for i, c in enumerate(table.columns)]
    lines += [" & ".join(heads) + " \\\\", "\\midrule"]
    before = "result"
    for row in table.rows:
        if row.kind == "published" and before != "published":
            lines.append("\\midrule")
        before = row.kind
        cells = [_tex(_signed(row, c)) + _raised(row, c.key, "\\textsuperscript{{{}}}", ",") for c in table.columns]
        lines.append(" & ".join(cells) + " \\\\")
    lines += ["\\bottomrule", "\\end{tabular}"]
    lines += [f"\n\\textsuperscript{{{i}}} {_tex(note)}" for i, note in enumerate(table.footnotes, 1)]
    lines += [f"\n{_tex(note)}" for note in table.notes]
    return "\n".join(lines) + "\n"


def json(table: Table) -> str:
    """Return the table as JSON: percentages as shares in [0, 1], as everywhere in files."""
    return json_module.dumps(asdict(table), indent=1, allow_nan=False) + "\n"


FORMATS: dict[str, Callable[[Table], str]] = {
    "text": text,
    "markdown": markdown,
    "csv": csv,
    "latex": latex,
    "json": json,
}


def _signed(row: Row, column: Column) -> str:
    """Return a cell with what the tests found of it."""
    sign = row.signs.get(column.key)
    return shown(row.cells.get(column.key), column) + (_SIGNS[sign] if sign else "")


def _raised(row: Row, key: str, pattern: str = "", between: str = "") -> str:
    numbers = row.marks.get(key, ())
    if not numbers:
        return ""
    if pattern:
        return pattern.format(between.join(map(str, numbers)))
    return "˒".join(str(n).translate(_RAISED) for n in numbers)


def _head(title: str) -> list[str]:
    """Return a head in one or two lines: a long one is broken after a hyphen, at a space, or before its digits."""
    if len(title) <= 7:
        return [title]
    found = re.fullmatch(r"(.+-)(.+)", title) or re.fullmatch(r"(.+) (.+)", title) or re.fullmatch(r"(\D+)(\d+)", title)
    return list(found.groups()) if found else [title]


def _aligned(cell: str, column: Column, width: int) -> str:
    return cell.ljust(width) if column.kind == "text" else cell.rjust(width)


def _blocks(columns: list[Column]) -> Iterator[tuple[str, list[Column]]]:
    """Yield runs of neighbouring columns with the same block."""
    run: list[Column] = []
    for column in columns:
        if run and column.block != run[-1].block:
            yield run[-1].block, run
            run = []
        run.append(column)
    if run:
        yield run[-1].block, run


def _parts(columns: list[Column], widths: dict[str, int], room: int) -> list[list[Column]]:
    """Return the columns in parts that fit side by side: whole blocks, or even pieces of one that is too wide."""

    def fits(run: list[Column]) -> bool:
        return sum(widths[c.key] + _GAP for c in run) <= room

    parts: list[list[Column]] = [[]]
    for _, run in _blocks(columns):
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


def _part(
    part: list[Column], label: Column, label_width: int, heads: dict[str, list[str]], widths: dict[str, int]
) -> list[str]:
    gap = " " * _GAP
    lines = []
    if any(c.block for c in part):
        titles = []
        for block, run in _blocks(part):
            wide = sum(widths[c.key] for c in run) + _GAP * (len(run) - 1)
            drawn = (
                f" {block} ".center(wide, "─")[:wide] if block and len(block) + 2 <= wide else block[:wide].ljust(wide)
            )
            titles.append(drawn)
        lines.append(gap.join([" " * label_width, *titles]).rstrip())
    deep = max(len(heads[c.key]) for c in part)
    for level in range(deep):
        cells = [label.title if level == deep - 1 else ""]
        cells[0] = cells[0].ljust(label_width)
        for c in part:
            head = [""] * (deep - len(heads[c.key])) + heads[c.key]
            cells.append(_aligned(head[level], c, widths[c.key]))
        lines.append(gap.join(cells).rstrip())
    lines.append("─" * (label_width + sum(widths[c.key] + _GAP for c in part)))
    return lines


def _folded(line: str, width: int, indent: str = "") -> list[str]:
    import textwrap

    return textwrap.wrap(line, max(width, 20), subsequent_indent=indent, break_on_hyphens=False) or [""]


def _pipes(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _md(line: str) -> str:
    return re.sub(r"([|*_<>`\\])", r"\\\1", line)


_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "—": "--",
    "≈": r"$\approx$",
}


def _tex(line: str) -> str:
    return re.sub(r"[\\~^±—≈&%$#_{}]", lambda found: _TEX.get(found[0], "\\" + found[0]), line)
