"""Pictures of `vitft inspect`: each says its model, layer, method and, where there is one, its target."""

import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitft.report.plots import style
from vitft.report.plots.maps import attention_maps, feature_colours
from vitft.results.checkpoint import side
from vitft.results.inspection import Arrays, Inspected, Looked

_TILES = 7
"""Positions a side whose similarity is shown; the paper's L/32 has as many."""


def draw(folder: Path, inspected: Inspected) -> dict[str, tuple[str, ...]]:
    """Write every picture that there is something for; return name -> files."""
    numbers, arrays = inspected.numbers, set().union(*inspected.arrays)
    pictures: dict[str, tuple[object, Callable[[Inspected], Any]]] = {
        "filters": ("filters" in arrays, filters),
        "positions": ("before" in arrays, positions),
        "attention-distance": (any(one.attention for one in numbers.models), attention_distance),
        "attention-maps": (arrays & {"rollout", "class"}, attention_maps),
        "norms": (any(one.norms for one in numbers.models), norms),
        "features": ("features" in arrays, feature_colours),
        "moved": (numbers.moved, moved),
        "cka": (numbers.cka, cka),
    }
    there = {name: picture for name, (data, picture) in pictures.items() if data}
    return {name: style.write(folder, name, partial(picture, inspected)) for name, picture in there.items()}


def _with(inspected: Inspected, key: str) -> list[tuple[Looked, Arrays]]:
    pairs = zip(inspected.numbers.models, inspected.arrays, strict=True)
    return [(one, own) for one, own in pairs if key in own or getattr(one, key, None)]


def filters(inspected: Inspected) -> Any:
    """Draw the principal components of the first layer's filters as colours, each scaled to its own range."""
    shown = _with(inspected, "filters")
    figure = style.figure(style.COLUMN, 2.3 * len(shown))
    for axes, (one, own) in zip(figure.subplots(len(shown), squeeze=False)[:, 0], shown, strict=True):
        data = one.filters
        assert data is not None
        flat = own["filters"]
        low, high = flat.min(axis=(1, 2, 3), keepdims=True), flat.max(axis=(1, 2, 3), keepdims=True)
        scaled = (flat - low) / np.where(high > low, high - low, 1)
        axes.imshow(style.tiled(list(scaled), 7), interpolation="nearest")
        style.bare(axes)
        axes.set_title(
            f"{style.plain(one.title)}: {data.layer}, first {len(flat)} principal\ncomponents of {data.filters} "
            f"filters of {data.shape[0]}x{data.shape[1]} px ({100 * sum(data.variance):.0f} % of variance)"
        )
    return figure


def positions(inspected: Inspected) -> Any:
    """Draw how alike each position's embedding is to all others: one tile a position, at most 7 x 7 of them."""
    shown = _with(inspected, "before")
    columns = 2 if any("after" in own for _, own in shown) else 1
    wide = style.PAGE if columns == 2 else style.COLUMN
    figure = style.figure(wide, (0.88 * wide / columns + 0.25) * len(shown))
    grid = figure.subplots(len(shown), columns, squeeze=False)
    drawn = None
    for row, (one, own) in zip(grid, shown, strict=True):
        for axes, name in zip(row, ("before", "after"), strict=False):
            if name not in own:
                axes.set_axis_off()
                continue
            alike: NDArray[np.float64] = own[name]
            picked = [_picked(n) for n in alike.shape[:2]]
            image = np.vstack([np.hstack([_framed(alike[i, j]) for j in picked[1]]) for i in picked[0]])
            drawn = axes.imshow(image, vmin=-1, vmax=1, interpolation="nearest")
            _numbered(axes, alike.shape[:2], picked)
            how = "in the file" if name == "before" else f"at {side(one.resolution)} px"
            resized = one.positions.resize.removeprefix("position embeddings ") if one.positions else ""
            how += f", {resized}" if name == "after" else f", {alike.shape[0]}x{alike.shape[1]}"
            axes.set_title(f"{style.plain(one.title, 44)}:\nposition embeddings {how}")
    if drawn is not None:
        figure.colorbar(drawn, ax=grid, shrink=0.7, label="cosine similarity", aspect=30)
    return figure


def _picked(count: int) -> list[int]:
    return sorted({round(x) for x in np.linspace(0, count - 1, min(count, _TILES))})


