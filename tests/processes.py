"""Groups of processes forked from the test process, which has torch imported already, over gloo on this machine."""

import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vitft.group import Processes
from vitft.world import World


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(size: int, work: Callable[[Processes], Any], folder: Path) -> list[int]:
    """Fork `size` processes that run `work` and leave what it returns in `<folder>/<rank>.pt`; return their ids."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    pids = []
    for rank in range(size):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = _member(World(rank, size, rank, "127.0.0.1", port), work, folder)
            except BaseException:
                (folder / f"{rank}.txt").write_text(traceback.format_exc())
            finally:
                sys.stderr.flush()
                os._exit(code)
        pids.append(pid)
    return pids


def _member(world: World, work: Callable[[Processes], Any], folder: Path) -> int:
    os.dup2(os.open(folder / f"{world.rank}.err", os.O_WRONLY | os.O_CREAT, 0o644), 2)
    torch.set_num_threads(1)
    group = Processes(world)
    group.join("cpu")
    torch.save(work(group), folder / f"{world.rank}.pt")
    if group.first:
        group.tell(None)
    else:
        group.heard(lambda: 0)
    return 0


def finish(pids: list[int], seconds: float) -> list[int]:
    """Return the exit codes of processes, all of which must end in time."""
    codes: dict[int, int] = {}
    until = time.monotonic() + seconds
    while len(codes) < len(pids):
        assert time.monotonic() < until, f"still at work: {[p for p in pids if p not in codes]}"
        for pid in [p for p in pids if p not in codes]:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                codes[pid] = os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    return [codes[pid] for pid in pids]


def run(size: int, work: Callable[[Processes], Any], folder: Path) -> list[Any]:
    """Return what `work` returns in each of `size` processes."""
    codes = finish(start(size, work, folder), 120)
    said = [path.read_text() for path in sorted(folder.glob("*.txt"))]
    assert not any(codes), "\n".join(said) or codes
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(size)]
