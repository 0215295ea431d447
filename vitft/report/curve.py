"""The learning curve of a run: its loss and, where it was looked at, its accuracy on val, by updates. No torch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from vitft.errors import UsageError, some
from vitft.evaluation.intervals import wilson
from vitft.report.table import Column, Row, Table, Value
from vitft.results.files import RESULT, UPDATES, damaged
from vitft.results.folders import unit_folder
from vitft.results.reading import load
from vitft.results.schema import RunResult

_BAR = 20
_KEYS = ("step", "loss", "lr", "grad_norm", "val_top1", "val_loss", "val_n")

Line = Mapping[str, float]


@dataclass(frozen=True)
class Curve:
    """One unit's lines, one an update; `name` tells it from the others of its run: "seed 0"."""

    name: str
    folder: Path
    lines: tuple[Line, ...]


def read(folder: Path) -> list[Curve]:
    """Return the curves of a finished run, one a seed, or of one unit, as far as it is.

    Raises:
        UsageError: there is none, or an unfinished run has several (exit code 2).
        CheckpointError: a file is damaged (exit code 4).
    """
    if (folder / UPDATES).is_file():
        return [_curve(folder)]
    result = load(folder / RESULT, RunResult) if (folder / "units").is_dir() else None
    units = [] if result is None else [unit_folder(folder, unit) for unit in result.units or (result.unit or "",)]
    folders = [unit for unit in units if (unit / UPDATES).is_file()] or sorted(
        p.parent for p in folder.glob(f"*/*/*/{UPDATES}")
    )
    if not folders:
        raise UsageError(
            f"'{folder}' holds no {UPDATES}.",
            "a run folder of 'vitft finetune' or 'sweep', or a unit's.",
            "Run 'vitft runs ls' to list the runs.",
        )
    if result is None and len(folders) > 1:
        raise UsageError(f"'{folder}' has several units.", f"one of {some([*map(str, folders)], 3)}.")
    return [_curve(unit) for unit in folders]


def _curve(folder: Path) -> Curve:
    rows = (folder / UPDATES).read_text().splitlines()
    lines: list[Line] = []
    for i, text in enumerate(rows):
        try:
            line = json.loads(text)
            lines.append({key: line[key] for key in _KEYS if key in line or key in _KEYS[:3]})
        except (ValueError, KeyError, TypeError):
            if i < len(rows) - 1:  # the last one may be being written
                raise damaged(
                    f"'{folder / UPDATES}' is damaged in line {i + 1}", "Start anew with --overwrite."
                ) from None
    if not lines:
        raise UsageError(f"'{folder}' has made no update yet.", "a run that has begun to train.")
    return Curve(folder.name.rpartition("-")[2].replace("seed", "seed "), folder, tuple(lines))


def full(curves: Sequence[Curve]) -> Table:
    """Return every update of every curve, for other programs."""
    kinds = {"step": "count", "val_n": "count", "val_top1": "percent"}
    columns = [Column("unit", "unit"), *(Column(key, key, kinds.get(key, "text")) for key in _KEYS)]  # type: ignore[arg-type]
    rows = [
        Row({"unit": curve.name, **{key: _exact(key, value) for key, value in line.items()}})
        for curve in curves
        for line in curve.lines
    ]
    return Table("every update", tuple(columns), tuple(rows))


def _exact(key: str, value: float) -> Value:
    return value if key in ("step", "val_n", "val_top1") else repr(value)


def table(curves: Sequence[Curve], rows: int, bars: bool) -> Table:
    """Return the curve in at most so many rows of as many updates each: mean loss, and the last look at val.

    Args:
        curves: of several seeds: their mean.
        bars: draw the loss and the accuracy, too.
    """
    length = min(len(curve.lines) for curve in curves)
    every = -(-length // rows)
    parts = [slice(a, min(a + every, length)) for a in range(0, length, every)]
    made = [_row([curve.lines[part] for curve in curves]) for part in parts]
    looked = any("val" in cells for cells in made)
    highest = max(float(str(cells["loss"])) for cells in made)
    for cells in made:
        cells["loss_bar"] = "█" * round(_BAR * float(str(cells["loss"])) / highest) if highest > 0 else ""
        top1 = cells.get("val")
        cells["val_bar"] = "█" * round(_BAR * top1) if isinstance(top1, float) else None
    columns = [Column("step", "step", "count"), Column("loss", "loss"), *[Column("loss_bar", "")] * bars]
    columns += [Column("lr", "lr")]
    if looked:
        columns += [Column("val", "val", "percent"), *[Column("val_bar", "")] * bars]
        columns += [Column("val_ci95", "95 %", "interval")] * (len(curves) == 1) + [Column("val_n", "n", "count")]
    of = f"mean of {', '.join(curve.name for curve in curves)}" if len(curves) > 1 else curves[0].name
    caption = f"{of}: {length:,} updates" + (f", the loss a mean of {every} each" if every > 1 else "")
    notes = () if looked else ("No val accuracy was written; --val-every N does it.",)
    return Table(
        caption + ("; val top-1 in percent" if looked else ""), tuple(columns), tuple(map(Row, made)), notes=notes
    )


def _row(parts: Sequence[Sequence[Line]]) -> dict[str, Value]:
    last = parts[0][-1]
    loss = fmean(line["loss"] for lines in parts for line in lines)
    cells: dict[str, Value] = {"step": int(last["step"]), "loss": f"{loss:.4f}", "lr": f"{last['lr']:.3g}"}
    looks = [[line for line in lines if "val_top1" in line][-1:] for lines in parts]
    if all(looks):
        n, top1 = int(looks[0][0]["val_n"]), fmean(look[0]["val_top1"] for look in looks)
        cells |= {"val": top1, "val_n": n, "val_ci95": wilson(round(top1 * n), n) if len(parts) == 1 else None}
    return cells
