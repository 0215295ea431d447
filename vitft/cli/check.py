"""`vitft recipes check`: recipes run again, and their numbers held against what they should be."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitft.cli import console, signals
from vitft.cli import options as o
from vitft.errors import Interrupted, OutsideTolerance, UsageError, VitftError

if TYPE_CHECKING:
    from vitft.data.split import Source
    from vitft.protocol.units import Job
    from vitft.recipes import Expect, Recipe
    from vitft.results.checks import Baseline, Check, Entry
    from vitft.results.schema import RunResult

_Finish = Callable[[], "tuple[RunResult, Path]"]
_MODEL = "vit-mini"
_BASELINE_SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class _Asked:
    """One run, and what is expected of it."""

    recipe: "Recipe"
    task: str
    model: str
    expects: tuple["Expect", ...]

    @property
    def base(self) -> "Check":
        """What all outcomes of the run say."""
        from vitft.results.checks import Check

        return Check(recipe=self.recipe.name, task=self.task, model=self.model, outcome="errored")


@dataclass(frozen=True)
class _How:
    """The flags that decide how runs are made; none of them changes what a number means."""

    device: str
    precision: str
    workers: int
    output: Path | None
    overwrite: bool


_Compare = Callable[[_Asked, _How, _Finish, "list[Check]"], None]


def check(
    recipe: Annotated[
        list[str] | None, typer.Argument(help="Shipped recipes, or TOML files; none: all shipped ones with [expect].")
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="Instead of the model that a recipe expects with.")] = "",
    seeds: Annotated[
        str, typer.Option("--seeds", help="Default 0; 0,1,2 for --update; against a baseline as many new ones.")
    ] = "",
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", help="Compare with this file (or its folder) of stored answers instead."),
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option("--task", help="With --baseline: this task; else those that a recipe expects.")
    ] = None,
    update: Annotated[bool, typer.Option("--update", help="Write the baseline; the oldest is kept beside it.")] = False,
    margin: Annotated[
        float | None, typer.Option("--margin", min=0, max=100, help="Points; smaller drops never count (default 0.5).")
    ] = None,
    junit: Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML for a CI server to this file.")] = None,
    precision: o.PrecisionOption = "auto",
    device: o.DeviceOption = "auto",
    workers: o.WorkersOption = 0,
    data_dir: o.DataDirOption = None,
    output: o.OutputOption = None,
    overwrite: o.OverwriteOption = False,
    format: o.TableFormatOption = "text",
) -> None:
    """Hold recipes to the numbers they expect, or to a baseline.

    Runs them, and ends with 5 when a number is outside. What is of another device, data set or protocol is void: it
    says nothing, and fails nothing. A finished run answers from disk: CI wants a fresh folder.
    """
    from vitft.engines import check as engine
    from vitft.evaluation import significance
    from vitft.report import checks as report
    from vitft.results.files import write_atomic

    if baseline is None and (update or margin is not None or task):
        raise UsageError("--update, --margin and --task mean something with --baseline alone.", "Legal: with it.")
    stored = _stored(baseline, update) if baseline is not None else None
    asked = _asked(recipe or [], model, task or [], stored)
    o.checked([one.model for one in asked], device)
    how = _How(device, precision, workers, output, overwrite)
    given = o.parse_seeds(seeds) if seeds else ()
    notes: list[str] = []
    if baseline is None or stored is None:
        jobs = [_job(one, data_dir, given or (0,)) for one in asked]
        checks, errors = _run(asked, jobs, how, _expectations)
    elif update:
        jobs = [_job(one, data_dir, given or _BASELINE_SEEDS) for one in asked]
        checks, errors = _update(asked, jobs, how, baseline, stored)
    else:
        jobs = [_job(one, data_dir, given or _new_seeds(one, stored)) for one in asked]
        share = significance.MARGIN if margin is None else margin / 100
        checks, errors = _run(asked, jobs, how, partial(_against, stored, share))
        checks = engine.judged(checks)
        notes = [
            f"Red: p (one-sided, Holm over all comparisons) below {significance.LEVEL:g}, and more than the margin."
        ]
    if junit is not None:
        write_atomic(junit, report.junit(checks))
    payload = {"kind": "check", "checks": [one.model_dump(mode="json", exclude_none=True) for one in checks]}
    console.emit_table(payload, report.table(checks, notes), format)
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


def _asked(names: Sequence[str], model: str, tasks: Sequence[str], stored: "Baseline | None") -> list[_Asked]:
    """Return the runs to make, each once: what recipes expect, or, against a baseline, also what it holds of them.

    Raises:
        UsageError: nothing says what to run, or two models would share an entry of a baseline.
    """
    from vitft import recipes

    runs: dict[tuple[str, str, str], _Asked] = {}
    for name in dict.fromkeys(names or recipes.names()):
        one = recipes.load(name)
        known = [e.current for e in stored.entries if e.current.recipe == one.name] if stored else []
        before = {entry.task: entry.model for entry in known}
        expects = [e for e in one.expect if not tasks or e.task in tasks]
        pairs: list[tuple[str, str, tuple[Expect, ...]]]
        pairs = [(e.task, model or e.model or _MODEL, (e,)) for e in expects]
        found = {e.task for e in expects}
        wanted = tasks or ([] if one.expect else before)
        pairs += [(t, model or before.get(t) or _MODEL, ()) for t in dict.fromkeys(wanted) if t not in found]
        if names and not pairs:
            raise UsageError(
                f"Recipe '{one.name}' expects no number.",
                "Legal: recipes with [[expect]]: task, value, tolerance, source; or --baseline FILE --task TASK.",
                "Copy it with 'vitft recipes cp' and add what you measured.",
            )
        for task, uses, expect in pairs:
            same = runs.get((one.name, task, uses))
            runs[one.name, task, uses] = _Asked(one, task, uses, (*(same.expects if same else ()), *expect))
    if stored is not None and len({(name, task) for name, task, _ in runs}) < len(runs):
        raise UsageError("A baseline holds one model a task.", "Legal: one of them.", "Name it with --model.")
    return list(runs.values())


def _stored(path: Path, update: bool) -> "Baseline":
    """Read the baseline; a new one begins empty with --update. Raises UsageError where there is none."""
    from vitft.results.checks import Baseline, baseline_file, load_baseline

    found = load_baseline(path)
    if found is None and not update:
        raise UsageError(
            f"No baseline '{baseline_file(path)}'.",
            "Legal: a file that --update wrote.",
            "Write it: the same with --update.",
        )
    return found or Baseline()


def _new_seeds(one: _Asked, stored: "Baseline") -> tuple[int, ...]:
    """Return as many seeds as the baseline has, and other ones: on a CPU the same would give the same runs."""
    known = stored.find(one.recipe.name, one.task)
    if known is None:
        return (0,)
    first = 1 + max(flags.seed for flags in known.current.flags)
    return tuple(range(first, first + len(known.current.flags)))


def _against(stored: "Baseline", margin: float, one: _Asked, how: _How, result: _Finish, found: list["Check"]) -> None:
    """Add the outcome of a run against the baseline; not run where that holds nothing of it."""
    del how
    from vitft.engines import check as engine

    known = stored.find(one.recipe.name, one.task)
    if known is None:
        why = "the baseline holds nothing of it: add it with --update"
        found.append(one.base.model_copy(update={"against": "baseline", "outcome": "void", "why": why}))
        return
    finished, folder = result()
    new = engine.entry(one.base, finished, folder)
    same = {flags.seed for flags in new.flags} & {flags.seed for flags in known.current.flags}
    if same:
        console.note(f"Note: seed {min(same)} is one of the baseline's: on a CPU the same run, which tells nothing.")
    found += engine.against(one.base, finished, new, known, margin, str(folder))


def _update(
    asked: Sequence[_Asked],
    jobs: "Sequence[tuple[Job, Source] | VitftError]",
    how: _How,
    path: Path,
    stored: "Baseline",
) -> tuple[list["Check"], list[VitftError]]:
    """Run everything and write what was answered as the new baseline; what failed keeps its old entry."""
    from vitft.engines import check as engine
    from vitft.results.checks import baseline_file, save_baseline

    entries: list[Entry] = []

    def keep(one: _Asked, how: _How, result: _Finish, found: list["Check"]) -> None:
        del how
        finished, folder = result()
        entries.append(engine.entry(one.base, finished, folder))
        found.append(engine.written(one.base, finished, str(folder)))

    checks, errors = _run(asked, jobs, how, keep)
    for entry in entries:
        stored = stored.updated(entry)
    if entries:
        save_baseline(path, stored)
        console.note(f"Wrote {baseline_file(path)}: {len(entries)} of {len(asked)} entries.")
    return checks, errors


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
    asked: Sequence[_Asked], jobs: "Sequence[tuple[Job, Source] | VitftError]", how: _How, compare: "_Compare"
) -> tuple[list["Check"], list[VitftError]]:
    """Run what is asked one after the other; what fails is an outcome too, and its error is returned beside it."""
    checks: list[Check] = []
    errors: list[VitftError] = []
    for one, job in zip(asked, jobs, strict=True):
        began = time.monotonic()
        folder = _below(how.output, one) if len(asked) > 1 else how.output
        found: list[Check] = []
        try:
            compare(one, how, partial(_result, job, how, folder), found)
        except Interrupted:
            raise
        except VitftError as error:
            errors.append(error)
            found.append(one.base.model_copy(update={"why": " ".join(error.lines)}))
        checks += [c.model_copy(update={"seconds": (time.monotonic() - began) / len(found)}) for c in found]
    return checks, errors


def _expectations(one: _Asked, how: _How, result: _Finish, found: list["Check"]) -> None:
    """Add the outcome of each expectation of a run, which is made only where one can be compared."""
    from vitft.engines import check as engine

    meant = []
    for expect in one.expects:
        if why := _void_here(expect, how.device):
            found.append(engine.void(one.base, expect, why))
        else:
            meant.append(expect)
    if meant:
        finished, folder = result()
        found += [engine.expected(one.base, expect, finished, str(folder)) for expect in meant]


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
    from vitft.engines import single
    from vitft.protocol.jobs import Runtime, run_folder

    if isinstance(job, VitftError):
        raise job
    at = folder or run_folder(job[0])
    runtime = Runtime(how.device, how.precision, workers=how.workers, save_weights=False)
    result = single.in_folder(
        *job, at, runtime, resume=True, overwrite=how.overwrite, note=console.note, watched=signals.watched
    )
    return result, at
