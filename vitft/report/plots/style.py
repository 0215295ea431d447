"""How pictures look and how they are written; matplotlib is an extra, imported when a picture is drawn."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

from vitft.errors import NotInstalled, UsageError
from vitft.report.letters import visible
from vitft.report.page import charts
from vitft.results.files import write_atomic

COLUMN, PAGE = 3.35, 6.9
"""Width of a column and of a page of a paper, in inches."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito (2008): told apart by the colour-blind, and by their brightness in print."""

GREY = "#767676"
"""Of what stands behind."""

MARKS = ("o", "s", "^", "D", "v", "P")


def colour(i: int) -> str:
    """Return the colour of series i; they come again after the last."""
    return COLOURS[i % len(COLOURS)]


def mark(i: int) -> str:
    """Return the mark of series i; whoever has the same colour has another mark."""
    return MARKS[(i + i // len(COLOURS)) % len(MARKS)]


_LOOK: dict[str, object] = {
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 220,
    "image.cmap": "cividis",
    "svg.hashsalt": "vitft",  # equal pictures are equal files
    "svg.fonttype": "path",
}


def check(folder: Path | None = None, option: str = "--output") -> None:
    """Refuse to begin where pictures cannot be drawn, or not be written to `folder`, at the end. Raises UsageError."""
    if find_spec("matplotlib") is None:
        raise NotInstalled("Pictures are drawn with matplotlib, which is not installed.", "plots", "matplotlib")
    if folder is None:
        return
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(
            f"{option} '{folder}' cannot be written: '{there}' "
            + ("may not be written to." if there.is_dir() else "is a file."),
            "a folder, there or not yet, where you may write.",
            f"Choose another with {option}.",
        )


@contextmanager
def look() -> Iterator[None]:
    """Draw in vitft's style, without a display, whatever the user's own settings are."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_LOOK)  # type: ignore[arg-type]  # newer versions list every key as a type
        yield


def figure(width: float, height: float) -> Any:
    """Return an empty figure of inches, which no window knows."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def write(folder: Path, name: str, draw: Callable[[], Any]) -> tuple[str, ...]:
    """Draw a figure and write NAME.png and NAME.svg, each whole or not at all; return their names. Raises DiskFull."""
    names = (f"{name}.png", f"{name}.svg")
    with look():
        drawn = draw()
        for file in names:
            out = BytesIO()
            metadata = {"Date": None} if file.endswith(".svg") else {"Software": None}
            drawn.savefig(out, format=file[-3:], metadata=metadata)
            write_atomic(folder / file, out.getvalue())
    return names


def logarithmic(axis: Any, write: Callable[[float], str]) -> None:
    """Give an axis (`axes.xaxis`) a logarithmic scale with few round ticks, whatever its range is.

    Call it when all is drawn.
    """
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    low, high = axis.get_view_interval()
    ticks = [10**x for x in charts.powers(math.log10(low), math.log10(high))]
    axis.set_ticks(ticks, [write(tick) for tick in ticks])
    axis.set_minor_locator(_nothing())


def _nothing() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()


def bare(axes: Any) -> None:
    """Take ticks and frame from axes that hold an image."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def plain(text: str, limit: int = 60) -> str:
    """Return text as it stands: a dollar sign begins no formula; a long one is cut."""
    text = " ".join(visible(text, "?").split())
    return (text if len(text) <= limit else text[: limit - 3] + "...").replace("$", r"\$")


def tiled(images: Sequence[Any], columns: int) -> Any:
    """Return (n, h, w, 3) images in [0, 1] in one array, row by row, white between them."""
    import numpy as np

    gap = 1
    h, w = images[0].shape[:2]
    rows = -(-len(images) // columns)
    out = np.ones((rows * (h + gap) - gap, columns * (w + gap) - gap, 3))
    for i, image in enumerate(images):
        top, left = (i // columns) * (h + gap), (i % columns) * (w + gap)
        out[top : top + h, left : left + w] = image
    return out
