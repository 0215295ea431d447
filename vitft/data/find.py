"""Where the data of a task is: a path, the folders the user names, what is prepared, built in, or on the hub."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from vitft.catalog import tasks
from vitft.catalog.tasks import MINI, Task
from vitft.data.sources import image_folder, parquet, vtab_folder
from vitft.data.sources.digits import Digits
from vitft.data.split import Source
from vitft.errors import DataDamaged, DataMissing


class Located(Source, Protocol):
    """A source that was told by the layout of a folder and knows its classes without opening a split."""

    @property
    def class_names(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Layout:
    """One way in which a data set can lie on a disk.

    Attributes:
        what: its name in a message.
        detect: tells it from the others by names of files alone.
        build: (folder or file, task name) -> source.
    """

    what: str
    detect: Callable[[Path], bool]
    build: Callable[[Path, str], Located]


# One line for each layout, the most particular first.
LAYOUTS: tuple[Layout, ...] = (
    Layout("a VTAB-1k folder (train800.txt, ..., test.txt)", vtab_folder.detect, vtab_folder.VtabFolder),
    Layout("parquet or arrow files (train*.parquet, test*.parquet)", parquet.detect, parquet.Parquet),
    Layout("an image folder (train/<class>/*)", image_folder.detect, image_folder.ImageFolder),
)

Status = Literal["ready", "downloadable", "manual", "built-in"]


def find(task: str, data_dir: Path | None = None) -> Source:
    """Return the source of a task's data.

    A name is looked for in `data_dir`, then in the prepared data; digits and the mini suite are built in.

    Args:
        task: a task's name or alias, the name of a folder in `data_dir`, or a path to a data set.
        data_dir: a folder that holds data sets, or one data set itself.

    Raises:
        UnknownName: neither a task nor a path (exit code 2).
        DataMissing, DataDamaged: no such data, or not what it should be (exit code 3).
    """
    if data_dir is not None:
        data_dir = data_dir.expanduser()
        if not data_dir.exists():
            raise DataMissing(
                f"Folder '{data_dir}' (--data-dir) does not exist.", "Legal: a folder that holds data sets."
            )
    known = tasks.canonical(task)
    if known is None:
        inside = data_dir / task if data_dir else None
        if inside is not None and inside.exists():
            return at(inside)
        if _is_path(task):
            return at(Path(task).expanduser())
        tasks.get(task)
        raise AssertionError("tasks.get accepts what tasks.canonical does not")
    return _named(tasks.get(known), data_dir)


def at(path: Path, task: Task | None = None) -> Source:
    """Return the data set at `path`, told by its layout.

    Without `task` the folder's name says what it is: a known task where its number of classes agrees, else the user's
    own data.

    Raises:
        DataMissing: nothing there, or nothing that vitft can read.
        DataDamaged: it does not have the classes of `task`.
    """
    if not path.exists():
        raise DataMissing(f"Data set '{path}' does not exist.", "Legal: a folder, a parquet file, or a task's name.")
    layout = next((layout for layout in LAYOUTS if layout.detect(path)), None)
    if layout is None:
        raise DataMissing(
            f"'{path}' holds no data set that vitft can read.",
            "Legal: " + "; ".join(layout.what for layout in LAYOUTS) + ".",
        )
    resolved = path.resolve()
    name = resolved.stem if resolved.is_file() else resolved.name
    known = task.name if task else tasks.canonical(name)
    if known is None:
        return layout.build(path, name)
    source = layout.build(path, known)
    has, wanted = len(source.class_names), tasks.get(known).num_classes
    if has == wanted:
        return source
    if task:
        raise DataDamaged(
            f"'{path}' has {has} classes; {known} has {wanted}.",
            f"Legal: the classes of '{known}'.",
            f"Give the path itself as the task if it is your own data: '{path}'.",
        )
    return layout.build(path, f"{name}-{has}-classes")


def prepared_root() -> Path | None:
    """Return $VITFT_DATA, the folder of prepared data, or None where it is not set."""
    value = os.environ.get("VITFT_DATA")
    return Path(value).expanduser() if value else None


def _named(task: Task, data_dir: Path | None) -> Source:
    places: list[str] = []
    if data_dir is not None:
        places.append(f"'{data_dir}' (--data-dir)")
        for folder in _folders_of(task, data_dir):
            return at(folder, task)
        other = tasks.canonical(data_dir.resolve().name)
        if other in (None, task.name) and any(layout.detect(data_dir) for layout in LAYOUTS):
            return at(data_dir, task)
    root = prepared_root()
    places.append(f"'{root}' ($VITFT_DATA)" if root else "$VITFT_DATA (not set)")
    if root is not None and root.is_dir():
        for folder in _folders_of(task, root):
            return at(folder, task)
    if (built_in := _built_in(task)) is not None:
        return built_in
    raise DataMissing(
        f"No data for '{task.name}'; looked in {', '.join(places)}.",
        f"Legal: a folder '{task.name}' there, or --data-dir naming the data set itself.",
        f"Run 'vitft data prepare {task.name}', or name the folder with --data-dir.",
    )


def _built_in(task: Task) -> Source | None:
    if task.name == "digits":
        return Digits()
    if task in MINI:
        from vitft.data.sources.drawn import Drawn

        return Drawn(task.name)
    return None


def _folders_of(task: Task, root: Path) -> Iterator[Path]:
    """Yield the folders of a task below `root`, its own name first, then its aliases; then those in `vtab-1k`."""
    for parent in (root, root / "vtab-1k", root / "vtab"):
        try:
            names = sorted(entry.name for entry in os.scandir(parent) if entry.is_dir())
        except OSError:
            continue
        ours = [name for name in names if tasks.canonical(name) == task.name]
        for name in sorted(ours, key=lambda name: name != task.name):
            if any(layout.detect(parent / name) for layout in LAYOUTS):
                yield parent / name


def _is_path(task: str) -> bool:
    return task.startswith((".", "~", "/")) or os.sep in task or Path(task).exists()


@dataclass(frozen=True)
class Row:
    """One line of `vitft data ls` and of the table before a suite.

    Attributes:
        task: canonical name.
        status: "ready", "built-in", "downloadable" (`vitft data prepare` or the hub fetches it) or "manual" (its owners
            want a login or a form).
        where: the folder, or what to do.
        size: bytes to download, or on disk when ready; None when unknown.
    """

    task: str
    status: Status
    where: str
    size: int | None
