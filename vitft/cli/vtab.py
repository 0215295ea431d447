"""`vitft vtab`: the suite `vtab` (or `mini`) with a recipe of your choice."""

from typing import Annotated, Literal

import typer

from vitft.catalog.models import DEFAULT
from vitft.cli import options as o
from vitft.cli.groups import Dispatched, Keys, Running, flat
from vitft.cli.suite import execute


@flat
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
    recipe: Annotated[
        str, typer.Option("--recipe", help="A shipped recipe or a TOML file; default vtab-vit, or vtab-mini.")
    ] = "",
    *,
    keys: Keys,
    running: Running,
    dispatched: Dispatched,
) -> None:
    """Run the VTAB suite and print its table. Tunes on train800/val200, retrains on the 1,000, tests once on all.

    The same command goes on where it stopped. 'vitft vtab --suite mini' needs no download; 'vitft suite' compares
    several models and runs other suites.
    """
    from vitft.catalog.shots import checked as checked_shots
    from vitft.engines.suite import SuiteRequest
    from vitft.errors import UsageError
    from vitft.suites import document

    shots = checked_shots(shots)
    running.requeue()
    if suite == "mini" and shots == "full":
        raise UsageError("The suite 'mini' has 1,000 training examples a task.", "--shots 1 to 1000.")
    shipped = document.load(suite)
    chosen = shipped.trained_with(recipe or shipped.columns[0].recipe, shots)
    of = o.parse_seeds(seeds)
    request = SuiteRequest.of(chosen, tasks, (model,), keys.fixed(), running.data_dir, of, running.output)
    execute(request, dispatched.how(running), dispatched)
