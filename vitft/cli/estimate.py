"""`vitft estimate`: how long a suite takes on many devices, from units that were measured."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitft.cli import console
from vitft.cli.options import FormatOption
from vitft.words import clock

if TYPE_CHECKING:
    from vitft.engines.forecast import Forecast, Measured

app = typer.Typer(help="Estimate: how long many runs take.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _root() -> None:
    pass


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
    found = forecast(tasks, devices=gpus, models=models, seeds=seeds)
    payload = asdict(found) | {"bound": found.bound, "tasks": {t.task: _payload(t) for t in tasks}}
    console.emit(payload, _told(found, tasks, models, seeds), format)


def _payload(task: "Measured") -> dict[str, float]:
    return {"tune_s": task.tune, "points": task.points, "final_s": task.final}


def _told(found: "Forecast", tasks: "Sequence[Measured]", models: int, seeds: int) -> str:
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
