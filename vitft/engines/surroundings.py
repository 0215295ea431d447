"""The machine around a run: cards and their links, engines, the queue's settings. For `vitft doctor`."""

import importlib.metadata
import os
import shutil
from collections.abc import Mapping

from vitft import machine
from vitft.errors import UsageError
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
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder.exists() else 0
    return f"{', '.join(found)}; kept in {folder} ({size / 2**20:.0f} MiB)"


def would_use() -> str:
    """Return the device, precision and the like that a run takes by default."""
    from vitft import device

    found = device.pick("auto")
    return f"{device.name(found.type)}, {device.precision('auto', found)}, {machine.cores()} decoding threads"


def slurm(environment: Mapping[str, str], cards: int) -> str:
    """Return this process's share of a Slurm job, with a warning where its neighbours have the same cards.

    Args:
        cards: that this process sees.
    """
    if "SLURM_JOB_ID" not in environment:
        return ""
    here = environment.get("SLURM_TASKS_PER_NODE", "1").split("(")[0].split(",")[0]
    tasks = int(here) if here.isdecimal() else 1
    visible = environment.get("CUDA_VISIBLE_DEVICES", "not set")
    facts = f"job {environment['SLURM_JOB_ID']}, tasks on a node {tasks}, CUDA_VISIBLE_DEVICES {visible}"
    if tasks > 1 and cards > 1 and not environment.get("LOCAL_RANK"):
        return (
            f"WARNING: {facts}: each of these tasks sees the same {cards} cards and takes the first. "
            "Give srun --gpus-per-task=1 --gpu-bind=single:1, or start one torchrun a node"
        )
    return facts
