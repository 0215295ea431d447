"""Where the data of a task is: a path, the folders the user names, what is prepared, built in, or on the hub."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vitft import machine
from vitft.catalog import tasks
from vitft.catalog.shots import Shots, first_of, splits_of
from vitft.catalog.tasks import MINI, Task
from vitft.data import vtab_splits
from vitft.data.sources import (
    cifar_archive,
    hub,
    hub_cache,
    image_folder,
    imagenet,
    metadata,
    own_split,
    parquet,
    prepared,
    split_lists,
    tfds,
    vtab_folder,
    wds,
)
from vitft.data.sources.digits import Digits
from vitft.data.split import Source
from vitft.data.vtab_splits import FirstShots
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
    Layout("a folder that 'vitft data prepare' made", prepared.detect, prepared.Prepared),
    Layout("a VTAB-1k folder (train800.txt, ..., test.txt)", vtab_folder.detect, vtab_folder.VtabFolder),
    Layout("an official CIFAR archive", cifar_archive.detect, cifar_archive.CifarArchive),
    Layout("ImageNet (val/<wnid>/*, images/ beside labels.txt, the tar)", imagenet.detect, imagenet.ImageNet),
    Layout("a directory of TensorFlow Datasets (<name>/<version>/dataset_info.json)", tfds.detect, tfds.Tfds),
    Layout("a mirror of clip-benchmark (wds_*: train/*.tar, test/*.tar, classnames.txt)", wds.detect, wds.Wds),
    Layout("parquet or arrow files (train*.parquet, test*.parquet)", parquet.detect, parquet.Parquet),
    Layout("images and metadata.csv of file_name, label", metadata.detect, metadata.build),
    Layout("images and their lists (train.txt, test.txt)", split_lists.detect, split_lists.build),
    Layout("an image folder (train/<class>/*)", image_folder.detect, image_folder.ImageFolder),
)

WHOLE: dict[str, set[str]] = {"1000": {"train800", "val200", "test"}, "full": {"train", "val", "test"}}
"""The splits that a task of VTAB needs."""

UNTUNED = {"train800val200", "test"}
"""What is enough for VTAB-1k where nothing is chosen on val200."""


def find(task: str, data_dir: Path | None = None, shots: Shots | None = None) -> Source:
    """Return the source of a task's data.

    A name is looked for in `data_dir`, then in the prepared data, then among what is built in; without `data_dir` also
    in the caches of the Hugging Face hub and on the hub itself, where it has the task.

    Args:
        task: a task's name or alias, the name of a folder in `data_dir`, a path to a data set, or "hf:ORG/NAME".
        data_dir: a folder that holds data sets, or one data set itself.
        shots: ask for the splits of VTAB-1k ("1000") or of full VTAB ("full"); they are cut out of the owner's splits
            where the data comes as those. A smaller number asks for the first so many of VTAB-1k's examples, and for
            test. None takes what is there.

    Raises:
        UnknownName: neither a task nor a path (exit code 2).
        DataMissing, DataDamaged: no such data, or not what it should be (exit code 3).
    """
    data_dir = checked(data_dir)
    if task.startswith("hf:"):
        repo, name = hub.task_of(hub_cache.parse(task))
        found = hub.find(repo, name)
        if isinstance(found, str):
            raise DataMissing(
                f"'{task}' is not in {found}.", "a data set of the hub.", f"With a network, run: {repo.command}"
            )
        return found
    known = tasks.canonical(task)
    if known is not None:
        source = _named(tasks.get(known), data_dir, splits_of(shots) if shots else None)
        n = first_of(shots)
        return source if n is None else FirstShots(source, n)
    path = path_of(task, data_dir)
    if path is None and not _is_path(task):
        tasks.get(task)  # raises UnknownName with the nearest
    return at(path or Path(task).expanduser())


def path_of(task: str, data_dir: Path | None) -> Path | None:
    """Return the data set that a word is the path of, in `data_dir` first; None for names and for what is not there."""
    if task.startswith("hf:") or tasks.canonical(task):
        return None
    inside = data_dir / task if data_dir else None
    path = inside if inside is not None and inside.exists() else Path(task).expanduser()
    return path if path.exists() else None


def checked(data_dir: Path | None) -> Path | None:
    """Return --data-dir as an absolute path. Raises DataMissing when it does not exist."""
    if data_dir is None:
        return None
    data_dir = data_dir.expanduser().absolute()
    if not data_dir.exists():
        raise DataMissing(f"Folder '{data_dir}' (--data-dir) does not exist.", "a folder that holds data sets.")
    return data_dir


def at(path: Path, task: Task | None = None) -> Source:
    """Return the data set at `path`, told by its layout.

    Without `task` the folder's name says what it is: a known task where its number of classes agrees, else the user's
    own data.

    Raises:
        DataMissing: nothing there, or nothing that vitft can read.
        DataDamaged: it does not have the classes of `task`.
    """
    if not path.exists():
        raise DataMissing(
            f"Data set '{path}' does not exist.",
            "a folder, a parquet file, or a task's name.",
            "Check the path; 'vitft data ls' lists the tasks.",
        )
    layout = _layout(path, task)
    if layout is None:
        raise DataMissing(
            f"'{path}' holds no data set that vitft can read.",
            "; ".join(layout.what for layout in LAYOUTS) + ".",
            f"If these are photos without a split, run: {splits}"
            if (splits := own_split.command(path))
            else "A folder that holds several data sets is given with --data-dir.",
        )
    name = _name(path)
    known = task.name if task else tasks.canonical(name)
    if known is None and layout.build is imagenet.ImageNet and imagenet.official(path):
        known = "imagenet"
    if known is None:
        return layout.build(path, name)
    source = layout.build(path, known)
    has, wanted = len(source.class_names), tasks.get(known).num_classes
    if has == wanted:
        return source
    if task:
        raise DataDamaged(
            f"'{path}' has {has} classes; {known} has {wanted}.",
            f"the classes of '{known}'.",
            f"If it is your own data, give the path itself as the task: {path}",
        )
    return layout.build(path, f"{name}-{has}-classes")


def folders(task: Task, root: Path) -> Iterator[Path]:
    """Yield the folders of a task below `root`: its own name first, then its aliases, then those in `vtab-1k`."""
    for parent in (root, root / "vtab-1k", root / "vtab"):
        try:
            names = sorted(entry.name for entry in parent.iterdir() if entry.is_dir())
        except OSError:
            continue
        ours = [name for name in names if tasks.canonical(name) == task.name]
        for name in sorted(ours, key=lambda name: name != task.name):
            if _layout(parent / name, task) is not None:
                yield parent / name


def built_in(task: Task) -> Source | None:
    """Return the source of a task that needs no data: digits and the suite `mini`."""
    if task.name == "digits":
        return Digits()
    if task in MINI:
        from vitft.data.sources.drawn import Drawn

        return Drawn(task.name)
    return None


def local(task: Task, data_dir: Path | None) -> Iterator[tuple[Path, Source]]:
    """Yield (place, source) of everything here that is this task's data: `data_dir` first, then prepared data.

    Raises DataDamaged where a folder of that name does not have the task's classes.
    """
    if data_dir is not None:
        for folder in folders(task, data_dir):
            yield folder, at(folder, task)
        # The folder given may be the data set itself, unless its name says that it is another's.
        if tasks.canonical(_name(data_dir)) in (None, task.name) and _layout(data_dir, task) is not None:
            yield data_dir, at(data_dir, task)
    for folder in folders(task, machine.data()):
        yield folder, at(folder, task)


def nearest(task: Task, data_dir: Path | None, shots: Shots | None = None) -> tuple[Path, Source] | str:
    """Return (place, source) of what `find` takes on this machine, or what is there instead of it ("" for nothing)."""
    lacking = ""
    untuned = None
    for place, source in local(task, data_dir):
        if shots is None or WHOLE[shots] <= set(source.splits):
            return place, source
        if vtab_splits.can_cut(source):
            return place, vtab_splits.OfRaw(source, shots == "full")
        if shots == "1000" and set(source.splits) >= UNTUNED:
            untuned = untuned or (place, source)
        lacking = lacking or f"'{place}' has the splits {', '.join(source.splits)}"
    return untuned or lacking


def _named(task: Task, data_dir: Path | None, shots: Shots | None) -> Source:
    here = nearest(task, data_dir, shots)
    if not isinstance(here, str):
        return here[1]
    inner = built_in(task)
    if inner is not None:
        return inner
    prepare = "" if task.name == "imagenet" else f"vitft data prepare {task.name}{' --shots full' * (shots == 'full')}"
    if here:
        raise DataMissing(
            f"No official VTAB splits of '{task.name}': {here}.",
            "the community's VTAB-1k folder, or prepared data.",
            f"Run '{prepare}'.",
        )
    root = machine.data()
    places = ([f"'{data_dir}' (--data-dir)"] if data_dir else []) + [f"'{root}' (VITFT_DATA)"]
    repo = hub.REPOS.get(task.name)
    if repo and data_dir is None and shots is None:
        source = hub.find(repo, task.name)
        if not isinstance(source, str):
            return source
        places.append(source)
    command = prepare or (repo.command if repo else "")
    raise DataMissing(
        f"No data for '{task.name}'; looked in {', '.join(places)}.",
        f"a folder '{task.name}' in one of them, or --data-dir naming the data set itself.",
        f"Run '{command}', or name the folder with --data-dir.",
    )


def _layout(path: Path, task: Task | None = None) -> Layout | None:
    """Tell the layout of a folder; ImageNet's tables and few classes are told by the task's name."""
    if task is not None and task.name == "imagenet" and imagenet.holds(path):
        return next(layout for layout in LAYOUTS if layout.build is imagenet.ImageNet)
    return next((layout for layout in LAYOUTS if layout.detect(path)), None)


def _name(path: Path) -> str:
    resolved = path.resolve()
    return resolved.stem.split(".")[0] if resolved.is_file() else resolved.name


def _is_path(task: str) -> bool:
    return task.startswith((".", "~", "/")) or os.sep in task or Path(task).exists()
