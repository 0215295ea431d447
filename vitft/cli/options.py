"""Options that mean the same in every verb, and the way from flags to a recipe's settings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vitft.catalog.models import DEFAULT
from vitft.errors import OutsideTolerance, UsageError
from vitft.group import Parallel
from vitft.results.files import RESULT
from vitft.words import listed

Format = Literal["text", "json"]
TableFormat = Literal["text", "markdown", "csv", "latex", "json"]
Precision = Literal["auto", "float32", "bf16"]

TaskArgument = Annotated[
    str, typer.Argument(metavar="TASK|PATH", help="A task's name ('vitft data ls'), or a folder of images.")
]
_MODEL = (
    "Alias, timm:NAME, hf-hub:ORG/NAME, a .npz, .safetensors or .pth file, a run or hub folder; "
    "FILE::KEY is one of a file's networks (x.pth::model), ADAPTER::base=MODEL a LoRA adapter on its base."
)
ModelOption = Annotated[str, typer.Option("--model", "-m", help=_MODEL)]
ModelsOption = Annotated[
    list[str] | None,
    typer.Option("--model", "-m", help=f"{_MODEL} May be repeated: all are run and compared. Default vit-mini."),
]
RecipeOption = Annotated[str, typer.Option("--recipe", help="A shipped recipe ('vitft recipes ls'), or a TOML file.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe's key; may be repeated.")
]
ResolutionOption = Annotated[
    str | None, typer.Option("--resolution", "-r", "--img-size", help="Pixels: 384, 384x512 (h x w), native or higher.")
]
MethodOption = Annotated[str | None, typer.Option("--method", help="full, linear, bias or lora.")]
StepsOption = Annotated[int | None, typer.Option("--steps", help="Optimiser updates.")]
BatchSizeOption = Annotated[int | None, typer.Option("--batch-size", "-b", help="Images an update (effective batch).")]
LrOption = Annotated[float | None, typer.Option("--lr", help="Peak learning rate; fixes it where the recipe tunes it.")]
MicroBatchOption = Annotated[int, typer.Option("--micro-batch", min=0, help="Images a forward pass; 0 = what fits.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Of order, augmentation and subsets.")]
PrecisionOption = Annotated[Precision, typer.Option("--precision", help="auto: bf16 autocast on CUDA, float32 on CPU.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")]
WorkersOption = Annotated[int, typer.Option("--workers", "-j", min=0, help="Threads that decode; 0 = one a core.")]
DataDirOption = Annotated[
    Path | None, typer.Option("--data-dir", help="The folder that holds data sets, or one data set itself.")
]
EngineOption = Annotated[
    Literal["local", "ray"],
    typer.Option("--engine", help="Who runs the units: this machine, or the Ray cluster of $RAY_ADDRESS."),
]
MaxTimeOption = Annotated[
    str,
    typer.Option("--max-time", help="E.g. 7h30m: save, and end with 75, for a queue that starts the command again."),
]
RequeueOption = Annotated[
    str, typer.Option("--requeue-signals", help="Of USR1, USR2, TERM, HUP, ALRM: save, and end with 75.")
]
ParallelOption = Annotated[
    Parallel,
    typer.Option("--parallel", help="Below torchrun: each process holds the network (ddp), a part (fsdp), what fits."),
]
CompileOption = Annotated[
    Literal["auto", "on", "off"],
    typer.Option("--compile", help="Blocks compiled by torch; auto: on CUDA, where it pays."),
]
CheckpointActivationsOption = Annotated[
    Literal["auto", "on", "off"],
    typer.Option(
        "--checkpoint-activations",
        help="Compute activations again in the backward pass: less memory, a third more time; auto: where it must be.",
    ),
]
OutputOption = Annotated[Path | None, typer.Option("--output", "-o", help="Run folder; default below runs/.")]
ValEveryOption = Annotated[
    int, typer.Option("--val-every", min=0, help="Write val accuracy into metrics.jsonl after every N updates.")
]
ResumeOption = Annotated[Literal["auto", "never"], typer.Option("--resume", help="auto: go on with what is there.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Start anew in an occupied run folder.")]
DeterministicOption = Annotated[bool, typer.Option("--deterministic", help="Bit-equal runs on CUDA too, slower.")]
SaveWeightsOption = Annotated[
    bool, typer.Option("--save-weights/--no-save-weights", help="Keep the fine-tuned network; else its head alone.")
]
TasksOption = Annotated[
    str, typer.Option("--tasks", help="Names with commas, the suite's groups (natural, specialized, ...), or all.")
]
DevicesOption = Annotated[
    str, typer.Option("--devices", help="One worker each: 0,1 (CUDA), or cpu, cuda:0, ...; default --device.")
]
ShardOption = Annotated[str, typer.Option("--shard", help="I/N: every Nth task, for machines that share --output.")]
AllowMissingOption = Annotated[
    bool, typer.Option("--allow-missing", help="Run what is there; the rest are holes in the table.")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Show what is there, the plan and a rough cost; run nothing.")
]
SaveWeightsInSuiteOption = Annotated[
    bool,
    typer.Option("--save-weights/--no-save-weights", help="Keep the fine-tuned networks; else their heads."),
]
PerClassOption = Annotated[int | None, typer.Option("--per-class", min=1, help="Train on K images of each class.")]
LimitOption = Annotated[
    int | None, typer.Option("--limit", min=1, help="At most N images of every split, for a quick look.")
]
FromScratchOption = Annotated[
    bool, typer.Option("--from-scratch", help="Same architecture and budget, random weights.")
]
MinTop1Option = Annotated[
    float | None,
    typer.Option("--min-top1", min=0, max=100, help="End with 5 where top-1 is below so many percent, for a CI."),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, neither bars nor lines.")]
FormatOption = Annotated[Format, typer.Option("--format", help="json: stdout is that JSON alone.")]
TableFormatOption = Annotated[
    TableFormat, typer.Option("--format", help="Of the table; json: the whole result, alone on stdout.")
]


def parse_resolution(text: str) -> Any:
    """Turn "384", "384x512", "native" or "higher" into a recipe's value. Raises UsageError."""
    if text in ("native", "higher"):
        return text
    parts = text.lower().split("x")
    if not 1 <= len(parts) <= 2 or not all(p.isdecimal() and 0 < int(p) <= 4096 for p in parts):
        raise UsageError(
            f"Resolution '{text}' is no size in pixels.",
            "384, or 384x512 (height x width), up to 4096; native; higher (12/7 of native).",
        )
    return int(parts[0]) if len(parts) == 1 else [int(p) for p in parts]


