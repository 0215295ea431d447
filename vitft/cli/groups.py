"""Options that several verbs take together, each group written once as a dataclass."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from vitft.cli import console, signals
from vitft.cli import options as o

if TYPE_CHECKING:
    from vitft.engines import single
    from vitft.engines.suite_run import How
    from vitft.protocol.jobs import Runtime

EvalBatchOption = Annotated[
    int, typer.Option("--batch-size", "-b", min=0, help="Images a forward pass; 0 = by device. No image is dropped.")
]


@dataclass(frozen=True)
class Opening:
    """How a checkpoint is opened that is not trained, and how its images are prepared."""

    resolution: o.ResolutionOption = None
    resize: Annotated[
        Literal["checkpoint", "squash", "resize-small", "squash-crop"] | None,
        typer.Option(
            "--resize", help="checkpoint: its own crop fraction; squash; resize-small or squash-crop: 256 -> 224."
        ),
    ] = None
    crop_pct: Annotated[float | None, typer.Option("--crop-pct", help="Crop fraction instead of the checkpoint's.")] = (
        None
    )
    set_: o.SetOption = None
    device: o.DeviceOption = "auto"

    def fixed(self, *models: str) -> dict[str, object]:
        """Return the recipe keys that the user has set, after all that can be said of the options without torch.

        Raises:
            UsageError, UnknownName, CheckpointError: see `options.checked` and `request.check`.
        """
        from vitft.evaluation import request

        values = o.overrides(self.set_, self.resolution, resize=self.resize)
        o.checked(models, self.device)
        request.check(values, self.crop_pct)
        return values


@dataclass(frozen=True)
class Keys:
    """Keys of a recipe that have flags of their own, one value each."""

    set_: o.SetOption = None
    resolution: o.ResolutionOption = None
    method: o.MethodOption = None
    steps: o.StepsOption = None
    batch_size: o.BatchSizeOption = None
    lr: o.LrOption = None

    def fixed(self) -> dict[str, object]:
        """Return the keys that the user has set. Raises UsageError or UnknownName."""
        flags = {"method": self.method, "steps": self.steps, "batch_size": self.batch_size, "lr": self.lr}
        return o.overrides(self.set_, self.resolution, **flags)


@dataclass(frozen=True)
class Computing:
    """The device and the data of runs that are only estimated."""

    micro_batch: o.MicroBatchOption = 0
    precision: o.PrecisionOption = "auto"
    device: o.DeviceOption = "auto"
    workers: o.WorkersOption = 0
    data_dir: o.DataDirOption = None

    def runtime(self, models: int = 1) -> "Runtime":
        """Return how units would be run."""
        from vitft.protocol.jobs import Runtime

        return Runtime(self.device, self.precision, self.micro_batch, self.workers, models=models)


@dataclass(frozen=True)
class Running:
    """Where training runs and computes, where its files are, and how it stops and goes on."""

    micro_batch: o.MicroBatchOption = 0
    precision: o.PrecisionOption = "auto"
    compile: o.CompileOption = "auto"
    checkpoint_activations: o.CheckpointActivationsOption = "auto"
    device: o.DeviceOption = "auto"
    workers: o.WorkersOption = 0
    parallel: o.ParallelOption = "auto"
    data_dir: o.DataDirOption = None
    output: o.OutputOption = None
    resume: o.ResumeOption = "auto"
    overwrite: o.OverwriteOption = False
    max_time: o.MaxTimeOption = ""
    requeue_signals: o.RequeueOption = "USR2"
    deterministic: o.DeterministicOption = False
    quiet: o.QuietOption = False

    def how(self) -> "single.How":
        """Return how a run treats its folder."""
        from vitft.engines import single

        return single.How(self.resume == "auto", self.overwrite, console.note)

    def requeue(self) -> None:
        """Set the time or signal to stop at and be queued again. Raises UsageError."""
        signals.requeue(self.max_time, self.requeue_signals)

    def runtime(self, save_weights: bool, val_every: int = 0, models: int = 1) -> "Runtime":
        """Return how units are run. Raises UsageError for an impossible size of the cache."""
        from vitft.images import room
        from vitft.protocol.jobs import Runtime

        room.limit()
        return Runtime(
            self.device,
            self.precision,
            self.micro_batch,
            self.workers,
            self.deterministic,
            save_weights,
            parallel=self.parallel,
            val_every=val_every,
            models=models,
            compile=self.compile,
            checkpoint_activations=self.checkpoint_activations,
        )


@dataclass(frozen=True)
class Dispatched:
    """Which engine runs a suite's units, which of its tasks, and how its table is printed."""

    engine: o.EngineOption = "local"
    devices: o.DevicesOption = ""
    shard: o.ShardOption = ""
    allow_missing: o.AllowMissingOption = False
    dry_run: o.DryRunOption = False
    save_weights: o.SaveWeightsInSuiteOption = False
    format: o.TableFormatOption = "text"

    def how(self, running: Running, models: int = 1) -> "How":
        """Return how the suite is run."""
        from vitft.engines.suite_run import How

        return How(
            running.runtime(self.save_weights, models=models),
            console.note,
            partial(signals.watched, running.quiet),
            o.parse_devices(self.devices),
            self.shard,
            running.resume == "auto",
            running.overwrite,
            self.engine,
        )


def flat(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the fields of its groups as options of its own: Typer knows no dataclasses."""
    hints = get_type_hints(verb, include_extras=True)
    groups = {name: kind for name, kind in hints.items() if is_dataclass(kind) and isinstance(kind, type)}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(verb).parameters.values():
        if parameter.name in groups:
            inner = get_type_hints(groups[parameter.name], include_extras=True)
            parameters += [
                inspect.Parameter(field.name, parameter.kind, default=field.default, annotation=inner[field.name])
                for field in fields(groups[parameter.name])
            ]
        else:
            parameters.append(parameter.replace(annotation=hints[parameter.name]))

    def run(**given: Any) -> None:
        for name, kind in groups.items():
            given[name] = kind(**{field.name: given.pop(field.name) for field in fields(kind)})
        verb(**given)

    run.__name__, run.__doc__ = verb.__name__, verb.__doc__
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run
