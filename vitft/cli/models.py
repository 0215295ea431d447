"""`vitft models`: the checkpoints it knows by name, what one is and expects, and fetching it for later."""

from typing import TYPE_CHECKING, Annotated

import typer

from vitft import machine
from vitft.catalog.models import MODELS
from vitft.cli import console
from vitft.cli.options import FormatOption, TableFormatOption

if TYPE_CHECKING:
    from vitft.models.described import Described

app = typer.Typer(help="Checkpoints: list, describe, fetch.", no_args_is_help=True, rich_markup_mode=None)

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="Alias, timm:NAME, hf-hub:ORG/NAME, a file (FILE::KEY), or a folder.")
]


@app.command("ls")
def ls(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[WORD...]", help="Only names or titles with these.")
    ] = None,
    format: TableFormatOption = "text",
) -> None:
    """List the models known by a short name."""
    from vitft.models.described import alias_row
    from vitft.report.table import Column, Row, Table

    columns = (
        Column("name", "model"),
        Column("title", "what it is", "prose"),
        Column("resolution", "pixels", "count"),
        Column("patch_size", "patch", "count"),
        Column("params", "params", "count"),
        Column("licence", "licence"),
    )
    chosen = [
        alias
        for alias in MODELS.values()
        if all(word.lower() in f"{alias.name} {alias.title}".lower() for word in words or ())
    ]
    rows = [
        Row({c.key: f"{alias.params:.0f}M" if c.key == "params" else getattr(alias, c.key) for c in columns})
        for alias in chosen
    ]
    payload = {"models": [alias_row(alias) for alias in chosen]}
    console.emit_table(payload, Table("", columns, tuple(rows)), format, listing=True)


@app.command("show")
def show(model: ModelArgument, format: FormatOption = "text") -> None:
    """Say what a model is. Its architecture and stamp, its licence, and the numbers it can be held to.

    A hub model is described without fetching it; a file is read, and what it does not say is marked `assumed`.
    """
    from vitft.models.described import describe
    from vitft.report import reproduce

    described = describe(model)
    payload = described.to_dict() | {"published": [reproduce.as_json(row, model) for row in described.published]}
    console.emit(payload, "" if format == "json" else _lines(described), format)


@app.command("fetch")
def fetch(model: ModelArgument, format: FormatOption = "text") -> None:
    """Fetch a model's weights into the local cache. A machine without a network can then be given them."""
    from vitft.models import names

    names.check(model)
    from vitft.models import loading

    path = loading.fetch(model)
    # .../models--ORG--NAME/snapshots/COMMIT/FILE: the first of these folders is what another machine needs
    folder = next((part for part in path.parents if part.name.startswith("models--")), path)
    payload = {"model": model, "path": str(path), "folder": str(folder), "sha256": machine.sha256_once(path)}
    text = f"{model}: {path}"
    if folder != path:
        text += f"\nFor a machine without a network copy {folder} into {folder.parent} there."
    console.emit(payload, text, format)


def _lines(model: "Described") -> str:
    from vitft.models.checkpoint import assumptions, cropping
    from vitft.report import reproduce

    info, arch, alias = model.info, model.info.architecture, model.alias
    shown = ("embed_dim", "depth", "num_heads", "mlp_ratio", "reg_tokens", "channels")
    kwargs = ", ".join(f"{key} {value}" for key, value in arch.kwargs.items() if key in shown and value)
    kwargs += f", norm_eps {arch.norm_eps:g}" if arch.norm_eps else ""
    kwargs += f", {arch.activation}" if arch.activation else ""
    assumed = set(info.assumed)

    def stamp(name: str, text: str) -> tuple[str, str]:
        return name, text + (" (assumed)" if name in assumed else "")

    rows = [
        ("what", alias.title if alias else ""),
        ("timm", info.timm_name or "no tag of this shape"),
        ("architecture", arch.name + (f" ({kwargs})" if kwargs else "")),
        ("resolution", " x ".join(map(str, info.native))),
        ("patch", " x ".join(map(str, info.patch))),
        ("positions", "x".join(map(str, info.grid)) if info.grid else "none"),
        ("head", f"{info.num_classes} classes" if info.num_classes else "none in the file"),
        stamp("mean", ", ".join(f"{v:.4g}" for v in info.mean)),
        stamp("std", ", ".join(f"{v:.4g}" for v in info.std)),
        stamp("crop_pct", cropping(info, info.native).removeprefix("crop fraction ")),
        stamp("interpolation", info.interpolation),
        ("channels", f"{info.channels}: cannot be used, vitft's images have 3" if info.channels != 3 else ""),
        ("also assumed", ", ".join(sorted(assumed - {"mean", "std", "crop_pct", "interpolation"}))),
        ("licence", alias.licence if alias else ""),
        ("source", alias.source if alias else ""),
        ("file", info.path or model.file or ""),
        ("part", info.part),
        ("sha256", info.sha256),
    ]
    if model.file == "":
        rows.append(("file", f"not in the local cache: vitft models fetch {model.model}"))
    lines = [model.model, *(f"  {name:<13} {text}" for name, text in rows if text)]
    lines += [f"note: {note}" for note in filter(None, [*model.notes, assumptions(info)])]
    return "\n".join([*lines, *reproduce.lines(model.published, model.model, console.width(listing=True))])
