"""The engine of one machine: a supervisor without torch, and one warm worker a device.

The presence of a unit's result file is the truth: a worker, or the supervisor itself, may die at any point, and the
same call goes on from what is on disk. A unit whose worker dies twice under it is given up; the others go on.
"""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, Protocol

from vitft import machine
from vitft.engines.events import Event, Shown, error_of
from vitft.engines.plan import Plan
from vitft.errors import REQUEUE, VitftError
from vitft.progress import Hooks
from vitft.protocol.jobs import Runtime
from vitft.protocol.units import Job, Unit

_DEATHS = 2
_SAVE_S = 20.0
"""How long workers may save after a signal: Slurm kills 30 s after it (KillWait)."""
_QUEUED_S = 300.0
"""How long before a run is queued again: who asks for that has left time for it."""


class Process(Protocol):
    """What the supervisor needs of a worker's process; `subprocess.Popen` has it."""

    pid: int
    stdin: IO[str] | None
    stdout: IO[str] | None

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def kill(self) -> None: ...


Launch = Callable[[Path], Process]


def start_process(log: Path) -> Process:
    """Start a worker as a process of its own group, its stderr appended to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as stderr:
        return subprocess.Popen(
            [sys.executable, "-m", "vitft.engines.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )


def run(
    jobs: Sequence[Job],
    folder: Path,
    runtime: Runtime,
    *,
    devices: Sequence[str] = (),
    hooks: Hooks | None = None,
    launch: Launch | None = None,
) -> Mapping[str, str]:
    """Bring every job to its result files below `folder`, several at once where there are several devices.

    Args:
        jobs: with different names.
        folder: the run folder.
        runtime: how units are run; `devices` decides where.
        devices: one worker for each; empty = one for `runtime.device`.
        hooks: `unit` tells the overall progress in finished units; `step` and `phase` come from the first busy worker.
        launch: starts a worker; None = a process of its own.

    Returns:
        Name of a job that failed -> why, in one line; it does not stop the others.

    Raises:
        Interrupted: a signal came; the workers saved their state first (exit code 130 or 143).
        UsageError, DiskFull, CheckpointError: what would stop every other unit too.
    """
    plan = Plan(jobs, folder)
    if not plan.done():
        _Supervisor(
            plan, folder, runtime, devices or (runtime.device,), hooks or Hooks(), launch or start_process
        ).run()
    return plan.failed


@dataclass
class _Worker:
    device: str
    log: Path
    process: Process | None = None
    unit: Unit | None = None
    ready: bool = False
    buffer: str = ""
    size: Any = None


class _Supervisor:
    """Hands units to workers until nothing is left, and starts a worker again when it dies."""

    def __init__(
        self, plan: Plan, folder: Path, runtime: Runtime, devices: Sequence[str], hooks: Hooks, launch: Launch
    ) -> None:
        self.plan, self.folder, self.runtime, self.hooks, self.launch = plan, folder, runtime, hooks, launch
        self.workers = [_Worker(d, folder / "logs" / f"worker-{i}.log") for i, d in enumerate(devices)]
        self.deaths: dict[str, int] = {}
        self.early_deaths = 0
        self.shown = Shown(hooks)
        self.start = plan.begun()
        self.selector = selectors.DefaultSelector()

    def run(self) -> None:
        try:
            while self._assign():
                self._listen(0.2)
                if self.hooks.signal():
                    self._stop()
                    self.hooks.stop_if_asked()
        finally:
            for worker in self.workers:
                self._close(worker, kill=True)
            self.selector.close()

    def _assign(self) -> bool:
        """Give a unit to every idle worker; return whether any work is left."""
        busy = {worker.unit.id for worker in self.workers if worker.unit}
        ready = [unit for unit in self.plan.ready() if unit.id not in busy]
        for worker in self.workers:
            if worker.unit or not ready:
                continue
            if worker.process is None:
                self._start(worker)
            if worker.ready:
                # The worker's network serves on where the size of the images is the same.
                same = (i for i, unit in enumerate(ready) if unit.settings.resolution == worker.size)
                worker.unit = ready.pop(next(same, 0))
                worker.size = worker.unit.settings.resolution
                self.hooks.unit(worker.unit.title + self.plan.time_left(*self.start), *self.plan.counts())
                self._send(worker, {"unit": worker.unit.to_json()})
        return bool(busy or ready or any(worker.unit for worker in self.workers))

    def _start(self, worker: _Worker) -> None:
        process = self.launch(worker.log)
        worker.process, worker.ready, worker.buffer = process, False, ""
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        self.selector.register(process.stdout, selectors.EVENT_READ, worker)
        runtime = replace(self.runtime, device=worker.device)
        self._send(worker, {"folder": str(self.folder), "runtime": asdict(runtime), "threads": self._threads(worker)})

    def _threads(self, worker: _Worker) -> int:
        """Share the cores where several workers compute on them; 0 = as torch has it."""
        cores = machine.cores()
        return 0 if len(self.workers) == 1 or worker.device.startswith("cuda") else max(1, cores // len(self.workers))

    def _send(self, worker: _Worker, command: Mapping[str, object]) -> None:
        assert worker.process is not None
        assert worker.process.stdin is not None
        try:
            worker.process.stdin.write(json.dumps(command) + "\n")
            worker.process.stdin.flush()
        except (BrokenPipeError, OSError):
            # It died; the end of its output says so at the next look.
            return

    def _listen(self, timeout: float) -> None:
        for key, _ in self.selector.select(timeout):
            worker: _Worker = key.data
            data = os.read(key.fd, 1 << 16)
            if not data:
                self._died(worker)
                continue
            *lines, worker.buffer = (worker.buffer + data.decode()).split("\n")
            for line in lines:
                self._heard(worker, json.loads(line))

    def _heard(self, worker: _Worker, event: Event) -> None:
        self.shown.show(event, first=worker is next((w for w in self.workers if w.unit), None))
        match event["event"]:
            case "ready":
                worker.ready = True
            case "done":
                self.plan.succeeded = True
                worker.unit = None
            case "failed":
                unit, worker.unit = worker.unit, None
                if unit is not None:
                    self.plan.fail(unit, error_of(event), self.hooks.note)

    def _died(self, worker: _Worker) -> None:
        """Start a dead worker again at the next assignment, and give up on a unit that kills its workers."""
        code = self._close(worker)
        unit, worker.unit = worker.unit, None
        how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        if unit is None:
            self.early_deaths += 1
            if self.early_deaths > _DEATHS:
                raise VitftError(
                    f"A worker on '{worker.device}' ends before it can work ({how}).",
                    fact=f"Its last words: {_tail(worker.log)}",
                    action=f"See '{worker.log}'.",
                )
            return
        if self.plan.result(unit) is not None:
            return
        self.deaths[unit.id] = self.deaths.get(unit.id, 0) + 1
        if self.deaths[unit.id] < _DEATHS:
            self.hooks.note(f"The worker of {unit.title} died ({how}); it is started again.")
            return
        self.plan.give_up(unit, f"its worker died {_DEATHS} times ({how}); see {worker.log}")
        self.hooks.note(f"{unit.title} is given up: its worker died {_DEATHS} times ({how}): {_tail(worker.log)}")

    def _stop(self) -> None:
        """Let every worker save its state: the end of its input asks for that."""
        for worker in self.workers:
            if worker.process is not None and worker.process.stdin is not None:
                worker.process.stdin.close()
        until = time.monotonic() + (_QUEUED_S if self.hooks.signal() == REQUEUE else _SAVE_S)
        for worker in self.workers:
            while worker.process is not None and worker.process.poll() is None and time.monotonic() < until:
                # A full pipe would keep it from ending.
                self._drain(worker)
                time.sleep(0.05)

    def _drain(self, worker: _Worker) -> None:
        assert worker.process is not None
        assert worker.process.stdout is not None
        try:
            os.read(worker.process.stdout.fileno(), 1 << 16)
        except BlockingIOError:
            return

    def _close(self, worker: _Worker, *, kill: bool = False) -> int | None:
        """Let go of a worker's process; return how it ended."""
        process, worker.process, worker.ready = worker.process, None, False
        if process is None:
            return None
        assert process.stdout is not None
        assert process.stdin is not None
        self.selector.unregister(process.stdout)
        if kill and process.poll() is None:
            process.kill()
        with contextlib.suppress(OSError):
            process.stdin.close()
        process.stdout.close()
        return process.wait()


def _tail(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        return "(none)"
    return lines[-1][-300:] if lines else "(none)"
