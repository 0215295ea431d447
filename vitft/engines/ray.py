"""The engine of a cluster: each unit a plain task of Ray, on one GPU of its own where there are GPUs.

Ray is given nothing to repeat: the result files are the truth, and `dispatch` tries again what they lack. Units of a
command that died end with its Ray job; the same command takes them up. Needs the extra `ray`.
"""

import os
import platform
import signal
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from vitft import machine
from vitft.engines import plan as planning
from vitft.engines.dispatch import End, dispatch
from vitft.engines.events import Event, Shown, error_of, failed
from vitft.engines.plan import Plan
from vitft.engines.worker import Stop, run_one, share_cores
from vitft.errors import NonFiniteLoss, NotInstalled, UsageError, VitftError, end_at_once, rebuilt
from vitft.progress import Hooks
from vitft.protocol.jobs import Runtime
from vitft.protocol.units import Job, Unit
from vitft.versions import difference, versions
from vitft.words import cause

_SAVE_S = 60.0
_LOOK_S = 0.5
_HEAD_S, _HEAD_EVERY_S = 40.0, 2.0


def run(
    jobs: Sequence[Job], folder: Path, runtime: Runtime, *, devices: Sequence[str] = (), hooks: Hooks | None = None
) -> Mapping[str, str]:
    """Bring every job to its result files below `folder`, on the cluster of $RAY_ADDRESS or on this machine.

    Args:
        folder: shared by all machines of the cluster.
        runtime: with "auto" a unit takes a GPU where the cluster has any.
        devices: how many units at once, named as for `local.run`; empty = as many as there are GPUs, or cores.
        hooks: as for `local.run`.

    Raises:
        UsageError: Ray is not installed, not reachable, or has no such device.
        Interrupted and the like: see `dispatch`.
    """
    plan, hooks = Plan(jobs, folder), hooks or Hooks()
    if plan.done():
        return plan.failed
    ray = _ray()
    kinds = {name.split(":")[0] for name in devices} or {runtime.device.split(":")[0]}
    if len(kinds) > 1:
        raise UsageError(f"--devices {','.join(devices)} are of several kinds.", "one kind; Ray chooses which of them.")
    over = threading.Event()
    # What befalls its nodes Ray writes to stdout, with long dumps; `dispatch` tells of it what matters.
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):  # noqa: PTH123
        try:
            _connected(ray, len(devices))
            threading.Thread(target=_watch_head, args=(_address(ray), over), daemon=True).start()
            pool = _Pool(ray, folder.resolve(), replace(runtime, device=kinds.pop()), len(devices), hooks)
            dispatch(plan, pool, hooks, planning.cost)
        finally:
            ray.shutdown()
            over.set()
    return plan.failed


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise NotInstalled("'--engine ray' needs the package 'ray', which is not installed.", "ray") from None
    return ray


def _connected(ray: Any, at_once: int) -> None:
    """Join the cluster, or start one of this machine alone; what vitft does on a signal stays."""
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    address = os.environ.get("RAY_ADDRESS")
    _reachable(address or "")
    alone: dict[str, Any] = {"include_dashboard": False, "object_store_memory": 100 << 20}
    if at_once:
        alone["num_cpus"] = max(at_once, machine.cores())
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **({} if address else alone))
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise UsageError(
            f"Ray does not start ({cause(error, 140)}).",
            "RAY_ADDRESS of a cluster that runs and that this machine is one of, or none for this machine.",
            "Outside the cluster give RAY_ADDRESS=ray://HEAD:10001; 'ray status' shows it.",
        ) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)


def _reachable(address: str) -> None:
    """Raise UsageError for an address that nobody answers at; Ray itself would ask for minutes."""
    if why := _silent(address, 10):
        raise UsageError(
            f"No Ray cluster answers at RAY_ADDRESS={address} ({why}).",
            "the address of a cluster that runs, or none for this machine.",
            "Run 'ray status' to see the cluster.",
        ) from None


