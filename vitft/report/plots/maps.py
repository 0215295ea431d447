"""Pictures under images: attention, rollout, the map of a class, and patch features as colours."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitft.report.plots import style
from vitft.results.checkpoint import side
from vitft.results.inspection import Arrays, Inspected, Looked

NOT = (
    "Rollout multiplies attention weights alone: values, MLPs and the head have no part in it, so it is the same for "
    "every class and explains no answer. The class-specific map is of the class named below it."
)


def attention_maps(inspected: Inspected) -> Any:
    """Draw under each image rollout, the last layer's attention and the class-specific map of each network."""
    networks = list(zip(inspected.numbers.models, inspected.arrays, strict=True))
    marks = _numbers(networks)
    rows = [
        (one, own, key, mark)
        for (one, own), mark in zip(networks, marks, strict=True)
        for key in ("rollout", "attention", "class")
        if key in own
    ]
    methods = {one.class_method for one, _ in networks if one.class_method}
    captions = [
        f"{mark}{style.plain(one.title)}, {side(one.resolution)} px"
        + (f": rollout and attention are what the {one.reading} takes from each patch." * ("rollout" in own) or ".")
        for (one, own), mark in zip(networks, marks, strict=True)
        if "rollout" in own or mark
    ]
    captions += [f"Class-specific: {method}." for method in sorted(methods)]
    figure, grid, width = _under_images(
        networks, len(rows), [*captions, NOT], named=any(key == "class" for *_, key, _ in rows)
    )
    for line, (one, own, key, mark) in zip(grid[1:], rows, strict=True):
        for i, axes in enumerate(line):
            axes.imshow(lit(own["images"][i], own[key][i]))
            if key == "class":
                shown = one.class_maps[i]
                name = shown.target.split(",")[0]
                label = f"{style.plain(name, int(20 * width))}\n{100 * shown.probability:.0f} %"
                axes.set_xlabel(label, fontsize=5, labelpad=1)
        line[0].set_ylabel(_named(one, key, mark, int(17 * width)), fontsize=5.5)
    return figure


def _under_images(
    networks: list[tuple[Looked, Arrays]], rows: int, captions: list[str], *, named: bool = False
) -> tuple[Any, Any, float]:
    """Return a figure with the images in its first row, its grid of axes, and the width of a cell in inches."""
    images = next(own["images"] for _, own in networks if "images" in own)
    width = style.COLUMN if len(images) <= 3 else style.PAGE
    cell = min(1.5, (width - 0.3) / len(images))
    lines = [line for text in captions for line in textwrap.wrap(text, int(width * 22))]
    height = (cell * images.shape[1] / images.shape[2] + 0.05) * (rows + 1) + 0.095 * len(lines) + 0.1 + 0.25 * named
    figure = style.figure(cell * len(images) + 0.3, height)
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, hspace=0.01, wspace=0.01)
    grid = figure.subplots(rows + 1, len(images), squeeze=False)
    for i, axes in enumerate(grid[0]):
        axes.imshow(images[i])
    for axes in grid.flat:
        style.bare(axes)
    grid[0][0].set_ylabel("image", fontsize=5.5)
    figure.supxlabel("\n".join(lines), fontsize=5.5, x=0.01, ha="left")
    return figure, grid, cell


def _numbers(networks: Sequence[object]) -> list[str]:
    """Return marks of networks, "(1) ", "(2) ", for rows beside which their names would not fit."""
    return [f"({i}) " * (len(networks) > 1) for i in range(1, len(networks) + 1)]


def _named(one: Looked, key: str, mark: str, width: int) -> str:
    name = {
        "rollout": "rollout,\nall layers",
        "attention": f"attention,\nlayer {one.layers}, mean of heads",
        "class": "class-specific",
        "features": "features,\nlast layer",
    }[key]
    return "\n".join(part for text in f"{mark}{name}".split("\n") for part in textwrap.wrap(text, width))


def lit(image: NDArray[np.uint8], share: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return an image that is bright where a map is high and dark where it is low, (H, W, 3) in [0, 1].

    Args:
        image: (H, W, 3).
        share: (rows, columns) >= 0; its 99th percentile is full light.
    """
    from PIL import Image

    top = float(np.percentile(share, 99)) or float(share.max()) or 1.0
    light = Image.fromarray(np.clip(share / top, 0, 1).astype(np.float32))
    big = np.asarray(light.resize((image.shape[1], image.shape[0]), Image.Resampling.BILINEAR))
    out: NDArray[np.float64] = image / 255.0 * (0.12 + 0.88 * np.clip(big, 0, 1))[..., None]
    return out


def feature_colours(inspected: Inspected) -> Any:
    """Draw under each image its patch features as colours, of each network."""
    networks = [pair for pair in zip(inspected.numbers.models, inspected.arrays, strict=True) if "features" in pair[1]]
    marks = _numbers(networks)
    captions = [
        f"{mark}{style.plain(one.title)}, {side(one.resolution)} px: {one.grid[0]}x{one.grid[1]} patch features of the "
        "last layer after its norm; red, green and blue are their principal components 1, 2 and 3 over all images, "
        f"{', '.join(f'{100 * share:.0f}' for share in one.feature_variance)} % of the variance."
        for (one, _), mark in zip(networks, marks, strict=True)
    ]
    figure, grid, width = _under_images(networks, len(networks), captions)
    for line, (one, own), mark in zip(grid[1:], networks, marks, strict=True):
        for axes, colours in zip(line, own["features"], strict=True):
            axes.imshow(colours, interpolation="nearest")
        line[0].set_ylabel(_named(one, "features", mark, int(17 * width)), fontsize=5.5)
    return figure
