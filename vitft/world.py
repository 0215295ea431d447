"""The environment variables by which torchrun and Slurm describe what they have started. No torch."""

import os
from dataclasses import dataclass

from vitft import machine
from vitft.errors import UsageError


@dataclass(frozen=True)
class World:
    """One of the processes that torchrun has started.

    Attributes:
        rank: from 0; size: of all machines together.
        local_rank: on this machine, which is the number of its card.
        address, port: of the store.
        attempt: how often torchrun has started the processes again.
        agent: torchrun holds the store; else process 0 does.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    address: str = ""
    port: int = 0
    attempt: int = 0
    agent: bool = False


def restarts() -> int:
    """Return how often torchrun, or Slurm after a requeue, has started this command again."""
    return machine.number("TORCHELASTIC_RESTART_COUNT") + machine.number("SLURM_RESTART_COUNT")


def world() -> World:
    """Read what torchrun has set; a process without it, or alone in it, is process 0 of one.

    Raises:
        UsageError: some of it is missing or is no number (exit code 2).
    """
    there = {name: os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    if not (there["RANK"] and there["WORLD_SIZE"]) or there["WORLD_SIZE"] == "1":
        return World()
    local = os.environ.get("LOCAL_RANK") or "0"
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT") or "0"
    numbers = [there["RANK"], there["WORLD_SIZE"], there["MASTER_PORT"], local, attempt]
    if not all(word.isdecimal() for word in numbers) or not there["MASTER_ADDR"] or int(numbers[0]) >= int(numbers[1]):
        variables = ", ".join(f"{name}={value or '(not set)'}" for name, value in there.items())
        raise UsageError(
            f"The environment speaks of several processes, but not whole: {variables}.",
            "what torchrun sets: RANK below WORLD_SIZE, MASTER_ADDR and MASTER_PORT.",
            "Start with 'torchrun --nproc-per-node N -m vitft ...', or unset RANK and WORLD_SIZE.",
        )
    rank, size, port, local_rank, restarts = map(int, numbers)
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return World(rank, size, local_rank, there["MASTER_ADDR"], port, restarts, agent)