def _silent(address: str, timeout: float) -> str:
    """Return why nobody takes a connection at an address; "" where one is taken, or the address names no port."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():
        return ""
    try:
        socket.create_connection((host, int(port)), timeout=timeout).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _address(ray: Any) -> str:
    """Return host and port of the cluster's head, or of its server for clients; "" for this machine alone."""
    address = os.environ.get("RAY_ADDRESS", "")
    if not address or address.startswith("ray://"):
        return address
    return str(ray.get_runtime_context().gcs_address)


def _watch_head(address: str, over: threading.Event) -> None:
    """End this process with an error where a cluster's head has not answered for `_HEAD_S` seconds.

    Calls of Ray hang without it, and after a minute Ray ends the process itself, with a line of its own log.
    """
    answered = time.monotonic()
    while address and not over.wait(_HEAD_EVERY_S):
        why = _silent(address, _HEAD_EVERY_S)
        if not why:
            answered = time.monotonic()
        elif time.monotonic() - answered > _HEAD_S and not over.is_set():
            end_at_once(
                VitftError(
                    f"The head of the Ray cluster at {address} has not answered for {_HEAD_S:.0f} s ({why}).",
                    fact="What is finished stays, and what was at work goes on from its last saved state.",
                    action="Start the cluster again, then run the same command.",
                )
            )


