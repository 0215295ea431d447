"""The machine around a run: cards and their links, engines, the queue's settings. For `vitft doctor`."""

import importlib.metadata
import os
import re
import shutil
from collections.abc import Mapping

from vitft import machine
from vitft.errors import UsageError
from vitft.words import listed, size
from vitft.world import world


def interconnect() -> str:
    """Return how the processes of a run would talk to each other."""
    import torch
    import torch.distributed as dist

    if not dist.is_available():
        return "none: this torch has no distributed package"
    cards = torch.cuda.device_count()
    if not cards or not dist.is_nccl_available():
        return "gloo over TCP, between processes on CPUs"
    version = ".".join(map(str, torch.cuda.nccl.version()))
    apart = [f"{a}-{b}" for a in range(cards) for b in range(a) if not torch.cuda.can_device_access_peer(a, b)]
    peers = "one card" if cards == 1 else f"cards {', '.join(apart)} only through the host" if apart else "all peers"
    return f"NCCL {version} between cards ({peers}), gloo over TCP"


def engines() -> dict[str, str]:
    """Return engine -> whether it can be used."""
    try:
        ray = importlib.metadata.version("ray")
        where = os.environ.get("RAY_ADDRESS")
        ray += f", cluster {where} (RAY_ADDRESS)" if where else ", this machine alone (RAY_ADDRESS is not set)"
    except importlib.metadata.PackageNotFoundError:
        ray = "not installed: pip install 'vitft[ray]'"
    try:
        here = world()
        torchrun = f"process {here.rank} of {here.size}" if here.size > 1 else "not below torchrun"
    except UsageError as error:
        torchrun = error.lines[0]
    return {"engine local": "one worker a device of --devices", "engine ray": ray, "torchrun": torchrun}


def compilers() -> str:
    """Return the compiler of blocks, and the folder of compiled code."""
    from vitft import compiling

    cpp = next((name for name in (os.environ.get("CXX", ""), "g++", "clang++") if name and shutil.which(name)), "")
    try:
        triton = f"triton {importlib.metadata.version('triton')}"
    except importlib.metadata.PackageNotFoundError:
        triton = ""
    found = [f"{name} for {kind}" if name else f"none for {kind}" for name, kind in ((cpp, "CPUs"), (triton, "cards"))]
    folder = compiling.folder()
    taken = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder.exists() else 0
    return f"{', '.join(found)}; kept in {folder} ({taken / 2**20:.0f} MiB)"


def would_use() -> str:
    """Return the device, precision and the like that a run takes by default."""
    from vitft import device

    found = device.pick("auto")
    return f"{device.name(found.type)}, {device.precision('auto', found)}, {machine.cores()} decoding threads"


def slurm(environment: Mapping[str, str]) -> str:
    """Return this process's share of a Slurm job, "" outside one."""
    if "SLURM_JOB_ID" not in environment:
        return ""
    batch = "SLURM_STEP_ID" not in environment  # the script itself, which srun starts its tasks beside
    facts = [
        f"job {environment['SLURM_JOB_ID']}" + " (its script; 'srun vitft doctor' tells what a task gets)" * batch,
        f"tasks on a node {_tasks_here(environment)}",
        f"cores {machine.cores()} of {os.cpu_count()}",
        f"memory {size(machine.memory())}",
        f"CUDA_VISIBLE_DEVICES {environment.get('CUDA_VISIBLE_DEVICES', 'not set')}",
    ]
    faults = slurm_faults(environment)
    return "; ".join([", ".join(facts), *(f"WARNING: {text}" for text in faults)])


def slurm_faults(environment: Mapping[str, str], device: str = "auto") -> list[str]:
    """Return what a task of a Slurm job should have been started with: neighbours have its cards, or it lacks cores.

    Args:
        device: that is asked for; "auto" and "cuda" are the first card.
    """
    share, bound = machine.number("SLURM_CPUS_PER_TASK", environment), machine.bound()
    faults: list[str] = []
    if "SLURM_STEP_ID" not in environment:
        return faults  # not started by srun: all that the job has of the node is its own
    if bound < share:
        faults.append(
            f"this task is bound to {bound} of the {share} cores that sbatch was asked for: "
            f"srun takes --cpus-per-task from its own command line alone. Give srun --cpus-per-task={share}"
        )
    cards = len(listed(environment.get("CUDA_VISIBLE_DEVICES", ""))) * (device in ("auto", "cuda"))
    if _tasks_here(environment) > 1 and cards > 1 and not environment.get("LOCAL_RANK"):
        faults.append(
            f"each of the tasks on this node sees the same {cards} cards and takes the first. "
            "Give srun --gpus-per-task=1 --gpu-bind=single:1, or start one torchrun a node"
        )
    return faults


def _tasks_here(environment: Mapping[str, str]) -> int:
    """Return how many tasks of a job or step are on this node, from e.g. "8(x2),3" and the node's number among them."""
    words = environment.get("SLURM_TASKS_PER_NODE", "1").split(",")
    groups = (re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", word) for word in words)
    nodes = [int(g[1]) for g in groups if g for _ in range(int(g[2] or 1))] or [1]
    return nodes[min(machine.number("SLURM_NODEID", environment), len(nodes) - 1)]
