"""Which engine runs the units of a suite. No torch until it runs one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, assert_never

from vitft.engines import local
from vitft.progress import Hooks
from vitft.protocol.jobs import Runtime
from vitft.protocol.units import Job
from vitft.world import world

Engine = Literal["local", "ray"]


def run(
    engine: Engine, jobs: Sequence[Job], folder: Path, runtime: Runtime, devices: Sequence[str], hooks: Hooks
) -> Mapping[str, str]:
    """Bring every job to its result files below `folder`; see the engines. Below torchrun its processes share each.

    Returns:
        Name of a job that failed -> why, in one line.
    """
    if world().size > 1:
        from vitft.engines import inline

        return inline.run(jobs, folder, runtime, devices=devices, hooks=hooks)
    match engine:
        case "local":
            return local.run(jobs, folder, runtime, devices=devices, hooks=hooks)
        case "ray":
            from vitft.engines import ray

            return ray.run(jobs, folder, runtime, devices=devices, hooks=hooks)
        case _:
            assert_never(engine)
