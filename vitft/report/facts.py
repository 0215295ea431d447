"""The facts of any result, key by key: its settings, its score on val, its number. No torch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vitft.errors import CheckpointError
from vitft.protocol.units import by_point
from vitft.report.single import footnotes, model_title
from vitft.report.table import HOLE, Value
from vitft.results import choice
from vitft.results.checkpoint import Size, side
from vitft.results.files import RESULT, RUN, SUITE, read_json
from vitft.results.folders import collect
from vitft.results.parts import Metrics
from vitft.results.reading import parse, parse_any
from vitft.results.schema import EvalResult, FewshotResult, RunResult, SuiteResult, Tuned, UnitResult
from vitft.settings import Settings

_FIRST = ("method", "lr", "resolution")
_REST = tuple(key for key in Settings.model_fields if key not in _FIRST)
ASKED = ("task", "model", "recipe", *_FIRST, *_REST, "per_class", "limit", "from_scratch", "seeds")
"""What was cells for, in the order of the columns."""

MEASURED = ("val", "val_ci95", "val_n", "top1", "ci95", "n", "chosen")
STAMPS = ("split", "selection", "protocol", "train_n", "device", "precision", "finished", "folder")


@dataclass(frozen=True)
class Fact:
    """One row: a run, one setting of a sweep, a task of a suite, a number of few-shot examples.

    Attributes:
        cells: keys of ASKED, MEASURED and STAMPS -> values; what a result does not say is absent.
        digest: of the images of `top1`, "" where it has none.
        notes: footnotes of `top1`; `val_notes`: of `val`.
    """

    cells: Mapping[str, Value]
    digest: str = ""
    notes: tuple[str, ...] = ()
    val_notes: tuple[str, ...] = ()
    where: str = field(default="")


def of_folder(folder: Path, chosen: bool = False) -> list[Fact]:
    """Return the rows of a run folder, or of an evaluation's; none where it is not finished.

    Args:
        chosen: of a sweep the setting that it chose alone.

    Raises:
        CheckpointError: one of its files is damaged (exit code 4).
    """
    run = read_json(folder / RUN) or {}
    file = folder / (SUITE if run.get("kind") == "suite" else RESULT)
    value = read_json(file)
    if value is None:
        return []
    found = _facts(value, f"'{file}'", folder, run.get("kind") == "sweep" and not chosen)
    return [replace(fact, cells={**fact.cells, "folder": str(folder)}) for fact in found]


def _facts(value: Mapping[str, Any], where: str, folder: Path, expand: bool) -> list[Fact]:
    if value.get("kind") == "suite":
        return list(_of_suite(parse(value, SuiteResult, where)))
    result = parse_any(value, where, RunResult)
    if isinstance(result, EvalResult):
        return [_of_eval(result)]
    if isinstance(result, FewshotResult):
        return list(_of_fewshot(result))
    return list(_of_sweep(result, folder)) if expand and result.tuned else [_of_run(result)]


def _of_run(result: RunResult) -> Fact:
    """Return a run's row; with what it chose by, where it chose."""
    on_test = choice.on_test(result)
    scored = None if on_test else next((one for one in result.tuned if one.point == result.point), None)
    cells = {
        **_settings(result, result.recipe_settings, result.protocol.resolution),
        **(_score(scored, "val") if scored is not None else {}),
        **_measured(result.metrics),
        **_stamps(result),
    }
    return Fact(cells, result.provenance.tested(result.task), tuple(footnotes(result)), where=_where(result))


def _of_sweep(result: RunResult, folder: Path) -> Iterator[Fact]:
    """Yield a row for each setting of a sweep; the chosen one has the number on test, too."""
    chosen = _of_run(result)
    on_test = choice.on_test(result)
    of_units = {str(of[0].point): of[0] for of in by_point(list(collect(folder).values()))}
    for one in result.tuned:
        if one.point == result.point:
            yield replace(chosen, cells={**chosen.cells, "chosen": "chosen"}, val_notes=one.warnings[:1])
            continue
        unit = of_units.get(str(one.point))
        settings = unit.recipe_settings if unit else result.recipe_settings.model_copy(update=dict(one.point))
        cells = _settings(result, settings, unit.protocol.resolution if unit else settings.resolution)
        score = _score(one, "top1" if on_test else "val")
        stamps = _stamps(unit or result) if on_test else {**_shared(result), "protocol": (unit or result).protocol.id}
        yield Fact({**cells, **score, **stamps}, val_notes=one.warnings[:1], where=_where(result))
    for gone in {str(one.point): one for one in result.lost}.values():
        settings = result.recipe_settings.model_copy(update=dict(gone.point))
        cells = {**_settings(result, settings, settings.resolution), "val": HOLE, **_shared(result)}
        yield Fact(cells, val_notes=(f"seed {gone.seed}: {gone.why}",), where=_where(result))


