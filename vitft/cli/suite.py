"""`vitft suite`: any suite document, one model or several, to one table."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitft.cli import console
from vitft.cli import options as o
from vitft.cli.groups import Dispatched, Keys, Running, flat
from vitft.errors import some
from vitft.results.files import SUITE

if TYPE_CHECKING:
    from vitft.engines.suite import SuiteRequest
    from vitft.engines.suite_plan import Prospect
    from vitft.engines.suite_run import How, Outcome
    from vitft.report.suite_table import PublishedRow
    from vitft.results.schema import SuiteResult


@flat
def suite(
    suite: Annotated[
        str, typer.Argument(metavar="NAME|FILE", help="paper, vtab, mini, ci, fewshot, or a TOML file of your own.")
    ],
    model: o.ModelsOption = None,
    tasks: o.TasksOption = "",
    seeds: Annotated[str, typer.Option("--seeds", help="E.g. 0,1,2: means with intervals; default: the suite's.")] = "",
    *,
    keys: Keys,
    running: Running,
    dispatched: Dispatched,
) -> None:
    """Run a suite and print its table, a row a model. The same command goes on where it stopped.

    paper: Table 2 of the ViT paper. vtab: the 19 tasks. mini and ci: no download. fewshot: frozen features.
    A file of your own holds the same keys (recipes/README.md); its paths are relative to it.
    """
    from vitft.engines.suite import SuiteRequest
    from vitft.suites import document

    running.requeue()
    models = o.models(model)
    chosen = document.load(suite)
    of = o.parse_seeds(seeds) if seeds else chosen.seeds
    request = SuiteRequest.of(chosen, tasks, models, keys.fixed(), running.data_dir, of, running.output)
    execute(request, dispatched.how(running, len(request.models)), dispatched)


def execute(request: "SuiteRequest", how: "How", shown: Dispatched) -> None:
    """Plan a suite, run what is not finished, and print its table or, for a dry run, its plan.

    Raises:
        DataMissing: there is no data for some of it (exit code 3); SuiteIncomplete: tasks failed (exit code 6).
    """
    from vitft.engines import suite as planning
    from vitft.engines import suite_plan, suite_run
    from vitft.errors import UsageError

    if how.shard and (how.overwrite or not how.resume):
        flag = "--overwrite" if how.overwrite else "--resume never"
        raise UsageError(f"{flag} would delete what the other shards have done.", "either, not both.")
    o.checked(request.models, how.runtime.device, *how.devices)
    plans = suite_plan.prospects(request, how, anew=shown.dry_run)
    ready = _ready(request, plans)
    if shown.dry_run:
        suite_run.check_models([one.leg for one in plans], how)
        payloads = [suite_plan.described(one, how) for one in plans]
        payload = payloads[0] if len(plans) == 1 else {"suite": request.suite.name, "legs": payloads}
        text = [f"{one.leg.model}: " * (len(plans) > 1) + _described(one, how) for one in plans]
        console.emit(payload, "\n".join([ready, *text]), "json" if shown.format == "json" else "text")
        return
    _refuse_holes(request, plans, ready, shown.allow_missing)
    if len(request.models) > 1 and any(planning.unfinished(one.leg, {}) for one in plans):
        # What the last model would raise when the others are done.
        suite_run.check_models([one.leg for one in plans])
    outcomes = []
    with suite_run.held([one.leg for one in plans], how):
        failed = [suite_run.run(planning.of_shard(one.leg, how.shard), one.planned, how) for one in plans]
    for one, wrong in zip(plans, failed, strict=True):
        outcomes.append(suite_run.outcome(one.leg, one.planned, wrong, how.shard))
    _report(request, outcomes, how.shard, shown.format)


def _of_data(request: "SuiteRequest", plans: "Sequence[Prospect]") -> "list[Prospect]":
    """Return the plans of the first model: every model wants the same data."""
    return [one for one in plans if one.leg.model == request.models[0]]


def _refuse_holes(request: "SuiteRequest", plans: "Sequence[Prospect]", ready: str, allow_missing: bool) -> None:
    """Show what is there where something is missing, and raise DataMissing unless that is allowed."""
    from vitft.errors import DataMissing

    own = _of_data(request, plans)
    names = [name for one in own for name in one.leg.tasks()]
    missing = [name for one in own for name in one.planned.missing]
    if not missing:
        return
    console.note(ready)
    if len(missing) < len(names) and allow_missing:
        return
    faults = [why for one in own for name, why in one.planned.missing.items() if name not in one.absent]
    some = ", or run on with --allow-missing" * (len(missing) < len(names))
    raise DataMissing(
        f"{len(missing)} of {len(names)} tasks have no data: {_few(missing)}.",
        fact="; ".join(f"{why}." for why in faults[:3]) or _looked(request.data_dir),
        action=f"Prepare them ('vitft data prepare TASK'), choose others with --tasks{some}.",
    )


def _report(request: "SuiteRequest", outcomes: "Sequence[Outcome]", shard: str, format: str) -> None:
    """Write suite.json, print the table, and end with exit code 6 where a task failed."""
    from vitft.errors import SuiteIncomplete
    from vitft.report import suite_models, suite_table, summary_table
    from vitft.report.suite import summarise
    from vitft.results.files import write_json
    from vitft.results.schema import to_json

    whole: list[SuiteResult] = []
    payloads: list[dict[str, object]] = []
    by_model = {
        model: {k: r for one in outcomes if one.leg.model == model for k, r in one.results.items()}
        for model in request.models
    }
    for model, results in by_model.items():
        own = [one for one in outcomes if one.leg.model == model]
        for one in own:
            part = request.suite.only(c.key for c in one.leg.part.columns)
            data = summarise(part, one.results, seeds=request.seeds, failed=one.why)
            write_json(one.leg.folder() / SUITE, to_json(data))
        why = {key: text for one in own for key, text in one.why.items()}
        whole.append(summarise(request.suite, results, seeds=request.seeds, failed=why))
        folders = [str(one.leg.folder()) for one in own]
        payloads.append(to_json(whole[-1]) | ({"folder": folders[0]} if len(folders) == 1 else {"folders": folders}))
    left = list(dict.fromkeys(name for one in outcomes for name in one.left))
    if left:
        console.note(
            f"Shard {shard} is done. The other shards have yet to do: {', '.join(left)}. "
            "The last of them prints the whole table; so does this command without --shard."
        )
    published = _beside(request, whole[0])
    if len(whole) == 1 and whole[0].tasks:
        console.emit_table(payloads[0], suite_table.table(request.suite, whole[0], published, request.keys), format)
    elif any(data.tasks for data in whole):
        holes = {key: text for one in outcomes for key, text in one.why.items()}
        made = suite_models.models(request.suite, by_model, holes, request.keys, published)
        payload: dict[str, object] = {"results": payloads, "summary": to_json(made)}
        console.emit_table(payload, summary_table.table(made), format)
    failed = [(name, text) for one in outcomes for name, text in one.failed.items()]
    if failed:
        raise SuiteIncomplete(
            f"{len(failed)} of {sum(len(one.leg.tasks()) for one in outcomes)} tasks failed: "
            f"{_few([name for name, _ in failed])}.",
            fact="; ".join(f"{name}: {text}" for name, text in failed[:3]),
            action=f"What there is lies in '{outcomes[0].leg.folder()}'; the same command tries the failed ones again.",
        )


def _beside(request: "SuiteRequest", data: "SuiteResult") -> "Sequence[PublishedRow]":
    """Return the published rows that the suite's document names, or those of VTAB's recipe."""
    from vitft.catalog import published
    from vitft.report.suite_table import PublishedRow, alone

    name = data.checkpoint.timm_name or data.model or ""
    sides = {(data.tasks[key].task or key): max(size) for key, size in data.resolutions.items()}
    if request.suite.name != "vtab" or request.suite.path or not sides:
        return [
            PublishedRow(row.title, published.by_keys(row.rows, name, sides, request.overrides))
            for row in request.suite.beside
        ]
    shots = 1000 if data.shots is None else data.shots
    recipe = data.recipe or ""
    return alone(published.for_suite(name, recipe, max(sides.values()), method=data.method or "full", shots=shots))


def _ready(request: "SuiteRequest", plans: "Sequence[Prospect]") -> str:
    """Return the table before a suite."""
    from vitft.report import formats, suite_ready

    entries = [
        suite_ready.Entry(row, one.leg.tasks()[row.task].group, one.planned.missing.get(row.task, ""))
        for one in _of_data(request, plans)
        for row in one.rows
    ]
    table = suite_ready.table(request.suite.title, entries, _looked(request.data_dir))
    return formats.text(table, console.width(listing=True))


def _looked(data_dir: Path | None) -> str:
    from vitft import machine

    root = machine.data()
    places = [f"'{data_dir}' (--data-dir)"] if data_dir else []
    places.append(f"'{root}' (prepared data)" if root else "$VITFT_DATA (not set)")
    return f"Looked in {', '.join(places)} and the hub's cache."


def _described(prospect: "Prospect", how: "How") -> str:
    """Return what a leg would do and cost, as `--dry-run` prints it."""
    from vitft.engines.suite import of_shard
    from vitft.protocol.estimate import line

    leg, jobs = prospect.leg, prospect.mine(how)
    names = _few([name for name in of_shard(leg, how.shard).tasks() if name not in prospect.planned.missing])
    head = f"Plan{f' of shard {how.shard} ({names})' if how.shard else ''}: "
    if leg.recipe is None:
        return f"{head}{leg.part.name} of {names}.\nNothing was run. It would go to {leg.folder()}\n"
    of = prospect.estimate(how)
    swept = ", ".join(sorted({key for job in jobs for key in job.sweep}))
    val = ", ".join(dict.fromkeys(job.scheme.tune_val for job in jobs if job.sweep))
    text = (
        f"{head}recipe {leg.recipe.name}, tasks {len(jobs)} "
        f"({f'{swept} tuned on {val}' if swept else 'nothing tuned'}), seeds {', '.join(map(str, leg.seeds))}.\n"
        + (f"{line(of)}." if of else "")
    )
    return f"{console.folded(text)}\nNothing was run. It would go to {leg.folder()}\n"


def _few(names: Sequence[str]) -> str:
    return some(list(dict.fromkeys(names)))
