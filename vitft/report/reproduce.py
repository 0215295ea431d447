"""Published numbers and the commands that reproduce them, from a model's side and from a task's."""

import shlex
import textwrap
from collections.abc import Iterator
from typing import get_args

from vitft import recipes
from vitft.catalog import published
from vitft.catalog.models import MODELS
from vitft.catalog.published import Published
from vitft.report.table import Column, Row, Table
from vitft.results.checkpoint import side
from vitft.settings import Method

_MANY = 8
"""So many tasks are told by their mean; `--format json` has each."""

_KNN = "knn"
"""The word for frozen features with k nearest neighbours among the recipes of a row."""


def command(row: Published, model: str, task: str = "") -> str:
    """Return the command that measures what a row says, "" where vitft has no such method or recipe.

    Args:
        model: what follows --model.
        task: one of the row's; else its only one, or the word TASK.
    """
    tasks = [name for name in row.tasks if name != "imagenet_real"]
    task = "imagenet" if task == "imagenet_real" else task or (tasks[0] if len(tasks) == 1 else "TASK")
    whose = shlex.quote(model)
    if "" in row.recipes:
        return f"vitft eval {whose} {task}" + " --real" * ("imagenet_real" in row.tasks)
    if _KNN in row.recipes:
        return f"vitft fewshot {task} --model {whose} --classifier knn --per-class all"
    shipped = [name for name in row.recipes if name in recipes.names()]
    if not shipped or row.method not in get_args(Method):
        return ""
    recipe = shipped[0]
    loaded = recipes.load(recipe)
    settings = loaded.resolve("" if task == "TASK" else task)
    own = settings.resolution if isinstance(settings.resolution, str) else side(settings.size)
    words = ["vitft vtab" if recipe.startswith("vtab-") else f"vitft finetune {task}"]
    words += [f"--model {whose}", f"--recipe {recipe}"]
    words += [f"--tasks {task}"] * (recipe.startswith("vtab-") and task != "TASK")
    words += [f"--method {row.method}"] * (row.method != settings.method)
    words += [f"-r {row.resolution}"] * (row.resolution is not None and str(row.resolution) != own)
    return " ".join(words)


def as_json(row: Published, model: str) -> dict[str, object]:
    """Return a row as JSON-able data, with the command that reproduces it ("" where there is none)."""
    return {
        "title": row.title,
        "tasks": dict(row.tasks),
        "method": row.method,
        "resolution": row.resolution,
        "protocol": row.protocol_text,
        "differs": list(row.differs),
        "source": row.source,
        "command": command(row, model),
    }


def lines(rows: tuple[Published, ...], model: str, width: int) -> list[str]:
    """Return the lines of `vitft models show` on a model's published numbers, folded to a width."""
    out, without = [], []
    for row in rows:
        how = command(row, model)
        if not how:
            without.append(row)
            continue
        where = f"{row.method}, {f'{row.resolution} px' if row.resolution else 'pixels not told'}"
        out.append(f"published: {row.title} ({where})")
        differs = f"; differs: {', '.join(row.differs)}" if row.differs else ""
        out += _folded(f"{_numbers(row)}; {row.protocol_text}; {row.source}{differs}", width)
        out.append(f"    {how}")
    if without:
        methods = ", ".join(dict.fromkeys(row.method for row in without))
        out += _folded(f"published too, with nothing in vitft that reproduces it (--format json): {methods}", width, "")
    return out


def _numbers(row: Published) -> str:
    if len(row.tasks) < _MANY:
        return ", ".join(f"{task} {value:g}" for task, value in row.tasks.items())
    mean = f"mean of {len(row.tasks)} tasks {row.mean_of_tasks:.1f}" if row.mean_of_tasks else f"{len(row.tasks)} tasks"
    return mean + (f", of groups {row.mean_of_groups:.1f}" if row.mean_of_groups else "")


def _folded(text: str, width: int, indent: str = "    ") -> list[str]:
    return textwrap.wrap(
        text,
        max(width, 40),
        initial_indent=indent,
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def of_task(task: str) -> list[tuple[Published, str]]:
    """Return (row, alias of its weights) of what vitft can reproduce on a task, the highest number first."""
    aliases = {alias.timm: alias.name for alias in reversed(MODELS.values()) if alias.timm}
    rows = [
        (row, aliases[tag]) for row in published.rows() if task in row.tasks for tag in row.weights if tag in aliases
    ]
    rows = [(row, model) for row, model in rows if command(row, model, task)]
    return sorted(rows, key=lambda pair: -pair[0].tasks[task])


def table(task: str) -> Table:
    """Return the table of `vitft recipes ls --reproduces TASK`: a row a published number, with its command."""
    columns = (
        Column("model", "model"),
        Column("top1", "top-1", "percent"),
        Column("method", "method"),
        Column("resolution", "px", "count"),
        Column("recipe", "recipe"),
        Column("source", "published in", "prose"),
        Column("command", "command", "path"),
    )
    rows = [
        Row(
            {
                "model": model,
                "top1": row.tasks[task] / 100,
                "method": row.method,
                "resolution": row.resolution,
                "recipe": next(_recipe(row), ""),
                "source": row.source,
                "command": command(row, model, task),
            }
        )
        for row, model in of_task(task)
    ]
    caption = f"Published numbers on {task} that a shipped recipe reproduces"
    return Table(caption if rows else f"No published number on {task} has a shipped recipe.", columns, tuple(rows))


def _recipe(row: Published) -> Iterator[str]:
    for name in row.recipes:
        yield {"": "(eval)", _KNN: "(fewshot)"}.get(name, name)
