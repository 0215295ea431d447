"""What the page says of each result: its stamp, its command, its curve, its confusions, its worst mistakes."""

import base64
import io
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitft.errors import VitftError
from vitft.evaluation import predictions
from vitft.evaluation.predictions import Saved
from vitft.report.measured import Measured
from vitft.report.page.charts import Chart, curve
from vitft.report.page.thumbnails import Thumbnails
from vitft.results.checkpoint import side
from vitft.results.files import read_json
from vitft.results.reading import load
from vitft.results.schema import UnitResult

_MISTAKES = 8
_CLASSES = 400  # a confusion matrix of more is not legible
_PICTURES = ("positions", "attention-distance", "attention-maps", "filters", "norms", "features", "moved", "cka")
BUDGET = 1_500_000
"""Bytes of pictures of `vitft inspect` that a page holds, so that it stays small."""


@dataclass(frozen=True)
class Mistake:
    file: str
    truth: str
    answer: str
    confidence: float
    image: str = ""


@dataclass(frozen=True)
class Part:
    """One result on the page; `top1` and its interval are shares."""

    title: str
    folder: str
    top1: float
    ci95: tuple[float, float] | None
    n: int
    stamp: tuple[tuple[str, str], ...]
    command: str = ""
    curve: Chart | None = None
    confusion: str = ""
    classes: int = 0
    confused: tuple[tuple[str, str, int], ...] = ()
    mistakes: tuple[Mistake, ...] = ()
    pictures: tuple[tuple[str, str], ...] = ()
    left_out: int = 0


@dataclass
class Room:
    """What is left of the budget for pictures."""

    left: int = BUDGET
    out: int = field(default=0)

    def take(self, file: Path) -> str:
        """Return a picture as a data address; "" where it does not fit any more."""
        data = file.read_bytes()
        if len(data) > self.left:
            self.out += 1
            return ""
        self.left -= len(data)
        return _address(data)


def parts(numbers: Sequence[Measured], labels: Mapping[tuple[str, str], str]) -> list[Part]:
    """Return a part for each number that stands in the table; those of one file and column once.

    Args:
        labels: (file, column) -> what the number's row is called.
    """
    room, thumbnails, out, shown = Room(), Thumbnails(), [], set()
    for one in numbers:
        if one.tuning or (one.file, one.column) in shown:
            continue
        shown.add((one.file, one.column))
        out.append(_part(one, labels.get((one.file, one.column), one.what.model), room, thumbnails))
    return out


def _part(one: Measured, label: str, room: Room, thumbnails: Thumbnails) -> Part:
    folder = Path(one.file)
    root = folder.parents[2] if len(folder.parents) > 2 and folder.parents[1].name == "units" else folder
    run = _json(root / "run.json")
    saved = _saved(one.predictions)
    confusion, classes, confused = ("", 0, ()) if saved is None else _confusion(saved)
    before = room.out
    mistakes = () if saved is None else _mistakes(saved)
    pictures = [(name, room.take(file)) for name in _PICTURES if (file := root / "inspect" / f"{name}.png").is_file()]
    result = _result(folder)
    split = result.provenance.split if result is not None else ""
    seed = "" if one.seed is None else f", seed {one.seed}"
    return Part(
        title=f"{label} on {one.column}{seed}",
        folder=str(folder),
        top1=one.top1,
        ci95=one.given or (result.metrics.ci95 if result is not None and not result.metrics.ci95_of else None),
        n=one.n,
        stamp=tuple((key, value) for key, value in _stamp(one, result) if value),
        command=command(run),
        curve=curve(folder / "metrics.jsonl"),
        confusion=confusion,
        classes=classes,
        confused=confused,
        mistakes=tuple(replace(m, image=thumbnails.of(run, split, m.file)) for m in mistakes),
        pictures=tuple((name, data) for name, data in pictures if data),
        left_out=room.out - before,
    )


