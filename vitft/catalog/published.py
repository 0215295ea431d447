"""Published accuracies, curated and tagged: what to print beside a result, and what differs from it.

The numbers live in `published.json` next to this module, each row with its source and protocol. A row is only
ever shown beside a result of the same task and protocol, with every known difference named.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from statistics import fmean
from typing import Any

from vitft.catalog.tasks import GROUPS, VTAB, group
from vitft.errors import UnknownName


@dataclass(frozen=True)
class Published:
    """One row of a published table.

    Attributes:
        key: unique name, e.g. "vit-vtab/vit-l16-in21k".
        group: tag to ask for it by: vit-paper, vit-paper-scaling, vit-readme, augreg, big-vision, bit, petl,
            petl-osu, vtab-resnet, timm, dinov2.
        title: as it is printed.
        model: architecture, as the source writes it, e.g. "ViT-L/16".
        pretraining: data of the pre-training.
        weights: timm names of the released checkpoint it was measured with; empty where none was released.
        method: what was trained: full, linear, bias, lora, or the source's own word.
        resolution: side in pixels; None where the source does not say, or it varies.
        protocol: name of the protocol; `protocol_text` describes it.
        recipes: vitft's recipes of the same protocol; "" stands for a checkpoint evaluated with its own head.
        source: where the numbers were read.
        shots: training examples a task; 0 = all training data.
        selected: how the number was chosen: "last" (nothing was, settings were fixed before), "best on val", "best on
            test" (of several looks at the reported images); "" where the source does not say.
        differs: what is known to differ from a result of vitft with the same recipe.
        at_resolution: task -> what the protocol ties to that side, said where the result has another.
        tasks: task -> top-1 in percent; "imagenet_real" is ImageNet under the ReaL labels.
        groups: VTAB group -> mean in percent, printed or computed from the tasks.
        mean_of_tasks, mean_of_groups: as printed; computed where the source prints only the other, or none.
    """

    key: str
    group: str
    title: str
    model: str
    pretraining: str
    protocol: str
    protocol_text: str
    recipes: tuple[str, ...]
    source: str
    weights: tuple[str, ...] = ()
    method: str = "full"
    resolution: int | None = None
    shots: int = 0
    selected: str = ""
    differs: tuple[str, ...] = ()
    at_resolution: Mapping[str, str] = field(default_factory=dict)
    tasks: Mapping[str, float] = field(default_factory=dict)
    groups: Mapping[str, float] = field(default_factory=dict)
    mean_of_tasks: float | None = None
    mean_of_groups: float | None = None

    @property
    def origin(self) -> str:
        """Where the numbers are from, how they were measured and what differs, in sentences."""
        differs = f" Differs: {', '.join(self.differs)}." if self.differs else ""
        return f"{self.source}; {self.protocol_text}.{differs}"


UNRELEASED = "weights never released"
"""Of a published row that differs in nothing else."""


@cache
def rows() -> tuple[Published, ...]:
    """Return every published row, in the order of the file."""
    data = json.loads(resources.files("vitft.catalog").joinpath("published.json").read_text(encoding="utf-8"))
    return tuple(_row(row, data) for row in data["rows"])


def groups() -> tuple[str, ...]:
    """Return the tags that `in_group` takes, in the order of the file."""
    return tuple(dict.fromkeys(row.group for row in rows()))


def in_group(tag: str) -> tuple[Published, ...]:
    """Return the rows of one tag. Raises UnknownName (exit code 2)."""
    if tag not in groups():
        raise UnknownName("group of published numbers", tag, groups())
    return tuple(row for row in rows() if row.group == tag)


def for_result(
    task: str,
    model: str,
    recipe: str = "",
    resolution: int | tuple[int, int] | None = None,
    *,
    method: str = "full",
    shots: int | None = None,
) -> tuple[Published, ...]:
    """Return the rows to print beside one result: same task, same released weights, same protocol, same method.

    Args:
        task: canonical task name; "imagenet_real" for ReaL.
        model: timm name of the checkpoint, with or without "timm:", e.g. "vit_large_patch16_224.orig_in21k".
        recipe: name of the recipe; "" for a checkpoint evaluated with its own head.
        resolution: of the result; a row measured at another one says so in `differs`.
        method: full, linear, bias or lora; without a recipe it does not matter.
        shots: training examples; None takes 1,000 for a `vtab-` recipe and all data for any other.
    """
    name = model.removeprefix("timm:")
    shots = _shots(recipe) if shots is None else shots
    matching = [
        row
        for row in rows()
        if task in row.tasks
        and name in row.weights
        and recipe in row.recipes
        and row.shots == shots
        and (row.method == method or not recipe)
    ]
    return tuple(_at(row, resolution, task) for row in matching)


# Where a suite's own weights have no published row, these are the rows a reader looks for all the same.
_SUITE_GROUPS = {
    "vtab-vit": ("vit-paper",),
    "vtab-bit-hyperrule": ("bit",),
    "vtab-2019": ("vtab-resnet",),
    "vtab-peft": ("petl", "petl-osu"),
}


def for_suite(
    model: str,
    recipe: str,
    resolution: int | tuple[int, int] | None = None,
    *,
    method: str = "full",
    shots: int = 1000,
) -> tuple[Published, ...]:
    """Return the rows to print beside a VTAB table of that recipe, each with what differs.

    Rows of other weights are included (few weights have a published VTAB row) and say so in `differs`.

    Args:
        model: timm name, as for `for_result`.
        recipe: name of the recipe; decides which group of rows is meant.
        resolution: as for `for_result`.
        method: as for `for_result`.
        shots: 1000, or 0 for all training data.
    """
    name = model.removeprefix("timm:")
    beside = []
    for row in rows():
        suitable = row.group in _SUITE_GROUPS.get(recipe, ()) and row.shots == shots
        if not suitable or not (len(row.tasks) == len(VTAB) or row.mean_of_tasks):
            continue
        if row.method != method or (row.group == "vtab-resnet" and "Sup-100%" not in row.title):
            continue
        beside.append(_at(_beside(row, name), resolution))
    return tuple(beside)


def by_keys(
    keys: Sequence[str], model: str, resolutions: Mapping[str, int], overrides: Mapping[str, Any] | None = None
) -> tuple[Published, ...]:
    """Return the rows that a suite's document names, with what differs.

    Args:
        model: timm name, as for `for_result`; rows of other weights say so in `differs`.
        resolutions: task -> side of the result.
        overrides: what the user changed of the recipes.
    """
    name = model.removeprefix("timm:")
    changed = tuple(f"{key} {value}" for key, value in (overrides or {}).items())
    named = []
    for row in (row for key in keys for row in rows() if row.key == key):
        task = next((t.removesuffix("_real") for t in row.tasks if t.removesuffix("_real") in resolutions), "")
        named.append(_at(_beside(row, name, changed), resolutions.get(task), task))
    return tuple(named)


def _shots(recipe: str) -> int:
    return 1000 if recipe.startswith("vtab-") else 0


def _beside(row: Published, weights: str, changed: tuple[str, ...] = ()) -> Published:
    """Return a row as it stands beside a result of some weights and changed keys: it says what differs."""
    other = () if weights in row.weights or UNRELEASED in row.differs else ("other weights",)
    return replace(row, differs=(*other, *changed, *row.differs))


def _at(row: Published, resolution: int | tuple[int, int] | None, task: str = "") -> Published:
    side = max(resolution) if isinstance(resolution, tuple) else resolution
    if side is None or row.resolution is None or side == row.resolution:
        return row
    other = f"{row.resolution} px {row.at_resolution.get(task, '')}".rstrip()
    return replace(row, differs=(other, *row.differs))


def _row(raw: dict[str, Any], data: dict[str, Any]) -> Published:
    row = dict(raw)
    protocol, source = data["protocols"][row["protocol"]], data["sources"][row["source"]]
    where = row.pop("where", "")
    order = data["vtab_order"]
    # Rows of all 19 tasks are written as a list in that order.
    tasks = dict(zip(order, row["tasks"], strict=True)) if isinstance(row["tasks"], list) else row["tasks"]
    if set(tasks) == set(order):
        means = {g: fmean(tasks[t.name] for t in group(g)) for g in GROUPS}
        row.setdefault("groups", means)
        row.setdefault("mean_of_tasks", fmean(tasks.values()))
    if "groups" in row:
        row.setdefault("mean_of_groups", fmean(row["groups"].values()))
    row.setdefault("selected", protocol.get("selected", ""))
    row |= {
        "tasks": tasks,
        "protocol_text": protocol["text"],
        "recipes": tuple(protocol["recipes"]),
        "at_resolution": protocol.get("at_resolution", {}),
        "source": f"{source}, {where}" if where else source,
        "weights": tuple(row.get("weights", ())),
        "differs": tuple(row.get("differs", ())),
    }
    return Published(**row)
