"""Recipes run again: which runs that takes, their outcomes against an expectation or a baseline, a new baseline."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from vitft import recipes
from vitft.catalog.models import DEFAULT
from vitft.data.split import Opened
from vitft.engines import check as engine
from vitft.engines import single
from vitft.errors import Interrupted, UsageError, VitftError
from vitft.progress import Hooks
from vitft.protocol.jobs import Runtime, make, run_folder
from vitft.protocol.units import Job
from vitft.recipes import Expect, Recipe
from vitft.results.checks import Baseline, Check, Entry, baseline_file, load_baseline, save_baseline
from vitft.results.folders import slug
from vitft.results.schema import RunResult

_BASELINE_SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class RecipeRun:
    """One run of a recipe, with the numbers expected of it."""

    recipe: Recipe
    task: str
    model: str
    expects: tuple[Expect, ...]

    @property
    def base(self) -> Check:
        """What all outcomes of the run say."""
        return Check(recipe=self.recipe.name, task=self.task, model=self.model, outcome="errored")


@dataclass(frozen=True)
class How:
    """How runs are made; nothing here changes what a number means.

    Attributes:
        output: folder of the one run, or above the folders of several; None = each run's own.
        note, watched: see `single.in_folder`.
    """

    note: Callable[[str], None]
    watched: Callable[[], AbstractContextManager[Hooks]]
    device: str = "auto"
    precision: str = "auto"
    workers: int = 0
    data_dir: Path | None = None
    output: Path | None = None
    overwrite: bool = False


@dataclass
class Outcomes:
    """What became of the runs: their checks, and the errors of those that failed."""

    checks: list[Check] = field(default_factory=list)
    errors: list[VitftError] = field(default_factory=list)


_Finish = Callable[[], tuple[RunResult, Path]]
_Judge = Callable[[RecipeRun, _Finish], Iterable[Check]]


def runs_to_make(names: Sequence[str], model: str, tasks: Sequence[str], stored: Baseline | None) -> list[RecipeRun]:
    """Return the runs to make, each once: what recipes expect, or, against a baseline, also what it holds of them.

    Raises:
        UsageError: nothing says what to run, or two models would share an entry of a baseline.
    """
    runs: dict[tuple[str, str, str], RecipeRun] = {}
    for name in dict.fromkeys(names or recipes.names()):
        one = recipes.load(name)
        known = [e.current for e in stored.entries if e.current.recipe == one.name] if stored else []
        before = {entry.task: entry.model for entry in known}
        expects = [e for e in one.expect if not tasks or e.task in tasks]
        pairs: list[tuple[str, str, tuple[Expect, ...]]]
        pairs = [(e.task, model or e.model or DEFAULT, (e,)) for e in expects]
        expected = {e.task for e in expects}
        wanted = tasks or ([] if one.expect else before)
        pairs += [(t, model or before.get(t) or DEFAULT, ()) for t in dict.fromkeys(wanted) if t not in expected]
        if names and not pairs:
            raise UsageError(
                f"Recipe '{one.name}' expects no number.",
                "recipes with [[expect]]: task, value, tolerance, source; or --baseline FILE --task TASK.",
                "Copy it with 'vitft recipes cp' and add what you measured.",
            )
        for task, uses, expect in pairs:
            same = runs.get((one.name, task, uses))
            runs[one.name, task, uses] = RecipeRun(one, task, uses, (*(same.expects if same else ()), *expect))
    if stored is not None and len({(name, task) for name, task, _ in runs}) < len(runs):
        raise UsageError("A baseline holds one model a task.", "one of them.", "Name it with --model.")
    return list(runs.values())


def stored_in(path: Path, update: bool) -> Baseline:
    """Read the baseline; a new one begins empty with --update. Raises UsageError where there is none."""
    baseline = load_baseline(path)
    if baseline is None and not update:
        raise UsageError(
            f"No baseline '{baseline_file(path)}'.",
            "a file that --update wrote.",
            "Write it: the same with --update.",
        )
    return baseline or Baseline()


def expectations(runs: Sequence[RecipeRun], how: How, seeds: tuple[int, ...]) -> Outcomes:
    """Hold runs to what their recipes expect; one of which nothing can be compared on this device is not made."""

    def judge(run: RecipeRun, finish: _Finish) -> Iterator[Check]:
        meant = []
        for expect in run.expects:
            if why := _void_here(expect, how.device):
                yield engine.void(run.base, expect, why)
            else:
                meant.append(expect)
        if meant:
            finished, folder = finish()
            yield from (engine.expected(run.base, expect, finished, str(folder)) for expect in meant)

    return _run(runs, how, lambda _: seeds or (0,), judge)


def against(runs: Sequence[RecipeRun], how: How, seeds: tuple[int, ...], stored: Baseline, margin: float) -> Outcomes:
    """Compare runs with a baseline by other seeds than its own; a run is not made where that holds nothing of it.

    Args:
        seeds: empty = as many new ones as the baseline has.
        margin: share in [0, 1]; a smaller drop never counts.
    """

    def judge(run: RecipeRun, finish: _Finish) -> list[Check]:
        known = stored.find(run.recipe.name, run.task)
        if known is None:
            why = "the baseline holds nothing of it: add it with --update"
            return [run.base.model_copy(update={"against": "baseline", "outcome": "void", "why": why})]
        finished, folder = finish()
        new = engine.entry(run.base, finished, folder)
        same = {flags.seed for flags in new.flags} & {flags.seed for flags in known.current.flags}
        if same:
            how.note(f"Note: seed {min(same)} is one of the baseline's: on a CPU the same run, which tells nothing.")
        return engine.against(run.base, finished, new, known, margin, str(folder))

    done = _run(runs, how, lambda run: seeds or _new_seeds(run, stored), judge)
    return Outcomes(engine.judged(done.checks), done.errors)


def update(runs: Sequence[RecipeRun], how: How, seeds: tuple[int, ...], path: Path, stored: Baseline) -> Outcomes:
    """Write what runs answer as the new baseline; what fails keeps its old entry."""
    entries: list[Entry] = []

    def judge(run: RecipeRun, finish: _Finish) -> list[Check]:
        finished, folder = finish()
        entries.append(engine.entry(run.base, finished, folder))
        return [engine.written(run.base, finished, str(folder))]

    done = _run(runs, how, lambda _: seeds or _BASELINE_SEEDS, judge)
    for entry in entries:
        stored = stored.updated(entry)
    if entries:
        save_baseline(path, stored)
        how.note(f"Wrote {baseline_file(path)}: {len(entries)} of {len(runs)} entries.")
    return done


def _new_seeds(run: RecipeRun, stored: Baseline) -> tuple[int, ...]:
    """Return as many seeds as the baseline has, and other ones: on a CPU the same would give the same runs."""
    known = stored.find(run.recipe.name, run.task)
    if known is None:
        return (0,)
    first = 1 + max(flags.seed for flags in known.current.flags)
    return tuple(range(first, first + len(known.current.flags)))


def _run(runs: Sequence[RecipeRun], how: How, seeds: Callable[[RecipeRun], tuple[int, ...]], judge: _Judge) -> Outcomes:
    """Make one run after the other; what fails is an outcome too.

    Raises:
        UsageError: one of them cannot be, before anything is run. Interrupted: a signal came.
    """
    jobs = [_job(one, how.data_dir, seeds(one)) for one in runs]
    done = Outcomes()
    for one, job in zip(runs, jobs, strict=True):
        began = time.monotonic()
        folder = _below(how.output, one) if len(runs) > 1 else how.output
        checks: list[Check] = []
        try:
            for check in judge(one, partial(_result, job, how, folder)):
                checks.append(check)  # those before an error are kept
        except Interrupted:
            raise
        except VitftError as error:
            done.errors.append(error)
            checks.append(one.base.model_copy(update={"why": " ".join(error.lines)}))
        seconds = (time.monotonic() - began) / max(1, len(checks))
        done.checks += [check.model_copy(update={"seconds": seconds}) for check in checks]
    return done


def _job(run: RecipeRun, data_dir: Path | None, seeds: tuple[int, ...]) -> tuple[Job, Opened] | VitftError:
    """Return the job of a run, or why there is none. Raises UsageError."""
    try:
        return make(run.task, model=run.model, recipe=run.recipe, overrides={}, data_dir=data_dir, seeds=seeds)
    except UsageError:
        raise
    except VitftError as error:
        return error


def _result(job: tuple[Job, Opened] | VitftError, how: How, folder: Path | None) -> tuple[RunResult, Path]:
    """Bring one task to its number, or take the stored one. Raises the error that stands for a job, too."""
    if isinstance(job, VitftError):
        raise job
    at = folder or run_folder(job[0])
    runtime = Runtime(how.device, how.precision, workers=how.workers, save_weights=False)
    result = single.in_folder(*job, at, runtime, single.How(True, how.overwrite, how.note), how.watched)
    return result, at


def _below(output: Path | None, run: RecipeRun) -> Path | None:
    return output and output / f"{slug(run.recipe.name)}-{slug(run.task)}-{slug(Path(run.model).stem)}"


def _void_here(expect: Expect, device: str) -> str:
    """Return why an expectation cannot be met on the requested device, before anything is run; "" where it can."""
    if not expect.device:
        return ""
    from vitft import device as devices

    kind = devices.pick(device).type
    return engine.elsewhere(expect.device, kind, devices.name(kind))
