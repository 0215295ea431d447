"""A suite: columns in groups, how each is run, and the means its table has. No torch."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from vitft.catalog import tasks
from vitft.catalog.shots import Shots
from vitft.errors import UnknownName, UsageError
from vitft.settings import Classifier
from vitft.words import listed

Run = Literal["finetune", "eval", "fewshot"]
Protocol = Literal["checkpoint", "big-vision"]

MEAN_OF_TASKS, MEAN_OF_GROUPS = "mean_of_tasks", "mean_of_groups"


@dataclass(frozen=True)
class Column:
    """One column of a suite's table.

    Attributes:
        key: its name in files, different from every other column's.
        title: its head.
        task: canonical name, or the absolute path of a data set of the user's own.
        recipe: name of a shipped recipe or absolute path of a file; "" where nothing is trained.
        shots: VTAB-1k's splits ("1000"), the first so many of its examples, or full VTAB's ("full"); None = what
            `vitft finetune` takes.
        real: the same network's answers under the ImageNet-ReaL labels; it stands in no mean.
        per_class: examples of each class for few-shot, else 0.
    """

    key: str
    title: str
    group: str
    task: str
    run: Run = "finetune"
    recipe: str = ""
    shots: Shots | None = None
    real: bool = False
    per_class: int = 0
    classifier: Classifier = "ridge"
    protocol: Protocol = "checkpoint"

    @property
    def own(self) -> bool:
        """Whether it is a data set of the user's own."""
        return Path(self.task).is_absolute()


@dataclass(frozen=True)
class Group:
    """Neighbouring columns under one heading.

    Attributes:
        mean: its mean is a column, too.
        columns_shown: False = its mean alone stands in the table.
    """

    name: str
    mean: bool
    columns_shown: bool


@dataclass(frozen=True)
class Mean:
    """A mean over columns, every column alike (`by` "tasks") or every group alike ("groups").

    Attributes:
        of: keys of columns, or names of groups where `by` is "groups".
        block: heading over it and, where their columns are not shown, over the means of its groups.
    """

    name: str
    title: str
    of: tuple[str, ...]
    by: Literal["tasks", "groups"]
    block: str = "all"


@dataclass(frozen=True)
class Beside:
    """Published rows that stand as one row below the table."""

    title: str
    rows: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """Columns that one run folder holds: of one kind of run, recipe and number of examples."""

    name: str
    columns: tuple[Column, ...]

    @property
    def first(self) -> Column:
        """One of its columns, for what all of them share."""
        return self.columns[0]


@dataclass(frozen=True)
class Suite:
    """A suite as its document says.

    Attributes:
        name: of the shipped document, or of the file without its ending.
        seeds: used where none are asked for.
        path: absolute, of a user's own document; None for a shipped one.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    group_list: tuple[Group, ...]
    means: tuple[Mean, ...] = ()
    beside: tuple[Beside, ...] = ()
    seeds: tuple[int, ...] = (0,)
    source: str = ""
    path: Path | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """Every column's key, in the order of the table."""
        return tuple(column.key for column in self.columns)

    @property
    def titles(self) -> dict[str, str]:
        """Key of a column -> its head."""
        return {column.key: column.title for column in self.columns}

    @property
    def tasks(self) -> tuple[str, ...]:
        """Every task, once, in the order of the table."""
        return tuple(dict.fromkeys(column.task for column in self.columns))

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Group -> keys of its columns."""
        return {g.name: tuple(c.key for c in self.columns if c.group == g.name) for g in self.group_list}

    def group_of(self, key: str) -> str:
        """Return the group of a column."""
        return self.column(key).group

    def column(self, key: str) -> Column:
        """Return the column of that key."""
        return next(column for column in self.columns if column.key == key)

    def mean_of(self, mean: Mean) -> tuple[str, ...]:
        """Return the columns that a mean is over."""
        return mean.of if mean.by == "tasks" else tuple(key for group in mean.of for key in self.counted(group))

    def counted(self, group: str) -> tuple[str, ...]:
        """Return the columns of a group that its mean is over: all but ReaL's."""
        return tuple(key for key in self.groups[group] if not self.column(key).real)

    def parts(self) -> tuple[Part, ...]:
        """Return the columns by what a run folder holds, in the order of the table."""
        parts: dict[tuple[str, ...], list[Column]] = {}
        for c in self.columns:
            kind = (c.recipe, c.shots or "") if c.run == "finetune" else (c.classifier, c.protocol) * (c.run != "eval")
            parts.setdefault((c.run, *kind), []).append(c)
        return tuple(Part(_part_name(kind, list(parts)), tuple(columns)) for kind, columns in parts.items())

    def only(self, keys: Iterable[str]) -> "Suite":
        """Return the suite of some of its columns, with the groups and means that lie whole in them."""
        kept = {*keys}
        columns = tuple(c for c in self.columns if c.key in kept)
        names = {c.group for c in columns}
        groups = tuple(
            replace(g, mean=g.mean and kept.issuperset(self.groups[g.name])) for g in self.group_list if g.name in names
        )
        whole = {*kept, *(g.name for g in groups if kept.issuperset(self.groups[g.name]))}
        return replace(
            self, columns=columns, group_list=groups, means=tuple(m for m in self.means if whole.issuperset(m.of))
        )

    def trained_with(self, recipe: str, shots: Shots | None) -> "Suite":
        """Return the suite with another recipe and another number of examples wherever something is trained."""
        columns = [replace(c, recipe=recipe, shots=shots) if c.run == "finetune" else c for c in self.columns]
        return replace(self, columns=tuple(columns))


def _part_name(kind: tuple[str, ...], kinds: list[tuple[str, ...]]) -> str:
    """Return the folder name of a part: its recipe, or its run, with what tells it from another of that name."""

    def short(one: tuple[str, ...]) -> str:
        return Path(one[1]).stem if one[0] == "finetune" else one[0]

    alike = [one for one in kinds if short(one) == short(kind)]
    if len(alike) == 1:
        return short(kind)
    more = "-".join(kind[2 if kind[0] == "finetune" else 1 :]) or "all"
    name = f"{short(kind)}-{more}"
    same = [one for one in alike if one[2:] == kind[2:]]
    return name if len(same) == 1 else f"{name}-{same.index(kind) + 1}"


def choose(suite: Suite, words_: str) -> tuple[str, ...]:
    """Return the columns that a comma-separated list of tasks, columns, groups or "all" names, in the suite's order.

    Aliases of tasks (the community's folder names, TFDS names) and the columns' titles are understood.

    Raises:
        UnknownName: a word names neither a column of the suite nor a group.
        UsageError: the list is empty.
    """
    wanted: set[str] = set()
    words = listed(words_)
    if not words:
        raise UsageError("--tasks names no task.", f"all, {', '.join(suite.groups)}, or task names with commas.")
    for word in words:
        spelled = {word, tasks.canonical(word)}
        if word == "all":
            wanted.update(suite.keys)
        elif word in suite.groups:
            wanted.update(suite.groups[word])
        elif found := [c.key for c in suite.columns if {c.key, c.task} & spelled or c.title.lower() == word.lower()]:
            wanted.update(found)
        else:
            legal = ["all", *suite.groups, *suite.keys]
            raise UnknownName("task", word, legal, f"Tasks of the suite '{suite.name}': {', '.join(suite.keys)}.")
    return tuple(key for key in suite.keys if key in wanted)
