"""From an owner's files to one parquet a split: the official examples, in hash order, with every original byte kept."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitft import machine
from vitft.catalog import tasks
from vitft.catalog.tasks import Task
from vitft.data import labels as label_names
from vitft.data import manifest as manifests
from vitft.data import official_splits
from vitft.data.manifest import KIND, Manifest, Shots, SourceFile, StoredSplit, TableFile
from vitft.data.split import Provenance, Split
from vitft.errors import DataDamaged, DataMissing, UsageError
from vitft.images.decode import decode
from vitft.prepare import collections, download
from vitft.prepare.card import card
from vitft.prepare.collections.raw import Collection, Raw
from vitft.prepare.owner_files import (
    decoder,
    downloads,
    fingerprint,
    located,
    official_sizes,
    opened,
    shortfall,
    versions,
)
from vitft.prepare.spool import Spool
from vitft.prepare.table_writer import write_split
from vitft.progress import Progress, silent
from vitft.results.checks import keys_digest
from vitft.results.files import cannot_write
from vitft.results.folders import lock

_STORED: dict[Shots, tuple[str, ...]] = {
    "1000": ("train800", "val200", "test"),
    "full": ("train800", "val200", "train", "val", "test"),
}


@dataclass(frozen=True)
class Selected:
    """Which examples a split holds: (raw split, row) in hash order, with their keys and labels."""

    rows: tuple[tuple[str, int], ...]
    keys: tuple[str, ...]
    labels: NDArray[np.int64]


def prepare(
    task: str,
    source: Path | None = None,
    output: Path | None = None,
    shots: Shots = "1000",
    allow_partial: bool = False,
    progress: Progress = silent,
) -> tuple[Path, Manifest]:
    """Prepare one task; the same call again continues what was cut off, or returns at once what is complete.

    Args:
        task: canonical name or alias.
        source: the owner's files, packed or unpacked; by default they are downloaded to `downloads`.
        output: folder to make; by default `machine.data()`/<task>.
        shots: "1000" keeps train800, val200 and test, "full" train and val as well.
        allow_partial: take a collection whose counts are not the official ones; it is stamped `partial`.
        progress: called with whatever takes long.

    Returns:
        (the folder, its manifest).

    Raises:
        UnknownName, UsageError: no such task, or `output` holds something else (exit code 2).
        DataMissing, DataDamaged: a file is absent or not what its owner publishes (exit code 3).
        DiskFull: no room (exit code 1).
    """
    known = tasks.get(task)
    collection = collections.of_task(known.name)
    out = (output or machine.data() / known.name).expanduser()
    kept = _complete(out, shots, allow_partial)
    if kept is not None:
        return out, kept
    if source is None:
        folder = downloads(collection)
        with _alone(folder, collection, progress):
            download.fetch_all(collection, folder, progress)
    else:
        folder = located(collection, known, source.expanduser())
    hidden = out.parent / f".{out.name}.preparing"
    with _alone(out, collection, progress), _workplace(hidden):
        if (kept := _complete(out, shots, allow_partial)) is not None:  # meanwhile
            return out, kept
        manifest = _build(known, folder, hidden, shots, allow_partial, progress)
        if out.exists():
            out.rename(hidden / "old")
        (hidden / "build").rename(out)
        (hidden / "spool.bin").unlink()
    return out, manifest


def _build(task: Task, folder: Path, hidden: Path, shots: Shots, allow_partial: bool, progress: Progress) -> Manifest:
    """Make the whole data set in `hidden`/build from the owner's files in `folder`."""
    collection = collections.of_task(task.name)
    raw, tree, files = opened(collection, folder, hidden / "raw", allow_partial, progress)
    partial_why = shortfall(task, raw)
    if partial_why and not allow_partial:
        raise _partial(task, collection, folder, partial_why)
    if not partial_why:
        _refuse_other_files(collection, files)
    chosen = select(task, raw, shots, bool(partial_why))
    build = hidden / "build"
    shutil.rmtree(build, ignore_errors=True)
    build.mkdir()
    with Spool(hidden, fingerprint(collection, tree)) as spool:
        gather(collection, raw, chosen, spool, progress)
        written = _written(build, task, chosen, spool, progress)
    manifest = _manifest(task, collection, raw, shots, partial_why, chosen, written, files)
    (build / "README.md").write_text(card(task, collection, manifest), encoding="utf-8")
    manifest.write(build)  # last: what has one is whole
    return manifest


