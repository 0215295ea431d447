"""`vitft eval`: one or more networks on every image of a test split, each image once."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitft import machine
from vitft.catalog.models import DEFAULT
from vitft.cli import console
from vitft.cli import options as o
from vitft.cli.groups import EvalBatchOption, Opening, flat
from vitft.errors import UsageError

if TYPE_CHECKING:
    from vitft.evaluation.several import Evaluated
    from vitft.results.schema import Comparison


@flat
def eval_(
    models_and_task: Annotated[
        list[str],
        typer.Argument(metavar="[MODEL]... TASK", help="Checkpoints or run folders, then the task or a path."),
    ],
    model: o.ModelOption = DEFAULT,
    real: Annotated[bool, typer.Option("--real", help="ImageNet-ReaL labels too, matched by file number.")] = False,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most N images, for a quick look.")] = None,
    per_class_accuracy: Annotated[
        bool, typer.Option("--per-class-accuracy", help="The accuracy of each class.")
    ] = False,
    confusion: Annotated[bool, typer.Option("--confusion", help="Which class was taken for which.")] = False,
    complete: Annotated[bool, typer.Option("--complete", help="Exit 3 unless every official image is there.")] = False,
    opening: Opening = Opening(),
    batch_size: EvalBatchOption = 0,
    precision: o.PrecisionOption = "auto",
    workers: o.WorkersOption = 0,
    data_dir: o.DataDirOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for result.json and predictions.parquet.")
    ] = None,
    overwrite: o.OverwriteOption = False,
    min_top1: o.MinTop1Option = None,
    quiet: o.QuietOption = False,
    format: o.FormatOption = "text",
) -> None:
    """Evaluate checkpoints as they are. Top-1 with its interval, top-5 and ImageNet-ReaL in one pass.

    Images are prepared as the checkpoint (or the fine-tuned run) wants them. Two or more models are also compared on
    the same images. With a single argument the model is --model.
    """
    from vitft.data.find import find

    *models, task = models_and_task
    models = models or [model]
    if len(set(models)) < len(models):
        raise UsageError("A model is named twice.", "different models, and the task last.")
    fixed = opening.fixed(*models)
    folders = _folders(output, models, overwrite)
    with console.display(quiet) as hooks:
        source = find(task, data_dir)
        from vitft.evaluation import evaluate as ev
        from vitft.evaluation import several

        what = ev.subject(source, with_real=real, limit=limit, complete=complete)
        if what.missing:
            console.note(f"Missing: {', '.join(what.missing)}.")
        how = several.How(
            fixed,
            opening.crop_pct,
            opening.device,
            precision,
            batch_size,
            workers or machine.cores(),
            per_class_accuracy,
            confusion,
        )
        done = []
        for folder, one in zip(folders, several.evaluate_all(models, what, how, hooks), strict=True):
            done.append(one)
            if folder is not None:
                one.save(folder)
    _print(done, several.comparisons(done), format)
    o.hold_to(min_top1, [(one.result.model, one.result.metrics.top1) for one in done])


def _print(done: "Sequence[Evaluated]", compared: "Sequence[Comparison]", format: str) -> None:
    """Print one result, or several with their comparisons."""
    from vitft.evaluation import evaluate as ev
    from vitft.models.checkpoint import assumptions
    from vitft.report import evaluation as report
    from vitft.results.schema import to_json

    results = [one.result for one in done]
    if format == "json":
        for result in results:
            if unsaid := assumptions(result.checkpoint):  # in a table a footnote says it
                console.note(f"{result.model}: {unsaid}")
        paired = {"results": [to_json(r) for r in results], "paired": [to_json(c) for c in compared]}
        console.emit(to_json(results[0]) if len(results) == 1 else paired, "", format)
        return
    names = [one.subject.split.class_names for one in done]
    console.emit(None, report.evaluation(ev.title(done[0].subject), results, compared, names))


def _folders(output: Path | None, models: list[str], overwrite: bool) -> list[Path | None]:
    """Return where each model's files go: `output` for one, folders below it for several. Raises UsageError."""
    from vitft.results.folders import beside

    if output is None:
        return [None] * len(models)
    own = beside(output, models)
    o.unoccupied(own, overwrite)
    return list(own)
