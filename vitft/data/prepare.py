"""From an owner's files to one parquet a split: the official examples, in hash order, with every original byte kept."""

import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vitft import results
from vitft.catalog import tasks
from vitft.catalog.tasks import Task
from vitft.data import archives, collections, download, splits
from vitft.data import labels as label_names
from vitft.data.collections.raw import Collection, Raw
from vitft.data.decode import decode
from vitft.data.spool import Spool
from vitft.data.split import Provenance, Split
from vitft.data.table_writer import write_split
from vitft.errors import DataDamaged, DataMissing, UsageError

KIND = "vitft-prepared"
SCHEMA_VERSION = 1
Shots = Literal["1000", "full"]
_STORED: dict[Shots, tuple[str, ...]] = {
    "1000": ("train800", "val200", "test"),
    "full": ("train800", "val200", "train", "val", "test"),
}

Progress = Callable[[str, int, int], None]
"""Called with (what, done, total)."""


def _silent(what: str, done: int, total: int) -> None:
    return None


@dataclass(frozen=True)
class Selected:
    """Which examples a split holds: (raw split, row) in hash order, with their keys and labels."""

    rows: tuple[tuple[str, int], ...]
    keys: tuple[str, ...]
    labels: NDArray[np.int64]


def root() -> Path:
    """Return $VITFT_DATA, or data/ in the cache folder."""
    value = os.environ.get("VITFT_DATA")
    return Path(value).expanduser() if value else cache_root() / "data"


def cache_root() -> Path:
    """Return $VITFT_CACHE, or ~/.cache/vitft."""
    return Path(os.environ.get("VITFT_CACHE") or Path.home() / ".cache" / "vitft").expanduser()


def downloads(collection: Collection) -> Path:
    """Return where the owner's files of a collection are kept and looked for."""
    return cache_root() / "downloads" / collection.name


def prepare(
    task: str,
    source: Path | None = None,
    output: Path | None = None,
    shots: Shots = "1000",
    allow_partial: bool = False,
    progress: Progress = _silent,
) -> tuple[Path, dict[str, Any]]:
    """Prepare one task; the same call again continues what was cut off, or returns at once what is complete.

    Args:
        task: canonical name or alias.
        source: the owner's files, packed or unpacked; by default they are downloaded to `downloads`.
        output: folder to make; by default `root()`/<task>.
        shots: "1000" keeps train800, val200 and test, "full" train and val as well.
        allow_partial: take a collection whose counts are not the official ones; it is stamped `partial`.
        progress: told of everything that takes long.

    Returns:
        (the folder, its manifest).

    Raises:
        UnknownName, UsageError: no such task, or `output` holds something else (exit code 2).
        DataMissing, DataDamaged: a file is absent or not what its owner publishes (exit code 3).
        DiskFull: no room (exit code 1).
    """
    found = tasks.get(task)
    collection = collections.of_task(found.name)
    out = (output or root() / found.name).expanduser()
    kept = _complete(out, shots, allow_partial)
    if kept is not None:
        return out, kept
    if source is None:
        folder = downloads(collection)
        download.fetch_all(collection, folder, progress)
    else:
        folder = located(collection, found, source.expanduser())
    hidden = out.parent / f".{out.name}.preparing"
    with _workplace(hidden):
        raw, tree, files = opened(collection, folder, hidden / "raw", allow_partial, progress)
        partial_why = shortfall(found, raw)
        if partial_why and not allow_partial:
            raise DataMissing(
                f"'{folder}' is not the whole of {collection.title}: {partial_why}.",
                "Legal: " + ", ".join(f"{n:,} in {salt}" for salt, n in official_sizes(found).items()) + ".",
                "Fetch or unpack the rest, or give --allow-partial: the result is then stamped 'partial'.",
            )
        chosen = select(found, raw, shots, bool(partial_why))
        build = hidden / "build"
        shutil.rmtree(build, ignore_errors=True)
        build.mkdir()
        with Spool(hidden, fingerprint(collection, tree)) as spool:
            gather(collection, raw, chosen, spool, progress)
            written = {
                name: write_split(
                    build / f"{name}.parquet",
                    label_names.class_names(found.name),
                    part.keys,
                    part.labels,
                    partial(_image, spool, part),
                    partial(progress, f"write {name}"),
                )
                for name, part in chosen.items()
                if len(part.keys)
            }
        manifest = _manifest(found, collection, raw, shots, partial_why, chosen, written, files)
        (build / "README.md").write_text(_card(found, collection, manifest), encoding="utf-8")
        results.write_json(build / "manifest.json", manifest)  # last: what has one is whole
        if out.exists():
            out.rename(hidden / "old")
        build.rename(out)
        (hidden / "spool.bin").unlink()
    return out, manifest


