"""`vitft sweep`: a grid of settings in one command, compared on val; the best one is tested."""

from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vitft.cli import after, axes, console, signals
from vitft.cli import options as o
from vitft.cli.groups import Running, flat

if TYPE_CHECKING:
    from vitft.engines.side_by_side import Planned
    from vitft.protocol.jobs import Runtime

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
    per_class: o.PerClassOption = None,
    limit: o.LimitOption = None,
    from_scratch: o.FromScratchOption = False,
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
    from vitft.engines import side_by_side
    from vitft.protocol import grid
    from vitft.report import sweep as report

    running.requeue()
    loaded = recipes.load(recipe)
    models = o.models(model, running.device)
    flags = {"lr": lr, "resolution": resolution, "method": method, "steps": steps, "batch_size": batch_size}
    values = axes.parse(set_ or (), flags)
    opened = side_by_side.Models()
    infos = partial(opened.infos, models, values.fixed)
    for line in grid.check(loaded, task, values.fixed, values.varied, values.faults, infos):
        console.note(f"Note: {line}.")
    planned = side_by_side.plan(
        task,
        models,
        opened,
        recipe=loaded,
        overrides=values.fixed,
        axes=values.varied,
        from_scratch=from_scratch,
        data_dir=running.data_dir,
        output=running.output,
        dry=dry_run,
        seeds=o.parse_seeds(seeds),
        limit=limit,
        per_class=per_class,
        on=on,
    )
    runtime = running.runtime(save_weights, val_every, len(planned.jobs))
    if dry_run:
        _dry(planned, runtime, format)
        return
    results = planned.run(runtime, running.how(), lambda _folder: signals.watched(running.quiet))
    more = "Table: vitft runs table {} --format latex"
    after.emit(results, planned.folders, report.table, format, more)


def _dry(planned: "Planned", runtime: "Runtime", format: o.TableFormat) -> None:
    """Print the grids and their estimates."""
    from vitft.report import planned as report

    for line in planned.notes():
        console.note(f"Note: {line}.")
    of = (planned.jobs, planned.folders, planned.estimates(runtime))
    console.emit_table(report.payload(*of), report.table(*of), format)
