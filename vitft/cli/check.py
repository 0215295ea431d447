"""`vitft recipes check`: recipes run again, and their numbers held against what they should be."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitft.cli import console
from vitft.cli import options as o
from vitft.errors import Interrupted, OutsideTolerance, UsageError, VitftError

if TYPE_CHECKING:
    from vitft.data.split import Source
    from vitft.protocol.units import Job
    from vitft.recipes import Expect, Recipe
    from vitft.results.checks import Check
    from vitft.results.schema import RunResult

_MODEL = "vit-mini"


@dataclass(frozen=True)
class _Asked:
    """One run, and what is expected of it."""

    recipe: "Recipe"
    task: str
    model: str
    expects: tuple["Expect", ...]


@dataclass(frozen=True)
class _How:
    """The flags that decide how runs are made; none of them changes what a number means."""

    device: str
    precision: str
    workers: int
    output: Path | None
    overwrite: bool


def check(
    recipe: Annotated[
        list[str] | None, typer.Argument(help="Shipped recipes, or TOML files; none: all shipped ones with [expect].")
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="Instead of the model that a recipe expects with.")] = "",
    seeds: Annotated[str, typer.Option("--seeds", help="0 without it; several, e.g. 0,1,2: their mean.")] = "",
    junit: Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML for a CI server to this file.")] = None,
    precision: o.PrecisionOption = "auto",
    device: o.DeviceOption = "auto",
    workers: o.WorkersOption = 0,
    data_dir: o.DataDirOption = None,
    output: o.OutputOption = None,
    overwrite: o.OverwriteOption = False,
    format: o.TableFormatOption = "text",
) -> None:
    """Run recipes and hold their numbers against what they expect. Exit 5 when one lies outside.

    An expectation of another device, data set or protocol is void: it says nothing, and fails nothing. A finished run
    answers from disk: CI wants a fresh folder.
    """
    from vitft.report import checks as report
    from vitft.results.files import write_atomic

    asked = _asked(recipe or [], model)
    o.checked([one.model for one in asked], device)
    how = _How(device, precision, workers, output, overwrite)
    jobs = [_job(one, data_dir, o.parse_seeds(seeds) if seeds else (0,)) for one in asked]
    checks, errors = _run(asked, jobs, how)
    if junit is not None:
        write_atomic(junit, report.junit(checks))
    payload = {"kind": "check", "checks": [one.model_dump(mode="json", exclude_none=True) for one in checks]}
    console.emit_table(payload, report.table(checks), format)
    _end(checks, errors)


def _end(checks: Sequence["Check"], errors: Sequence[VitftError]) -> None:
    """Turn the outcomes into the exit code: a red number before a failed run; a void one is only said."""
    from vitft.results.checks import RED

    void = sum(one.outcome == "void" for one in checks)
    if void:
        console.note(f"Note: {void} of {len(checks)} void: another device, data set or protocol; nothing was compared.")
    red = [one for one in checks if one.outcome in RED]
    if red:
        which = "; ".join(f"{one.recipe} on {one.task}: {one.why}" for one in red[:3]) + "; ..." * (len(red) > 3)
        raise OutsideTolerance(
            f"{len(red)} of {len(checks)} outside: {which}.", "", "Find what changed, or change the expected number."
        )
    if errors:
        raise errors[0]


def _asked(names: Sequence[str], model: str) -> list[_Asked]:
    """Return the runs that these recipes expect something of, each once. Raises UsageError."""
    from vitft import recipes

    loaded = [recipes.load(name) for name in dict.fromkeys(names or recipes.names())]
    silent = [one.name for one in loaded if not one.expect]
    if names and silent:
        raise UsageError(
            f"Recipe '{silent[0]}' expects no number.",
            "Legal: recipes with [[expect]]: task, value, tolerance, source.",
            "Copy it with 'vitft recipes cp' and add what you measured.",
        )
    runs: dict[tuple[str, str, str], _Asked] = {}
    for one in loaded:
        for expect in one.expect:
            uses = model or expect.model or _MODEL
            known = runs.get((one.name, expect.task, uses))
            before = known.expects if known else ()
            runs[one.name, expect.task, uses] = _Asked(one, expect.task, uses, (*before, expect))
    return list(runs.values())


def _job(one: _Asked, data_dir: Path | None, seeds: tuple[int, ...]) -> "tuple[Job, Source] | VitftError":
    """Return the job of a run, or why there is none. Raises UsageError, before anything is run."""
    from vitft.protocol.jobs import make

    try:
        return make(one.task, model=one.model, recipe=one.recipe, overrides={}, data_dir=data_dir, seeds=seeds)
    except UsageError:
        raise
    except VitftError as error:
        return error


def _run(
    asked: Sequence[_Asked], jobs: "Sequence[tuple[Job, Source] | VitftError]", how: _How
) -> tuple[list["Check"], list[VitftError]]:
    """Run what is asked one after the other; what fails is an outcome too, and its error is returned beside it."""
    from vitft.engines import check as engine
    from vitft.results.checks import Check

    checks: list[Check] = []
    errors: list[VitftError] = []
    for one, job in zip(asked, jobs, strict=True):
        began = time.monotonic()
        base = Check(recipe=one.recipe.name, task=one.task, model=one.model, outcome="errored")
        found, meant = [], []
        for expect in one.expects:
            if why := _void_here(expect, how.device):
                found.append(engine.void(base, expect, why))
            else:
                meant.append(expect)
        try:
            if meant:
                result, folder = _result(job, how, _below(how.output, one) if len(asked) > 1 else how.output)
                found += [engine.expected(base, expect, result, str(folder)) for expect in meant]
        except Interrupted:
            raise
        except VitftError as error:
            errors.append(error)
            found.append(base.model_copy(update={"why": " ".join(error.lines)}))
        checks += [c.model_copy(update={"seconds": (time.monotonic() - began) / len(found)}) for c in found]
    return checks, errors


def _below(output: Path | None, one: _Asked) -> Path | None:
    from vitft.results.folders import slug

    return output and output / f"{slug(one.recipe.name)}-{slug(one.task)}-{slug(Path(one.model).stem)}"


def _void_here(expect: "Expect", device: str) -> str:
    """Say that an expectation is of a device other than the one asked for, before anything is run."""
    if not expect.device:
        return ""
    from vitft import device as devices
    from vitft.engines import check as engine

    kind = devices.pick(device).type
    return engine.elsewhere(expect.device, kind, devices.name(kind))


def _result(job: "tuple[Job, Source] | VitftError", how: _How, folder: Path | None) -> tuple["RunResult", Path]:
    """Bring one task to its number, or take the stored one. Raises the error that stands for a job, too."""
    from vitft.cli.finetune import run_in
    from vitft.protocol.jobs import Runtime, run_folder

    if isinstance(job, VitftError):
        raise job
    at = folder or run_folder(job[0])
    runtime = Runtime(how.device, how.precision, workers=how.workers, save_weights=False)
    return run_in(*job, at, runtime, resume=True, overwrite=how.overwrite), at