@contextmanager
def _workplace(hidden: Path) -> Iterator[None]:
    """Hold the hidden folder in which a data set is built; it stays only while it holds images worth keeping."""
    with results.lock(hidden):
        try:
            yield
        finally:
            spool = hidden / "spool.bin"
            if not spool.is_file() or not spool.stat().st_size:
                shutil.rmtree(hidden, ignore_errors=True)


def _image(spool: Spool, part: Selected, i: int) -> bytes:
    return spool.get(*part.rows[i])


def located(collection: Collection, task: Task, source: Path) -> Path:
    """Return the folder (or archive) of a collection: `source` itself, or the folder of its name in it."""
    names = (collection.name, task.name, *task.aliases)
    if source.is_dir() and source.name not in names:
        for name in names:
            if (source / name).is_dir():
                return source / name
    return source


def opened(
    collection: Collection, folder: Path, work: Path, any_files: bool = False, progress: Progress = _silent
) -> tuple[Raw, archives.Tree, list[dict[str, Any]]]:
    """Open a collection's files and compare those that have a known checksum.

    Returns:
        (keys, labels and reader; the files; what they are: {name, size, sha256} each, unpacked ones in one line).
    """
    official = {file.filename: file for file in collection.files}
    progress(f"list {folder.name}", 0, 1)
    described: list[dict[str, Any]] = []
    candidates = [folder] if folder.is_file() else sorted(p for p in folder.glob("*") if p.is_file())
    for path in candidates:
        file = official.get(path.name)
        if file is None and not any(fnmatch(path.name, pattern) for pattern in collection.archives):
            continue
        strict = file is not None and not any_files
        digest = download.check(path, file, progress) if file and strict else download.sha256(path, progress)
        described.append({"name": path.name, "size": path.stat().st_size, "sha256": digest})
    tree = archives.open_tree(folder, [*official, *collection.archives])
    raw = collection.open(tree, work)
    progress(f"list {folder.name}", 1, 1)
    checked = {str(item["name"]) for item in described}
    loose = [n for name, n in tree.sizes.items() if tree.path(name) is not None and name not in checked]
    if loose:
        described.append({"name": "unpacked files", "files": len(loose), "size": sum(loose)})
    if not any(len(keys) for keys in raw.keys.values()):
        raise tree.missing(next(iter(raw.absent.values()), collection.files[0].filename))
    return raw, tree, described


def official_sizes(task: Task) -> dict[str, int]:
    """Return the official count of each raw split that the task draws from."""
    used = {piece.salt for pieces in task.splits.values() for piece in pieces}
    return {salt: n for salt, n in task.sizes.items() if salt in used}


def shortfall(task: Task, raw: Raw) -> str:
    """Say how a collection differs from the official one; empty when its counts and its keys are right."""
    for salt, n in official_sizes(task).items():
        keys = raw.keys.get(salt, ())
        if len(keys) != n:
            first = f", '{raw.absent[salt]}' is the first that is absent" if salt in raw.absent else ""
            return f"{salt} has {len(keys):,} of {n:,} images{first}"
        known = splits.raw_keys(task, salt)
        if known is not None and (foreign := set(keys) - set(known)):
            return f"{salt} holds '{min(foreign)}', which the official one does not"
    return ""


