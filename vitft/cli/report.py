"""`vitft report`: one table of any runs, suites, evaluations and few-shot results."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from vitft.cli import console
from vitft.words import listed


def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Run folders, or folders with such in them.")],
    by: Annotated[
        Literal["model", "recipe", "method"], typer.Option("--by", help="What rows are called and ordered by.")
    ] = "model",
    compare: Annotated[
        str, typer.Option("--compare", help="Published rows below: vit-paper, bit, petl, vtab-2019, dinov2, ...")
    ] = "",
    view: Annotated[
        Literal["pretraining", "scratch", "compute"] | None,
        typer.Option("--view", help="Effect of the pretraining data; weights against scratch; accuracy by compute."),
    ] = None,
    format: Annotated[
        Literal["text", "bars", "markdown", "csv", "latex", "json", "html"],
        typer.Option("--format", help="bars: for a terminal; html: one file that needs nothing else; json: all of it."),
    ] = "text",
    plots: Annotated[
        Path | None, typer.Option("--plots", help="Folder for pictures: tasks, compute, learning curves (PNG, SVG).")
    ] = None,
) -> None:
    """Put many results into one table. Rows are models, columns tasks and their means; nothing is run.

    The best of a column is marked only where a paired test on stored predictions separates it from all others.
    Unlike protocols are separate rows, and what differs is named.
    """
    from vitft.report import beside, gather, in_suites, summary, summary_table
    from vitft.report.suite_table import suite_columns
    from vitft.results.schema import to_json

    if plots is not None:
        from vitft.report.plots import style

        style.check(plots, "--plots")
    published = beside.rows(listed(compare))
    gathered = gather.gather(folders)
    for folder in gathered.unfinished:
        console.note(f"Unfinished, not in the table: '{folder}'.")
    suite = in_suites.document_of(gathered.numbers)
    columns = suite_columns(suite, {one.column for one in gathered.numbers}) if suite else None
    made = summary.summarise(gathered.numbers, columns, by, view=view or "")
    made = beside.add(made, published) if published else made
    if plots is not None:
        from vitft.report.plots.results import draw

        drawn = draw(plots, made, gathered.numbers)
        console.note(f"Pictures in {plots}: {', '.join(drawn)}")
    if format == "html":
        from vitft.report.page.page import page

        console.write(page(made, gathered.numbers, columns, gathered.unfinished))
        return
    if format == "bars":
        from vitft.report.bars import bars

        console.emit(None, bars(made, console.width()))
        return
    console.emit_table(to_json(made), summary_table.table(made), format)
