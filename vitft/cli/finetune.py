"""`vitft finetune`: from a checkpoint and a data set to a number with its interval."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vitft.catalog.models import DEFAULT
from vitft.cli import after, console, signals
from vitft.cli import options as o
from vitft.cli.groups import Keys, Running, flat

if TYPE_CHECKING:
    from vitft.data.split import Opened
    from vitft.engines.tracking import Tracker
    from vitft.progress import Hooks
    from vitft.protocol.jobs import Runtime
    from vitft.protocol.units import Job


@flat
def finetune(
    task: o.TaskArgument,
    model: o.ModelsOption = None,
    recipe: o.RecipeOption = "quick",
    seed: o.SeedOption = 0,
    seeds: Annotated[str, typer.Option("--seeds", help="Several, e.g. 0,1,2: the mean with its interval.")] = "",
    per_class: Annotated[
        int | None, typer.Option("--per-class", min=1, help="Train on K images of each class.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="At most N images of every split, for a quick look.")
    ] = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Same architecture and budget, random weights.")
    ] = False,
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
    from vitft.engines import tracking
    from vitft.engines.single import in_folder
    from vitft.errors import UsageError
    from vitft.protocol.jobs import make, run_folder
    from vitft.report import single
    from vitft.results.folders import beside

    running.requeue()
    loaded = recipes.load(recipe)
    fixed = keys.fixed()
    if compare_scratch and from_scratch:
        raise UsageError("--compare-scratch runs from scratch already.", "either, not both.")
    if seeds and seed:
        raise UsageError(f"--seed {seed} and --seeds {seeds} contradict each other.", "one of them.")
    models = model or [DEFAULT]
    if len(set(models)) < len(models):
        raise UsageError("A model is named twice.", "different models.")
    o.checked(models, running.device)
    tracking.check(track)
    variants = [False, True] if compare_scratch else [from_scratch]
    jobs = [
        make(
            task,
            model=name,
            recipe=loaded,
            overrides=fixed,
            data_dir=running.data_dir,
            seeds=o.parse_seeds(seeds) if seeds else (seed,),
            from_scratch=scratch,
            limit=limit,
            per_class=per_class,
        )
        for name in models
        for scratch in variants
    ]
    if running.output is None:
        folders = [run_folder(job) for job, _ in jobs]
    else:
        words = ("pretrained", "scratch") if compare_scratch else ("",)
        folders = [own / word for own in beside(running.output, models) for word in words]
    runtime = running.runtime(save_weights, val_every)
    _advise(jobs[0][0])
    openable(jobs, folders)
    source = jobs[0][1]  # the same data for all of them
    if dry_run:
        _dry([job for job, _ in jobs], source, folders, runtime, format)
        return
    results = [
        in_folder(
            job,
            source,
            folder,
            runtime,
            resume=running.resume == "auto",
            overwrite=running.overwrite,
            note=console.note,
            watched=partial(_watched, running.quiet, track, folder),
        )
        for (job, _), folder in zip(jobs, folders, strict=True)
    ]
    after.emit(results, folders, single.table, format)
    for folder in folders if format != "json" else ():
        console.note(f"Run folder: {folder}", uncut=True)
        after.told(folder)
    held = [r for r in results if not (compare_scratch and r.protocol.from_scratch)]
    o.hold_to(min_top1, [(r.model, r.metrics.top1) for r in held])


@contextmanager
def _watched(quiet: bool, track: "Tracker | None", folder: Path) -> Iterator["Hooks"]:
    from vitft.engines.tracking import tracked

    with signals.watched(quiet) as shown, tracked(shown, track, folder) as hooks:
        yield hooks


def _dry(
    jobs: "Sequence[Job]", source: "Opened", folders: Sequence[Path], runtime: "Runtime", format: o.TableFormat
) -> None:
    """Print what a run would take; the splits' names and labels are looked at, as before a run."""
    from dataclasses import asdict

    from vitft.protocol import estimate as costs
    from vitft.protocol.look import look
    from vitft.report import estimate as report

    found = []
    for job in jobs:
        for line in look(job, source):
            console.note(f"Note: {line}.")
        found.append(costs.estimate(job, source, runtime))
    payload = {
        "plan": [
            {
                "folder": str(folder),
                "model": job.model,
                "recipe": job.recipe,
                "splits": asdict(job.scheme),
                "settings": job.settings.model_dump(mode="json"),
                "sweep": job.sweep,
                "estimate": asdict(of),
            }
            for job, folder, of in zip(jobs, folders, found, strict=True)
        ]
    }
    console.emit_table(payload, report.table(jobs, found), format)
    for job, of, folder in zip(jobs, found, folders, strict=True):
        for line in costs.told(job, source, of)[1:]:
            console.note(line)
        console.note(f"It would go to {folder}", uncut=True)


def openable(jobs: "Sequence[tuple[Job, Opened]]", folders: Sequence[Path]) -> None:
    """Raise now what the last of several models would raise when the others are trained."""
    if len({job.model for job, _ in jobs}) < 2:
        return
    from vitft.models import loading
    from vitft.models.said import Said

    for (job, _), folder in zip(jobs, folders, strict=True):
        if not (folder / "result.json").exists():
            loading.load(job.model, weights=False, said=Said.of(job.settings))


def _advise(job: "Job") -> None:
    """Say in one line what this number is not: trained on all there is, or by the paper's protocol."""
    from vitft import recipes
    from vitft.catalog import tasks

    if (
        job.scheme.final_train.startswith("train800")
        and tasks.canonical(job.name)
        and not job.recipe.startswith("vtab-")
    ):
        console.note(
            f"Note: only VTAB-1k's training images of {job.name} are here, and {job.recipe} is no VTAB protocol: no "
            f"published number stands beside this. For all of them: vitft data prepare {job.name} --shots full"
        )
    if job.recipe != "quick" or job.limit is not None or "vit-paper" not in recipes.names():
        return
    paper = recipes.load("vit-paper")
    if job.name not in paper.for_task:
        return
    s = paper.resolve(job.name)
    images = s.steps * s.batch_size
    console.note(
        f"Note: 'quick' is a small protocol. The paper's for {job.name} is --recipe vit-paper: {s.steps:,} steps of "
        f"{s.batch_size} at {s.resolution} px ({images / 1e6:.1f} M images a run, after tuning lr on a dev split), "
        f"{images / job.settings.steps / job.settings.batch_size:.0f} times as many images as this."
    )
