"""`vitft inspect`: what a network has learned, as numbers and pictures; two side by side show what moved."""

from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated

import typer

from vitft.cli import console
from vitft.cli import options as o
from vitft.cli.groups import Opening, flat
from vitft.results.files import RESULT
from vitft.words import listed

if TYPE_CHECKING:
    from vitft.results.inspection import Inspection, Looked


@flat
def inspect(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL|RUN...", help="A checkpoint or a run; a second one is shown beside it."),
    ],
    images: Annotated[
        list[Path] | None, typer.Option("--images", help="Image files or folders of them; may be repeated.")
    ] = None,
    what: Annotated[
        str,
        typer.Option(
            "--what",
            help="filters, positions, attention, rollout, class, norms, features, moved, cka; all that applies.",
        ),
    ] = "",
    target: Annotated[
        str, typer.Option("--target", help="The class of the class-specific map, by name or index; else each answer.")
    ] = "",
    opening: Opening = Opening(),
    batch_size: Annotated[
        int, typer.Option("--batch-size", "-b", min=0, help="Images a forward pass; 0 = by device.")
    ] = 0,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for pictures and numbers; default inspect/ in the run."),
    ] = None,
    quiet: o.QuietOption = False,
    format: o.FormatOption = "text",
) -> None:
    """Look into a network. Filters, positions, cost; with --images attention, features and class-specific maps.

    Written are PNG and SVG pictures, inspect.json with every number and arrays.npz with what the pictures show.
    """
    from vitft.errors import UsageError
    from vitft.evaluation import files
    from vitft.report import single
    from vitft.report.plots import style

    if len(models) > 2 or len(set(models)) < len(models):
        raise UsageError(f"{len(models)} models are named.", "one, or two different ones side by side.")
    fixed = opening.fixed(*models)
    words = _words(what, bool(images), len(models))
    if target and "class" not in words:
        raise UsageError(f"--target '{target}' is of the class-specific map.", "with --images and --what class.")
    style.check(output)
    with console.display(quiet) as hooks:
        paths = tuple(files.images(images or []))
        from vitft.inspection.inspect import Request, inspect
        from vitft.report.plots.inspection import draw
        from vitft.results.inspection import Inspected, save

        titles = tuple(PurePath(single.model_title(model)).name for model in models)
        if len(set(titles)) < len(titles):
            titles = tuple(single.model_titles(models))
        request = Request(
            tuple(models), titles, paths, words, fixed, target=target, crop_pct=opening.crop_pct, batch_size=batch_size,
            device=opening.device,
        )  # fmt: skip
        inspected = inspect(request, hooks)
        folder = output or _folder(models, inspected.numbers)
        hooks.note(f"drawing into {folder}")
        pictures = draw(folder, inspected)
        inspected = Inspected(inspected.numbers.model_copy(update={"pictures": pictures}), inspected.arrays)
        save(folder, inspected)
    payload = inspected.numbers.model_dump(mode="json", exclude_none=True) | {"folder": str(folder)}
    console.emit(payload, _text(inspected.numbers, bool(images)), format)
    console.note(f"Pictures and numbers: {folder}")


def _words(what: str, images: bool, models: int) -> tuple[str, ...]:
    """Return the words of `--what`. Raises UsageError for unknown ones, or without the images or model they need."""
    from vitft.errors import UnknownName, UsageError
    from vitft.results.inspection import OF_IMAGES, OF_TWO, WHAT

    words = tuple(dict.fromkeys(listed(what)))
    for word in words:
        if word not in WHAT:
            raise UnknownName("thing to inspect", word, WHAT, legal=f"--what {','.join(WHAT)}.")
    needs_images = [word for word in words if word in (*OF_IMAGES, "cka")]
    if needs_images and not images:
        raise UsageError(f"'{needs_images[0]}' is of images.", "with --images DIR.")
    needs_two = [word for word in words if word in OF_TWO]
    if needs_two and models < 2:
        raise UsageError(f"'{needs_two[0]}' compares two models.", "vitft inspect MODEL RUN.")
    if words:
        return words
    return tuple(w for w in WHAT if (images or w not in (*OF_IMAGES, "cka")) and (models == 2 or w not in OF_TWO))


