"""`vitft sweep`: a grid of settings in one command, compared on val; the best one is tested."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vitft.catalog.models import DEFAULT
from vitft.cli import after, axes, console, signals
from vitft.cli import options as o
from vitft.cli.finetune import openable
from vitft.cli.groups import Running, flat

if TYPE_CHECKING:
    from vitft.data.split import Opened
    from vitft.protocol.jobs import Runtime
    from vitft.protocol.units import Job
    from vitft.recipes import Recipe
    from vitft.report.table import Table
    from vitft.results.checkpoint import CheckpointInfo

_SEVERAL = "one or several, with commas"


@flat
def sweep(
    task: o.TaskArgument,
    model: o.ModelsOption = None,
    recipe: o.RecipeOption = "quick",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE,...", help="Any key of a recipe, e.g. lr=0.01,0.03; may be repeated."),
    ] = None,
    resolution: Annotated[
        str | None, typer.Option("--resolution", "-r", "--img-size", help=f"Pixels, {_SEVERAL}: 224,384.")
    ] = None,
    method: Annotated[str | None, typer.Option("--method", help=f"full, linear, bias, lora; {_SEVERAL}.")] = None,
    steps: Annotated[str | None, typer.Option("--steps", help=f"Optimiser updates, {_SEVERAL}.")] = None,
    batch_size: Annotated[str | None, typer.Option("--batch-size", "-b", help=f"Images an update, {_SEVERAL}.")] = None,
    lr: Annotated[str | None, typer.Option("--lr", help=f"Peak learning rate, {_SEVERAL}: 0.01,0.03.")] = None,
    seeds: Annotated[str, typer.Option("--seeds", help="Of every setting, e.g. 0,1,2: means with intervals.")] = "0",
    on: Annotated[
        Literal["val", "test"],
        typer.Option(
            "--on", help="val: choose on val (or the end of train), test the chosen one. test: test them all."
        ),
    ] = "val",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the grid and what it takes; run nothing.")] = False,
    per_class: Annotated[
        int | None, typer.Option("--per-class", min=1, help="Train on K images of each class.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="At most N images of every split, for a quick look.")
    ] = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Same architecture and budget, random weights.")
    ] = False,
    save_weights: o.SaveWeightsOption = True,
    val_every: o.ValEveryOption = 0,
    format: o.TableFormatOption = "text",
    *,
    running: Running,
) -> None:
    """Try a grid of settings and put them into one table. Every combination of the values is run with every seed.

    Values stand with commas between them. All settings are compared on val, or on the end of train where there is no
    val; the best one alone is trained anew and tested. The same command goes on where it stopped.
    """
    from vitft import recipes
    from vitft.engines.single import in_folder
    from vitft.protocol.jobs import make, run_folder
    from vitft.report import sweep as report
    from vitft.results.folders import beside

    running.requeue()
    loaded = recipes.load(recipe)
    models = model or [DEFAULT]
    o.checked(models, running.device)
    flags = {"lr": lr, "resolution": resolution, "method": method, "steps": steps, "batch_size": batch_size}
    asked = axes.parse(set_ or (), flags)
    for line in _sound(loaded, task, models, asked):
        console.note(f"Note: {line}.")
    made = [
        make(
            task,
            model=name,
            recipe=loaded,
            overrides=asked.fixed,
            axes=asked.varied,
            data_dir=running.data_dir,
            seeds=o.parse_seeds(seeds),
            from_scratch=from_scratch,
            limit=limit,
            per_class=per_class,
            on=on,
        )
        for name in models
    ]
    jobs, source = [job for job, _ in made], made[0][1]
    _several(jobs[0])
    folders = [run_folder(job) for job in jobs] if running.output is None else beside(running.output, models)
    runtime = running.runtime(save_weights, val_every)
    if dry_run:
        console.emit_table(*_dry(jobs, source, folders, runtime), format)
        return
    openable(made, folders)
    results = [
        in_folder(
            job,
            source,
            folder,
            runtime,
            resume=running.resume == "auto",
            overwrite=running.overwrite,
            note=console.note,
            watched=partial(signals.watched, running.quiet),
        )
        for job, folder in zip(jobs, folders, strict=True)
    ]
    after.emit(results, folders, report.table, format)
    if format == "json":
        return
    for folder in folders:
        console.note(f"Run folder: {folder}", uncut=True)
        console.note(f"Table: vitft runs table {shlex.quote(str(folder))} --format latex", uncut=True)
        after.told(folder)


def _sound(recipe: "Recipe", task: str, models: Sequence[str], asked: axes.Axes) -> list[str]:
    """Raise all that is wrong with a grid at once, before data or weights are opened; return what is only odd."""
    from vitft.catalog import tasks
    from vitft.errors import RecipeError, UsageError
    from vitft.protocol import grid

    if len(set(models)) < len(models):
        raise UsageError("A model is named twice.", "different models.")
    sides = asked.varied.get("resolution", [asked.fixed[key] for key in ("resolution",) if key in asked.fixed])
    faults = asked.faults + grid.faults(recipe, tasks.canonical(task) or task, asked.fixed, asked.varied)
    notes = []
    for name in models if sides else ():
        info = _info(name, asked.fixed)
        faults += grid.too_small(info, sides)
        notes += grid.uneven(info, sides)
    if faults:
        raise RecipeError(
            f"The grid cannot run: {'; '.join(dict.fromkeys(faults))}.",
            "",
            "Run 'vitft recipes show' for every key and what it means.",
        )
    return notes


def _info(model: str, fixed: dict[str, object]) -> "CheckpointInfo":
    """Return what a checkpoint says of itself; that of an alias without torch."""
    from vitft.catalog.models import MODELS
    from vitft.models import names

    if model in MODELS:
        return names.alias_info(MODELS[model])
    from vitft.models import loading
    from vitft.models.said import Said

    return loading.load(model, weights=False, said=Said.within(fixed)).info


def _several(job: "Job") -> None:
    from vitft.errors import UsageError

    if len(job.grid) < 2:
        raise UsageError(
            "There is one setting, and nothing to compare it with.",
            "several values of a key, e.g. --set lr=0.01,0.03 or -r 224,384.",
            "For a single setting run 'vitft finetune'.",
        )


def _dry(
    jobs: "Sequence[Job]", source: "Opened", folders: Sequence[Path], runtime: "Runtime"
) -> "tuple[dict[str, Any], Table]":
    """Return the grid and what it takes, after a look at the names and labels of all its data."""
    from vitft.protocol.estimate import estimate
    from vitft.protocol.look import look
    from vitft.protocol.units import counts
    from vitft.report import planned

    for line in dict.fromkeys(line for job in jobs for line in look(job, source)):
        console.note(f"Note: {line}.")
    estimates = [estimate(job, source, runtime) for job in jobs]
    payloads = [
        {
            "model": job.model,
            "folder": str(folder),
            **dict(zip(("compared", "tested"), counts(job), strict=True)),
            "grid": [point.values for point in job.grid],
            "estimate": asdict(of),
        }
        for job, folder, of in zip(jobs, folders, estimates, strict=True)
    ]
    table = planned.table(jobs, estimates, [str(folder) for folder in folders])
    return (payloads[0] if len(payloads) == 1 else {"sweeps": payloads}), table
