"""`vitft eval`: one or more networks on every image of a test split, each image once."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vitft import machine
from vitft.cli import console
from vitft.cli import options as o
from vitft.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from vitft.evaluation.evaluate import Evaluation, Subject

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

_MOST_PAIRS = 20


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
        from vitft.evaluation.network import open_network
        from vitft.models.checkpoint import assumptions

        what = ev.subject(source, with_real=real, limit=limit, complete=complete)
        if what.missing:
            console.note(f"Missing: {', '.join(what.missing)}.")
        _check(models, what, fixed)
        done, payloads = [], []
        for name, folder in zip(models, folders, strict=True):
            network = open_network(name, fixed, crop_pct=crop_pct, device=device, precision=precision)
            unsaid = assumptions(network.info.to_dict()) if format == "json" else ""  # else a footnote says it
            for note in filter(None, [*network.info.notes, unsaid]):
                hooks.note(f"{name}: {note}")
            found = ev.evaluate(network, what, batch_size=batch_size, workers=workers or machine.cores(), hooks=hooks)
            network.net.to("cpu")  # the next one may need the room
            done.append(found)
            for line in filter(None, [absent_note(found.subject.classes_without_test)]):
                hooks.note(f"{name}: {line}")
            payloads.append(ev.result(found, per_class=per_class_accuracy, with_confusion=confusion))
            if folder is not None:
                _save(folder, payloads[-1], found)
    compared = ev.comparisons(done) if len(done) > 1 else []
    payload: Any = payloads[0] if len(payloads) == 1 else {"results": payloads, "paired": compared}
    console.emit(payload, "" if format == "json" else _render(done, payloads, compared), format)


def _check(models: list[str], what: "Subject", fixed: dict[str, Any]) -> None:
    """Raise now what the last of several models would raise when the others are evaluated, and their results lost."""
    from vitft.evaluation.network import head_fits
    from vitft.models import loading
    from vitft.models.said import Said

    for name in models if len(models) > 1 else ():
        head_fits(loading.load(name, said=Said.within(fixed)), what.split)


def _folders(output: Path | None, models: list[str], overwrite: bool) -> list[Path | None]:
    """Return where each model's files go: `output` for one, folders below it for several. Raises UsageError."""
    from vitft.results import slug

    if output is None:
        return [None] * len(models)
    own = [output] if len(models) == 1 else [output / f"{i}-{slug(Path(m).stem)}" for i, m in enumerate(models, 1)]
    taken = next((folder for folder in own if (folder / "result.json").exists()), None)
    if taken is not None and not overwrite:
        raise UsageError(
            f"'{taken}' holds a result already.", "Legal: a new folder.", "Choose another, or replace it: --overwrite."
        )
    return list(own)


def _save(folder: Path, payload: dict[str, Any], found: "Evaluation") -> None:
    from vitft import results
    from vitft.evaluation import predictions

    split = found.subject.split
    predictions.save(folder / "predictions.parquet", split.keys, split.labels, found.predictions.logits)
    results.write_json(folder / "result.json", payload)


def _render(
    done: "list[Evaluation]", payloads: list[dict[str, Any]], compared: list[dict[str, Any]]
) -> "RenderableType":
    from rich.console import Group
    from rich.text import Text

    what = done[0].subject
    parts: list[RenderableType] = [Text(title(what)), _table(payloads)]
    parts += [Text(line) for line in footnotes(payloads)]
    short = dict(zip((p["model"] for p in payloads), short_names([p["model"] for p in payloads]), strict=True))
    for pair in compared:
        low, high = pair["ci95"]
        parts.append(
            Text(
                f"{short[pair['a']]} - {short[pair['b']]}: {100 * pair['difference']:+.1f} points "
                f"[{100 * low:+.1f}, {100 * high:+.1f}], paired on {pair['n']:,} images "
                f"({pair['a_only']} and {pair['b_only']} that only one of them has right), McNemar p = {pair['p']:.2g}"
            )
        )
    for found, payload in zip(done, payloads, strict=True):
        if "per_class" in payload:
            parts.append(_classes(payload))
        if "confusion" in payload:
            parts.append(_confusion(payload, found.subject.split.class_names))
    return Group(*parts)


def title(what: "Subject") -> str:
    """Name what was evaluated on; a part of a test set never goes by the name of the whole."""
    from vitft.evaluation.evaluate import is_imagenet

    split = what.split
    if not what.stamp:
        return f"{split.task}, {split.name}, {len(split):,} images"
    name = "ImageNet accuracy" if is_imagenet(split) else f"the accuracy on {split.task}"
    return f"{split.task}, {what.stamp}: not {name}"