def _folder(models: list[str], inspection: "Inspection") -> Path:
    """Return where pictures go by themselves: inspect/ in the run, else below the folder of runs."""
    from vitft.models import places
    from vitft.results.folders import runs_root, slug

    run = places.run_folder(Path(models[-1]).expanduser())
    if run is not None and (run / RESULT).is_file():
        return run / ("inspect" if len(models) == 1 else "inspect-side-by-side")
    names = "-and-".join(slug(Path(one.title).stem) for one in inspection.models)
    return runs_root() / "inspect" / names


def _text(inspection: "Inspection", images: bool) -> str:
    lines = []
    for one in inspection.models:
        lines += _of_one(one)
    if inspection.moved is not None:
        most = sorted(inspection.moved.parts, key=lambda part: -part.relative)[:3]
        lines.append("moved most: " + ", ".join(f"{part.part} {100 * part.relative:.1f} %" for part in most))
    if inspection.cka is not None:
        same = [row[i] for i, row in enumerate(inspection.cka.values) if i < len(row)]
        lines.append(f"CKA of equal layers: {same[0]:.3f} in the first, {same[-1]:.3f} in the last")
    lines += [f"note: {note}" for note in inspection.notes]
    if not images:
        lines.append(
            "With --images DIR also: attention distance and maps, rollout, class-specific map, norms, features."
        )
    return "\n".join(lines)


def _of_one(net: "Looked") -> list[str]:
    from vitft.results.checkpoint import side

    cost = net.cost
    rows = [
        ("tokens", f"{net.grid[0]}x{net.grid[1]} patches of {side(net.patch)} px, {net.prefix_tokens} prefix tokens"),
        ("parameters", f"{cost.parameters:,} ({cost.head_parameters:,} in the head)"),
        ("operations", f"{cost.macs_per_image / 1e9:.2f} GMACs an image, {2 * cost.macs_per_image / 1e9:.2f} GFLOPs"),
        (
            "memory",
            f"{cost.weights_mib:,.1f} MiB of weights; training keeps {cost.activations_mib:,.1f} MiB an image "
            f"(float32, {cost.device})",
        ),
    ]
    if net.filters:
        share = 100 * sum(net.filters.variance)
        rows.append(("filters", f"{len(net.filters.variance)} components hold {share:.0f} % of the variance"))
    for name in ("before", "after"):
        measured = getattr(net.positions, name, None)
        if measured is not None:
            rows.append(
                (
                    f"positions {measured.grid[0]}x{measured.grid[1]}",
                    f"similarity in a row {measured.row:.2f}, in a column {measured.column:.2f}, elsewhere "
                    f"{measured.elsewhere:.2f}; {100 * measured.share:.0f} % are most like their own row and column",
                )
            )
    if net.attention:
        first, last = net.attention.layers[0], net.attention.layers[-1]
        rows.append(
            (
                "attention",
                f"looks {first.mean:.0f} px far in layer 1, {last.mean:.0f} px in layer {last.layer}; heads differ by "
                f"{net.attention.early_spread:.1f} px in early layers, {net.attention.late_spread:.1f} px in late ones",
            )
        )
    if net.norms:
        layer = net.norms.layers[-1]
        rows.append(
            (
                "norms",
                f"median {layer.median:.1f}, largest {layer.largest:.1f}, artifacts {100 * layer.artifacts:.1f} %",
            )
        )
    rows += [(f"no {name}", why) for name, why in net.absent.items()]
    return [f"{net.title} at {side(net.resolution)} px", *(f"  {name:<16} {text}" for name, text in rows)]
