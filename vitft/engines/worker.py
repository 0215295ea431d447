"""A worker: runs units one after the other on one device and keeps its network warm between them.

It talks JSON lines: units come in on stdin, events go out on the pipe that was stdout. The first line in is
`{"folder", "runtime", "threads"}`, every later one `{"unit"}`; the end of the input means: save and stop. Events are
`ready`, `step`, `phase`, `note`, `done`, `failed` (with the error, to be raised again elsewhere) and `stopped`.
"""

import json
import os
import queue
import signal
import sys
import threading
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypedDict

from vitft.engines.events import Event, Tell, failed
from vitft.errors import Interrupted, VitftError
from vitft.progress import Hooks, StepReport
from vitft.results.folders import LEASE_S, lock, unit_folder

if TYPE_CHECKING:
    from vitft.protocol.jobs import Runtime
    from vitft.protocol.units import Unit
    from vitft.protocol.warm import Warm

_TELL_EVERY_S = 0.2


class _Command(TypedDict, total=False):
    """A line in: the first has all but a unit, every later one a unit alone."""

    folder: str
    runtime: dict[str, Any]
    threads: int
    unit: str


def serve(commands: IO[str], events: IO[str]) -> None:
    """Run the units of the commands until these end, a signal comes, or a unit is interrupted."""
    stop = Stop()
    inbox: queue.SimpleQueue[_Command | None] = queue.SimpleQueue()

    def listen() -> None:
        for line in commands:
            inbox.put(json.loads(line))
        inbox.put(None)
        stop.signum = stop.signum or signal.SIGTERM

    threading.Thread(target=listen, daemon=True).start()
    start = inbox.get()
    if start is None:
        return
    from vitft.protocol.jobs import Runtime
    from vitft.protocol.units import Unit
    from vitft.protocol.warm import Warm

    tell = _teller(events)
    folder, runtime, warm = Path(start["folder"]), Runtime(**start["runtime"]), Warm()
    share_cores(start["threads"])
    tell({"event": "ready", "pid": os.getpid()})
    while (command := inbox.get()) is not None:
        unit = Unit.from_json(command["unit"])
        event, warm = run_one(unit, folder, runtime, warm, tell, stop)
        if event is None:
            break
        tell(event)
    tell({"event": "stopped", "signal": stop.signum})


def share_cores(threads: int) -> None:
    """Let torch compute on so many threads; 0 = as it has it."""
    if threads:
        import torch

        torch.set_num_threads(threads)


def run_one(
    unit: "Unit", folder: Path, runtime: "Runtime", warm: "Warm", tell: Tell, stop: "Stop"
) -> tuple[Event | None, "Warm"]:
    """Run a unit, alone in its folder; return the event of its end, None where it was stopped, and what stays warm."""
    from vitft.protocol.run import run_unit
    from vitft.protocol.warm import Warm

    hooks = _hooks(tell, stop)
    try:
        # A worker that its supervisor left behind may still be saving there, or have lost its machine.
        with lock(unit_folder(folder, unit.id), wait=LEASE_S, watched=lambda: nullcontext(hooks)):
            run_unit(unit, folder, runtime, hooks, warm)
    except Interrupted:
        return None, warm
    except VitftError as error:
        # A network that failed half-way may hold anything: the next unit builds its own.
        return failed(unit.id, error), Warm()
    return {"event": "done", "unit": unit.id}, warm


class Stop:
    """The number of the signal that came, or 0."""

    signum = 0


def _hooks(tell: Tell, stop: Stop) -> Hooks:
    last = {"step": 0.0, "phase": 0.0}

    def due(what: str, done: int, total: int) -> bool:
        now = time.monotonic()
        if done < total and now - last[what] < _TELL_EVERY_S:
            return False
        last[what] = now
        return True

    def step(report: StepReport) -> None:
        if due("step", report.step, report.steps):
            tell({"event": "step", "report": asdict(report)})

    def phase(what: str, done: int, total: int) -> None:
        if due("phase", done, total):
            tell({"event": "phase", "what": what, "done": done, "total": total})

    def note(text: str) -> None:
        tell({"event": "note", "text": text})

    return Hooks(step=step, phase=phase, note=note, signal=lambda: stop.signum)


def _teller(events: IO[str]) -> Tell:
    def tell(event: Event) -> None:
        try:
            events.write(json.dumps(event) + "\n")
            events.flush()
        except (BrokenPipeError, ValueError):
            # The supervisor is gone. The end of the input says so too, and the unit saves its state and stops.
            return

    return tell


def main() -> None:
    """Serve on stdin and what was stdout; whatever a library prints goes to stderr, the worker's log."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # The supervisor passes a stop on; a Ctrl-C that reached the whole terminal, or a queue's signal to all processes of
    # a job, must not cut a save short.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    serve(sys.stdin, events)


if __name__ == "__main__":
    main()
