"""The page itself."""

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources

from jinja2 import Environment, StrictUndefined

from vitft import __version__
from vitft.report import summary_table
from vitft.report.lines import labels
from vitft.report.measured import Measured
from vitft.report.page import charts, runs
from vitft.results.summary import Summary


def page(summary: Summary, numbers: Sequence[Measured]) -> str:
    """Return a whole HTML document: table, bars, accuracy by compute, and each result with its stamp and command.

    Raises DataDamaged for a damaged file of predictions.
    """
    style, script = (_text(name).strip() for name in ("page.css", "page.js"))
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
        f"style-src {_hashed(style)}; script-src {_hashed(script)}"
    )
    drawn = summary_table.table(summary, details=False)
    template = _environment().from_string(_text("page.html.j2"))
    return template.render(
        summary=summary,
        caption=drawn.caption,
        footnotes=drawn.footnotes,
        notes=drawn.notes,
        marks=[row.marks for row in drawn.rows],
        bars=charts.bars(summary),
        compute=charts.by_compute(summary),
        parts=runs.parts(numbers, labels(numbers, summary.by)),
        style=style,
        script=script,
        policy=policy,
        version=__version__,
    )


def _hashed(text: str) -> str:
    """Return the one text that a policy lets run, by its digest."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _text(name: str) -> str:
    return (resources.files("vitft.report.page") / name).read_text(encoding="utf-8")


def _environment() -> Environment:
    made = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters["percent"] = lambda share: f"{100 * share:.1f}"
    made.filters["seen"] = _seen
    return made


def _seen(text: object) -> str:
    """Return text in which no letter is invisible or moves the others: terminal escapes, marks of direction."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(text))