def select(task: Task, raw: Raw, shots: Shots, incomplete: bool = False) -> dict[str, Selected]:
    """Return the examples of each stored split, in hash order.

    Raises:
        DataDamaged: two examples of a raw split share a key, or a label is outside the task's classes (-1 passes in an
            incomplete collection, where it says "none").
    """
    order: dict[str, NDArray[np.int64]] = {}
    for salt in official_sizes(task):
        keys = raw.keys.get(salt, ())
        if len(set(keys)) != len(keys):
            raise DataDamaged(f"Two images of {salt} share a key.", "Legal: each image once.", "Unpack the files anew.")
        values = raw.labels[task.name][salt] if len(keys) else np.zeros(0, np.int64)
        wrong = np.flatnonzero((values < (-1 if incomplete else 0)) | (values >= task.num_classes))
        if len(wrong):
            raise DataDamaged(
                f"Image '{keys[wrong[0]]}' of {salt} has the label {values[wrong[0]]}.",
                f"Legal: 0 to {task.num_classes - 1}.",
                "Fetch the owner's files again.",
            )
        order[salt] = splits.hash_order(list(keys), salt)
    found = {}
    for name in _STORED[shots]:
        if name not in task.splits:
            continue
        rows = [
            (piece.salt, int(row))
            for piece in splits.slices(task, name, {salt: len(o) for salt, o in order.items()})
            for row in order[piece.salt][piece.start : piece.stop]
        ]
        found[name] = Selected(
            tuple(rows),
            tuple(raw.keys[salt][row] for salt, row in rows),
            np.array([raw.labels[task.name][salt][row] for salt, row in rows], np.int64),
        )
    return found


def gather(
    collection: Collection, raw: Raw, chosen: Mapping[str, Selected], spool: Spool, progress: Progress = _silent
) -> None:
    """Read every chosen image once, in the order of the files, and see that it decodes."""
    wanted: dict[str, set[int]] = {}
    for part in chosen.values():
        for salt, row in part.rows:
            wanted.setdefault(salt, set()).add(row)
    total = sum(map(len, wanted.values()))
    done = 0
    for salt, rows in wanted.items():
        missing = spool.missing(salt, sorted(rows))
        done += len(rows) - len(missing)
        left = set(missing)
        for row, data in raw.read(salt, missing) if missing else ():
            if not raw.drawn:
                decode(data, f"{salt}/{raw.keys[salt][row]}")
            spool.add(salt, row, data)
            left.discard(row)
            done += 1
            progress(f"read {collection.title}", done, total)
        if left:
            raise DataMissing(
                f"Image '{raw.keys[salt][min(left)]}' of {salt} was listed but could not be read.",
                "Legal: files that do not change while they are read.",
                "Give the same command again.",
            )


def fingerprint(collection: Collection, tree: archives.Tree) -> str:
    """Return a digest of the files' names, sizes and times: another one means that nothing gathered may be kept."""
    h = hashlib.sha256(json.dumps([KIND, SCHEMA_VERSION, collection.name, _versions(collection)]).encode())
    packed = {str(path) for path in tree.packed}
    for name in sorted(tree.sizes):
        path = tree.path(name)
        if path is not None:
            h.update(f"{name}\t{tree.sizes[name]}\t{path.stat().st_mtime_ns}\n".encode())
    for file in sorted(packed):
        stat = os.stat(file)
        h.update(f"{file}\t{stat.st_size}\t{stat.st_mtime_ns}\n".encode())
    return h.hexdigest()


