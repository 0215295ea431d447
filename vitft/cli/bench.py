"""`vitft bench`: how fast this machine trains and evaluates, beside other loops."""

from pathlib import Path
from typing import Annotated

import typer

from vitft.cli import console, signals
from vitft.cli import options as o


def bench(
    task: Annotated[
        str | None, typer.Argument(metavar="[TASK|PATH]", help="Whose training images; without it they are drawn.")
    ] = None,
    model: o.ModelOption = "vit-mini",
    recipe: o.RecipeOption = "quick",
    set_: o.SetOption = None,
    resolution: o.ResolutionOption = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Random weights, on which no speed depends: none are fetched.")
    ] = False,
    method: o.MethodOption = None,
    batch_size: o.BatchSizeOption = None,
    micro_batch: o.MicroBatchOption = 0,
    precision: o.PrecisionOption = "auto",
    compile: o.CompileOption = "auto",
    device: o.DeviceOption = "auto",
    workers: o.WorkersOption = 0,
    data_dir: o.DataDirOption = None,
    against: Annotated[
        str, typer.Option("--against", help="Loops to measure in turn: of bare, compiled, timm; none for vitft alone.")
    ] = "bare,timm",
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Turns of each loop; their median counts.")] = 5,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Updates a turn.")] = 4,
    images: Annotated[int, typer.Option("--images", min=0, help="Images to evaluate a turn; 0 = none.")] = 128,
    save: Annotated[Path | None, typer.Option("--save", help="Write the measurement, as JSON, to this file.")] = None,
    quiet: o.QuietOption = False,
    format: o.TableFormatOption = "text",
) -> None:
    """Measure how fast training and evaluation are here.

    Images a second, and what the time goes to: batches, states, the rate that matrix products reach.
    vitft's own loop and the others take turns, so that what slows the machine slows all of them.
    """
    from vitft import recipes
    from vitft.bench import request
    from vitft.protocol.jobs import Runtime
    from vitft.results.files import write_json
    from vitft.results.schema import to_json

    names = request.loops(against)
    o.checked([model], device)
    overrides = o.overrides(set_, resolution, method=method, batch_size=batch_size)
    split, settings = request.subject(task, model, recipes.load(recipe), overrides, data_dir)
    from vitft.bench.measure import Plan, measure
    from vitft.bench.subject import opened
    from vitft.report.bench import table

    with signals.watched(quiet) as hooks:
        runtime = Runtime(device, precision, micro_batch, workers, compile=compile)
        subject = opened(model, settings, split, runtime, hooks, from_scratch=from_scratch)
        result = measure(subject, model, names, Plan(rounds, steps, images), hooks)
    payload = to_json(result)
    if save is not None:
        write_json(save, payload)
    console.emit_table(payload, table(result), format)
