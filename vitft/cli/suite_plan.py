"""What a dry run of a suite prints: its plan, and what it would take."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from vitft.cli import console
from vitft.errors import some

if TYPE_CHECKING:
    from vitft.engines.suite import Leg, Planned
    from vitft.engines.suite_run import How
    from vitft.prepare.inventory import Row


def planned_text(
    legs: "Sequence[Leg]",
    found: "Sequence[tuple[list[Row], dict[str, str]]]",
    planned: "Sequence[Planned]",
    ready: str,
    how: "How",
) -> tuple[dict[str, Any], str]:
    """Return what a dry run prints: as JSON, one leg's plan or several; and as text."""
    plans = [_plan_of(*one, how) for one in zip(legs, found, planned, strict=True)]
    payload = plans[0][0] if len(plans) == 1 else {"suite": legs[0].suite.name, "legs": [one for one, _ in plans]}
    texts = [f"{leg.model}: " * (len(plans) > 1) + text for leg, (_, text) in zip(legs, plans, strict=True)]
    return payload, "\n".join([ready, *texts])


def _plan_of(
    leg: "Leg", found: "tuple[list[Row], dict[str, str]]", planned: "Planned", how: "How"
) -> tuple[dict[str, Any], str]:
    from vitft.engines import suite as planning
    from vitft.engines.cost import estimate
    from vitft.protocol.estimate import duration, speed_for
    from vitft.protocol.units import tune_units

    shard = how.shard
    mine = planning.of_shard(leg, shard)
    jobs = [job for job in planned.jobs if job.name in mine.tasks()]
    cost = estimate(leg, jobs)
    on = replace(how.runtime, device=(how.devices or (how.runtime.device,))[0])
    speed = speed_for(jobs[0], cost.flops, on) if jobs else None
    seconds = cost.flops / speed.flops_per_s if speed else 0.0
    payload = {
        "suite": leg.suite.name,
        "model": leg.model,
        "run": leg.part.first.run,
        "folder": str(leg.folder()),
        "shard": shard,
        "data": [asdict(row) | {"usable": row.task not in planned.missing} for row in found[0]],
        "plan": [
            {
                "task": job.name,
                "tune": len(tune_units(job)),
                "final": len(job.seeds),
                "splits": asdict(job.scheme),
                "settings": job.settings.model_dump(mode="json"),
                "sweep": job.sweep,
            }
            for job in jobs
        ],
        "estimate": asdict(cost) | {"seconds": seconds},
    }
    names = few([name for name in mine.tasks() if name not in planned.missing])
    head = f"Plan{f' of shard {shard} ({names})' if shard else ''}: "
    if leg.recipe is None:
        return payload, f"{head}{leg.part.name} of {names}.\nNothing was run. It would go to {leg.folder()}\n"
    swept = ", ".join(sorted({key for job in jobs for key in job.sweep}))
    val = ", ".join(dict.fromkeys(job.scheme.tune_val for job in jobs if job.sweep))
    here = f": about {duration(seconds)} on one {speed.device} ({speed.how})" if speed else ""
    told = (
        f"{head}recipe {leg.recipe.name}, tasks {len(jobs)}, fits {cost.units} "
        f"({f'{swept} tuned on {val}' if swept else 'nothing tuned'}), seeds {', '.join(map(str, leg.seeds))}.\n"
        f"{cost.train_images:,} training images, {cost.test_images:,} to evaluate, "
        f"about {cost.flops:.0e} floating-point operations (a rough rule: parameters x patches, three passes a step)"
        f"{here}."
    )
    return payload, f"{console.folded(told)}\nNothing was run. It would go to {leg.folder()}\n"


def few(tasks: Sequence[str]) -> str:
    """Return the first of these names, each once, and how many more there are."""
    return some(list(dict.fromkeys(tasks)))
