"""One read-only view over a folder and the archives in it: nothing is unpacked, no entry can leave the view."""

import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import BinaryIO

from vitft import machine, words
from vitft.data.reading import reading
from vitft.errors import DataMissing, DiskFull
from vitft.prepare.archive_parts import Folder, Part, archive_name, archives
from vitft.results.files import writing


@dataclass(frozen=True)
class Tree:
    """Every file of a folder and of the archives in it, by its path.

    Attributes:
        root: the folder (or the one archive) it was opened on.
        sizes: path -> bytes; an unpacked file wins over the same path in an archive.
        packed: the archives that were opened, as files on disk.
        rars: RAR files beside them, which cannot be read.
        work: folder for what has to be unpacked, which is only what HDF5 reads from a .gz.
    """

    root: Path
    sizes: dict[str, int]
    packed: tuple[Path, ...]
    rars: tuple[Path, ...]
    work: Path | None
    _parts: tuple[Part, ...] = field(repr=False)
    _owner: dict[str, int] = field(repr=False)

    def matching(self, pattern: str) -> list[str]:
        """Return the paths in which the regular expression `pattern` is found, sorted."""
        expression = re.compile(pattern)
        return sorted(name for name in self.sizes if expression.search(name))

    def find(self, suffix: str) -> str | None:
        """Return the shortest path that is `suffix` or ends with '/' + `suffix`."""
        ends = "/" + suffix
        return min((n for n in self.sizes if n == suffix or n.endswith(ends)), key=lambda n: (len(n), n), default=None)

    def need(self, suffix: str) -> str:
        """As `find`. Raises DataMissing naming the file."""
        name = self.find(suffix)
        if name is None:
            raise self.missing(suffix)
        return name

    def missing(self, what: str) -> DataMissing:
        """Return the error for a file that is not here; a RAR beside is named with the command that unpacks it."""
        if self.rars:
            rar = self.rars[0]
            return DataMissing(
                f"'{rar.name}' is a RAR archive, which vitft does not read; '{what}' is not beside it unpacked.",
                "a folder, .zip, .tar, .tar.gz, .gz.",
                f"Unpack it: unrar x '{rar}' '{rar.parent}/' (or: 7z x '{rar}' -o'{rar.parent}').",
            )
        return DataMissing(
            f"'{what}' is not in '{self.root}'.",
            "the owner's archive or the folder unpacked from it.",
            "Fetch or unpack it there, or name another folder with --source.",
        )

    def path(self, name: str) -> Path | None:
        """Return the file on disk where `name` is not inside an archive."""
        part = self._parts[self._owner[name]]
        return part.root / name if isinstance(part, Folder) else None

    def label(self, name: str) -> str:
        """Return how an error calls `name`."""
        part = self._parts[self._owner[name]]
        return str(part.root / name) if isinstance(part, Folder) else f"{part.label}: {name}"

    def files(self, names: Collection[str]) -> Iterator[tuple[str, BinaryIO]]:
        """Yield (name, file), each once, in the order they are stored: one pass through each archive.

        A file is valid until the next one.
        """
        for index, part in enumerate(self._parts):
            mine = {name for name in names if self._owner[name] == index}
            if mine:
                yield from part.stream(mine)

    def stream(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """As `files`, with the content of each."""
        for name, file in self.files(names):
            with reading(self.label(name)):
                data = file.read()
            yield name, data

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Open one file for reading from its start to its end."""
        files = self._parts[self._owner[name]].stream({name})
        for _, file in files:
            with reading(self.label(name)):
                yield file
            return
        raise self.missing(name)

    def read(self, name: str) -> bytes:
        """Return the content of one (small) file."""
        with self.open(name) as file:
            return file.read()

    def local(self, name: str) -> Path:
        """Return `name` as a file on disk, unpacked into `work` if it must be. Raises DiskFull before it starts."""
        path = self.path(name)
        if path is not None:
            return path
        if self.work is None:
            raise DataMissing(f"'{self.label(name)}' has to be unpacked.", "", "Unpack it beside the archive.")
        work = self.work
        target = work / name.replace("/", "_")
        if not target.is_file():
            work.mkdir(parents=True, exist_ok=True)
            need_space(work, self.sizes[name], f"unpack '{name}'")
            with self.open(name) as file, writing(target) as out:
                shutil.copyfileobj(file, out, 1 << 20)
        return target


def need_space(folder: Path, size: int, what: str) -> None:
    """Raise DiskFull if less than `size` bytes (and a little more) are free where `folder` lies."""
    free = machine.free(folder)
    if free < size + (64 << 20):
        raise DiskFull(
            f"Not enough room to {what}: {words.size(size)} needed, {words.size(free)} free in '{folder}'.",
            "",
            "Make room, or choose another disk with VITFT_DATA and VITFT_CACHE.",
        )


def open_tree(source: Path, patterns: Sequence[str] = (), work: Path | None = None) -> Tree:
    """Open a folder with the archives in it that match `patterns`, or one archive.

    Raises:
        DataMissing: no such folder; a part of a multi-part zip is missing.
        DataDamaged: an archive is damaged or has an entry that leads out of it.
    """
    if source.is_file():
        parts: list[Part] = []
        files, patterns, root = [source], ["*"], source.parent
    elif source.is_dir():
        folder = Folder(source)
        parts, files, root = [folder], [source / name for name, _ in folder.entries()], source
    else:
        raise DataMissing(f"'{source}' does not exist.", "a folder or an archive.", "Check the path.")
    packed = [f for f in files if any(fnmatch(archive_name(f), pattern) for pattern in patterns)]
    parts += archives(packed)
    sizes: dict[str, int] = {}
    owner: dict[str, int] = {}
    for index, part in enumerate(parts):
        for name, size in part.entries():
            if name not in sizes and not re.search(r"(^|/)(__MACOSX/|\._|\.DS_Store$)", name):
                sizes[name], owner[name] = size, index
    rars = tuple(f for f in files if f.suffix.lower() == ".rar")
    return Tree(root, sizes, tuple(packed), rars, work, tuple(parts), owner)