def overrides(settings: list[str] | None, resolution: str | None, **flags: str | float | None) -> dict[str, object]:
    """Collect what the user fixed: --set first, then flags, which win. Raises UsageError or UnknownName."""
    from vitft import recipes

    fixed = dict(recipes.parse_override(text) for text in settings or [])
    text = resolution if resolution is not None else fixed.get("resolution")
    if isinstance(text, str):
        fixed["resolution"] = parse_resolution(text)
    fixed.update({key: value for key, value in flags.items() if value is not None})
    return fixed


def checked(models: Sequence[str], *devices: str) -> None:
    """Check names of models and devices without importing torch.

    Raises:
        UnknownName, UsageError: neither a model nor a path, or no device (exit code 2).
        CheckpointError: no such file (exit code 4).
    """
    from vitft.evaluation import request
    from vitft.models import names

    for model in models:
        names.check(model)
    for device in devices:
        request.device(device)


def models(named: Sequence[str] | None, *devices: str) -> tuple[str, ...]:
    """Return the models of a verb that takes several. Raises UsageError for one that is named twice, and as `checked`.

    Args:
        devices: where they run, where that is to be checked, too.
    """
    found = tuple(named or (DEFAULT,))
    if len(set(found)) < len(found):
        raise UsageError("A model is named twice.", "different models, each with its own --model.")
    checked(found, *devices)
    return found


def unoccupied(folders: Sequence[Path], overwrite: bool) -> None:
    """Refuse to write a result where one is, unless it is to be replaced. Raises UsageError."""
    taken = next((folder for folder in folders if (folder / RESULT).exists()), None)
    if taken is not None and not overwrite:
        raise UsageError(
            f"'{taken}' holds a result already.", "a new folder.", "Choose another, or replace it: --overwrite."
        )


def hold_to(least: float | None, accuracies: Sequence[tuple[str, float]]) -> None:
    """Raise OutsideTolerance (exit code 5) where one of (name, top1 in [0, 1]) is below `least` percent."""
    below = [f"{name} {100 * top1:.2f}" for name, top1 in accuracies if least is not None and 100 * top1 < least]
    if below:
        raise OutsideTolerance(
            f"top-1 is below --min-top1 {least:g}: {', '.join(below)}.",
            fact="The result is whole and stored; only this check failed.",
        )


def parse_seeds(text: str) -> tuple[int, ...]:
    """Turn "0,1,2" into different seeds from 0 up. Raises UsageError."""
    parts = [p.strip() for p in text.split(",")]
    if not all(p.isdecimal() for p in parts) or len(set(parts)) < len(parts):
        raise UsageError(f"Seeds '{text}' are no list of different numbers.", "e.g. --seeds 0,1,2.")
    return tuple(int(p) for p in parts)


def parse_devices(text: str) -> tuple[str, ...]:
    """Turn "0,1" or "cpu,cuda:0" into the names of devices. Raises UsageError."""
    words = listed(text)
    if text and not words:
        raise UsageError(f"--devices '{text}' names none.", "0,1 (CUDA), or cpu, cuda:0, ...")
    return tuple(f"cuda:{word}" if word.isdecimal() else word for word in words)
