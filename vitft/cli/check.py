"""`vitft recipes check`: recipes run again, and their numbers held against what they should be."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitft.cli import console, signals
from vitft.cli import options as o
from vitft.errors import OutsideTolerance, UsageError, VitftError

if TYPE_CHECKING:
    from vitft.results.checks import Check


def check(
    recipe: Annotated[
        list[str] | None, typer.Argument(help="Shipped recipes, or TOML files; none: all shipped ones with [expect].")
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="Instead of the model that a recipe expects with.")] = "",
    seeds: Annotated[
        str, typer.Option("--seeds", help="Default 0; 0,1,2 for --update; against a baseline as many new ones.")
    ] = "",
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", help="Compare with this file (or its folder) of stored answers instead."),
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option("--task", help="With --baseline: this task; else those that a recipe expects.")
    ] = None,
    update: Annotated[bool, typer.Option("--update", help="Write the baseline; the oldest is kept beside it.")] = False,
    margin: Annotated[
        float | None, typer.Option("--margin", min=0, max=100, help="Points; smaller drops never count (default 0.5).")
    ] = None,
    junit: Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML for a CI server to this file.")] = None,
    precision: o.PrecisionOption = "auto",
    device: o.DeviceOption = "auto",
    workers: o.WorkersOption = 0,
    data_dir: o.DataDirOption = None,
    output: o.OutputOption = None,
    overwrite: o.OverwriteOption = False,
    quiet: o.QuietOption = False,
    format: o.TableFormatOption = "text",
) -> None:
    """Hold recipes to the numbers they expect, or to a baseline.

    Runs them, and ends with 5 when a number is outside. What is of another device, data set or protocol is void: it
    says nothing, and fails nothing. A finished run answers from disk: CI wants a fresh folder.
    """
    from vitft.engines import check_runs
    from vitft.evaluation import significance
    from vitft.report import checks as report
    from vitft.results.files import write_atomic

    if baseline is None and (update or margin is not None or task):
        raise UsageError("--update, --margin and --task mean something with --baseline alone.", "with it.")
    stored = check_runs.stored_in(baseline, update) if baseline is not None else None
    runs = check_runs.runs_to_make(recipe or [], model, task or [], stored)
    o.checked([one.model for one in runs], device)
    how = check_runs.How(
        console.note, partial(signals.watched, quiet), device, precision, workers, data_dir, output, overwrite
    )
    given = o.parse_seeds(seeds) if seeds else ()
    notes: list[str] = []
    if baseline is None or stored is None:
        done = check_runs.expectations(runs, how, given)
    elif update:
        done = check_runs.update(runs, how, given, baseline, stored)
    else:
        done = check_runs.against(runs, how, given, stored, significance.MARGIN if margin is None else margin / 100)
        notes = [
            f"Red: p (one-sided, Holm over all comparisons) below {significance.LEVEL:g}, and more than the margin."
        ]
    if junit is not None:
        write_atomic(junit, report.junit(done.checks))
    payload = {"kind": "check", "checks": [one.model_dump(mode="json", exclude_none=True) for one in done.checks]}
    console.emit_table(payload, report.table(done.checks, notes), format)
    _end(done.checks, done.errors)


def _end(checks: Sequence["Check"], errors: Sequence[VitftError]) -> None:
    """End with the exit code of the outcomes: of a red number, else of a failed run; void ones change nothing."""
    from vitft.results.checks import RED

    void = sum(one.outcome == "void" for one in checks)
    if void:
        console.note(f"Note: {void} of {len(checks)} void: another device, data set or protocol; nothing was compared.")
    red = [one for one in checks if one.outcome in RED]
    if red:
        which = "; ".join(f"{one.recipe} on {one.task}: {one.why}" for one in red[:3]) + "; ..." * (len(red) > 3)
        raise OutsideTolerance(
            f"{len(red)} of {len(checks)} outside: {which}.", "", "Find what changed, or change the expected number."
        )
    if errors:
        raise errors[0]
