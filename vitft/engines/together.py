"""The processes that torchrun started as one engine: process 0 runs the command, the others follow it unit by unit."""

from collections.abc import Callable
from functools import cache

from vitft.errors import Interrupted, PeerLost, VitftError
from vitft.group import ALONE, Group, Processes
from vitft.progress import Hooks
from vitft.world import World, world


@cache
def group() -> Group:
    """Return the processes that share this one's units: those of torchrun, or none."""
    here = world()
    return ALONE if here.size == 1 else Processes(here)


def end() -> bool:
    """Let the processes go that wait for the next unit; return whether they have shared any."""
    group().tell(None)
    return group().joined


def follow(here: World, signal: Callable[[], int]) -> None:
    """Take part in every unit that process 0 announces, until it announces the end or a signal comes.

    Raises:
        PeerLost: another process is gone (exit code 1).
        Interrupted: a signal came; process 0 saves the state (exit code 130 or 143).
    """
    processes = Processes(here)
    hooks = Hooks(signal=signal)
    warm = None
    while (message := processes.heard(signal)) is not None:
        from vitft.protocol.jobs import Runtime
        from vitft.protocol.run import follow as share
        from vitft.protocol.units import Unit
        from vitft.protocol.warm import Warm

        warm = warm or Warm(group=processes)
        try:
            processes.join(message["runtime"]["device"])  # another vitft may not understand the rest
            share(Unit.from_json(message["unit"]), Runtime(**message["runtime"]), hooks, warm)
        except (PeerLost, Interrupted):
            raise
        except VitftError:
            # Process 0 has the same error, and tells it; the network may hold anything now.
            warm = Warm(group=processes)
