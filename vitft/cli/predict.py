"""`vitft predict`: class names and probabilities for a user's own images."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vitft.cli import console
from vitft.cli import options as o
from vitft.cli.groups import EvalBatchOption, Opening, flat

if TYPE_CHECKING:
    from vitft.errors import VitftError
    from vitft.evaluation.files import Answer


@flat
def predict(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A finished run folder, or any checkpoint with a head.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE|DIR...", help="Image files, or folders of them.")],
    top: Annotated[int, typer.Option("--top", min=1, help="Classes named for each image.")] = 5,
    opening: Opening = Opening(),
    batch_size: EvalBatchOption = 16,
    precision: o.PrecisionOption = "auto",
    quiet: o.QuietOption = False,
    format: Annotated[
        Literal["text", "json", "jsonl", "csv"], typer.Option("--format", help="jsonl: one JSON object a line.")
    ] = "text",
) -> None:
    """Name the most probable classes of images. Any image Pillow reads is taken as the eye would see it.

    A file that is no whole image is reported, the others are answered, and the exit code is then 3.
    """
    from vitft.errors import CheckpointError, DataDamaged
    from vitft.evaluation import files

    fixed = opening.fixed(run)
    broken: list[str] = []
    found: list[Answer] = []
    with console.display(quiet) as hooks:
        paths = files.images(images)
        from vitft.evaluation.network import open_network, refuse_zero_head
        from vitft.models.checkpoint import remarks

        network = open_network(run, fixed, crop_pct=opening.crop_pct, device=opening.device, precision=precision)
        for note in remarks(network.info):
            hooks.note(note)
        if not network.info.num_classes:
            raise CheckpointError(
                f"'{run}' has no head: it gives features, not classes.",
                "a finished run, or a checkpoint with a head.",
                "Fine-tune it first: vitft finetune.",
            )
        refuse_zero_head(network)

        def on_broken(path: Path, error: "VitftError") -> None:
            broken.append(str(path))
            console.note(f"error: {error.lines[0]}")

        answers = files.answers(
            network,
            paths,
            files.names_of(network),
            top=top,
            batch_size=batch_size or 16,
            on_broken=on_broken,
            on_progress=lambda done: hooks.phase("predict", done, len(paths)),
        )
        for answer in answers:
            found.append(answer)
            if format == "jsonl":  # told as soon as it is known
                console.write(json.dumps(_entry(answer)) + "\n")
    _print(found, broken, format, network.info.to_dict())
    if broken:
        raise DataDamaged(f"{len(broken)} of {len(paths)} files are no whole images; the others are answered above.")


def _entry(answer: "Answer") -> dict[str, object]:
    top = [{"class": name, "index": index, "probability": round(chance, 6)} for index, name, chance in answer.top]
    return {"image": answer.path, "top": top}


def _print(answers: "list[Answer]", broken: list[str], format: str, checkpoint: dict[str, object]) -> None:
    import csv
    import io

    from vitft.report.table import Column, Row, Table

    if format == "csv":
        lines = io.StringIO()
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(["image", "rank", "class", "index", "probability"])
        for answer in answers:
            for rank, (index, name, chance) in enumerate(answer.top, 1):
                writer.writerow([answer.path, rank, name, index, f"{chance:.6f}"])
        console.write(lines.getvalue())
    elif format == "json":
        payload = {"predictions": [_entry(answer) for answer in answers], "broken": broken, "checkpoint": checkpoint}
        console.emit(payload, "", "json")
    elif format == "text" and answers:
        columns = (Column("image", "image"), Column("class", "class"), Column("chance", "%", "percent"))
        rows = [
            Row({"image": "" if rank else answer.path, "class": name, "chance": chance})
            for answer in answers
            for rank, (_, name, chance) in enumerate(answer.top)
        ]
        console.emit_table(None, Table("", columns, tuple(rows)), "text", listing=True)
