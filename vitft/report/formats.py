"""The formats a table can be written in. To add one: a function and its line in `FORMATS`."""

import csv as csv_module
import io
import re
from collections.abc import Callable

from vitft.report.table import HOLE, Column, Row, Table, Value, signed
from vitft.report.text import blocks as blocks_of
from vitft.report.text import text as text


def markdown(table: Table) -> str:
    """Return the table as GitHub Markdown, with its footnotes below."""
    rule = [":--" if c.kind == "text" else "--:" for c in table.columns]
    lines = [f"**{md(table.caption)}**", "", _pipes([md(c.title) for c in table.columns]), _pipes(rule)]
    for row in table.rows:
        cells = [md(signed(row, c)) + _raised(row, c.key, "<sup>{}</sup>", ",") for c in table.columns]
        lines.append(_pipes(cells))
    lines += [f"\n<sup>{i}</sup> {md(note)}" for i, note in enumerate(table.footnotes, 1)]
    lines += [f"\n{md(note)}" for note in table.notes]
    return "\n".join(lines) + "\n"


def csv(table: Table) -> str:
    """Return the table as CSV: keys as heads, percentages unrounded, intervals in two columns, notes in the last."""
    out = io.StringIO()
    writer = csv_module.writer(out, lineterminator="\n")
    heads = [head for c in table.columns for head in _csv_heads(c)]
    writer.writerow([*heads, "notes"])
    for row in table.rows:
        values = [value for c in table.columns for value in _csv_values(row.cells.get(c.key), c)]
        notes = [f"{c.title}: {row.signs[c.key]}" for c in table.columns if c.key in row.signs]
        notes += [
            f"{c.title}: {table.footnotes[i - 1]}" if c is not table.columns[0] else table.footnotes[i - 1]
            for c in table.columns
            for i in row.marks.get(c.key, ())
        ]
        writer.writerow([*values, "; ".join(notes)])
    return out.getvalue()


def _csv_heads(column: Column) -> list[str]:
    return [f"{column.key}_low", f"{column.key}_high"] if column.kind == "interval" else [column.key]


def _csv_values(value: Value, column: Column) -> list[str]:
    if value is None or value == HOLE:
        return [""] * len(_csv_heads(column))
    if isinstance(value, tuple):
        return [f"{100 * end:.10g}" for end in value]
    return [f"{100 * value:.10g}" if column.kind == "percent" and isinstance(value, float) else str(value)]


_TURNED_FROM = 13
"""Columns from which on the heads of a LaTeX table are turned: upright they would be wider than a page."""


def latex(table: Table) -> str:
    """Return the table as a LaTeX `tabular`, with its footnotes below; it needs no package up to 12 columns.

    A wider one, as VTAB's, has turned heads and rules of booktabs, and says which packages that takes.
    """
    blocks = list(blocks_of(list(table.columns)))
    wide = len(table.columns) >= _TURNED_FROM
    top, middle, bottom = ("\\toprule", "\\midrule", "\\bottomrule") if wide else ("\\hline",) * 3
    spec = "l" + "".join("r" if c.kind in ("percent", "count") else "l" for c in table.columns[1:])
    lines = [f"% {table.caption}", *["% needs \\usepackage{booktabs,graphicx}"] * wide]
    lines += [f"\\begin{{tabular}}{{{spec}}}", top]
    if any(block for block, _ in blocks):
        heads = [f"\\multicolumn{{{len(columns)}}}{{c}}{{{_tex(block)}}}" for block, columns in blocks]
        lines.append(" & ".join(heads) + " \\\\")
    turned = "\\rotatebox{{90}}{{{}}}" if wide else "{}"
    heads = [_tex(c.title) if i == 0 else turned.format(_tex(c.title)) for i, c in enumerate(table.columns)]
    lines += [" & ".join(heads) + " \\\\", middle]
    before = "result"
    for row in table.rows:
        if row.kind == "published" and before != "published":
            lines.append(middle)
        before = row.kind
        cells = [_tex(signed(row, c)) + _raised(row, c.key, "\\textsuperscript{{{}}}", ",") for c in table.columns]
        # After the line before, a bracket or a star would be read as that line's own.
        guard = "{}" * cells[0].startswith(("[", "*"))
        lines.append(guard + " & ".join(cells) + " \\\\")
    lines += [bottom, "\\end{tabular}"]
    lines += [f"\n\\textsuperscript{{{i}}} {_tex(note)}" for i, note in enumerate(table.footnotes, 1)]
    lines += [f"\n{_tex(note)}" for note in table.notes]
    return "\n".join(lines) + "\n"


FORMATS: dict[str, Callable[[Table], str]] = {
    "text": text,
    "markdown": markdown,
    "csv": csv,
    "latex": latex,
}


def _raised(row: Row, key: str, pattern: str, between: str) -> str:
    numbers = row.marks.get(key, ())
    return pattern.format(between.join(map(str, numbers))) if numbers else ""


def _pipes(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def md(line: str) -> str:
    """Return a line in which Markdown finds nothing to format."""
    return re.sub(r"([|*_<>`\\])", r"\\\1", line)


_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "—": "--",
    "≈": r"$\approx$",
    "–": "--",
    "−": r"$-$",
    "×": r"$\times$",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    "…": r"\ldots{}",
}


def _tex(line: str) -> str:
    return re.sub(r"[\\~^±—≈–−×<>|…&%$#_{}]", lambda found: _TEX.get(found[0], "\\" + found[0]), line)
