"""The suites vitft runs: the 19 tasks of VTAB, and `mini`, six small tasks that need no download."""

from dataclasses import dataclass
from typing import get_args

from vitft.catalog.tasks import Group, Task
from vitft.errors import UnknownName, UsageError

GROUPS: tuple[Group, ...] = get_args(Group)

# Order of the community's tables; the groups are those of the VTAB paper (arXiv 1910.04867).
_VTAB: dict[Group, str] = {
    "natural": "caltech101 cifar100 dtd oxford_flowers102 oxford_iiit_pet svhn sun397",
    "specialized": "patch_camelyon eurosat resisc45 diabetic_retinopathy",
    "structured": "clevr_count clevr_distance dmlab kitti_distance dsprites_location dsprites_orientation "
    "smallnorb_azimuth smallnorb_elevation",
}

# Heads of the columns: short, and as the VTAB, BiT and ViT papers shorten them.
_SHORT = {
    "caltech101": "Caltech101",
    "cifar100": "CIFAR-100",
    "dtd": "DTD",
    "oxford_flowers102": "Flowers102",
    "oxford_iiit_pet": "Pets",
    "svhn": "SVHN",
    "sun397": "Sun397",
    "patch_camelyon": "Camelyon",
    "eurosat": "EuroSAT",
    "resisc45": "Resisc45",
    "diabetic_retinopathy": "Retinopathy",
    "clevr_count": "Clevr-Count",
    "clevr_distance": "Clevr-Dist",
    "dmlab": "DMLab",
    "kitti_distance": "KITTI-Dist",
    "dsprites_location": "dSpr-Loc",
    "dsprites_orientation": "dSpr-Ori",
    "smallnorb_azimuth": "sNORB-Azim",
    "smallnorb_elevation": "sNORB-Elev",
}


def _mini(name: str, group: Group, num_classes: int, test: int, crop: bool, flip: bool) -> Task:
    return Task(
        name=f"mini-{name}",
        title=name.capitalize(),
        group=group,
        num_classes=num_classes,
        collection="drawn",
        sizes={"train": 1000, "test": test},
        splits={},
        crop=crop,
        flip=flip,
    )


# digits are real handwriting (scikit-learn); the rest is drawn. Cells are counted as under a microscope, hence
# specialized; location and orientation are asked in the manner of dSprites.
MINI_TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        _mini("digits", "natural", 10, 797, crop=True, flip=False),
        _mini("shapes", "natural", 8, 600, crop=True, flip=True),
        _mini("texture", "specialized", 6, 600, crop=True, flip=True),
        _mini("count", "specialized", 6, 600, crop=False, flip=True),
        _mini("location", "structured", 8, 600, crop=False, flip=False),
        _mini("orientation", "structured", 8, 600, crop=True, flip=False),
    )
}


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


SUITES: dict[str, Suite] = {
    "vtab": Suite("vtab", "VTAB", {g: tuple(_VTAB[g].split()) for g in GROUPS}, _SHORT),
    "mini": Suite(
        "mini",
        "mini (drawn; not comparable with VTAB)",
        {g: tuple(t.name for t in MINI_TASKS.values() if t.group == g) for g in GROUPS},
        {t.name: t.title for t in MINI_TASKS.values()},
    ),
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
    aliases = _aliases(suite)
    for word in words:
        if word == "all":
            wanted.update(suite.tasks)
        elif word in suite.groups:
            wanted.update(suite.groups[word])
        elif word in aliases:
            wanted.add(aliases[word])
        else:
            legal = ["all", *suite.groups, *suite.tasks]
            raise UnknownName("task", word, legal, f"Tasks of the suite '{suite.name}': {', '.join(suite.tasks)}.")
    return tuple(task for task in suite.tasks if task in wanted)


def _aliases(suite: Suite) -> dict[str, str]:
    from vitft.catalog import tasks

    names = {task: task for task in suite.tasks}
    if suite.name == "mini":
        names.update({task.removeprefix("mini-"): task for task in suite.tasks})
    for task in getattr(tasks, "TASKS", {}).values():
        if task.name in names:
            names.update(dict.fromkeys(task.aliases, task.name))
    return names
