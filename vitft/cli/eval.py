"""`vitft eval`: one or more networks on every image of a test split, each image once."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vitft import machine
from vitft.cli import console
from vitft.cli import options as o
from vitft.errors import UsageError

if TYPE_CHECKING:
    from vitft.evaluation.evaluate import Evaluation, Subject
    from vitft.models.checkpoint import Checkpoint
    from vitft.results.schema import EvalResult

Resize = Literal["checkpoint", "squash", "resize-small", "squash-crop"]

ResizeOption = Annotated[
    Resize | None,
    typer.Option(
        "--resize", help="checkpoint: its own crop fraction; squash; resize-small or squash-crop: 256 -> 224."
    ),
]
CropOption = Annotated[float | None, typer.Option("--crop-pct", help="Crop fraction instead of the checkpoint's.")]
EvalBatchOption = Annotated[
    int, typer.Option("--batch-size", "-b", min=0, help="Images a forward pass; 0 = by device. No image is dropped.")
]


def eval_(
    models_and_task: Annotated[
        list[str],
        typer.Argument(metavar="[MODEL]... TASK", help="Checkpoints or run folders, then the task or a path."),
    ],
    model: o.ModelOption = "vit-mini",
    real: Annotated[bool, typer.Option("--real", help="ImageNet-ReaL labels too, matched by file number.")] = False,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most N images, for a quick look.")] = None,
    per_class_accuracy: Annotated[
        bool, typer.Option("--per-class-accuracy", help="The accuracy of each class.")
    ] = False,
    confusion: Annotated[bool, typer.Option("--confusion", help="Which class was taken for which.")] = False,
    complete: Annotated[bool, typer.Option("--complete", help="Exit 3 unless every official image is there.")] = False,
    resolution: o.ResolutionOption = None,
    resize: ResizeOption = None,
    crop_pct: CropOption = None,
    set_: o.SetOption = None,
    batch_size: EvalBatchOption = 0,
    precision: o.PrecisionOption = "auto",
    device: o.DeviceOption = "auto",
    workers: o.WorkersOption = 0,
    data_dir: o.DataDirOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for result.json and predictions.parquet.")
    ] = None,
    overwrite: o.OverwriteOption = False,
    format: o.FormatOption = "text",
) -> None:
    """Evaluate checkpoints as they are. Top-1 with its interval, top-5 and ImageNet-ReaL in one pass.

    Images are prepared as the checkpoint (or the fine-tuned run) wants them. Two or more models are also compared on
    the same images. With a single argument the model is --model.
    """
    from vitft.data.find import find
    from vitft.evaluation import asked

    *models, task = models_and_task
    models = models or [model]
    if len(set(models)) < len(models):
        raise UsageError("A model is named twice.", "Legal: different models, and the task last.")
    fixed = o.overrides(set_, resolution, resize=resize)
    o.checked(models, device)
    asked.check(fixed, crop_pct)
    folders = _folders(output, models, overwrite)
    with console.display() as hooks:
        source = find(task, data_dir)
        from vitft.data.subsets import absent_note
        from vitft.evaluation import evaluate as ev
        from vitft.evaluation import seeds
        from vitft.evaluation.network import open_network
        from vitft.models.checkpoint import assumptions
        from vitft.report import evaluation as report
        from vitft.results.schema import to_json

        what = ev.subject(source, with_real=real, limit=limit, complete=complete)
        if what.missing:
            console.note(f"Missing: {', '.join(what.missing)}.")
        chosen = [seeds.members(name) for name in models]
        opened = _checked([path for own, _ in chosen for path in own.values()], what, fixed)
        done, results = [], []
        for name, folder, (own, choice) in zip(models, folders, chosen, strict=True):
            if choice:
                hooks.note(f"{name}: {choice}.")
            of_seed: dict[seeds.Seed, Evaluation] = {}
            answers: dict[seeds.Seed, EvalResult] = {}
            for seed, path in own.items():
                checkpoint = opened.pop(path, path)
                network = open_network(checkpoint, fixed, crop_pct=crop_pct, device=device, precision=precision)
                unsaid = assumptions(network.info) if format == "json" else ""  # else a footnote says it
                for note in filter(None, [*network.info.notes, unsaid]) if not of_seed else ():
                    hooks.note(f"{name}: {note}")
                info = replace(network.info, name=name if seed is not None else network.info.name)
                network = replace(network, info=info.with_notes(choice))
                found = ev.evaluate(
                    network, what, batch_size=batch_size, workers=workers or machine.cores(), hooks=hooks
                )
                network.net.to("cpu")  # the next one may need the room
                of_seed[seed] = found
                answers[seed] = ev.result(found, per_class=per_class_accuracy, with_confusion=confusion)
            done.append((next(iter(answers.values())).model, of_seed))
            for line in filter(None, [absent_note(found.subject.classes_without_test)]):
                hooks.note(f"{name}: {line}")
            results.append(seeds.combined(answers))
            if folder is not None:
                _save(folder, results[-1], of_seed)
    compared = seeds.comparisons(done) if len(done) > 1 else []
    payloads = [to_json(r) for r in results]
    payload: Any = (
        payloads[0] if len(payloads) == 1 else {"results": payloads, "paired": [to_json(c) for c in compared]}
    )
    subjects = [next(iter(of_seed.values())).subject for _, of_seed in done]
    names = [subject.split.class_names for subject in subjects]
    shown = "" if format == "json" else report.evaluation(ev.title(subjects[0]), results, compared, names)
    console.emit(payload, shown, format)


def _checked(models: list[str], what: "Subject", fixed: dict[str, Any]) -> dict[str, "Checkpoint"]:
    """Open several models and raise now what the last would raise when the others' results would be lost."""
    from vitft.evaluation.network import head_fits
    from vitft.models import loading
    from vitft.models.said import Said

    opened = {name: loading.load(name, said=Said.within(fixed)) for name in models} if len(models) > 1 else {}
    for checkpoint in opened.values():
        head_fits(checkpoint, what.split)
    return opened


def _folders(output: Path | None, models: list[str], overwrite: bool) -> list[Path | None]:
    """Return where each model's files go: `output` for one, folders below it for several. Raises UsageError."""
    from vitft.results.folders import beside

    if output is None:
        return [None] * len(models)
    own = beside(output, models)
    taken = next((folder for folder in own if (folder / "result.json").exists()), None)
    if taken is not None and not overwrite:
        raise UsageError(
            f"'{taken}' holds a result already.", "Legal: a new folder.", "Choose another, or replace it: --overwrite."
        )
    return list(own)


def _save(folder: Path, result: "EvalResult", done: "Mapping[int | None, Evaluation]") -> None:
    from vitft.evaluation import predictions
    from vitft.results.files import write_json
    from vitft.results.schema import to_json

    for seed, found in done.items():
        split, logits = found.subject.split, found.predictions.logits
        own = folder if seed is None else folder / f"seed-{seed}"
        predictions.save(own / "predictions.parquet", split.keys, split.labels, logits, split.class_names)
    write_json(folder / "result.json", to_json(result))
