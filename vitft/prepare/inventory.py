"""What is on this machine, for `vitft data ls` and for the table before a suite. No network is asked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vitft.catalog import tasks
from vitft.catalog.shots import Shots, splits_of
from vitft.catalog.tasks import MINI, TASKS, Task
from vitft.data import find as finding
from vitft.data.sources import hub, hub_cache
from vitft.errors import DataError, DataMissing

Status = Literal["ready", "built-in", "downloadable", "manual", "damaged"]


@dataclass(frozen=True)
class Row:
    """One task.

    Attributes:
        task: canonical name.
        title: as tables print it.
        status: "downloadable": `vitft data prepare` or the hub fetches it; "manual": its owner wants a login or a form;
            "damaged": a folder of that name is there and cannot be used.
        where: the folder; for what is not there, what to do.
        size: bytes, on disk where ready, else of the download; None where unknown.
        splits: what the source offers; empty where nothing is there.
    """

    task: str
    title: str
    status: Status
    where: str
    size: int | None
    splits: tuple[str, ...] = ()


def inventory(data_dir: Path | None = None, names: tuple[str, ...] = (), shots: Shots | None = None) -> list[Row]:
    """Return a row for each task of `names` (all that need data, by default), in their order.

    With `shots` a row tells of the source that `find` takes for VTAB-1k (a number) or full VTAB ("full").

    Raises UnknownName for a name that is no task.
    """
    chosen = [tasks.get(name) for name in names] or [task for task in TASKS if task not in MINI]
    return [_row(task, data_dir, splits_of(shots) if shots else None) for task in chosen]


def own_row(place: Path, name: str) -> Row:
    """Return the row of a data set of the user's own, at a path."""
    try:
        return Row(name, name, "ready", str(place), _size(place), finding.at(place).splits)
    except DataMissing:
        return Row(name, name, "manual", f"nothing that vitft can read in {place}", None)
    except DataError as error:
        return Row(name, name, "damaged", error.lines[0], None)


def _row(task: Task, data_dir: Path | None, shots: Shots | None) -> Row:
    try:
        # Where nothing has the splits of VTAB, what is there says so by its own.
        for wanted in dict.fromkeys((shots, None)):
            here = finding.nearest(task, data_dir, wanted)
            if not isinstance(here, str):
                return Row(task.name, task.title, "ready", str(here[0]), _size(here[0]), here[1].splits)
    except DataError as error:
        return Row(task.name, task.title, "damaged", error.lines[0], None)
    inner = finding.built_in(task)
    if inner is not None:
        return Row(task.name, task.title, "built-in", "inside vitft", None, inner.splits)
    repo = hub.REPOS.get(task.name)
    kept = hub_cache.cached(repo) if repo else None
    if repo and kept and data_dir is None and shots is None:
        return Row(task.name, task.title, "ready", str(kept[1]), _size(kept[1]), hub.Hub(repo, task.name, *kept).splits)
    return _absent(task)


def _absent(task: Task) -> Row:
    """Return the row of a task that is not here, from what its owner publishes."""
    from vitft.prepare import collections

    collection = next((c for c in collections.COLLECTIONS if c.name == task.collection), None)
    if collection is None:
        repo = hub.REPOS[task.name]
        # ImageNet's owner and the hub both want an account that accepted the terms.
        return Row(task.name, task.title, "manual", repo.command, None)
    size = collection.size or None
    if collection.automatic:
        return Row(task.name, task.title, "downloadable", f"vitft data prepare {task.name}", size)
    where = f"vitft data prepare {task.name} --source DIR ({collection.page})"
    return Row(task.name, task.title, "manual", where, None)


def _size(place: Path) -> int | None:
    """Return the bytes below a folder; None where listing it would take long."""
    if place.is_file():
        return place.stat().st_size
    total = seen = 0
    try:
        for entry in place.rglob("*"):
            seen += 1
            if seen > 20_000:
                return None
            if entry.is_file():
                total += entry.stat().st_size
    except OSError:
        return None
    return total
