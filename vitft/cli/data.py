"""`vitft data`: what is here, which examples a split holds, preparing and verifying it."""

import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vitft.cli import console
from vitft.cli.options import DataDirOption, FormatOption, QuietOption, TableFormatOption

app = typer.Typer(help="Data sets: list, splits, prepare, verify.", no_args_is_help=True, rich_markup_mode=None)

_Task = Annotated[str, typer.Argument(metavar="TASK", help="A task's name ('vitft data ls').")]
_Shots = Annotated[
    Literal["1000", "full"], typer.Option("--shots", help="1000: train800, val200, test. full: train and val as well.")
]


@app.command("ls")
def ls(data_dir: DataDirOption = None, format: TableFormatOption = "text") -> None:
    """List the tasks and where their data is. Ready, to be fetched, or to be fetched by a person."""
    from dataclasses import asdict

    from vitft.prepare.inventory import inventory
    from vitft.report.table import Column, Row, Table
    from vitft.words import size

    rows = inventory(data_dir)
    columns = (
        Column("task", "task"),
        Column("status", "status"),
        Column("size", "size"),
        Column("where", "where, or what to do", "path"),
    )
    cells = [
        Row({"task": row.task, "status": row.status, "size": size(row.size) if row.size else "", "where": row.where})
        for row in rows
    ]
    payload = {"tasks": [asdict(row) for row in rows]}
    console.emit_table(payload, Table("", columns, tuple(cells)), format, listing=True)


@app.command("splits")
def splits(
    task: _Task,
    split: Annotated[str, typer.Option("--split", help="train800, val200, train800val200, train, val or test.")],
    source: Annotated[
        Path | None, typer.Option("--source", help="The owner's files, where the keys are known from them only.")
    ] = None,
    data_dir: DataDirOption = None,
    quiet: QuietOption = False,
    format: FormatOption = "text",
) -> None:
    """Print the keys of an official split and their sha256."""
    from vitft.data import official_splits
    from vitft.prepare import owner_files

    with console.display(quiet) as hooks:
        given = source is not None or data_dir is not None
        inside = None if given else _inside(task, split)
        keys, why = inside or owner_files.split_keys(task, split, source, data_dir, hooks.phase)
    payload = official_splits.describe(task, split, keys)
    if why:
        payload |= {"reference": False, "why": why}
    note = "" if payload["reference"] else f"  (not the reference: {payload['why']})"
    console.emit(payload, "\n".join(keys), format)
    console.note(f"{payload['task']} {split}: {len(keys):,} keys, sha256 {payload['sha256']}{note}")


def _inside(task: str, split: str) -> tuple[list[str], str] | None:
    """Return the keys of a split that is inside vitft, and why they are not the reference; None for any other."""
    from vitft.catalog import tasks
    from vitft.data import find

    source = find.built_in(tasks.get(task))
    if source is None or split not in source.splits:
        return None
    opened = source.open(split)
    return list(opened.keys), "" if opened.provenance.reference else opened.provenance.why


@app.command("split")
def split(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Images without a split.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make: lists beside a link to the images.")],
    test_fraction: Annotated[
        float, typer.Option("--test-fraction", help="Of each class, rounded; one at least.")
    ] = 0.3,
    val_fraction: Annotated[float, typer.Option("--val-fraction", help="Of each class; 0 = no val.")] = 0.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed is another split.")] = 0,
    by_name: Annotated[
        str,
        typer.Option("--by-name", metavar="REGEX", help="Its group 'label', or its first, is the class in file names."),
    ] = "",
    quiet: QuietOption = False,
    format: FormatOption = "text",
) -> None:
    """Split your own images into train and test, each class alike.

    Copies of one image stay on one side. The class stands in the names (Breed_01.jpg), in a .csv or .jsonl of file_name
    and label beside the images, or is the folder. The split depends on seed and content alone. No image is copied.
    """
    from dataclasses import asdict

    from vitft.prepare import own_split

    with console.display(quiet) as hooks:
        stamp, notes = own_split.split(
            folder,
            output,
            test_fraction=test_fraction,
            val_fraction=val_fraction,
            seed=seed,
            by_name=by_name,
            hooks=hooks,
        )
    for line in notes:
        console.note(f"note: {line}")
    counts = ", ".join(f"{name} {n:,}" for name, n in stamp.images.items())
    text = f"{folder} -> {output}\n{counts} images of {stamp.classes:,} classes; labels: {stamp.rule}"
    console.emit({"path": str(output), **asdict(stamp), "notes": list(notes)}, text, format)
    console.note(f"Next: vitft finetune {shlex.quote(str(output))}")


