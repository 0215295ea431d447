"""`vitft vtab`: the suite `vtab` (or `mini`) with a recipe of your choice."""

from functools import partial
from typing import Annotated, Literal

import typer

from vitft.catalog.models import DEFAULT
from vitft.cli import console, signals
from vitft.cli import options as o
from vitft.cli.suite import Shown, execute


def vtab(
    model: o.ModelOption = DEFAULT,
    shots: Annotated[
        str, typer.Option("--shots", metavar="N|full", help="Training examples a task; below 1000 the first N of them.")
    ] = "1000",
    tasks: o.TasksOption = "",
    suite: Annotated[
        Literal["vtab", "mini"], typer.Option("--suite", help="mini: six small tasks that need no download.")
    ] = "vtab",
    seeds: Annotated[str, typer.Option("--seeds", help="Several, e.g. 0,1,2: means with intervals.")] = "0",
    engine: o.EngineOption = "local",
    devices: o.DevicesOption = "",
    shard: o.ShardOption = "",
    allow_missing: o.AllowMissingOption = False,
    dry_run: o.DryRunOption = False,
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
    parallel: o.ParallelOption = "auto",
    data_dir: o.DataDirOption = None,
    output: o.OutputOption = None,
    resume: o.ResumeOption = "auto",
    overwrite: o.OverwriteOption = False,
    max_time: o.MaxTimeOption = "",
    requeue_signals: o.RequeueOption = "USR2",
    deterministic: o.DeterministicOption = False,
    save_weights: o.SaveWeightsInSuiteOption = False,
    quiet: o.QuietOption = False,
    format: o.TableFormatOption = "text",
) -> None:
    """Run the VTAB suite and print its table. Tunes on train800/val200, retrains on the 1,000, tests once on all.

    The same command goes on where it stopped. 'vitft vtab --suite mini' needs no download; 'vitft suite' compares
    several models and runs other suites.
    """
    from vitft.catalog.shots import checked as checked_shots
    from vitft.data.find import checked
    from vitft.engines.suite import Asked
    from vitft.engines.suite_run import How
    from vitft.errors import UsageError
    from vitft.protocol.jobs import Runtime
    from vitft.suites import document
    from vitft.suites.suite import choose

    shots = checked_shots(shots)
    signals.requeue(max_time, requeue_signals)
    if suite == "mini" and shots == "full":
        raise UsageError("The suite 'mini' has 1,000 training examples a task.", "Legal: --shots 1 to 1000.")
    shipped = document.load(suite)
    chosen = shipped.trained_with(recipe or shipped.columns[0].recipe, shots)
    asked = Asked(
        chosen,
        choose(chosen, tasks or "all"),
        (model,),
        o.overrides(set_, resolution, method=method, steps=steps, batch_size=batch_size, lr=lr),
        checked(data_dir),
        o.parse_seeds(seeds),
        output,
    )
    runtime = Runtime(device, precision, micro_batch, workers, deterministic, save_weights, parallel=parallel)
    execute(
        asked,
        How(
            runtime,
            console.note,
            partial(signals.watched, quiet),
            o.parse_devices(devices),
            shard,
            resume == "auto",
            overwrite,
            engine,
        ),
        Shown(dry_run, allow_missing, format),
    )
