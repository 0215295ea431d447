"""The page itself."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from vitft import __version__
from vitft.errors import UsageError
from vitft.report import beside, summary_table, views
from vitft.report.letters import visible
from vitft.report.lines import labels
from vitft.report.measured import Measured
from vitft.report.page import charts, runs
from vitft.report.summary import summarise
from vitft.report.table import Table
from vitft.results.summary import Summary, SummaryColumn, View

_EFFECTS: tuple[tuple[View, str], ...] = (
    ("scratch", "Pretrained weights against random ones"),
    ("pretraining", "Effect of the pretraining data"),
)


@dataclass(frozen=True)
class Shown:
    """A table with its footnotes: of each row, column -> their numbers; "row" stands for its label."""

    title: str
    summary: Summary
    drawn: Table
    marks: tuple[dict[str, tuple[int, ...]], ...]

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Headings over neighbouring columns, and over how many each stands."""
        return [(name, len(list(run))) for name, run in groupby(self.summary.columns, key=lambda c: c.group)]


def page(
    summary: Summary,
    numbers: Sequence[Measured],
    columns: Sequence[SummaryColumn] | None = None,
    unfinished: Sequence[Path] = (),
) -> str:
    """Return a whole HTML document: tables, bars, accuracy by compute, and each result with its stamp and command.

    Args:
        numbers: that the summary is of.
        columns: that it was asked for with, see `summarise`.
        unfinished: run folders that have no result yet.

    Raises:
        DataDamaged: a file of predictions is damaged (exit code 3).
    """
    style, script = (_text(name).strip() for name in ("page.css", "page.js"))
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
        f"style-src {_hashed(style)}; script-src {_hashed(script)}"
    )
    spent = charts.training(summary)
    template = _environment().from_string(_text("page.html.j2"))
    return template.render(
        main=_shown("Results", summary),
        effects=list(_effects(summary, numbers, columns)),
        bars=charts.bars(summary),
        training=None if spent is None else charts.against(spent),
        an_image=[charts.against(one) for _, one in charts.an_image(summary, beside.behind(summary))],
        parts=runs.parts(numbers, labels(numbers, summary.by)),
        unfinished=list(map(str, unfinished)),
        style=style,
        script=script,
        policy=policy,
        version=__version__,
    )


def _effects(summary: Summary, numbers: Sequence[Measured], columns: Sequence[SummaryColumn] | None) -> list[Shown]:
    """Return the views that these results have rows for, unless the table itself is one."""
    found = []
    for view, title in _EFFECTS if not summary.view else ():
        try:
            made = summarise(numbers, columns, summary.by, view=view)
        except UsageError:  # no rows answer it
            continue
        data: dict[str, set[str]] = {}
        for what in (row.what for row in made.rows if row.kind == "result"):
            data.setdefault(what.architecture, set()).add(what.pretraining)
        # One kind of data against none is the view before.
        if view == "scratch" or any(len(own - {views.SCRATCH}) > 1 for own in data.values()):
            found.append(_shown(title, made))
    return found


def _shown(title: str, summary: Summary) -> Shown:
    drawn = summary_table.table(summary, details=False)
    rows = iter([dict(row.marks) for row in drawn.rows if row.kind != "detail"])
    marks = [{} if row.kind == "difference" else next(rows) for row in summary.rows]
    return Shown(title, summary, drawn, tuple(marks))


def _hashed(text: str) -> str:
    """Return the one text that a policy lets run, by its digest."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _text(name: str) -> str:
    return (resources.files("vitft.report.page") / name).read_text(encoding="utf-8")


def _environment() -> Environment:
    made = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters["percent"] = lambda share: f"{100 * share:.1f}"
    made.filters["points"] = lambda share: f"{100 * share:+.1f}"
    made.filters["flops"] = lambda count: charts.short(count, 3)
    made.filters["seen"] = lambda text: visible(str(text))
    return made