def _partial(task: Task, collection: Collection, folder: Path, why: str) -> DataMissing:
    return DataMissing(
        f"'{folder}' is not the whole of {collection.title}: {why}.",
        ", ".join(f"{n:,} in {raw_split}" for raw_split, n in official_sizes(task).items()) + ".",
        "Fetch or unpack the rest, or leave out --complete: the result is then stamped 'partial'.",
    )


def _refuse_other_files(collection: Collection, files: Sequence[SourceFile]) -> None:
    """Refuse what has the official counts and is not of the owner's files. Raises DataDamaged."""
    wrong = [file.name for file in files if file.official is False]
    if wrong:
        raise DataDamaged(
            f"'{wrong[0]}' does not have its owner's checksum.",
            f"the file that {collection.page} gives.",
            "Fetch it again; if the owner has changed it, unpack it and give the folder to --source.",
        )


def _written(
    build: Path, task: Task, chosen: Mapping[str, Selected], spool: Spool, progress: Progress
) -> dict[str, TableFile]:
    """Write a file for each split that has images; return what they are."""
    return {
        name: write_split(
            build / f"{name}.parquet",
            label_names.class_names(task.name),
            part.keys,
            part.labels,
            partial(_image, spool, part),
            partial(progress, f"write {name}"),
        )
        for name, part in chosen.items()
        if len(part.keys)
    }


def _alone(folder: Path, collection: Collection, progress: Progress) -> AbstractContextManager[None]:
    """Let one process after the other fetch or make a folder; those that wait say so."""
    what = f"wait for another vitft that prepares {collection.title}"
    return machine.turn(folder.parent / f".{folder.name}.lock", lambda _: progress(what, 0, 1))


@contextmanager
def _workplace(hidden: Path) -> Iterator[None]:
    """Hold the hidden folder in which a data set is built; it stays only while it holds images worth keeping."""
    try:
        with lock(hidden):
            yield
    except OSError as error:  # reading has its own errors; this is the disk that is written
        raise cannot_write(hidden, error) from None
    finally:  # with the lock closed: NFS keeps what is open
        spool = hidden / "spool.bin"
        if not spool.is_file() or not spool.stat().st_size:
            shutil.rmtree(hidden, ignore_errors=True)


def _image(spool: Spool, part: Selected, i: int) -> bytes:
    return spool.get(*part.rows[i])


def select(task: Task, raw: Raw, shots: Shots, incomplete: bool = False) -> dict[str, Selected]:
    """Return the examples of each stored split, in hash order.

    Raises:
        DataDamaged: two examples of a raw split share a key, or a label is outside the task's classes (-1 passes in an
            incomplete collection, where it says "none").
    """
    order: dict[str, NDArray[np.int64]] = {}
    for raw_split in official_sizes(task):
        keys = raw.keys.get(raw_split, ())
        if len(set(keys)) != len(keys):
            raise DataDamaged(f"Two images of {raw_split} share a key.", "each image once.", "Unpack the files anew.")
        values = raw.labels[task.name][raw_split] if len(keys) else np.zeros(0, np.int64)
        wrong = np.flatnonzero((values < (-1 if incomplete else 0)) | (values >= task.num_classes))
        if len(wrong):
            raise DataDamaged(
                f"Image '{keys[wrong[0]]}' of {raw_split} has the label {values[wrong[0]]}.",
                f"0 to {task.num_classes - 1}.",
                "Fetch the owner's files again.",
            )
        order[raw_split] = official_splits.hash_order(list(keys), raw_split)
    selected = {}
    for name in _STORED[shots]:
        if name not in task.splits:
            continue
        rows = [
            (piece.raw_split, int(row))
            for piece in official_splits.slices(task, name, {raw_split: len(o) for raw_split, o in order.items()})
            for row in order[piece.raw_split][piece.start : piece.stop]
        ]
        selected[name] = Selected(
            tuple(rows),
            tuple(raw.keys[raw_split][row] for raw_split, row in rows),
            np.array([raw.labels[task.name][raw_split][row] for raw_split, row in rows], np.int64),
        )
    return selected


