"""Checks of a grid of settings before anything of it runs. No torch."""

import itertools
from collections.abc import Callable, Mapping, Sequence

from vitft.catalog import tasks
from vitft.data.portions import JOINED
from vitft.data.split import Sized
from vitft.errors import RecipeError
from vitft.protocol.units import DEV, Job
from vitft.recipes import Recipe
from vitft.results.checkpoint import CheckpointInfo, Size, holds, side
from vitft.settings import CHECKPOINT_KEYS

UNVARIED = {
    "select_on": "it says which images settings are compared on",
    "dev_fraction": "it says which images settings are compared on",
    "train_fraction": "only the final run knows it",
    **dict.fromkeys(CHECKPOINT_KEYS, "it says what the checkpoint is"),
}
"""The keys that a grid cannot vary, and why."""


def faults(recipe: Recipe, task: str, fixed: Mapping[str, object], varied: Mapping[str, Sequence[object]]) -> list[str]:
    """Return all that is wrong with the values of a grid, of every key and every combination, a line each."""
    found = [f"{key}: one value, as {UNVARIED[key]}" for key in varied if key in UNVARIED]
    for values in itertools.product(*varied.values()):
        found += recipe.faults(task, {**fixed, **dict(zip(varied, values, strict=True))})
    return list(dict.fromkeys(found))


def check(
    recipe: Recipe,
    task: str,
    fixed: Mapping[str, object],
    varied: Mapping[str, Sequence[object]],
    unread: Sequence[str],
    infos: Callable[[], Sequence[CheckpointInfo]],
) -> list[str]:
    """Raise all that is wrong with a grid at once, before data is opened; return what is only odd, a line each.

    Args:
        unread: what is wrong with its text.
        infos: opens the checkpoints; called where a resolution has been set.

    Raises:
        RecipeError: exit code 2.
    """
    sides = varied.get("resolution", [fixed[key] for key in ("resolution",) if key in fixed])
    found, notes = [*unread, *faults(recipe, tasks.canonical(task) or task, fixed, varied)], []
    for info in infos() if sides else ():
        found += too_small(info, sides)
        notes += uneven(info, sides)
    if found:
        raise RecipeError(
            f"The grid cannot run: {'; '.join(dict.fromkeys(found))}.",
            "",
            "Run 'vitft recipes show' for every key and what it means.",
        )
    return notes


def sizes(values: Sequence[object]) -> list[Size]:
    """Return the resolutions among these values that are numbers, as (height, width)."""
    found = [tuple(value) if isinstance(value, list | tuple) else (value, value) for value in values]
    return [(size[0], size[1]) for size in found if all(type(s) is int for s in size)]


def too_small(info: CheckpointInfo, values: Sequence[object]) -> list[str]:
    """Return a line for each resolution that is smaller than a patch of a network."""
    if not info.grid:
        return []
    of = f"one patch of '{info.name}' ({side(info.patch)} pixels)"
    return [f"resolution {side(s)} is smaller than {of}" for s in sizes(values) if not holds(s, info.patch)]


def uneven(info: CheckpointInfo, values: Sequence[object]) -> list[str]:
    """Return a line for each resolution of which a network leaves pixels out, as they make no whole patch."""
    lines = []
    for height, width in sizes(values) if info.grid else []:
        used = (height - height % info.patch[0], width - width % info.patch[1])
        if used != (height, width):
            lines.append(f"{side((height, width))} px is no multiple of {side(info.patch)}: {side(used)} px are used")
    return lines


def length(job: Job, data: Sized, name: str) -> int:
    """Return how many images of a split a run uses; of dev about, as classes are rounded each by itself."""
    parts = (job.scheme.tune_train if name == DEV else name).split(JOINED)
    n = sum(data.count(part) for part in parts if part)
    n = round(n * job.settings.dev_fraction) if name == DEV else n
    return n if job.limit is None else min(n, job.limit)
