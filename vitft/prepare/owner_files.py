"""The owner's files of a collection: where they are looked for, opened, compared with checksums and counts."""

import hashlib
import json
import platform
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

from vitft import machine
from vitft.catalog import tasks
from vitft.catalog.tasks import Task
from vitft.data import find, official, official_splits
from vitft.data.manifest import SourceFile
from vitft.data.sources import prepared, tfds
from vitft.errors import DataError
from vitft.prepare import archives, collections, download
from vitft.prepare.collections.raw import Collection, Raw
from vitft.progress import Progress, silent

_OR_TAKE_IT = "Fetch it again; a file of your own is taken with --source DIR and without --complete."
_LAYOUT = 2  # raise it when what is made of the files changes: nothing gathered before is then kept


def downloads(collection: Collection) -> Path:
    """Return where the owner's files of a collection are kept and looked for."""
    return machine.cache() / "downloads" / collection.name


def located(collection: Collection, task: Task, source: Path) -> Path:
    """Return the folder (or archive) of a collection: `source` itself, or the folder of its name in it."""
    names = (collection.name, task.name, *task.aliases)
    if source.is_dir() and source.name not in names:
        for name in names:
            if (source / name).is_dir():
                return source / name
    return source


def opened(
    collection: Collection, folder: Path, work: Path, any_files: bool = False, progress: Progress = silent
) -> tuple[Raw, archives.Tree, list[SourceFile]]:
    """Open a collection's files and compare those that have a known checksum.

    Returns:
        (keys, labels and reader; the files; what they are).
    """
    official = {file.filename: file for file in collection.files}
    progress(f"list {folder.name}", 0, 1)
    described: list[SourceFile] = []
    candidates = [folder] if folder.is_file() else sorted(p for p in folder.glob("*") if p.is_file())
    for path in candidates:
        file = official.get(path.name)
        if file is None and not any(fnmatch(path.name, pattern) for pattern in collection.archives):
            continue
        if file is not None and not any_files:
            digest = download.check(path, file, progress, action=_OR_TAKE_IT)
        else:
            digest = download.sha256(path, progress)
        same = digest == file.sha256 if file is not None and file.sha256 else None
        described.append(SourceFile(name=path.name, size=path.stat().st_size, sha256=digest, official=same))
    tree = archives.open_tree(folder, [*official, *collection.archives], work)
    raw = collection.open(tree)
    progress(f"list {folder.name}", 1, 1)
    checked = {item.name for item in described}
    loose = [n for name, n in tree.sizes.items() if tree.path(name) is not None and name not in checked]
    if loose:
        described.append(SourceFile(name="unpacked files", files=len(loose), size=sum(loose)))
    if not any(len(keys) for keys in raw.keys.values()):
        raise tree.missing(next(iter(raw.absent.values()), collection.files[0].filename))
    return raw, tree, described


def official_sizes(task: Task) -> dict[str, int]:
    """Return the official count of each raw split that the task draws from."""
    used = {piece.raw_split for pieces in task.splits.values() for piece in pieces}
    return {raw_split: n for raw_split, n in task.sizes.items() if raw_split in used}


def shortfall(task: Task, raw: Raw) -> str:
    """Return how a collection differs from the official one; empty where its counts and its keys are right."""
    short = official.raw_shortfall(task, {raw_split: len(keys) for raw_split, keys in raw.keys.items()})
    if short:
        raw_split, why = short
        return why + (f", '{raw.absent[raw_split]}' is the first that is absent" if raw_split in raw.absent else "")
    for raw_split in official_sizes(task):
        keys = raw.keys[raw_split]
        known = official_splits.raw_keys(task, raw_split)
        if known is not None and (foreign := set(keys) - set(known)):
            return f"{raw_split} holds '{min(foreign)}', which the official one does not"
    return ""


def fingerprint(collection: Collection, tree: archives.Tree) -> str:
    """Return a digest of the files' names, sizes and times: another one means that nothing gathered may be kept."""
    h = hashlib.sha256(json.dumps([_LAYOUT, collection.name, versions(collection)]).encode())
    for name in sorted(tree.sizes):
        path = tree.path(name)
        if path is not None:
            h.update(f"{name}\t{tree.sizes[name]}\t{path.stat().st_mtime_ns}\n".encode())
    for file in sorted(tree.packed):
        stat = file.stat()
        h.update(f"{file}\t{stat.st_size}\t{stat.st_mtime_ns}\n".encode())
    return h.hexdigest()


def versions(collection: Collection) -> dict[str, str]:
    names = ["numpy", "pillow", "pyarrow", "h5py", "scipy"] + ["opencv-python-headless"] * collection.opencv
    found = {"python": platform.python_version(), "vitft": version("vitft")}
    return found | {name: version(name) for name in names}


def version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"


def decoder() -> str:
    """Name the decoder whose pixels the examples have, as the stamp gives it."""
    from PIL import features

    turbo = features.version_feature("libjpeg_turbo")
    return f"Pillow {version('pillow')}, {f'libjpeg-turbo {turbo}' if turbo else 'libjpeg'} (accurate DCT)"


def split_keys(
    task: str,
    split: str,
    source: Path | None = None,
    data_dir: Path | None = None,
    progress: Progress = silent,
) -> tuple[list[str], str]:
    """Return the keys of a split and why they are not the reference (empty where they are).

    Args:
        task: canonical name or alias.
        split: "train", "val", "test", "train800", "val200" or "train800val200".
        source: the owner's files, or a prepared folder; without it keys come from the rule alone, else from data here.
        data_dir: as everywhere.
        progress: called with whatever takes long.
    """
    known = tasks.get(task)
    official_splits.slices(known, split)
    if source is not None and not prepared.detect(source) and not tfds.detect(source):
        collection = collections.of_task(known.name)
        with TemporaryDirectory(prefix="vitft-") as work:
            folder = located(collection, known, source.expanduser())
            raw, _, _ = opened(collection, folder, Path(work), True, progress)
        sized = {raw_split: list(keys) for raw_split, keys in raw.keys.items()}
        return official_splits.split_keys(task, split, sized), shortfall(known, raw) or known.non_reference
    if source is None and data_dir is None:
        try:
            return official_splits.split_keys(task, split), known.non_reference
        except DataError as error:  # known from the data only: perhaps they are here
            if not any(split in here.splits for _, here in find.local(known, None)):
                raise error from None
    data = find.at(source, known) if source is not None else find.find(task, data_dir)
    opened_split = data.open(split)
    stamp = opened_split.provenance
    return list(opened_split.keys), "" if stamp.reference else stamp.why or "its source does not say so"
