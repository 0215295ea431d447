"""`vitft runs curve`: loss and val accuracy over the updates of a run."""

from pathlib import Path
from typing import Annotated

import typer

from vitft.cli import console
from vitft.cli.options import TableFormatOption


def curve(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run, finished or not, or the folder of one unit.")],
    rows: Annotated[int, typer.Option("--rows", min=1, help="At most so many; csv and json have every update.")] = 20,
    format: TableFormatOption = "text",
) -> None:
    """Show the learning curve of a run. The loss, and val accuracy where --val-every wrote it.

    Of several seeds it is their mean; of a sweep, that of the chosen setting.
    """
    from vitft.report import curve as report

    curves = report.read(run)
    payload = {
        "folder": str(run),
        "curves": [
            {"unit": str(one.folder), "name": one.name, "updates": [dict(line) for line in one.lines]} for one in curves
        ],
    }
    table = report.full(curves) if format == "csv" else report.table(curves, rows, bars=format == "text")
    console.emit_table(payload, table, format)
