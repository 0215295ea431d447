"""What a suite is going to do, before it does it: each leg with its data, its plan and its cost."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from vitft.engines import suite as planning
from vitft.engines import suite_run
from vitft.engines.suite import Leg, Planned, SuiteRequest
from vitft.engines.suite_run import How
from vitft.prepare.inventory import Row
from vitft.protocol.units import Job, tune_units

if TYPE_CHECKING:
    from vitft.protocol.estimate import Estimate


@dataclass(frozen=True)
class Prospect:
    """A leg before it runs.

    Attributes:
        rows: its data sets; of `planned.missing` there is no usable data.
        absent: those of them whose data is not there at all.
    """

    leg: Leg
    rows: Sequence[Row]
    absent: frozenset[str]
    planned: Planned

    def mine(self, how: How) -> list[Job]:
        """Return the jobs of the shard."""
        names = planning.of_shard(self.leg, how.shard).tasks()
        return [job for job in self.planned.jobs if job.name in names]

    def estimate(self, how: How) -> "Estimate | None":
        """Return its estimate; None for a leg that trains nothing, or for data that is not here."""
        return suite_run.estimate(self.mine(how), self.planned, how)


def prospects(request: SuiteRequest, how: How, *, anew: bool) -> list[Prospect]:
    """Return every leg with its plan; what is finished is not planned again, unless `anew`."""
    legs = request.legs()
    planning.shard((), how.shard or "1/1")  # a wrong one is told before anything is looked at
    plans = []
    for leg in legs:
        rows, missing = planning.availability(leg)
        again = not anew and not how.overwrite and how.resume and not planning.unfinished(leg, missing)
        planned = Planned((), missing) if again else planning.plan(leg, missing)
        plans.append(Prospect(leg, rows, frozenset(missing), planned))
    return plans


def described(prospect: Prospect, how: How) -> dict[str, object]:
    """Return a leg's plan as JSON has it."""
    from vitft.protocol.estimate import to_json

    of = prospect.estimate(how)
    return {
        "suite": prospect.leg.suite.name,
        "model": prospect.leg.model,
        "run": prospect.leg.part.first.run,
        "folder": str(prospect.leg.folder()),
        "shard": how.shard,
        "data": [asdict(row) | {"usable": row.task not in prospect.planned.missing} for row in prospect.rows],
        "plan": [
            {
                "task": job.name,
                "tune": len(tune_units(job)),
                "final": len(job.seeds),
                "splits": asdict(job.scheme),
                "settings": job.settings.model_dump(mode="json"),
                "sweep": job.sweep,
            }
            for job in prospect.mine(how)
        ],
        "estimate": to_json(of) if of else None,
    }
