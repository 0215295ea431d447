"""Learning curves for those who watch them elsewhere: off unless asked for, nothing is sent by itself."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol, assert_never

from vitft.errors import NotInstalled
from vitft.progress import Hooks, StepReport
from vitft.results.files import RESULT, RUN, read_json
from vitft.results.folders import slug
from vitft.results.reading import load
from vitft.results.schema import RunResult
from vitft.words import cause

Tracker = Literal["tensorboard", "wandb", "trackio", "mlflow"]

PROJECT = "vitft"


class _Series(Protocol):
    """Where the numbers of one unit go."""

    def log(self, values: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


def check(to: Tracker | None) -> None:
    """Refuse to begin where the tracker is not installed. Raises UsageError."""
    if to is not None and find_spec(to) is None:
        raise NotInstalled(f"--track {to} needs {to}, which is not installed.", to)


@contextmanager
def tracked(hooks: Hooks, to: Tracker | None, folder: Path) -> Iterator[Hooks]:
    """Give hooks that also send each update to a tracker, one series a unit, and the final accuracy at the end.

    A tracker that fails is noted once and then left out: the run goes on.

    Args:
        to: None gives the hooks as they are.
        folder: of the run; TensorBoard's files lie in its tensorboard/.
    """
    if to is None:
        yield hooks
        return
    own = _Tracking(hooks.note, to, folder)
    try:
        yield replace(hooks, unit=own.after(hooks.unit, own.unit), step=own.after(hooks.step, own.step))
        own.finish()
    finally:
        own.close()


@dataclass
class _Tracking:
    note: Callable[[str], None]
    to: Tracker
    folder: Path
    title: str = "run"
    series: _Series | None = None
    last: int = 0
    broken: bool = field(default=False)

    def after(self, first: Callable[..., None], then: Callable[..., None]) -> Callable[..., None]:
        """Return a callback that calls both; an error of the second is noted once."""

        def both(*args: Any) -> None:
            first(*args)
            self.guarded(then, *args)

        return both

    def guarded(self, call: Callable[..., None], *args: Any) -> None:
        if self.broken:
            return
        try:
            call(*args)
        except Exception as error:  # a tracker's own kinds of error, the network, a full disk
            self.broken = True
            self.note(f"--track {self.to} failed and is left alone: {cause(error, 120)}")

    def unit(self, title: str, *_: int) -> None:
        self.close()
        self.title, self.last = title, 0

    def step(self, report: StepReport) -> None:
        if report.part:
            return  # the update is not done
        if self.series is None:
            self.series = _open(self.to, self.folder, self.title, report.step)
        values = {
            "train/loss": report.loss,
            "train/lr": report.lr,
            "train/grad_norm": report.grad_norm,
            "train/images_per_s": report.images_per_s,
        }
        self.last = report.step
        self.series.log({key: value for key, value in values.items() if math.isfinite(value)}, report.step)

    def finish(self) -> None:
        """Send the accuracy that the run came to."""

        def send() -> None:
            result = load(self.folder / RESULT, RunResult)
            if result is not None and self.series is not None:
                self.series.log({f"{result.provenance.split}/top1": result.metrics.top1}, self.last)

        self.guarded(send)

    def close(self) -> None:
        series, self.series = self.series, None
        if series is not None:
            self.guarded(series.close)


def _open(to: Tracker, folder: Path, title: str, first: int) -> _Series:
    """Begin a series; `first` is its first update in this process: what an earlier one had from there on goes."""
    config = {}
    with suppress(Exception):
        config = read_json(folder / RUN) or {}
    match to:
        case "tensorboard":
            return _TensorBoard(folder / "tensorboard" / slug(title), first)
        case "wandb" | "trackio":
            return _Logged(to, folder, title, config)
        case "mlflow":
            return _Mlflow(title, config)
        case _:
            assert_never(to)


class _TensorBoard:
    def __init__(self, folder: Path, first: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(folder), purge_step=first)  # type: ignore[no-untyped-call, unused-ignore]

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class _Logged:
    """wandb, and trackio, which has its functions."""

    def __init__(self, name: str, folder: Path, title: str, config: Mapping[str, Any]) -> None:
        from importlib import import_module

        self.module: Any = import_module(name)
        where = {"dir": str(folder)} if name == "wandb" else {}
        self.module.init(project=PROJECT, name=title, config=dict(config), **where)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.module.log(dict(values), step=step)

    def close(self) -> None:
        self.module.finish()


class _Mlflow:
    def __init__(self, title: str, config: Mapping[str, Any]) -> None:
        from importlib import import_module

        self.module: Any = import_module("mlflow")
        self.module.set_experiment(PROJECT)
        self.module.start_run(run_name=title)
        settings = config.get("settings", {})
        self.module.log_params({key: config[key] for key in ("name", "model", "recipe") if key in config} | settings)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.module.log_metrics(dict(values), step=step)

    def close(self) -> None:
        self.module.end_run()
