"""`vitft vtab`: a whole suite, from 19 data sets to one table."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vitft.cli import console, signals
from vitft.cli import options as o

if TYPE_CHECKING:
    from vitft.catalog.published import Published
    from vitft.engines.suite import Asked, Planned
    from vitft.prepare.inventory import Row
    from vitft.protocol.units import Job
    from vitft.results.schema import SuiteResult

_DEFAULT_RECIPES = {"vtab": "vtab-vit", "mini": "vtab-mini"}


def vtab(
    model: o.ModelOption = "vit-mini",
    shots: Annotated[Literal["1000", "full"], typer.Option("--shots", help="Training examples a task.")] = "1000",
    tasks: Annotated[
        str, typer.Option("--tasks", help="Names with commas, natural, specialized, structured, or all.")
    ] = "",
    suite: Annotated[
        Literal["vtab", "mini"], typer.Option("--suite", help="mini: six small tasks that need no download.")
    ] = "vtab",
    seeds: Annotated[str, typer.Option("--seeds", help="Several, e.g. 0,1,2: means with intervals.")] = "0",
    engine: Annotated[Literal["local"], typer.Option("--engine", help="local: this machine.")] = "local",
    devices: Annotated[
        str, typer.Option("--devices", help="One worker each: 0,1 (CUDA), or cpu, cuda:0, ...; default --device.")
    ] = "",
    shard: Annotated[str, typer.Option("--shard", help="I/N: every Nth task, for machines that share --output.")] = "",
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Run what is there; the rest are holes in the table.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what is there, the plan and a rough cost; run nothing.")
    ] = False,
    recipe: Annotated[
        str, typer.Option("--recipe", help="A shipped recipe or a TOML file; default vtab-vit, or vtab-mini.")
    ] = "",
    set_: o.SetOption = None,
    resolution: o.ResolutionOption = None,
    method: o.MethodOption = None,
    steps: o.StepsOption = None,
    batch_size: o.BatchSizeOption = None,
    micro_batch: o.MicroBatchOption = 0,
    lr: o.LrOption = None,
    precision: o.PrecisionOption = "auto",
    device: o.DeviceOption = "auto",
    workers: o.WorkersOption = 0,
    data_dir: o.DataDirOption = None,
    output: o.OutputOption = None,
    resume: o.ResumeOption = "auto",
    overwrite: o.OverwriteOption = False,
    deterministic: o.DeterministicOption = False,
    save_weights: Annotated[
        bool,
        typer.Option("--save-weights/--no-save-weights", help="Keep the fine-tuned networks; else their heads."),
    ] = False,
    format: o.TableFormatOption = "text",
) -> None:
    """Run the VTAB suite and print its table. Tunes on train800/val200, retrains on the 1,000, tests once on all.

    The same command goes on where it stopped. 'vitft vtab --suite mini' needs no download.
    """
    from vitft import recipes
    from vitft.catalog import suites
    from vitft.data.find import checked
    from vitft.engines import suite as planning
    from vitft.errors import DataMissing, UsageError

    chosen = suites.get(suite)
    if suite == "mini" and shots == "full":
        raise UsageError("The suite 'mini' has 1,000 training examples a task.", "Legal: --shots 1000.")
    if shard and (overwrite or resume == "never"):
        flag = "--overwrite" if overwrite else "--resume never"
        raise UsageError(f"{flag} would delete what the other shards have done.", "Legal: either, not both.")
    o.checked([model], device, *o.parse_devices(devices))
    asked = planning.Asked(
        chosen,
        suites.choose(chosen, tasks or "all"),
        model,
        recipes.load(recipe or _DEFAULT_RECIPES[suite]),
        o.overrides(set_, resolution, method=method, steps=steps, batch_size=batch_size, lr=lr),
        checked(data_dir),
        o.parse_seeds(seeds),
        0 if shots == "full" else 1000,
    )
    part = planning.with_tasks(asked, planning.shard(asked.tasks, shard)) if shard else asked
    folder = output or asked.folder()
    rows, missing = planning.availability(asked)
    again = not overwrite and resume == "auto" and not dry_run and _finished(asked, folder, missing)
    planned = planning.Planned((), missing) if again else planning.plan(asked, missing)
    faults = [why for task, why in planned.missing.items() if task not in missing]
    missing = dict(planned.missing)
    ready = _ready(asked, rows, missing)
    if dry_run:
        _usable(model, o.parse_devices(devices) or (device,), asked.overrides)
        mine = [job for job in planned.jobs if job.name in part.tasks]
        payload, text = _dry(asked, rows, missing, mine, ready, folder, shard)
        console.emit(payload, text, "json" if format == "json" else "text")
        return
    if missing:
        console.note(ready)
        if len(missing) == len(asked.tasks) or not allow_missing:
            some = ", or run on with --allow-missing" * (len(missing) < len(asked.tasks))
            raise DataMissing(
                f"{len(missing)} of {len(asked.tasks)} tasks have no data: {_few(missing)}.",
                "; ".join(f"{why}." for why in faults[:3]) or _looked(data_dir),
                f"Prepare them ('vitft data prepare TASK'), choose others with --tasks{some}.",
            )
    from vitft.protocol.jobs import Runtime

    runtime = Runtime(device, precision, micro_batch, workers, deterministic, save_weights)
    failed = _run(
        part,
        planned,
        folder,
        runtime,
        o.parse_devices(devices),
        shard,
        engine=engine,
        resume=resume == "auto",
        overwrite=overwrite,
    )
    _report(asked, folder, failed, missing, format, shard)


def _run(
    asked: "Asked",
    planned: "Planned",
    folder: Path,
    runtime: Any,
    devices: Sequence[str],
    shard: str,
    *,
    engine: str,
    resume: bool,
    overwrite: bool,
) -> dict[str, str]:
    """Run what is not finished; return task -> why it failed."""
    from vitft.engines import local
    from vitft.engines import suite as planning
    from vitft.protocol.jobs import told_resolution

    with _held(asked, folder, shard, resume=resume, overwrite=overwrite):
        others = [] if shard else [r.task for r in planning.finals(asked, folder)]
        tasks = [task for task in asked.tasks if task not in planned.missing]
        planning.hold(asked, folder, dict.fromkeys([*tasks, *others]), console.note)
        if _finished(asked, folder, planned.missing):
            console.note("Finished before: these are the stored results; nothing was run or looked at again.")
            return {}
        planned = planned if planned.jobs else planning.plan(asked, planned.missing)
        jobs = [job for job in planned.jobs if job.name in asked.tasks]
        for line in planned.notes:
            console.note(f"Note: {line}.")
        cost = planning.estimate(asked, jobs)
        console.note(
            f"vitft {asked.suite.name} with {asked.model}, recipe {asked.recipe.name}: tasks {len(jobs)}, "
            f"fits {cost.units} -> {folder}"
        )
        for job in jobs:
            if line := told_resolution(job):
                console.note(f"{job.name}: {line}")
        with console.display() as shown, signals.caught() as signum:
            hooks = replace(shown, signal=signum)
            run = {"local": local.run}[engine]
            return dict(run(jobs, folder, runtime, devices=devices, hooks=hooks).failed)


@contextmanager
def _held(asked: "Asked", folder: Path, shard: str, *, resume: bool, overwrite: bool) -> Iterator[None]:
    """Claim the run folder and hold it; shards hold a place of their own in it."""
    from shutil import rmtree

    from vitft.errors import CheckpointError, UsageError
    from vitft.results.folders import CLAIM_S, claim, lock, nothing_left_behind

    if not shard:
        # Shards at work are waited for, but never to delete what they do.
        patient = resume and not overwrite
        told = console.note if patient else None
        with lock(folder, wait=CLAIM_S * patient, on_shards=told), nothing_left_behind(folder):
            claim(folder, asked.identity(), overwrite=overwrite, resume=resume)
            try:
                yield
            except (UsageError, CheckpointError):
                # The error says it all; the workers' logs add nothing.
                rmtree(folder / "logs", ignore_errors=True)
                raise
        return
    with ExitStack() as place:
        with lock(folder, shards=False, wait=CLAIM_S):
            claim(folder, asked.identity(), overwrite=False, resume=True)
            place.enter_context(lock(folder / "shards" / shard.replace("/", "-of-")))
        yield


def _finished(asked: "Asked", folder: Path, missing: Mapping[str, str]) -> bool:
    from vitft.engines import suite as planning

    have = {(r.task, r.seed) for r in planning.finals(asked, folder)}
    return all((task, seed) in have for task in asked.tasks if task not in missing for seed in asked.seeds)


def _report(
    asked: "Asked", folder: Path, failed: Mapping[str, str], missing: Mapping[str, str], format: str, shard: str
) -> None:
    """Write suite.json, print the table, and end with exit code 6 where a task failed."""
    from vitft.engines import suite as planning
    from vitft.errors import SuiteIncomplete
    from vitft.report import vtab as table
    from vitft.results.files import write_json
    from vitft.results.schema import to_json

    finals = planning.finals(asked, folder)
    why = {**missing, **{task: f"failed: {text}" for task, text in failed.items()}}
    if shard:
        have = {(r.task, r.seed) for r in finals}
        left = [t for t in asked.tasks if t not in why and any((t, seed) not in have for seed in asked.seeds)]
        why |= dict.fromkeys(left, "left to the other shards")
        if left:
            console.note(
                f"Shard {shard} is done. The other shards have yet to do: {', '.join(left)}. "
                "The last of them prints the whole table; so does this command without --shard."
            )
    data = table.summarise(asked.suite, finals, shots=asked.shots, seeds=asked.seeds, failed=why)
    write_json(folder / "suite.json", to_json(data))
    if finals:
        shown = table.table(asked.suite, data, _beside(asked, data), asked.tasks)
        console.emit_table(to_json(data) | {"folder": str(folder)}, shown, format)
    if failed:
        raise SuiteIncomplete(
            f"{len(failed)} of {len(asked.tasks)} tasks failed: {_few(failed)}.",
            "; ".join(f"{task}: {text}" for task, text in list(failed.items())[:3]),
            f"What there is lies in '{folder}'; the same command tries the failed ones again.",
        )


def _beside(asked: "Asked", data: "SuiteResult") -> "Sequence[Published]":
    from vitft.catalog import published

    sides = {side for size in data.resolutions.values() for side in size}
    if asked.suite.name != "vtab" or not sides:
        return ()
    return published.for_suite(
        data.checkpoint.timm_name or asked.model,
        asked.recipe.name,
        max(sides),
        method=data.method or "full",
        shots=asked.shots,
    )


def _ready(asked: "Asked", rows: "Sequence[Row]", missing: Mapping[str, str]) -> str:
    """Return the table before a suite: every task, whether its data is there, and where, or what to do."""
    from vitft.prepare.prepare import size_text
    from vitft.report import formats
    from vitft.report.table import Column, Row, Table

    columns = [Column(key, key) for key in ("task", "group", "data", "size")] + [
        Column("where", "where, or what to do", "path")
    ]
    lines = [
        Row({
            "task": row.task, "group": asked.suite.group_of(row.task), "size": size_text(row.size or 0),
            "data": missing.get(row.task, row.status).removeprefix("no data: "), "where": row.where,
        })
        for row in rows
    ]  # fmt: skip
    there = len(rows) - len(missing)
    caption = f"{asked.suite.title}: {there} of {len(rows)} tasks ready. {_looked(asked.data_dir)}"
    return formats.text(Table(caption, tuple(columns), tuple(lines)), console.width(listing=True))


def _looked(data_dir: Path | None) -> str:
    from vitft import machine

    root = machine.data()
    places = [f"'{data_dir}' (--data-dir)"] if data_dir else []
    places.append(f"'{root}' (prepared data)" if root else "$VITFT_DATA (not set)")
    return f"Looked in {', '.join(places)} and the hub's cache."


def _dry(
    asked: "Asked",
    rows: "Sequence[Row]",
    missing: Mapping[str, str],
    jobs: "Sequence[Job]",
    ready: str,
    folder: Path,
    shard: str,
) -> tuple[dict[str, Any], str]:
    from vitft.engines import suite as planning
    from vitft.protocol.units import tune_units

    cost = planning.estimate(asked, jobs)
    plan = [
        {
            "task": job.name,
            "tune": len(tune_units(job)),
            "final": len(job.seeds),
            "splits": asdict(job.scheme),
            "settings": job.settings.model_dump(mode="json"),
            "sweep": job.sweep,
        }
        for job in jobs
    ]
    payload = {
        "suite": asked.suite.name,
        "folder": str(folder),
        "shard": shard,
        "data": [asdict(row) | {"usable": row.task not in missing} for row in rows],
        "plan": plan,
        "estimate": asdict(cost),
    }
    swept = ", ".join(sorted({key for job in jobs for key in job.sweep}))
    text = (
        f"{ready}\n"
        f"Plan{f' of shard {shard} ({_few([job.name for job in jobs])})' if shard else ''}: "
        f"recipe {asked.recipe.name}, tasks {len(jobs)}, fits {cost.units} "
        f"({f'{swept} tuned on val200' if swept else 'nothing tuned'}), seeds {', '.join(map(str, asked.seeds))}.\n"
        f"{cost.train_images:,} training images, {cost.test_images:,} to evaluate, "
        f"about {cost.flops:.0e} floating-point operations (a rough rule: parameters x patches, three passes a step).\n"
        f"Nothing was run. It would go to {folder}\n"
    )
    return payload, text


def _usable(model: str, on: Sequence[str], overrides: Mapping[str, Any]) -> None:
    """Raise what a run would raise of a model or a device that is not there, before anything is planned."""
    from vitft import device as devices
    from vitft.models import loading
    from vitft.models.said import Said

    loading.load(model, weights=False, said=Said.within(overrides))
    for device in on:
        devices.pick(device)


def _few(tasks: "Mapping[str, str] | Sequence[str]") -> str:
    names = list(tasks)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