def _complete(out: Path, shots: Shots, allow_partial: bool) -> dict[str, Any] | None:
    """Return the manifest of a finished folder that holds what is asked for. Raises UsageError over someone's files."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        if out.exists():
            out.rmdir()
        return None
    from vitft.data.sources.prepared import read_manifest

    manifest = read_manifest(out) if (out / "manifest.json").is_file() else None
    if manifest is None:
        raise UsageError(
            f"'{out}' holds other files.",
            "Legal: a new folder, or one that 'vitft data prepare' made.",
            "Choose another with --output, or remove it.",
        )
    enough = set(_STORED[shots]) <= set(_STORED[manifest["shots"]])
    whole = all((out / split["file"]).is_file() for split in manifest["splits"].values())
    return manifest if enough and whole and (allow_partial or manifest["completeness"] == "full") else None


def _versions(collection: Collection) -> dict[str, str]:
    names = ["numpy", "pillow", "pyarrow", "h5py", "scipy"] + ["opencv-python-headless"] * collection.opencv
    found = {"python": platform.python_version(), "vitft": _version("vitft")}
    return found | {name: _version(name) for name in names}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"


def decoder() -> str:
    """Name the decoder whose pixels the examples have, as the stamp gives it."""
    from PIL import features

    return f"Pillow {_version('pillow')}, libjpeg {features.version('jpg')} (accurate DCT)"


def _manifest(
    task: Task,
    collection: Collection,
    raw: Raw,
    shots: Shots,
    partial_why: str,
    chosen: Mapping[str, Selected],
    written: Mapping[str, dict[str, Any]],
    files: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    why = partial_why or task.non_reference
    names = label_names.class_names(task.name)
    stored = {}
    for name, described in written.items():
        part = chosen[name]
        split = Split(task.name, name, names, part.keys, part.labels, lambda i: b"", Provenance(KIND))
        keys = splits.keys_digest(part.keys)
        stored[name] = {"n": len(part.keys), "digest": split.digest, "keys_sha256": keys, **described}
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "task": task.name,
        "collection": collection.name,
        "title": collection.title,
        "licence": collection.licence,
        "page": collection.page,
        "shots": shots,
        "completeness": "partial" if partial_why else "full",
        "reference": not why,
        "why": why,
        "notes": list(raw.notes),
        "images": collection.processing or ("arrays as PNG" if raw.drawn else "the owner's bytes"),
        "decoder": decoder(),
        "versions": _versions(collection),
        "source": list(files),
        "raw_counts": {salt: len(keys) for salt, keys in raw.keys.items()},
        "class_names": list(names),
        "splits": stored,
    }


def _card(task: Task, collection: Collection, manifest: Mapping[str, Any]) -> str:
    """Return the README that the Hugging Face Hub shows, with the splits it should load."""
    lines = ["---", "configs:", "- config_name: default", "  data_files:"]
    for name in manifest["splits"]:
        lines += [f"  - split: {name}", f"    path: {name}.parquet"]
    lines += ["---", "", f"# {task.title} of VTAB, from {collection.title}", ""]
    lines.append(f"Owner: {collection.page}. Licence: {collection.licence}. Images: {manifest['images']}.")
    if manifest["why"]:
        lines += ["", f"Not the reference splits: {manifest['why']}."]
    return "\n".join([*lines, ""])


def readme_table() -> str:
    """Return the README's table of the 16 collections as markdown."""
    lines = ["| collection | tasks | to fetch | licence | how | what to do |", "|---|---|---|---|---|---|"]
    for collection in collections.VTAB:
        names = ", ".join(f"`{task.name}`" for task in tasks.VTAB if task.collection == collection.name)
        first = names.split(", ")[0].strip("`")
        manual = "; ".join(file.manual for file in collection.files if file.manual)
        how = "automatic" if collection.automatic else "manual"
        what = f"`vitft data prepare {first}`"
        if not collection.automatic:
            what = f"{manual}; then {what[:-1]} --source DIR`"
        elif manual:
            what += f"; {manual}"
        if collection.opencv:
            what += "; needs `vitft[opencv]`"
        title = f"[{collection.title}]({collection.page})"
        lines.append(f"| {title} | {names} | {size_text(collection.size)} | {collection.licence} | {how} | {what} |")
    return re.sub(r"(https://1drv\S+?)([),])", r"<\1>\2", "\n".join(lines)) + "\n"


def size_text(size: int) -> str:
    """Return bytes as "1.2 GB"; empty for 0."""
    if size >= 10**9:
        return f"{size / 1e9:.1f} GB"
    return f"{max(1, round(size / 1e6))} MB" if size else ""
