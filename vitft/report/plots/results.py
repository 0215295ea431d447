"""Pictures of `vitft report --plots`: what the page draws, for a paper."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vitft.report.lines import Key, key, labels
from vitft.report.measured import Measured
from vitft.report.page import charts
from vitft.report.plots import style
from vitft.results.summary import Summary

_CURVES = 12
"""Learning curves in one picture: more are not told apart."""


def draw(folder: Path, summary: Summary, numbers: Sequence[Measured]) -> dict[str, tuple[str, ...]]:
    """Write every picture that there is something for; return name -> files. Raises DiskFull."""
    own = charts.bars(summary)
    pictures: dict[str, Callable[[], Any]] = {"tasks": lambda: tasks(own)} if own else {}
    spent = charts.training(summary)
    if spent is not None:
        pictures["compute"] = lambda: compute(spent, "training FLOPs of these tasks, one seed")
    curves = learning(numbers, labels(numbers, summary.by))
    if curves:
        pictures["learning-curves"] = lambda: learning_curves(curves)
    return {name: style.write(folder, name, one) for name, one in pictures.items()}


def tasks(own: Sequence[charts.Bars]) -> Any:
    """Draw each task's numbers with their intervals, a colour and a mark a row."""
    labels = list(dict.fromkeys(bar.label for one in own for bar in one.bars))
    places = {label: i for i, label in enumerate(labels)}
    figure = style.figure(style.COLUMN if len(own) < 4 else style.PAGE, 1.0 + 0.18 * len(own) * max(1, len(labels)) / 2)
    axes = figure.subplots()
    height = 0.8 / len(labels)
    for k, one in enumerate(own):
        for bar in one.bars:
            i = places[bar.label]
            at = k + (i - (len(labels) - 1) / 2) * height
            error = (
                [[bar.value - bar.low], [bar.high - bar.value]]
                if bar.low is not None and bar.high is not None
                else None
            )
            axes.errorbar(
                [bar.value], [at], xerr=error, color=style.COLOURS[i % len(style.COLOURS)], capsize=2,
                marker=style.MARKS[(i + i // len(style.COLOURS)) % len(style.MARKS)], ls="",
                label=style.plain(bar.label, 40) if k == 0 or bar.label not in _shown(own[:k]) else None,
            )  # fmt: skip
    axes.set_yticks(range(len(own)), [style.plain(one.title, 30) for one in own])
    axes.set_ylim(len(own) - 0.5, -0.5)
    axes.grid(axis="x", lw=0.3)
    axes.set_xlabel("top-1 (%), 95 % interval")
    figure.legend(loc="outside lower center", ncols=1 if len(own) < 4 else 2, frameon=False)
    return figure


def _shown(own: Sequence[charts.Bars]) -> set[str]:
    return {bar.label for one in own for bar in one.bars}


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
            [one.flops], [100 * one.value], ls="", color=style.COLOURS[i % len(style.COLOURS)],
            marker=style.MARKS[(i + i // len(style.COLOURS)) % len(style.MARKS)], label=style.plain(one.label, 40),
        )  # fmt: skip
    axes.set_xscale("log")
    axes.grid(lw=0.3)
    axes.set_xlabel(over)
    axes.set_ylabel(f"top-1 (%), {style.plain(spent.title, 30)}")
    figure.legend(loc="outside lower center", frameon=False)
    return figure


def learning(
    numbers: Sequence[Measured], rows_of: Mapping[Key, str]
) -> list[tuple[str, Sequence[tuple[float, float]]]]:
    """Return (name, (update, loss)) of the first fits that stand in the table."""
    found: list[tuple[str, Sequence[tuple[float, float]]]] = []
    for one in numbers:
        rows = () if one.tuning else charts.learning(Path(one.file) / "metrics.jsonl").losses
        if rows:
            seed = "" if one.seed is None else f", seed {one.seed}"
            found.append((f"{rows_of.get(key(one), one.what.model)}, {one.column}{seed}", rows))
    return found[:_CURVES]


def learning_curves(curves: Sequence[tuple[str, Sequence[tuple[float, float]]]]) -> Any:
    """Draw the loss of each update."""
    figure = style.figure(style.COLUMN, 2.3 + 0.12 * len(curves))
    axes = figure.subplots()
    for i, (label, rows) in enumerate(curves):
        style_of = ("-", "--")[i // len(style.COLOURS) % 2]
        axes.plot(*zip(*rows, strict=True), lw=0.9, ls=style_of, color=style.COLOURS[i % len(style.COLOURS)])
        axes.lines[-1].set_label(style.plain(label, 50))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("update")
    axes.set_ylabel("loss (mean of each 120th of the fit)")
    figure.legend(loc="outside lower center", frameon=False)
    return figure
