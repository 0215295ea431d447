"""Results of any kind as single numbers, each with what must be equal for others to stand in its row. No torch."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vitft.catalog.pretraining import pretraining
from vitft.catalog.shots import first_in
from vitft.catalog.tasks import canonical
from vitft.data.sources import own_split
from vitft.report import sentences
from vitft.report.layout import REAL
from vitft.report.single import model_title
from vitft.results import choice
from vitft.results.checkpoint import CheckpointInfo
from vitft.results.files import PREDICTIONS
from vitft.results.parts import Interval, Metrics, Provenance
from vitft.results.schema import EvalResult, FewshotResult, RunResult, SuiteResult, UnitResult
from vitft.results.summary import Described

Signature = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Measured:
    """One accuracy of one seed.

    Attributes:
        column: key of the column, the task's name but for ReaL.
        seed: None for what has none (a checkpoint as it is).
        row: what must be equal for numbers to stand in one row, key by key, in words.
        what: the row as a reader knows it.
        settings: every key of the recipe as it was run, to name what differs; `point` were chosen on val.
        predictions: file of the answers; None where there is none.
        cost: (training FLOPs, device-seconds), each None where it is not known.
        given: an interval that the result itself holds, where `correct` is not known.
        tuning: it is a tune unit: no number for the table, but a cost.
        finished: when, as an ISO date.
        trained: digest of the examples it was trained on; "" where it was not, nobody knows, or its seed drew them.
    """

    column: str
    task: str
    seed: int | None
    top1: float
    n: int
    correct: int | None
    row: Signature
    what: Described
    protocol: str
    split_digest: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    point: frozenset[str] = frozenset()
    predictions: Path | None = None
    cost: tuple[float | None, float | None] = (None, None)
    macs: float | None = None
    given: Interval | None = None
    tuning: bool = False
    finished: str = ""
    notes: tuple[str, ...] = ()
    file: str = ""
    trained: str = ""


def of_unit(result: UnitResult, folder: Path | None = None) -> Measured:
    """Return a fine-tune's number.

    Args:
        folder: of the unit, for its predictions.
    """
    p, train, info = result.protocol, result.protocol.train, result.checkpoint
    examples = _examples(result.provenance, train.per_class, train.limit)
    selected = "last" if p.selection == "none" else f"best on {'test' if choice.on_test(result) else 'val'}"
    own = {"method": result.method, "recipe": result.recipe, "examples": examples, "selected": selected}
    what = _described(result, p.from_scratch).model_copy(update=own)
    row = {"model": _identity(result.model, info, p.from_scratch), "method": result.method}
    row |= {"recipe": result.recipe, "settings": p.recipe_digest, "examples": examples}
    row |= {"normalise": p.normalise, "GELU": p.gelu or ""}
    return _number(
        result,
        result.seed,
        what,
        row,
        top1=result.metrics.top1,
        n=result.metrics.n,
        correct=result.metrics.correct,
        settings=result.recipe_settings.model_dump(mode="json"),
        point=frozenset(result.point),
        predictions=_file(folder),
        cost=(result.cost.train_flops, result.timing.seconds),
        macs=result.cost.macs_per_image,
        tuning=result.phase == "tune",
        notes=(*_notes(result.provenance, result.task), *result.warnings),
    )


def of_any(result: UnitResult | EvalResult | FewshotResult, folder: Path | None = None) -> Iterator[Measured]:
    """Yield the numbers of a result, whatever was run."""
    if isinstance(result, EvalResult):
        yield from of_eval(result, folder)
    elif isinstance(result, FewshotResult):
        yield from of_fewshot(result)
    elif isinstance(result, RunResult):
        yield from of_run(result, folder)
    else:
        one = of_unit(result, folder)
        yield one
        yield from _real(one, result.metrics)


def of_run(result: RunResult, folder: Path | None = None) -> Iterator[Measured]:
    """Yield a number for each seed of a run whose units are not here."""
    one = of_unit(result, folder)
    for seed, metrics in (result.seeds or {str(result.seed): result.metrics}).items():
        alone = not result.seeds or len(result.seeds) == 1
        yield _with(one, metrics, int(seed), one.predictions if alone else None)


def of_eval(result: EvalResult, folder: Path | None = None) -> Iterator[Measured]:
    """Yield what a checkpoint answers as it is, for ImageNet under the ReaL labels too."""
    p, info = result.protocol, result.checkpoint
    row = {"model": _identity(result.model, info, False), "method": "as it is", "normalise": p.normalise}
    row |= {"GELU": p.gelu or "", "position embeddings": p.posembed_resize}
    own = [(None, result.metrics)] if result.seeds is None else [(int(s), m) for s, m in result.seeds.items()]
    for seed, metrics in own:
        place = folder if folder is None or seed is None else folder / f"seed-{seed}"
        one = _number(
            result,
            seed,
            _described(result),
            row,
            top1=metrics.top1,
            n=metrics.n,
            correct=metrics.correct,
            predictions=_file(place),
            cost=(0.0, result.timing.evaluate_s),
            notes=(*([result.stamp] if result.stamp else []), *_notes(result.provenance, result.task)),
        )
        yield one
        yield from _real(one, metrics)


def _described(result: UnitResult | EvalResult | FewshotResult, from_scratch: bool = False) -> Described:
    """Describe a result's network; how it was trained, if it was, is the caller's to add."""
    info = result.checkpoint
    return Described(
        model=model_title(result.model) + " from scratch" * from_scratch,
        sha256="" if from_scratch else info.sha256,
        architecture=architecture(info),
        pretraining=_pretraining(result.model, info.timm_name, from_scratch),
        timm_name="" if from_scratch else info.timm_name,
        method="as it is",
        resolutions=(result.protocol.resolution,),
        device=_device(result),
    )


def _number(
    result: UnitResult | EvalResult | FewshotResult, seed: int | None, what: Described, row: dict[str, str], **own: Any
) -> Measured:
    """Return a number of a result; `own` are the fields that its kinds have otherwise."""
    return Measured(
        column=result.task,
        task=result.task,
        seed=seed,
        row=tuple(row.items()),
        what=what,
        protocol=result.protocol.id,
        split_digest=result.provenance.tested(result.task),
        finished=result.env.finished,
        trained="" if what.examples.endswith(" a class") else result.provenance.trained(result.task),
        **own,
    )


def of_fewshot(result: FewshotResult) -> Iterator[Measured]:
    """Yield a number for each number of examples and draw."""
    p, info = result.protocol, result.checkpoint
    for row in result.rows:
        examples = "all" if row.per_class == "all" else f"{row.per_class} a class"
        method = f"frozen + {result.classifier}" + (f" k={row.k}" if row.k else "")
        selected = "best on val" if row.C else "last"
        what = _described(result).model_copy(update={"method": method, "examples": examples, "selected": selected})
        key = {"model": _identity(result.model, info, False), "method": method, "examples": examples}
        key |= {"normalise": p.normalise, "GELU": p.gelu or "", "pool": p.pool}
        short = f"{row.short_classes} classes have fewer than {row.per_class} examples" if row.short_classes else ""
        for seed, top1, correct in zip(row.seeds, row.values, row.correct, strict=True):
            notes = (*([short] if short else []), *_notes(result.provenance, result.task))
            numbers = {"top1": top1, "n": row.n, "correct": correct, "cost": (0.0, None), "notes": notes}
            yield _number(result, seed, what, key, **numbers)


def of_suite(result: SuiteResult) -> Iterator[Measured]:
    """Yield the numbers of a suite.json whose units are not here: without predictions, cost or settings."""
    scratch = bool(result.protocol.from_scratch)
    weights = result.checkpoint
    for key, entry in result.tasks.items():
        task, train = entry.task or key, result.protocol.train
        examples = _examples(entry.provenance, train.per_class if train else None, train.limit if train else None)
        what = Described(
            model=model_title(result.model) + " from scratch" * scratch,
            sha256=weights.sha256 or "",
            pretraining=_pretraining(result.model or "", weights.timm_name or "", scratch),
            timm_name=weights.timm_name or "",
            method={"eval": "as it is", "fewshot": "frozen"}.get(entry.run or "", result.method or ""),
            recipe=entry.recipe or result.recipe or "",
            resolutions=(entry.resolution,),
            examples=examples,
            selected="best on val" if entry.point else "last",
        )
        row = {"model": weights.sha256 or result.model or "", "method": what.method}
        row |= {"recipe": what.recipe, "settings": result.protocol.recipe_digest or "", "examples": examples}
        row |= {"normalise": result.protocol.normalise or "", "GELU": result.protocol.gelu or ""}
        own: dict[int | None, float] = {int(seed): top1 for seed, top1 in entry.seeds.items()}
        for seed, top1 in (own or {None: entry.top1}).items():
            yield Measured(
                column=REAL if entry.labels == "real" else task,
                task=task,
                seed=seed,
                top1=top1,
                n=entry.n,
                correct=round(top1 * entry.n),
                row=tuple(row.items()),
                what=what,
                protocol=entry.protocol_id,
                split_digest=entry.provenance.tested(task),
                notes=(*_notes(entry.provenance, task), *entry.warnings),
            )


def architecture(info: CheckpointInfo) -> str:
    """Return timm's name of an architecture without the size of its images, with what makes it another."""
    name = re.sub(r"_\d+$", "", info.architecture.name)
    skipped = ("img_size", "num_classes", "global_pool")
    own = [f"{k}={v}" for k, v in sorted(info.architecture.kwargs.items()) if k not in skipped]
    return f"{name} ({', '.join(own)})" if own else name


