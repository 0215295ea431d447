"""What the page says of each result: its stamp, its command, its curve, its confusions, its worst mistakes."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitft.catalog import void
from vitft.errors import VitftError
from vitft.evaluation import predictions
from vitft.evaluation.predictions import Saved
from vitft.report.lines import Key, key
from vitft.report.measured import Measured
from vitft.report.page import charts
from vitft.report.page.charts import Chart
from vitft.report.page.thumbnails import Thumbnails, data_address
from vitft.report.repeat import Result, command
from vitft.report.summary import interval
from vitft.results.checkpoint import side
from vitft.results.files import RESULT, RUN, UPDATES, read_json
from vitft.results.reading import parse_any
from vitft.results.schema import UnitResult
from vitft.words import of_seed

_MISTAKES = 8
_CLASSES = 400  # a confusion matrix of more is not legible
_NAMED = 30  # classes whose names stand below the matrix
_FOLDERS = {"inspect": "", "inspect-side-by-side": ", beside another network"}
_PICTURES = ("positions", "attention-distance", "attention-maps", "filters", "norms", "features", "moved", "cka")
_WIDE = 1200
"""Pixels that a picture of photos is across, at most."""

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
class Confusion:
    """Which class was taken for which: a picture ("" for too many classes), and the commonest (label, answer, n)."""

    image: str
    classes: int
    names: tuple[str, ...]
    common: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True)
class Part:
    """One result on the page; `top1` and its interval are shares. One that is void has the reason instead."""

    title: str
    folder: str
    top1: float = 0.0
    ci95: tuple[float, float] | None = None
    n: int = 0
    void: str = ""
    stamp: tuple[tuple[str, str], ...] = ()
    command: str = ""
    curve: Chart | None = None
    looks: Chart | None = None
    confusion: Confusion | None = None
    mistakes: tuple[Mistake, ...] = ()
    pictures: tuple[tuple[str, str], ...] = ()
    left_out: int = 0


@dataclass
class Room:
    """The rest of the budget for pictures; a run's pictures stand once, with its first number."""

    left: int = BUDGET
    shown: set[Path] = field(default_factory=set)

    def take(self, root: Path) -> tuple[list[tuple[str, str]], int]:
        """Return the pictures of `vitft inspect` in a run, as (name, data address), and how many more did not fit."""
        if root in self.shown:
            return [], 0
        self.shown.add(root)
        found, out = [], 0
        for folder in _FOLDERS:
            for name in _PICTURES:
                file = root / folder / f"{name}.png"
                if not file.is_file():
                    continue
                address = _picture(file)
                if len(address) > self.left:
                    out += 1
                elif address:
                    self.left -= len(address)
                    found.append((f"{name}{_FOLDERS[folder]}", address))
        return found, out


def parts(numbers: Sequence[Measured], labels: Mapping[Key, str]) -> list[Part]:
    """Return a part for each number that stands in the table, and for those that are void, with the reason.

    Args:
        labels: see `lines.labels`.
    """
    room, thumbnails = Room(), Thumbnails()
    rows = ((one, labels.get(key(one), ""), void.why(one.task, one.n)) for one in numbers if not one.tuning)
    return [
        _part(one, label or one.what.model, room, thumbnails) if label else _void(one, why)
        for one, label, why in rows
        if label or why
    ]


def _void(one: Measured, why: str) -> Part:
    return Part(title=_title(one.what.model, one), folder=one.file, void=why)


def _title(label: str, one: Measured) -> str:
    return f"{label} on {one.column}" + of_seed(one.seed)


def _part(one: Measured, label: str, room: Room, thumbnails: Thumbnails) -> Part:
    folder = Path(one.file)
    root = folder.parents[2] if len(folder.parents) > 2 and folder.parents[1].name == "units" else folder
    run = _json(root / RUN)
    saved = _saved(one.predictions)
    result = _result(folder)
    split = result.provenance.split if result is not None else ""
    mistakes = () if saved is None else _mistakes(saved)
    pictures, left_out = room.take(root)
    fit = charts.learning(folder / UPDATES)
    return Part(
        title=_title(label, one),
        folder=str(folder),
        top1=one.top1,
        ci95=interval((one,))[0],
        n=one.n,
        stamp=tuple((name, value) for name, value in _stamp(one, result) if value),
        command=command(run, one, result),
        curve=charts.curve(fit.losses),
        looks=charts.curve(fit.looks),
        confusion=None if saved is None else _confusion(saved),
        mistakes=tuple(replace(m, image=thumbnails.of(one.task, run, split, m.file)) for m in mistakes),
        pictures=tuple(pictures),
        left_out=left_out,
    )


def _stamp(one: Measured, result: Result | None) -> list[tuple[str, str]]:
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


def _json(file: Path) -> dict[str, object]:
    try:
        return read_json(file) or {}
    except VitftError:
        return {}


def _result(folder: Path) -> Result | None:
    """Return the result that a number's file holds, of any kind; None for a file of several numbers."""
    file = folder / RESULT
    value, where = _json(file), f"'{file}'"
    one = value.get("kind") in ("eval", "fewshot") or (value.get("kind") == "finetune" and "unit" not in value)
    return parse_any(value, where, UnitResult) if one else None


def _saved(file: Path | None) -> Saved | None:
    return None if file is None else predictions.load(file)


def _confusion(saved: Saved) -> Confusion:
    best = saved.top5[:, 0]
    classes = int(max(saved.labels.max(initial=0), best.max(initial=0))) + 1
    flat, counts = np.unique(saved.labels * classes + best, return_counts=True)
    pairs = np.divmod(flat, classes)
    wrong = [(int(n), int(a), int(b)) for a, b, n in zip(*pairs, counts, strict=True) if a != b]
    by_class = dict(zip(saved.labels.tolist(), saved.label_names, strict=True))
    by_class |= dict(zip(best.tolist(), saved.answer_names, strict=True))
    names = [by_class.get(i) or f"class {i}" for i in range(classes)]
    common = tuple((names[a], names[b], n) for n, a, b in sorted(wrong, reverse=True)[:5])
    if classes > _CLASSES:
        return Confusion("", classes, (), common)
    matrix = np.zeros((classes, classes))
    matrix[pairs] = counts
    return Confusion(data_address(_shaded(matrix), "png"), classes, tuple(names) if classes <= _NAMED else (), common)


def _shaded(matrix: NDArray[np.float64]) -> bytes:
    """Return a matrix as a PNG, each row by its sum: right answers blue, wrong ones orange, none white."""
    from PIL import Image

    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    strength = np.sqrt(shares)[..., None]
    right = np.eye(len(matrix), dtype=bool)[..., None]
    colour = np.where(right, np.array([0, 114, 178]), np.array([213, 94, 0]))
    pixels = (255 + (colour - 255) * strength).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
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


def _picture(file: Path) -> str:
    """Return a picture as a data address: as it is, or as JPEG where it holds photos and is smaller so; "" for none."""
    from PIL import Image

    data, out = file.read_bytes(), io.BytesIO()
    try:
        with Image.open(io.BytesIO(data)) as image:
            photo = image.convert("RGB")
            photo.thumbnail((_WIDE, 3 * _WIDE))
            photo.save(out, "JPEG", quality=80)
    except (OSError, ValueError):
        return ""
    return data_address(data, "png") if len(data) <= len(out.getvalue()) else data_address(out.getvalue(), "jpeg")