def gather(
    collection: Collection, raw: Raw, chosen: Mapping[str, Selected], spool: Spool, progress: Progress = silent
) -> None:
    """Read every chosen image once, in the order of the files, and see that it decodes."""
    wanted: dict[str, set[int]] = {}
    for part in chosen.values():
        for raw_split, row in part.rows:
            wanted.setdefault(raw_split, set()).add(row)
    total = sum(map(len, wanted.values()))
    done = 0
    for raw_split, rows in wanted.items():
        missing = spool.missing(raw_split, sorted(rows))
        done += len(rows) - len(missing)
        left = set(missing)
        for row, data in raw.read(raw_split, missing) if missing else ():
            if not raw.drawn:
                decode(data, f"{raw_split}/{raw.keys[raw_split][row]}")
            spool.add(raw_split, row, data)
            left.discard(row)
            done += 1
            progress(f"read {collection.title}", done, total)
        if left:
            raise DataMissing(
                f"Image '{raw.keys[raw_split][min(left)]}' of {raw_split} was listed but could not be read.",
                "files that do not change while they are read.",
                "Give the same command again.",
            )


def _complete(out: Path, shots: Shots, allow_partial: bool) -> Manifest | None:
    """Return the manifest of a finished folder that holds what is asked for. Raises UsageError over someone's files."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        if out.exists():
            out.rmdir()
        return None
    manifest = manifests.read(out) if (out / manifests.FILE).is_file() else None
    if manifest is None:
        raise UsageError(
            f"'{out}' holds other files.",
            "a new folder, or one that 'vitft data prepare' made.",
            "Choose another with --output, or remove it.",
        )
    enough = set(_STORED[shots]) <= set(_STORED[manifest.shots])
    whole = all((out / split.file).is_file() for split in manifest.splits.values()) and not manifest.outdated
    return manifest if enough and whole and (allow_partial or manifest.completeness == "full") else None


def _manifest(
    task: Task,
    collection: Collection,
    raw: Raw,
    shots: Shots,
    partial_why: str,
    chosen: Mapping[str, Selected],
    written: Mapping[str, TableFile],
    files: Sequence[SourceFile],
) -> Manifest:
    why = partial_why or task.non_reference
    names = label_names.class_names(task.name)
    stored = {}
    for name, described in written.items():
        part = chosen[name]
        split = Split(task.name, name, names, part.keys, part.labels, lambda _: b"", Provenance(KIND))
        keys = keys_digest(part.keys)
        stored[name] = StoredSplit(n=len(part.keys), digest=split.digest, keys_sha256=keys, **described.model_dump())
    return Manifest(
        task=task.name,
        collection=collection.name,
        title=collection.title,
        licence=collection.licence,
        page=collection.page,
        shots=shots,
        completeness="partial" if partial_why else "full",
        reference=not why,
        why=why,
        notes=(
            *raw.notes,
            *(f"{f.name} does not have its owner's checksum" for f in files if f.official is False),
        ),
        images=collection.processing or ("arrays as PNG" if raw.drawn else "the owner's bytes"),
        rule=collection.rule,
        decoder=decoder(),
        versions=versions(collection),
        source=tuple(files),
        raw_counts={raw_split: len(keys) for raw_split, keys in raw.keys.items()},
        class_names=tuple(names),
        splits=stored,
    )