class _Board:
    """Events of the units, and whether they are to stop: an actor on the machine of the command."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Event]] = []
        self.stopped = False

    def put(self, unit: str, event: Event) -> None:
        """Add an event of a unit."""
        self.events.append((unit, event))

    def to_stop(self) -> bool:
        """Tell whether `stop` was called."""
        return self.stopped

    def drain(self) -> list[tuple[str, Event]]:
        """Return the events since the last call."""
        events, self.events = self.events, []
        return events

    def stop(self) -> None:
        self.stopped = True


class _Pool:
    """Units as tasks of Ray."""

    def __init__(self, ray: Any, folder: Path, runtime: Runtime, at_once: int, hooks: Hooks) -> None:
        self.ray, self.folder, self.runtime, self.hooks = ray, folder, runtime, hooks
        gpus = runtime.device != "cpu" and self._resource("GPU") > 0
        if runtime.device not in ("auto", "cpu") and not gpus:
            raise UsageError(f"This Ray cluster has no GPU for --device {runtime.device}.", "auto, cpu.")
        self.needs, self.at_once = {"num_gpus": int(gpus), "num_cpus": 1}, at_once
        self.task = ray.remote(max_retries=0, **self.needs)(_unit)
        self.board = ray.remote(num_cpus=0, max_restarts=-1)(_Board).remote()
        self.tasks: dict[Any, Unit] = {}
        self.shown = Shown(hooks)

    def _resource(self, name: str) -> int:
        return int(self.ray.cluster_resources().get(name, 0))

    def room(self) -> int:
        # Twice as many as run at once: none of them idles, and a cluster that grows sees why it should.
        most = self.at_once or 2 * self._resource("GPU" if self.needs["num_gpus"] else "CPU")
        return max(1, most) - len(self.tasks)

    def submit(self, unit: Unit) -> None:
        place = {"folder": str(self.folder), "cwd": os.getcwd(), "host": platform.node()}  # noqa: PTH109
        place["data"] = os.environ.get("VITFT_DATA", "")
        threads = 0 if self.needs["num_gpus"] else 1
        how = asdict(self.runtime)
        self.tasks[self.task.remote(unit.to_json(), place, how, threads, self.board, dict(versions()))] = unit

    def wait(self) -> list[End]:
        ended, _ = self.ray.wait(list(self.tasks), num_returns=1, timeout=_LOOK_S)
        self._show()
        return [self._end(task) for task in ended]

    def _end(self, task: Any) -> End:
        unit, errors = self.tasks.pop(task), self.ray.exceptions
        try:
            event = self.ray.get(task)
        except errors.OutOfMemoryError as error:
            return End(unit, "memory", why=cause(error))
        except errors.RayTaskError as error:
            if isinstance(error.cause, VitftError):
                return End(unit, "failed", error.cause)
            return End(unit, "failed", VitftError(f"vitft itself failed: {cause(error.cause)}."))
        except errors.RayError as error:
            return End(unit, "lost", why=cause(error))
        if event is None:
            return End(unit, "stopped")
        return End(unit, "done") if event["event"] == "done" else End(unit, "failed", error_of(event))

    def _show(self) -> None:
        """Pass on what the units tell: notes once, progress of the first one at work."""
        events: list[tuple[str, Event]] = []
        with suppress(self.ray.exceptions.RayError):  # the board may be on its way to another machine
            events = self.ray.get(self.board.drain.remote(), timeout=5)
        at_work = {unit.id for unit in self.tasks.values()} & {unit for unit, _ in events}
        first = next((unit.id for unit in self.tasks.values() if unit.id in at_work), None)
        for unit, event in events:
            self.shown.show(event, first=unit == first)

    def stop(self) -> None:
        self.board.stop.remote()
        until = time.monotonic() + _SAVE_S
        while self.tasks and time.monotonic() < until:
            self.wait()


def _unit(
    text: str, place: dict[str, str], runtime: dict[str, Any], threads: int, board: Any, programs: dict[str, str]
) -> Event | None:
    """Run a unit in a worker process of Ray; return the event of its end, None where it was stopped.

    Args:
        place: what paths are relative to, where data lie, and the machine of the command.
        programs: versions that the command has; other ones would give another number.
    """
    import ray

    if other := difference(versions(), programs):
        raise UsageError(
            f"{platform.node()} has another program than the machine of the command: {other}.",
            "the same vitft, torch and timm on all machines.",
            "Look at PYTHONPATH and the environment of 'ray start' there.",
        )
    from vitft.protocol.warm import Warm

    if Path(place["cwd"]).is_dir():  # names of files are as the user wrote them
        os.chdir(place["cwd"])
    if place["data"]:
        os.environ["VITFT_DATA"] = place["data"]
    unit, stop, ended = Unit.from_json(text), Stop(), threading.Event()

    def tell(event: Event) -> None:
        with suppress(Exception):  # nobody listens: the command is gone, and Ray ends this process
            board.put.remote(unit.id, event)

    def listen() -> None:
        while not ended.wait(1.0):
            with suppress(Exception):
                if ray.get(board.to_stop.remote(), timeout=30):
                    stop.signum = signal.SIGTERM

    threading.Thread(target=listen, daemon=True).start()
    share_cores(threads)
    how, warm = Runtime(**{**runtime, "device": _device(ray)}), _WARM.pop() if _WARM else Warm(alone=False)
    try:
        event: Event | None
        event, warm = run_one(unit, Path(place["folder"]), how, warm, tell, stop)
        _WARM.append(warm)
        return _on(event, place["host"])
    finally:
        ended.set()


def _on(event: Event | None, command: str) -> Event | None:
    """Return the event of a unit's end; an error names this machine where the command runs on another."""
    if event is None or event["event"] != "failed" or platform.node() == command:
        return event
    error = error_of(event)
    if isinstance(error, NonFiniteLoss):  # the same anywhere
        return event
    what, *rest = error.lines
    return failed(event["unit"], rebuilt(type(error), [f"{what.removesuffix('.')} (on {platform.node()}).", *rest]))


_WARM: list[Any] = []  # what this process keeps between its units; Ray ends those that used a GPU


def _device(ray: Any) -> str:
    """Return the device Ray has given this task: it shows the process that GPU alone, unless it is told not to."""
    ids = ray.get_gpu_ids()
    if not ids:
        return "cpu"
    return f"cuda:{ids[0]}" if os.environ.get("RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES") else "cuda:0"
