"""`vitft fewshot`: what a checkpoint's frozen features are worth with k examples of each class."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from vitft import machine
from vitft.catalog.models import DEFAULT
from vitft.cli import console
from vitft.cli import options as o
from vitft.cli.groups import EvalBatchOption, Opening, flat
from vitft.errors import UsageError
from vitft.results.files import RESULT


@flat
def fewshot(
    task: o.TaskArgument,
    model: o.ModelOption = DEFAULT,
    per_class: Annotated[
        str, typer.Option("--per-class", help="Examples of each class, e.g. 1,5,10,25; all = the whole pool.")
    ] = "1,5,10,25",
    classifier: Annotated[
        Literal["ridge", "knn", "logistic"],
        typer.Option("--classifier", help="ridge: big_vision's few-shot regression; knn: DINOv2's; logistic."),
    ] = "ridge",
    protocol: Annotated[
        Literal["checkpoint", "big-vision"],
        typer.Option("--protocol", help="Of images and pool: the checkpoint's own and 'train'; big_vision's (below)."),
    ] = "checkpoint",
    seeds: Annotated[str, typer.Option("--seeds", help="Draws of the examples.")] = "0,1,2",
    allow_fewer: Annotated[
        bool, typer.Option("--allow-fewer", help="Where a class has too few examples, take what there is (stamped).")
    ] = False,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most N test images.")] = None,
    opening: Opening = Opening(),
    batch_size: EvalBatchOption = 0,
    precision: o.PrecisionOption = "auto",
    workers: o.WorkersOption = 0,
    data_dir: o.DataDirOption = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for result.json.")] = None,
    overwrite: o.OverwriteOption = False,
    quiet: o.QuietOption = False,
    format: o.FormatOption = "text",
) -> None:
    """Classify a test split from k examples a class. The network itself is not trained.

    Examples are drawn from `train` (from `train800` where a VTAB-1k folder has no more), the test split is used whole.
    Features are computed once and kept in $VITFT_CACHE.

    The ridge regression is big_vision's fewshot_lsr: features standardised by the examples, a constant feature of 100
    for the bias, targets -1 and +1, l2 = 2^10, seeds 0,1,2, one draw a class; here in float64. With --protocol
    big-vision the images are its too (squashed to 256 px, centre 224, bilinear without antialiasing, range -1..1), the
    GELU of Google's weights, and the pool: the owner's whole train, of which VTAB's 'train' is the first 90 %.

    Not big_vision's in any case: JPEG is decoded by Pillow and resized pixels are rounded, not cut off; its order of
    the pool is TFDS's reading order, so that a seed may draw other images; the tanh layer (pre_logits) that some first
    releases have before their head is left out; a class with too few examples is refused unless --allow-fewer.
    """
    from vitft.data.find import find

    counts, draws = _counts(per_class), o.parse_seeds(seeds)
    fixed = opening.fixed(model)
    o.unoccupied([output] if output else [], overwrite)
    with console.display(quiet) as hooks:
        source = find(task, data_dir)
        from vitft.evaluation import fewshot as fs
        from vitft.evaluation import frozen
        from vitft.evaluation.network import open_network
        from vitft.models.checkpoint import assumptions

        if protocol == "big-vision":
            fixed = {**fs.BIG_VISION, **fixed}
        data = frozen.examples(source, limit, big_vision=protocol == "big-vision")
        for count in () if allow_fewer or data.stands_in else counts:
            fs.refuse_short(fs.short_classes(data.pool.labels, data.pool.class_names, count), count, data.pool.name)
        network = open_network(model, fixed, crop_pct=opening.crop_pct, device=opening.device, precision=precision)
        unsaid = assumptions(network.info) if format == "json" else ""  # else a footnote says it
        for note in filter(None, [*network.info.notes, unsaid]):
            hooks.note(note)
        result = frozen.run(
            network,
            data,
            classifier,
            counts,
            draws,
            batch_size=batch_size,
            workers=workers or machine.cores(),
            hooks=hooks,
        )
    from vitft.report import evaluation as report
    from vitft.results.files import write_json
    from vitft.results.schema import to_json

    if output is not None:
        write_json(output / RESULT, to_json(result))
    console.emit(to_json(result), "" if format == "json" else report.fewshot(result), format)


def _counts(text: str) -> tuple[int, ...]:
    """Turn "1,5,all" into numbers of examples (0 = all). Raises UsageError."""
    parts = [part.strip() for part in text.split(",")]
    legal = all(part == "all" or (part.isdecimal() and int(part) > 0) for part in parts)
    if not legal or len(set(parts)) < len(parts):
        raise UsageError(f"--per-class '{text}' is no list of different numbers.", "e.g. 1,5,10,25 or all.")
    return tuple(0 if part == "all" else int(part) for part in parts)