def _table(payloads: list[dict[str, Any]]) -> "RenderableType":
    from rich.table import Table

    five = any("top5" in p["metrics"] for p in payloads)
    real = any("real_n" in p["metrics"] for p in payloads)
    table = Table(box=None, pad_edge=False)
    for name in ["model", "pixels", "top-1", "95 %", "right", *["top-5"] * five, *["ReaL", "95 %", "right"] * real]:
        table.add_column(name, justify="left" if name == "model" else "right", overflow="fold")
    for name, payload in zip(short_names([p["model"] for p in payloads]), payloads, strict=True):
        m = payload["metrics"]
        cells = [
            name,
            "x".join(dict.fromkeys(str(side) for side in payload["protocol"]["resolution"])),
            percent(m["top1"]),
            span(m["ci95"]),
            f"{m['correct']:,}/{m['n']:,}",
        ]
        if five:
            cells.append(percent(m.get("top5")))
        if real:
            cells += [percent(m.get("real_top1")), span(m.get("real_ci95")), f"{m['real_correct']:,}/{m['real_n']:,}"]
        table.add_row(*cells)
    return table


def short_names(models: list[str]) -> list[str]:
    """Return the last part of each path where that still tells the models apart, for narrow columns."""
    short = [Path(model).name for model in models]
    return short if len(set(short)) == len(short) else models


def footnotes(payloads: list[dict[str, Any]]) -> list[str]:
    """Say how the images were prepared, where they are from, and what was assumed of the checkpoint.

    A user's own images are no part of anything official.
    """
    from vitft.catalog import tasks
    from vitft.models.checkpoint import assumptions, cropping

    lines = []
    for p in payloads:
        protocol, pre = p["protocol"], p["preprocess"]
        crop = f" ({cropping(pre, pre['size'])})" if protocol["resize"] == "checkpoint" else ""
        lines.append(
            f"images: {protocol['resize']}{crop}, {protocol['interpolation']}, "
            f"mean {_short(pre['mean'])}, std {_short(pre['std'])}; {p['settings']['precision']}"
        )
        lines += filter(None, [assumptions(p["checkpoint"])])
    stamp = payloads[0]["provenance"]
    own = stamp["completeness"] == "partial" and not tasks.canonical(payloads[0]["task"])
    where = f"data: {stamp['source']}" + ("" if own else f", {stamp['completeness']}")
    published = [line for p in payloads for line in _published(p)]
    return [*dict.fromkeys(lines), where + (f" ({stamp['why']})" if stamp["why"] else ""), *published]


def _published(payload: dict[str, Any]) -> list[str]:
    """Say what was published for the same weights on the whole of ImageNet; a part of it has nothing beside it."""
    from vitft.catalog import published

    if payload["kind"] != "eval" or payload["stamp"] or payload["task"] != "imagenet":
        return []
    protocol, name = payload["protocol"], payload["checkpoint"]["timm_name"]
    other = () if protocol["resize"] == "checkpoint" else ("another crop",)
    lines = []
    for row in published.for_result("imagenet", name, resolution=tuple(protocol["resolution"])):
        differs = "; ".join((*other, *row.differs)) or "nothing known"
        top1, judged = row.tasks["imagenet"], row.tasks.get("imagenet_real")
        numbers = f"{top1:.1f}" + (f", ReaL {judged:.1f}" if judged is not None else "")
        lines.append(f"published for {name}: {numbers} ({row.source}); differs: {differs}")
    return lines


def percent(share: float | None) -> str:
    """Write a share in [0, 1] as a percentage with one decimal."""
    return "" if share is None else f"{100 * share:.1f}"


def span(interval: list[float] | None) -> str:
    """Write an interval of shares as percentages."""
    return "" if interval is None else f"[{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def _short(values: list[float]) -> str:
    return "/".join(dict.fromkeys(f"{v:g}" for v in values))


def _classes(payload: dict[str, Any]) -> "RenderableType":
    from rich.table import Table

    table = Table("class", "accuracy", "right", box=None, pad_edge=False, title=f"{payload['model']}, by class")
    for row in payload["per_class"]:
        if row["n"]:
            table.add_row(row["class"], percent(row["accuracy"]), f"{row['correct']}/{row['n']}")
    return table


def _confusion(payload: dict[str, Any], names: tuple[str, ...]) -> "RenderableType":
    """Show the whole matrix of a few classes, else the pairs most often confused."""
    from rich.table import Table

    counts = payload["confusion"]
    if len(names) <= 12:
        table = Table("label \\ answer", *names, box=None, pad_edge=False, title=f"{payload['model']}, confusion")
        for name, row in zip(names, counts, strict=True):
            table.add_row(name, *(str(c) if c else "." for c in row))
        return table
    pairs = [(c, names[i], names[j]) for i, row in enumerate(counts) for j, c in enumerate(row) if c and i != j]
    table = Table("images", "label", "answer", box=None, pad_edge=False, title=f"{payload['model']}, most confused")
    for count, label, answer in sorted(pairs, key=lambda pair: -pair[0])[:_MOST_PAIRS]:
        table.add_row(str(count), label, answer)
    return table