def _real(one: Measured, metrics: Metrics) -> Iterator[Measured]:
    """Yield the number under the ReaL labels, where there are such."""
    if metrics.real_top1 is not None and metrics.real_n:
        yield replace(
            one,
            column=REAL,
            top1=metrics.real_top1,
            n=metrics.real_n,
            correct=metrics.real_correct,
            given=metrics.real_ci95,
            predictions=None,
            cost=(0.0, 0.0),
        )


def _with(one: Measured, metrics: Metrics, seed: int, predictions: Path | None) -> Measured:
    return replace(one, seed=seed, top1=metrics.top1, n=metrics.n, correct=metrics.correct, predictions=predictions)


def _identity(model: str, info: CheckpointInfo, from_scratch: bool) -> str:
    """Name a checkpoint by its content where it is a file: the same one may lie in two places."""
    if from_scratch:
        return f"{architecture(info)} from scratch"
    return f"{info.sha256}{info.part}" if info.sha256 else model


def _pretraining(model: str, timm_name: str, from_scratch: bool) -> str:
    if model == "vit-mini" and not from_scratch:
        return "CIFAR-10"
    return pretraining(timm_name, from_scratch)


def _examples(p: Provenance, per_class: int | None, limit: int | None) -> str:
    """Return the number of a task's training examples in words."""
    if per_class is not None:
        return f"{per_class:,} a class"
    if limit is not None:
        return f"{limit:,} drawn"
    if n := first_in(p.train_split):
        return f"{n:,}"
    return {"train800val200": "1,000", "train800": "800"}.get(p.train_split or "", "all")


def _device(result: UnitResult | EvalResult | FewshotResult) -> str:
    name = result.env.device
    return name if name and name.lower() != result.settings.device_kind else result.settings.device_kind


def _file(folder: Path | None) -> Path | None:
    path = folder / PREDICTIONS if folder is not None else None
    return path if path is not None and path.is_file() else None


def _notes(p: Provenance, task: str) -> list[str]:
    lines = [] if p.reference or not p.why else [own_split.footnote(p.why)]
    if p.completeness == "partial" and canonical(task) and p.train_official is None:
        lines.append("partial: not all images of the official split")
    return [*lines, *sentences.of_data(p)]
