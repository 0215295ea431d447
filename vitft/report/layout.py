"""Which columns a table of many results has: tasks in groups, and the means that belong to them."""

from collections.abc import Iterable
from pathlib import PurePath

from vitft.catalog.tasks import by_name
from vitft.results.summary import SummaryColumn
from vitft.suites import document
from vitft.suites.suite import Suite

REAL = "imagenet_real"
"""The column of ImageNet under the ReaL labels: the same network's second answer."""

_GROUPED = ("vtab", "mini")
"""The suites whose tasks stand in groups wherever they are."""

_FIRST = ("imagenet", REAL, "cifar10", "digits")


def of_suite(suite: Suite) -> tuple[SummaryColumn, ...]:
    """Return the columns of a suite: its groups, each with its mean, and both means of all tasks."""
    return (*_grouped(suite, suite.tasks), *_overall(suite))


def of_tasks(keys: Iterable[str]) -> tuple[SummaryColumn, ...]:
    """Return the columns for some tasks: those of VTAB and of `mini` in their groups, the others before them.

    A group has a mean where all its tasks are columns, a suite both overall means where all of its tasks are. Where no
    suite is whole there is one mean of all columns, named by how many they are; ReaL is no task of its own in it.
    """
    keys = tuple(dict.fromkeys(keys))
    suites = [suite for suite in map(document.load, _GROUPED) if set(suite.tasks) & set(keys)]
    of_suites = {task for suite in suites for task in suite.tasks}
    rest = sorted((k for k in keys if k not in of_suites), key=lambda k: (_FIRST.index(k) if k in _FIRST else 99, k))
    columns = [SummaryColumn(key=key, title=title(key)) for key in rest]
    for suite in suites:
        prefix = f"{suite.name} " if len(suites) > 1 else ""
        columns += _grouped(suite, keys, prefix)
        if set(suite.tasks) <= set(keys):
            columns += _overall(suite, prefix)
    tasks = [c.key for c in columns if not c.of and c.key != REAL]
    if len(tasks) > 1 and not any(c.key.startswith("mean_of_") for c in columns):
        name = f"mean of {len(tasks)} tasks"
        columns.append(SummaryColumn(key="mean_of_tasks", title=name, group="all", of=(tuple(tasks),)))
    return tuple(columns)


def title(key: str) -> str:
    """Return the head of a task's column."""
    if key == REAL:
        return "ReaL"
    task = by_name(key)
    return task.title.removeprefix("mini-") if task else PurePath(key).name


def _grouped(suite: Suite, keys: Iterable[str], prefix: str = "") -> list[SummaryColumn]:
    """Return the columns of a suite's tasks among `keys`, with the mean of each group that is whole."""
    columns, chosen = [], set(keys)
    for group, tasks in suite.groups.items():
        name = f"{prefix}{group}"
        columns += [SummaryColumn(key=task, title=suite.titles[task], group=name) for task in tasks if task in chosen]
        if tasks and chosen.issuperset(tasks):
            key = f"{prefix}{group}".replace(" ", "_")
            columns.append(SummaryColumn(key=key, title="mean", group=name, of=(tuple(tasks),)))
    return columns


def _overall(suite: Suite, prefix: str = "") -> list[SummaryColumn]:
    groups = tuple(tuple(tasks) for tasks in suite.groups.values())
    end, name = f"_{prefix.strip()}" * bool(prefix), f"{prefix}all"
    return [
        SummaryColumn(key=f"mean_of_tasks{end}", title="mean of tasks", group=name, of=(suite.tasks,)),
        SummaryColumn(key=f"mean_of_groups{end}", title="mean of groups", group=name, of=groups),
    ]