@app.command("prepare")
def prepare(
    task: _Task,
    source: Annotated[
        Path | None, typer.Option("--source", help="The owner's files, packed or unpacked; else they are downloaded.")
    ] = None,
    shots: _Shots = "1000",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to make; default $VITFT_DATA/TASK.")
    ] = None,
    complete: Annotated[
        bool, typer.Option("--complete", help="Refuse files of your own with other than the official counts.")
    ] = False,
    quiet: QuietOption = False,
    format: FormatOption = "text",
) -> None:
    """Make a parquet of each split from the owner's files. The same command continues what was cut off.

    Files of your own that are not the whole collection are taken and stamped 'partial'.
    """
    from vitft import words
    from vitft.prepare import prepare

    with console.display(quiet) as hooks:
        folder, manifest = prepare.prepare(
            task, source, output, shots, source is not None and not complete, hooks.phase
        )
    if manifest.why:
        console.note(f"note: {manifest.completeness}, not the reference splits: {manifest.why}")
    for note in manifest.notes:
        console.note(f"note: {note}")
    lines = [f"{name}: {split.n:,} images, {words.size(split.bytes)}" for name, split in manifest.splits.items()]
    payload = {"path": str(folder), **manifest.to_json()}
    console.emit(payload, "\n".join([f"{manifest.task} -> {folder}", *lines]), format)


@app.command("verify")
def verify(
    task: _Task, data_dir: DataDirOption = None, quiet: QuietOption = False, format: FormatOption = "text"
) -> None:
    """Check counts, digests, labels and every image. Exit code 3 on any fault.

    Images of test that stand in train or val, too, byte for byte, are counted; many of them, or one file in both, are a
    fault, and any in a data set of your own. train800val200 must be train800 and val200 with the same labels.
    """
    from vitft.data import find
    from vitft.errors import DataDamaged
    from vitft.prepare import verify as verifying

    source = find.find(task, data_dir)
    with console.display(quiet) as hooks:
        checked = verifying.verify(source, hooks.phase)
    console.emit(verifying.report(source.task, checked), _table(checked), format)
    faults = [fault for found in checked for fault in found.faults]
    if faults:
        more = f" (and {len(faults) - 1:,} more)" if len(faults) > 1 else ""
        raise DataDamaged(
            f"{source.task}: {faults[0].rstrip('.')}{more}.",
            "counts, digests and labels as stated, images that decode.",
            f"Prepare or fetch the data of '{source.task}' again.",
        )


def _table(checked: list[Any]) -> Any:
    from rich.table import Table

    table = Table("split", "images", "official", "stamp", "digest", "result", box=None, pad_edge=False)
    for c in checked:
        stamp = f"{c.completeness}, {'reference' if c.reference else 'non-reference'}" if c.completeness else ""
        official = f"{c.official[0]:,}" if c.official else ""
        result = "ok" if not c.faults else f"{len(c.faults)} faults: {c.faults[0]}"
        result += "".join(f"; {n:,} images also in {name}" for name, n in c.also_in.items())
        table.add_row(c.split, f"{c.n:,}", official, stamp, c.digest[:12], result)
    return table
