"""Pictures of `vitft report --plots`: what the page draws, for a paper."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from vitft.report import beside
from vitft.report.lines import Key, key, labels
from vitft.report.measured import Measured
from vitft.report.page import charts
from vitft.report.plots import style
from vitft.results.files import UPDATES
from vitft.results.folders import slug
from vitft.results.summary import Summary
from vitft.words import of_seed

_CURVES = 12
"""Learning curves in one picture: more are not told apart."""

_LINE = 48
"""Letters of a line of a legend in a column."""


def draw(folder: Path, summary: Summary, numbers: Sequence[Measured]) -> dict[str, tuple[str, ...]]:
    """Write every picture that there is something for; return name -> files. Raises DiskFull."""
    own = charts.bars(summary)
    pictures: dict[str, Callable[[], Any]] = {"tasks": lambda: tasks(own)} if own else {}
    spent = charts.training(summary)
    if spent is not None:
        pictures["compute"] = lambda: compute(spent, "training FLOPs of these tasks, one seed")
    for column, one in charts.an_image(summary, beside.behind(summary)):
        pictures[f"flops-{slug(column)}"] = partial(compute, one, "FLOPs of one image, one forward pass")
    curves = learning(numbers, labels(numbers, summary.by))
    if curves:
        pictures["learning-curves"] = lambda: learning_curves(curves)
    return {name: style.write(folder, name, one) for name, one in pictures.items()}


_BAR, _GAP, _AROUND = 0.125, 0.1, 0.45
"""Inches of a number, between tasks, and of what stands around the axes."""


def tasks(own: Sequence[charts.Bars]) -> Any:
    """Draw each task's numbers with their intervals, a colour and a mark a row; a task takes the room of its rows."""
    labels = list(dict.fromkeys(bar.label for one in own for bar in one.bars))
    columns = 1 if len(own) < 4 else 2
    inches = sum(_BAR * len(one.bars) + _GAP for one in own)
    legend = 0.13 * -(-len(labels) // columns)
    figure = style.figure(style.COLUMN if len(own) < 4 else style.PAGE, inches + legend + _AROUND)
    axes = figure.subplots()
    shown: set[str] = set()
    at, middles = 0.0, []
    for one in own:
        middles.append(at + _BAR * (len(one.bars) - 1) / 2)
        for bar in one.bars:
            i = labels.index(bar.label)
            known = bar.low is not None and bar.high is not None
            error = [[bar.value - (bar.low or 0.0)], [(bar.high or 0.0) - bar.value]] if known else None
            axes.errorbar(
                [bar.value], [at], xerr=error, color=style.colour(i), capsize=1.5, marker=style.mark(i), ls="",
                label=None if bar.label in shown else style.plain(bar.label, 48),
            )  # fmt: skip
            shown.add(bar.label)
            at += _BAR
        axes.axhline(at - _BAR / 2 + _GAP / 2, color=style.GREY, lw=0.2)
        at += _GAP
    named = [f"{one.group}: {one.title}" if one.group else one.title for one in own]
    axes.set_yticks(middles, [style.plain(name, 34) for name in named])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(at - _GAP / 2 - _BAR / 2, -_BAR / 2 - _GAP / 2)
    axes.grid(axis="x", lw=0.3)
    axes.set_xlabel("top-1 (%), 95 % interval")
    handles, names = axes.get_legend_handles_labels()
    order = [names.index(name) for name in dict.fromkeys(style.plain(label, 48) for label in labels)]
    figure.legend(
        [handles[i] for i in order], [names[i] for i in order], loc="outside lower center", ncols=columns, frameon=False
    )
    return figure


def compute(spent: charts.Spent, over: str) -> Any:
    """Draw accuracy against operations, one point a row; published points hollow behind them."""
    figure = style.figure(style.COLUMN, 2.3 + 0.12 * (len(spent.own) + len(spent.behind)))
    axes = figure.subplots()
    for i, (name, own) in enumerate(spent.behind):
        axes.plot(
            [one.flops for one in own], [100 * one.value for one in own], ls=":", lw=0.6, color=style.GREY, mfc="white",
            mew=0.7, marker=style.MARKS[i % len(style.MARKS)], label=f"published, {style.plain(name, 40)}",
        )  # fmt: skip
    for i, one in enumerate(spent.own):
        axes.plot(
            [one.flops], [100 * one.value], ls="", color=style.colour(i), marker=style.mark(i),
            label=style.plain(one.label, 40),
        )  # fmt: skip
    style.logarithmic(axes.xaxis, charts.short)
    axes.grid(lw=0.3)
    axes.set_xlabel(over)
    axes.set_ylabel("top-1 (%)")
    axes.set_title(style.plain(spent.title, 50))
    figure.legend(loc="outside lower center", frameon=False)
    return figure


def learning(
    numbers: Sequence[Measured], rows_of: Mapping[Key, str]
) -> list[tuple[str, Sequence[tuple[float, float]]]]:
    """Return (name, (update, loss)) of the first fits that stand in the table."""
    curves: list[tuple[str, Sequence[tuple[float, float]]]] = []
    for one in numbers:
        rows = () if one.tuning else charts.learning(Path(one.file) / UPDATES).losses
        if rows:
            curves.append((f"{rows_of.get(key(one), one.what.model)}, {one.column}{of_seed(one.seed)}", rows))
    return curves[:_CURVES]


def learning_curves(curves: Sequence[tuple[str, Sequence[tuple[float, float]]]]) -> Any:
    """Draw the loss of the updates; a fit of many is averaged into 120 points."""
    names = ["\n".join(textwrap.wrap(style.plain(label, 100), _LINE)) for label, _ in curves]
    figure = style.figure(style.COLUMN, 2.3 + 0.12 * sum(name.count("\n") + 1 for name in names))
    axes = figure.subplots()
    for i, (_, rows) in enumerate(curves):
        style_of = ("-", "--")[i // len(style.COLOURS) % 2]
        axes.plot(*zip(*rows, strict=True), lw=0.9, ls=style_of, color=style.colour(i))
        axes.lines[-1].set_label(names[i])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("update")
    axes.set_ylabel("loss")
    figure.legend(loc="outside lower center", frameon=False)
    return figure
