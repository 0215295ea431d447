"""`vitft finetune`: from a checkpoint and a data set to a number with its interval."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vitft.cli import after, console, signals
from vitft.cli import options as o
from vitft.cli.groups import Keys, Running, flat

if TYPE_CHECKING:
    from vitft.engines.side_by_side import Planned
    from vitft.engines.tracking import Tracker
    from vitft.progress import Hooks
    from vitft.protocol.jobs import Runtime


@flat
def finetune(
    task: o.TaskArgument,
    model: o.ModelsOption = None,
    recipe: o.RecipeOption = "quick",
    seed: o.SeedOption = 0,
    seeds: Annotated[str, typer.Option("--seeds", help="Several, e.g. 0,1,2: the mean with its interval.")] = "",
    per_class: o.PerClassOption = None,
    limit: o.LimitOption = None,
    from_scratch: o.FromScratchOption = False,
    compare_scratch: Annotated[
        bool, typer.Option("--compare-scratch", help="Both, pretrained and from scratch, in one table.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would take: steps, time here, memory, disk; run nothing.")
    ] = False,
    save_weights: o.SaveWeightsOption = True,
    min_top1: o.MinTop1Option = None,
    track: Annotated[
        Literal["tensorboard", "wandb", "trackio", "mlflow"] | None,
        typer.Option("--track", help="Send learning curves there; TensorBoard's files lie in the run. Off by default."),
    ] = None,
    val_every: o.ValEveryOption = 0,
    format: o.TableFormatOption = "text",
    *,
    keys: Keys,
    running: Running,
) -> None:
    """Fine-tune a pretrained model on a task and test it once. The test split is evaluated whole.

    Without a recipe, 'quick' is used: small and honest, made for a laptop. The paper's protocol is --recipe vit-paper.
    Several models (-m A -m B) are run one after the other and compared on the same test images.
    """
    from vitft import recipes
    from vitft.engines import side_by_side, tracking
    from vitft.errors import UsageError
    from vitft.protocol.advice import advice
    from vitft.report import single

    running.requeue()
    if compare_scratch and from_scratch:
        raise UsageError("--compare-scratch runs from scratch already.", "either, not both.")
    if seeds and seed:
        raise UsageError(f"--seed {seed} and --seeds {seeds} contradict each other.", "one of them.")
    models = o.models(model, running.device)
    tracking.check(track)
    planned = side_by_side.plan(
        task,
        models,
        side_by_side.Models(),
        recipe=recipes.load(recipe),
        overrides=keys.fixed(),
        with_scratch=compare_scratch,
        from_scratch=from_scratch,
        data_dir=running.data_dir,
        output=running.output,
        dry=dry_run,
        seeds=o.parse_seeds(seeds) if seeds else (seed,),
        limit=limit,
        per_class=per_class,
    )
    for line in advice(planned.jobs[0]):
        console.note(f"Note: {line}")
    runtime = running.runtime(save_weights, val_every, len(planned.jobs))
    if dry_run:
        _dry(planned, runtime, format)
        return
    results = planned.run(runtime, running.how(), partial(_watched, running.quiet, track))
    after.emit(results, planned.folders, single.table, format)
    held = [r for r in results if not (compare_scratch and r.protocol.from_scratch)]
    o.hold_to(min_top1, [(r.model, r.metrics.top1) for r in held])


@contextmanager
def _watched(quiet: bool, track: "Tracker | None", folder: Path) -> Iterator["Hooks"]:
    from vitft.engines.tracking import tracked

    with signals.watched(quiet) as shown, tracked(shown, track, folder) as hooks:
        yield hooks


def _dry(planned: "Planned", runtime: "Runtime", format: o.TableFormat) -> None:
    """Print what the runs would take."""
    from vitft.protocol.estimate import in_lines
    from vitft.report import estimate as report

    for line in planned.notes():
        console.note(f"Note: {line}.")
    costs = planned.estimates(runtime)
    console.emit_table(report.payload(planned.jobs, planned.folders, costs), report.table(planned.jobs, costs), format)
    for job, of, folder in zip(planned.jobs, costs, planned.folders, strict=True):
        for line in in_lines(job, planned.data, of)[1:]:
            console.note(line)
        console.note(f"It would go to {folder}", uncut=True)
