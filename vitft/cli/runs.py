"""`vitft runs`: what has been run, how far a run is, and making room."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from vitft.cli import after, console, curve
from vitft.cli.options import FormatOption, TableFormatOption

app = typer.Typer(
    help="Runs: list, table, status, mistakes, curve, clean, schema.", no_args_is_help=True, rich_markup_mode=None
)

_Dir = Annotated[Path, typer.Argument(metavar="DIR", help="A run folder, as 'vitft runs ls' prints it.")]


@app.command("ls")
def ls(
    root: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="Where to look; default $VITFT_RUNS.")] = None,
    format: TableFormatOption = "text",
) -> None:
    """List the runs below the runs folder, the newest first. What tells them apart has a column."""
    from vitft.errors import UsageError
    from vitft.report import runs as report
    from vitft.results import listing
    from vitft.results.folders import runs_root

    where = root or runs_root()
    if root is not None and not root.is_dir():
        raise UsageError(f"There is no folder '{root}'.", "a folder with runs in it, or none for $VITFT_RUNS.")
    runs = listing.runs(where)
    payload = {"root": str(where), "runs": [asdict(run) for run in runs]}
    if runs or format != "text":
        console.emit_table(payload, report.table(runs), format, listing=True)
    else:
        console.emit(payload, f"No runs in '{where}'.")
    for run in runs:
        if run.damaged:
            console.note(f"note: {run.damaged}")


@app.command("table")
def table(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Run folders, or folders with such in them.")],
    columns: Annotated[
        str, typer.Option("--columns", help="E.g. lr,resolution,val,top1,n,protocol; default: what differs.")
    ] = "",
    chosen: Annotated[bool, typer.Option("--chosen", help="Of a sweep the chosen setting alone.")] = False,
    format: TableFormatOption = "text",
) -> None:
    """Put any runs into one table. A row a run, or a setting of a sweep; a column for what differs between them.

    As LaTeX it needs no package.
    """
    from vitft.report import runs_table

    keys = runs_table.columns(columns)
    found = runs_table.find(folders, chosen)
    for folder in found.unfinished:
        console.note(f"Unfinished, not in the table: '{folder}'.")
    for line in found.damaged:
        console.note(f"Not in the table: {line}")
    payload = {"rows": [dict(row.cells) for row in found.rows]}
    console.emit_table(payload, runs_table.table(found, keys), format)


@app.command("status")
def status(folder: _Dir, format: TableFormatOption = "text") -> None:
    """Say what of a run is finished, and how far the rest is."""
    from vitft.report import runs as report
    from vitft.results import listing

    run, units, busy = listing.run(folder), listing.units(folder), listing.at_work(folder)
    payload = {**asdict(run), "at_work": busy, "units": [asdict(unit) for unit in units]}
    if units or format != "text":
        console.emit_table(payload, report.status(units), format, listing=True)
    else:
        console.emit(payload, f"Nothing has been begun in '{folder}'.")
    if format == "text":
        work = "a vitft process is at work on it" if busy else "nobody is at work on it"
        done = "finished" if run.complete else "unfinished"
        console.note(f"{run.task} with {run.model}, recipe {run.recipe}: {done}; {work}.")


@app.command("clean")
def clean(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="A run folder, as 'vitft runs ls' prints it.")
    ] = None,
    weights: Annotated[bool, typer.Option("--weights", help="Delete fine-tuned networks too.")] = False,
    cache: Annotated[
        bool, typer.Option("--cache", help="Instead of a run: decoded pixels and features that nobody uses now.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be freed; delete nothing.")] = False,
    format: FormatOption = "text",
) -> None:
    """Delete what results do not need. Saved states of unfinished units, logs, and, on request, weights.

    Results, metrics and predictions stay. A unit whose state is deleted starts from its beginning. What goes with
    --cache is made again when it is needed; downloads and prepared data stay.
    """
    from vitft.errors import UsageError
    from vitft.images import room
    from vitft.machine import cache as cache_folder
    from vitft.results import listing
    from vitft.words import size

    if (folder is None) != cache or (cache and weights):
        raise UsageError(
            "One thing is cleaned at a time.",
            "a run folder (with --weights), or --cache.",
            "See 'vitft runs ls'.",
        )
    if folder is None:
        folder = cache_folder()
        deleted, freed = room.clean(dry=dry_run)
    else:
        deleted, freed = listing.clean(folder, weights=weights, dry=dry_run)
    payload = {"folder": str(folder), "deleted": deleted, "bytes": freed, "dry_run": dry_run}
    words = ("would be deleted", "to be freed; nothing was deleted") if dry_run else ("deleted", "freed")
    console.emit(payload, f"{folder}: {len(deleted)} files {words[0]}, {size(freed)} {words[1]}.", format)


@app.command("schema")
def schema() -> None:
    """Print the JSON Schema of all result files. A file is one of its 'anyOf'."""
    from vitft.results.schema import json_schema

    console.emit(json_schema(), "", "json")


app.command("mistakes")(after.mistakes)
app.command("curve")(curve.curve)
