"""`vitft estimate`: what runs take before they are started, and a suite on many devices from what was measured."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitft.cli import console
from vitft.cli import options as o
from vitft.cli.groups import Computing, Keys, flat
from vitft.cli.options import FormatOption
from vitft.words import clock

if TYPE_CHECKING:
    from vitft.data.split import Sized
    from vitft.engines.forecast import Forecast, Measured
    from vitft.protocol.foreseen import Foreseen
    from vitft.protocol.jobs import Runtime
    from vitft.protocol.units import Job
    from vitft.training.speed import Speed

app = typer.Typer(
    help="Estimate: what runs take, before they are started.", no_args_is_help=True, rich_markup_mode=None
)


@app.callback()
def _root() -> None:
    pass


@dataclass(frozen=True)
class Known:
    """Where the device's speed comes from; by default a block of the network is timed here."""

    profile: Annotated[
        Path | None,
        typer.Option("--profile", help="A measurement of 'vitft bench --save', of a network like this one."),
    ] = None
    assume: Annotated[
        float | None, typer.Option("--assume", min=0, help="TFLOP/s of training, e.g. 200 for bf16 on an H100.")
    ] = None
    measure: Annotated[
        bool, typer.Option("--measure", help="Train and evaluate this network on this data here, for about a minute.")
    ] = False
    quiet: o.QuietOption = False

    def speed(self, job: "Job", data: "Sized", runtime: "Runtime") -> "Speed | None":
        """Return the speed, None where no option gives it. Raises UsageError; CheckpointError of a profile."""
        from vitft.errors import UsageError
        from vitft.training import speed

        if sum((self.profile is not None, self.assume is not None, self.measure)) > 1:
            raise UsageError("The speed is said twice.", "one of --profile, --assume and --measure.")
        if self.assume is not None:
            return speed.assumed(1e12 * self.assume, "one device")
        if self.profile is not None:
            from vitft.results.bench import load

            return speed.profiled(load(self.profile), "a profile")
        if not self.measure:
            return None
        from vitft.bench.measure import measure_briefly

        with console.display(self.quiet) as hooks:
            return speed.profiled(measure_briefly(job, data, runtime, hooks), "measured now, a few updates")


@app.command("finetune")
@flat
def finetune(
    task: o.TaskArgument,
    model: o.ModelsOption = None,
    recipe: o.RecipeOption = "quick",
    seeds: Annotated[str, typer.Option("--seeds", help="E.g. 0,1,2.")] = "0",
    per_class: o.PerClassOption = None,
    limit: o.LimitOption = None,
    from_scratch: o.FromScratchOption = False,
    format: o.TableFormatOption = "text",
    *,
    keys: Keys,
    computing: Computing,
    known: Known,
) -> None:
    """Say what a fine-tune takes. Images, operations, time, memory, disk, downloads; nothing is run.

    The data of a known task need not be here.
    """
    from vitft import recipes
    from vitft.engines import foresee, side_by_side

    planned = side_by_side.plan(
        task,
        o.models(model, computing.device),
        side_by_side.Models(),
        recipe=recipes.load(recipe),
        overrides=keys.fixed(),
        from_scratch=from_scratch,
        data_dir=computing.data_dir,
        output=None,
        dry=True,
        seeds=o.parse_seeds(seeds),
        limit=limit,
        per_class=per_class,
    )
    runtime = computing.runtime(len(planned.jobs))
    speed = known.speed(planned.jobs[0], planned.data, runtime)
    _show(foresee.of_task(planned, runtime, speed), format)


@app.command("vtab")
@flat
def vtab(
    model: o.ModelsOption = None,
    shots: Annotated[str, typer.Option("--shots", metavar="N|full", help="Training examples a task.")] = "1000",
    tasks: o.TasksOption = "",
    suite: Annotated[str, typer.Option("--suite", help="vtab, mini, or any suite document.")] = "vtab",
    seeds: Annotated[str, typer.Option("--seeds", help="E.g. 0,1,2.")] = "0",
    recipe: Annotated[str, typer.Option("--recipe", help="Default vtab-vit, or vtab-mini.")] = "",
    format: o.TableFormatOption = "text",
    *,
    keys: Keys,
    computing: Computing,
    known: Known,
) -> None:
    """Say what the fits of VTAB take. The sum of its tasks, one device; nothing is run.

    Of data that is not here the official splits are counted.
    """
    from vitft.catalog.shots import checked as checked_shots
    from vitft.engines import foresee, suite_plan
    from vitft.engines.suite import SuiteRequest
    from vitft.engines.suite_run import How
    from vitft.suites import document

    models = o.models(model, computing.device)
    shipped = document.load(suite)
    chosen = shipped.trained_with(recipe or shipped.columns[0].recipe, checked_shots(shots))
    request = SuiteRequest.of(chosen, tasks, models, keys.fixed(), computing.data_dir, o.parse_seeds(seeds))
    runtime = computing.runtime(len(models))
    plans = suite_plan.prospects(request, How(runtime, console.note, console.display), anew=True)
    job, data = foresee.first(plans)
    _show(foresee.of_suite(plans, runtime, known.speed(job, data, runtime)), format)


def _show(foreseen: "Foreseen", format: o.TableFormat) -> None:
    from vitft.report import estimate as report

    for line in foreseen.notes:
        console.note(f"Note: {line}.")
    console.emit_table(report.foreseen_payload(foreseen), report.foreseen(foreseen), format)


@app.command("suite")
def suite(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders: what a unit of each task takes.")],
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="Devices, one unit on each at a time.")] = 1,
    models: Annotated[int, typer.Option("--models", min=1, help="Models that all run the suite.")] = 1,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Seeds of each task and model.")] = 1,
    format: FormatOption = "text",
) -> None:
    """Say how long a suite takes on many devices. What units took is read from runs that were measured before.

    Units are handed out as --engine ray does, those with the longest way to their task's number first.
    """
    from vitft.engines.forecast import forecast, measured

    tasks = measured(runs)
    forecasted = forecast(tasks, devices=gpus, models=models, seeds=seeds)
    payload = asdict(forecasted) | {"bound": forecasted.bound, "tasks": {t.task: _payload(t) for t in tasks}}
    console.emit(payload, _lines(forecasted, tasks, models, seeds), format)


def _payload(task: "Measured") -> dict[str, float]:
    return {"tune_s": task.tune, "points": task.points, "final_s": task.final}


def _lines(found: "Forecast", tasks: "Sequence[Measured]", models: int, seeds: int) -> str:
    slow = sorted(tasks, key=lambda task: -task.final)[:3]
    return "\n".join(
        [
            f"{found.units:,} units: tasks {len(tasks)}, models {models}, seeds {seeds}; "
            f"{found.work / 3600:,.1f} device-hours.",
            f"On {found.devices} devices about {clock(found.wall)}; in no order of units less than "
            f"{clock(found.bound)}, and on no number of devices less than {clock(found.floor)} ({found.longest}, "
            "tuned and trained).",
            f"Measured on {', '.join(found.kinds)}; the longest: "
            + ", ".join(f"{task.task} {clock(task.final)}" for task in slow)
            + ". Waiting in a queue, decoding and lost workers are not in it.",
        ]
    )
