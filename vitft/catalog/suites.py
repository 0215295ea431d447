"""The suites vitft runs: the 19 tasks of VTAB, and `mini`, six small tasks that need no download."""

from collections.abc import Iterable
from dataclasses import dataclass

from vitft.catalog.tasks import GROUPS, MINI, VTAB, Group, Task, canonical
from vitft.errors import UnknownName, UsageError


@dataclass(frozen=True)
class Suite:
    """A suite: its name, its title on tables, its tasks by group.

    Attributes:
        groups: group -> task names, in the order of the table's columns.
        titles: task name -> head of its column.
    """

    name: str
    title: str
    groups: dict[Group, tuple[str, ...]]
    titles: dict[str, str]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Every task name, in the order of the table."""
        return tuple(name for names in self.groups.values() for name in names)

    def group_of(self, task: str) -> Group:
        """Return the group of a task of this suite."""
        return next(group for group, names in self.groups.items() if task in names)


def _suite(name: str, title: str, tasks: Iterable[Task]) -> Suite:
    tasks = tuple(tasks)
    groups = {g: tuple(task.name for task in tasks if task.group == g) for g in GROUPS}
    return Suite(name, title, groups, {task.name: task.title.removeprefix("mini-") for task in tasks})


SUITES: dict[str, Suite] = {
    "vtab": _suite("vtab", "VTAB", VTAB),
    "mini": _suite("mini", "mini (drawn by vitft, not comparable with VTAB)", MINI),
}


def get(name: str) -> Suite:
    """Return the suite of that name. Raises UnknownName (exit code 2)."""
    if name not in SUITES:
        raise UnknownName("suite", name, SUITES, "Run 'vitft vtab --help'.")
    return SUITES[name]


def choose(suite: Suite, names: str) -> tuple[str, ...]:
    """Return the tasks that a comma-separated list of tasks, groups or "all" names, in the suite's order.

    Aliases of tasks (the community's folder names, TFDS names) are understood, and for `mini` the name
    without its prefix.

    Raises:
        UnknownName: a word names neither a task of the suite nor a group.
        UsageError: the list is empty.
    """
    wanted: set[str] = set()
    words = [word.strip() for word in names.split(",") if word.strip()]
    if not words:
        raise UsageError("--tasks names no task.", f"Legal: all, {', '.join(GROUPS)}, or task names with commas.")
    for word in words:
        if word == "all":
            wanted.update(suite.tasks)
        elif word in suite.groups:
            wanted.update(suite.groups[word])
        elif names_of := {canonical(word) or word, f"{suite.name}-{word}"} & {*suite.tasks}:
            wanted.update(names_of)
        else:
            legal = ["all", *suite.groups, *suite.tasks]
            raise UnknownName("task", word, legal, f"Tasks of the suite '{suite.name}': {', '.join(suite.tasks)}.")
    return tuple(task for task in suite.tasks if task in wanted)
