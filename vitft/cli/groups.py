"""Options that several verbs take together, each group written once as a dataclass."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal, get_type_hints

import typer

from vitft.cli import options as o

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
            UsageError, UnknownName, CheckpointError: see `options.checked` and `asked.check`.
        """
        from vitft.evaluation import asked

        values = o.overrides(self.set_, self.resolution, resize=self.resize)
        o.checked(models, self.device)
        asked.check(values, self.crop_pct)
        return values


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