def _stamp(one: Measured, result: UnitResult | None) -> list[tuple[str, str]]:
    what = one.what
    stamp = [
        ("protocol", one.protocol),
        ("recipe", what.recipe),
        ("method", what.method),
        ("resolution", ", ".join(side(size) for size in what.resolutions)),
        ("selected", what.selected),
        ("training examples", what.examples),
        ("test images and labels", one.split_digest[:16]),
        ("weights", what.sha256[:16]),
        ("pretrained on", what.pretraining),
        ("finished", one.finished),
        ("device", what.device),
    ]
    if result is not None:
        stamp += [("vitft", result.env.vitft), ("torch", result.env.torch), ("data", result.provenance.source)]
    return [*stamp, *(("note", text) for text in one.notes)]


def command(run: Mapping[str, Any]) -> str:
    """Return the command that repeats a run, from its run.json; "" where that does not say enough."""
    if run.get("kind") != "finetune" or not {"task", "model", "recipe", "settings"} <= run.keys():
        return ""
    words = ["vitft", "finetune", str(run["task"]), "--model", str(run["model"]), "--recipe", str(run["recipe"])]
    settings = run["settings"]
    for key in run.get("given") or ():
        value = settings.get(key)
        if isinstance(value, list):
            value = f"[{','.join(map(str, value))}]"
        words += ["--set", f"{key}={str(value).lower() if isinstance(value, bool) else value}"]
    for key, flag in (("per_class", "--per-class"), ("limit", "--limit"), ("data_dir", "--data-dir")):
        if run.get(key):
            words += [flag, str(run[key])]
    seeds = [str(seed) for seed in run.get("seeds") or (0,)]
    words += ["--seeds", ",".join(seeds)] if len(seeds) > 1 else ["--seed", seeds[0]]
    words += ["--from-scratch"] if run.get("from_scratch") else []
    return shlex.join(words)


def _json(file: Path) -> dict[str, Any]:
    try:
        return read_json(file) or {}
    except VitftError:
        return {}


def _result(folder: Path) -> UnitResult | None:
    value = _json(folder / "result.json")
    if value.get("kind") != "finetune" or "unit" in value:
        return None
    return load(folder / "result.json", UnitResult)


def _saved(file: Path | None) -> Saved | None:
    return None if file is None else predictions.load(file)


def _confusion(saved: Saved) -> tuple[str, int, tuple[tuple[str, str, int], ...]]:
    """Return the confusion matrix as a picture (rows are labels), its classes, and the commonest confusions."""
    best = saved.top5[:, 0]
    classes = int(max(saved.labels.max(initial=0), best.max(initial=0))) + 1
    pairs, counts = np.unique(np.stack([saved.labels, best]), axis=1, return_counts=True)
    wrong = [(int(n), int(a), int(b)) for (a, b), n in zip(pairs.T, counts, strict=True) if a != b]
    names = dict(zip(saved.labels.tolist(), saved.label_names, strict=True))
    names |= dict(zip(best.tolist(), saved.answer_names, strict=True))
    common = [(names[a] or f"class {a}", names[b] or f"class {b}", n) for n, a, b in sorted(wrong, reverse=True)[:5]]
    if classes > _CLASSES:
        return "", classes, tuple(common)
    matrix = np.zeros((classes, classes))
    matrix[pairs[0], pairs[1]] = counts
    return _address(_shaded(matrix)), classes, tuple(common)


def _shaded(matrix: NDArray[np.float64]) -> bytes:
    """Return a matrix as a PNG, each row by its sum: right answers blue, wrong ones orange, none white."""
    from PIL import Image

    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    strength = np.sqrt(shares)[..., None]
    right = np.eye(len(matrix), dtype=bool)[..., None]
    colour = np.where(right, np.array([0, 114, 178]), np.array([213, 94, 0]))
    pixels = (255 + (colour - 255) * strength).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", optimize=True)
    return out.getvalue()


def _mistakes(saved: Saved) -> tuple[Mistake, ...]:
    wrong = np.flatnonzero(~saved.correct)
    worst = wrong[np.argsort(-saved.probabilities[wrong, 0], kind="stable")][:_MISTAKES]
    return tuple(
        Mistake(
            saved.keys[i],
            saved.label_names[i] or f"class {saved.labels[i]}",
            saved.answer_names[i] or f"class {saved.top5[i, 0]}",
            float(saved.probabilities[i, 0]),
        )
        for i in worst
    )


def _address(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