def _of_suite(result: SuiteResult) -> Iterator[Fact]:
    train = result.protocol.train
    for task, entry in result.tasks.items():
        cells: dict[str, Value] = {
            "task": task,
            "model": model_title(result.model),
            "recipe": result.recipe,
            "method": result.method,
            "resolution": side(entry.resolution),
            "seeds": ", ".join(entry.seeds),
            **{key: choice.value(key, found).removesuffix(" px") for key, found in entry.point.items()},
            **({"per_class": train.per_class, "limit": train.limit} if train else {}),
            "top1": entry.top1,
            "ci95": entry.ci95_over_seeds or entry.ci95,
            "n": entry.n,
            "split": entry.provenance.split,
            "protocol": entry.protocol_id,
        }
        yield Fact(cells, entry.provenance.tested(entry.task or task), entry.warnings)


def _of_eval(result: EvalResult) -> Fact:
    cells: dict[str, Value] = {
        "task": result.task,
        "model": model_title(result.model),
        "method": "as it is",
        "resolution": side(result.protocol.resolution),
        **({"seeds": ", ".join(result.seeds)} if result.seeds else {}),
        **_measured(result.metrics),
        **_run_stamps(result),
    }
    return Fact(cells, result.provenance.tested(result.task), (result.stamp,) if result.stamp else ())


def _of_fewshot(result: FewshotResult) -> Iterator[Fact]:
    for row in result.rows:
        cells: dict[str, Value] = {
            "task": result.task,
            "model": model_title(result.model),
            "method": f"frozen, {result.classifier}",
            "resolution": side(result.protocol.resolution),
            "per_class": row.per_class,
            "seeds": ", ".join(map(str, row.seeds)),
            "top1": row.top1,
            "ci95": row.ci95,
            "n": row.n,
            **_run_stamps(result),
        }
        yield Fact(cells, result.provenance.tested(result.task), result.stamps)


def _settings(result: RunResult, settings: Settings, size: object) -> dict[str, Value]:
    """Return what was run: task, model and every key of the recipe."""
    train = result.protocol.train
    cells: dict[str, Value] = {"task": result.task, "model": model_title(result.model), "recipe": result.recipe}
    cells |= {key: choice.value(key, found) for key, found in dict(settings).items()}
    cells["resolution"] = side(_pair(size)) if isinstance(size, int | tuple) else str(size)
    seeds = ", ".join(result.seeds) if result.seeds else str(result.seed)
    cells |= {"per_class": train.per_class, "limit": train.limit, "seeds": seeds}
    return cells | {"from_scratch": "yes" if result.protocol.from_scratch else "no"}


def _pair(size: int | tuple[object, ...]) -> Size:
    height, width = (size, size) if isinstance(size, int) else size
    assert isinstance(height, int) and isinstance(width, int)
    return height, width


def _measured(metrics: Metrics) -> dict[str, Value]:
    return {"top1": metrics.top1, "ci95": metrics.ci95, "n": metrics.n}


def _score(one: Tuned, key: str) -> dict[str, Value]:
    """Return a score of the choice; results of an older vitft hold no interval of it."""
    names = ("val", "val_ci95", "val_n") if key == "val" else ("top1", "ci95", "n")
    return dict(zip(names, (one.top1, one.ci95, one.n), strict=True))


def _run_stamps(result: UnitResult | EvalResult | FewshotResult) -> dict[str, Value]:
    """Return the facts of any result on its images, its protocol and the machine."""
    stamps: dict[str, Value] = {"split": result.provenance.split, "protocol": result.protocol.id}
    machine = {"device": result.env.device, "precision": result.settings.precision, "finished": result.env.finished}
    return {**stamps, **machine}


def _shared(result: UnitResult) -> dict[str, Value]:
    """Return the stamps that all settings of a sweep share."""
    shared = {key: value for key, value in _run_stamps(result).items() if key not in ("split", "protocol")}
    return {"selection": result.protocol.selection, **shared}


def _stamps(result: UnitResult) -> dict[str, Value]:
    return {**_run_stamps(result), "train_n": result.provenance.train_n, **_shared(result)}


def _where(result: RunResult) -> str:
    """Name the images of a choice; "" where nothing was chosen, or on test."""
    if choice.on_test(result) or not result.point:
        return ""
    return choice.made_on(result.protocol.selection, result.recipe_settings.dev_fraction)


def damaged(folder: Path, chosen: bool = False) -> tuple[list[Fact], str]:
    """Return the rows of a folder, or, where a file of it is damaged, none and which one."""
    try:
        return of_folder(folder, chosen), ""
    except CheckpointError as error:
        return [], error.lines[0]
