"""What comes after a run: the next commands, told at its end, and `vitft runs mistakes`."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitft.cli import console
from vitft.cli.options import TableFormat, TableFormatOption
from vitft.results.files import PREDICTIONS, RESULT

if TYPE_CHECKING:
    from vitft.evaluation.predictions import Saved
    from vitft.report.table import Table
    from vitft.results.schema import RunResult


def emit(
    results: "Sequence[RunResult]",
    folders: Sequence[Path],
    table: "Callable[..., Table]",
    format: TableFormat,
    more: str = "",
) -> None:
    """Print the results of one task, several models compared on the same images, and what each folder is good for.

    Args:
        table: results and their comparisons (`compared`) -> the table.
        more: a further line on each folder, with {} for its name.
    """
    from vitft.evaluation.stored import comparisons
    from vitft.report import single
    from vitft.results.schema import to_json

    compared, notes = comparisons(list(zip(single.row_names(results), results, folders, strict=True)))
    payloads = [to_json(r) | {"folder": str(folder)} for r, folder in zip(results, folders, strict=True)]
    payload: Any = payloads[0]
    if len(payloads) > 1:
        payload = {"results": payloads, "paired": [to_json(c) for c in compared]}
    for note in notes:
        console.note(note)
    console.emit_table(payload, table(results, compared=compared), format)
    for folder in folders if format != "json" else ():
        console.note(f"Run folder: {folder}", uncut=True)
        if more:
            console.note(more.format(shlex.quote(str(folder))), uncut=True)
        _next_steps(folder)


def _next_steps(folder: Path) -> None:
    """Print in two lines what can be done with a finished run, and how timm loads it."""
    from vitft.results.files import WEIGHTS, read_json

    run = shlex.quote(str(folder))
    looked = f"vitft runs mistakes {run}"
    if not (folder / WEIGHTS).is_file():
        console.note(f"Next: {looked}", uncut=True)
        console.note("The network was not kept: for vitft predict and timm run again with --save-weights --overwrite.")
        return
    console.note(f"Next: vitft predict {run} IMAGE..., {looked}", uncut=True)
    config = read_json(folder / "config.json")
    if config is None:
        console.note("timm: there is no config.json, so timm cannot load this folder by itself; vitft can.")
        return
    own = config.get("vitft")
    differs = "; ".join(own.get("differs", ())) if isinstance(own, dict) else ""
    name = repr(f"local-dir:{folder.resolve()}")
    console.note(
        f"timm (1.0.27 or later): timm.create_model({name}, pretrained=True)"
        + (f"; its own transform is not quite the run's: {differs}" if differs else "; its own transform is the run's"),
        uncut=True,
    )


def mistakes(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run, or the folder that eval -o made.")],
    top: Annotated[int, typer.Option("--top", min=1, help="How many.")] = 20,
    format: TableFormatOption = "text",
) -> None:
    """List the worst mistakes of a run, the most confident first. Each with its file, its class and the answer."""
    from vitft.evaluation import predictions
    from vitft.report.table import Column, Row, Table

    file = _answers(run)
    saved = predictions.load(file)
    labels, answers = _names(saved, file)
    wrong = [i for i in range(len(saved.keys)) if not saved.correct[i]]
    wrong.sort(key=lambda i: (-saved.probabilities[i, 0], i))
    rows = [
        {
            "file": saved.keys[i],
            "truth": labels[i],
            "answer": answers[i],
            "confidence": float(saved.probabilities[i, 0]),
            "truth_confidence": next(
                (float(p) for p, c in zip(saved.probabilities[i], saved.top5[i], strict=True) if c == saved.labels[i]),
                None,
            ),
        }
        for i in wrong[:top]
    ]
    n = len(saved.keys)
    payload = {"folder": str(run), "predictions": str(file), "n": n, "wrong": len(wrong), "mistakes": rows}
    columns = (
        Column("file", "file"),
        Column("truth", "truth"),
        Column("answer", "answer"),
        Column("confidence", "confidence", "percent"),
        Column("truth_confidence", "of the truth", "percent"),
    )
    caption = f"{run}: {len(wrong):,} of {n:,} answers are wrong; the {len(rows):,} most confident, in percent"
    console.emit_table(payload, Table(caption, columns, tuple(map(Row, rows))), format)
    _seeds(run)


def _answers(run: Path) -> Path:
    """Return a run's predictions. Raises UsageError where it has none, or those of many tasks."""
    from vitft.errors import UsageError, some

    file = run / PREDICTIONS
    if file.is_file():
        return file
    units = [str(path.parent) for path in sorted(run.glob(f"units/*/*/{PREDICTIONS}"))]
    if units:
        raise UsageError(f"'{run}' holds answers of {len(units)} units.", f"one of {some(units, 3)}.")
    raise UsageError(
        f"'{run}' holds no {PREDICTIONS}.",
        "a finished run, or a folder that 'vitft eval -o' made.",
        "Run 'vitft runs ls' to list the runs.",
    )


def _names(saved: "Saved", file: Path) -> tuple[list[str], list[str]]:
    """Return names of labels and answers; files of an older vitft have none, and their classes stay numbers."""
    best = saved.top5[:, 0]
    names = [
        [name or f"class {index}" for name, index in zip(names, indexes, strict=True)]
        for names, indexes in ((saved.label_names, saved.labels), (saved.answer_names, best))
    ]
    if not all(saved.label_names):
        console.note(f"Note: '{file}' is of an older vitft and names no classes; they are told by number.")
    return names[0], names[1]


def _seeds(run: Path) -> None:
    """Say which seed's answers these are, where a run has several."""
    from vitft.results.files import read_json

    result = read_json(run / RESULT) or {}
    units = result.get("units")
    if isinstance(units, list) and len(units) > 1:
        others = ", ".join(f"{run}/units/{unit}" for unit in units[1:])
        console.note(f"These are the answers of seed {result.get('seed')}; of the others: {others}")