def _framed(tile: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.pad(tile, (0, max(1, round(max(tile.shape) / 14))), constant_values=np.nan)


def _numbered(axes: Any, size: tuple[int, ...], picked: list[list[int]]) -> None:
    """Write the row and column of each tile's position, from 1, at its middle."""
    gap = max(1, round(max(size) / 14))
    for set_ticks, count, own in ((axes.set_yticks, size[0], picked[0]), (axes.set_xticks, size[1], picked[1])):
        set_ticks([(count + gap) * k + (count - 1) / 2 for k in range(len(own))], [i + 1 for i in own])
    axes.set_ylabel("row of the position")
    axes.set_xlabel("column of the position")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def attention_distance(inspected: Inspected) -> Any:
    """Draw how far each head of each layer looks, one dot a head, and the mean over heads."""
    shown = [one for one in inspected.numbers.models if one.attention]
    figure = style.figure(style.COLUMN if len(shown) == 1 else style.PAGE, 2.4)
    grid = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, one in zip(grid, shown, strict=True):
        data = one.attention
        assert data is not None
        for k, layer in enumerate(data.layers):
            dots = axes.scatter([layer.layer] * len(layer.heads), layer.heads, s=9, color=style.COLOURS[0], alpha=0.75)
            dots.set_label("one head" if k == 0 else None)
        numbers = [layer.layer for layer in data.layers]
        axes.plot(
            numbers, [layer.mean for layer in data.layers], color=style.COLOURS[1], marker="_", label="mean over heads"
        )
        axes.set_xticks(numbers if len(numbers) <= 12 else numbers[:: -(-len(numbers) // 12)])
        axes.set_xlabel("layer")
        axes.set_title(f"{style.plain(one.title)}, {data.images} images at {side(one.resolution)} px")
    highest = max(max(layer.heads) for one in shown if one.attention for layer in one.attention.layers)
    grid[0].set_ylim(0, 1.06 * highest)
    grid[0].set_ylabel("mean attention distance (pixels)")
    grid[-1].legend(frameon=False, loc="lower right")
    return figure


def norms(inspected: Inspected) -> Any:
    """Draw norms of patch tokens by layer, and their distribution after the last one."""
    shown = _with(inspected, "norms")
    figure = style.figure(style.PAGE, 2.3 * len(shown))
    for row, (one, own) in zip(figure.subplots(len(shown), 2, squeeze=False), shown, strict=True):
        data = one.norms
        assert data is not None
        numbers = [layer.layer for layer in data.layers]
        low, high = ([getattr(layer, key) for layer in data.layers] for key in ("p1", "p99"))
        row[0].fill_between(
            numbers, low, high, color=style.COLOURS[0], alpha=0.25, label="1st to 99th percentile", lw=0
        )
        row[0].plot(numbers, [layer.median for layer in data.layers], color=style.COLOURS[0], label="median")
        row[0].plot(numbers, [layer.largest for layer in data.layers], color=style.COLOURS[1], ls="--", label="largest")
        style.logarithmic(row[0].yaxis, _with_commas)
        row[0].set_xlabel("layer")
        row[0].set_ylabel("norm of patch tokens")
        row[0].legend(frameon=False)
        row[0].set_title(f"{style.plain(one.title)}: {data.tokens:,} patch tokens of {data.images} images")
        last = data.layers[-1]
        values = np.maximum(own["norms"].ravel(), 1e-6)
        row[1].hist(values, bins=np.geomspace(values.min(), values.max() * 1.001, 60), color=style.COLOURS[0])
        for axis in (row[1].xaxis, row[1].yaxis):
            style.logarithmic(axis, _with_commas)
        row[1].set_xlabel("norm of patch tokens")
        row[1].set_ylabel("tokens")
        row[1].set_title(
            f"after layer {last.layer}, before the final norm:\n{100 * last.artifacts:.1f} % artifact tokens "
            "(two-component mixture, gated)"
        )
    return figure


def _with_commas(number: float) -> str:
    return f"{number:,g}"


_KINDS = ("attention", "MLP", "norms", "other")


def moved(inspected: Inspected) -> Any:
    """Draw how far each part of the second network lies from the first's."""
    data = inspected.numbers.moved
    assert data is not None
    figure = style.figure(style.COLUMN, 2.5)
    axes = figure.subplots()
    parts = [(*_place(part.part), part.relative) for part in data.parts]
    places = {name: i for i, name in enumerate(dict.fromkeys(name for name, *_ in parts))}
    for k, kind in enumerate((*_KINDS, "")):
        if points := [(places[name], relative) for name, of, relative in parts if of == kind]:
            axes.plot(
                *zip(*points, strict=True), ls="-" if kind else "", marker=style.MARKS[k], color=style.COLOURS[k],
                label=kind or "not in a block",
            )  # fmt: skip
    axes.set_xticks(range(len(places)), [_short(name) for name in places], rotation=90)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("|difference| / |before|")
    first, second = (style.plain(one.title, 40) for one in inspected.numbers.models)
    axes.set_title(f"what moved: {first}\n-> {second}")
    axes.legend(frameon=False)
    return figure


def _place(part: str) -> tuple[str, str]:
    """Return "block 3", "MLP" of "block 3 MLP"; of what is in no block its name and ""."""
    block, kind = part.split()[:2], " ".join(part.split()[2:])
    return (" ".join(block), kind) if part.startswith("block") else (part, "")


def _short(name: str) -> str:
    names = {"patch embedding": "patches", "prefix tokens": "tokens", "final norm and pooling": "final norm"}
    return names.get(name, name)


def cka(inspected: Inspected) -> Any:
    """Draw the alignment of every layer of one network with every layer of the other."""
    data = inspected.numbers.cka
    assert data is not None
    figure = style.figure(style.COLUMN, 2.8)
    axes = figure.subplots()
    values = np.array(data.values)
    drawn = axes.imshow(values, vmin=0, vmax=1, origin="lower", interpolation="nearest")
    for set_ticks, count in ((axes.set_yticks, values.shape[0]), (axes.set_xticks, values.shape[1])):
        step = -(-count // 12)
        set_ticks(range(0, count, step), range(1, count + 1, step))
    first, second = (style.plain(one.title, 40) for one in inspected.numbers.models)
    axes.set_ylabel(f"layer of {first}")
    axes.set_xlabel("\n".join(textwrap.wrap(f"layer of {second}", 44)))
    axes.set_title(f"linear CKA over {data.tokens:,} {data.of}")
    figure.colorbar(drawn, ax=axes, shrink=0.85)
    return figure
