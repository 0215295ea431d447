"""One read-only view over a folder and the archives in it: nothing is unpacked, no entry can leave the view."""

import errno
import gzip
import io
import os
import posixpath
import re
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from vitft.errors import DataDamaged, DataMissing, DiskFull

_BROKEN = (
    tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, gzip.BadGzipFile, OSError, struct.error,
    NotImplementedError, RuntimeError,
)  # fmt: skip
_TAR = (".tar", ".tar.gz", ".tgz")
_PART = re.compile(r"^(?P<base>.+\.zip)\.(?P<number>\d{3})$", re.IGNORECASE)


@contextmanager
def reading(label: str) -> Iterator[None]:
    """Turn what a damaged file makes Python raise into DataDamaged that names `label`."""
    try:
        yield
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"The disk is full ({error.filename or label}).", "", "Free some space and start again.") from None
        raise DataDamaged(
            f"'{label}' is damaged or cut short ({type(error).__name__}: {str(error).rstrip('.')}).",
            "Legal: the file as its owner publishes it, whole.",
            "Fetch it again, then give the same command.",
        ) from None


def safe(name: str, label: str, link: str = "") -> str:
    """Return an entry's path with forward slashes. Raises DataDamaged for one that leads out of its archive."""
    path = name.replace("\\", "/")
    target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link.replace("\\", "/")) if link else path)
    if target.startswith(("/", "../")) or target == ".." or re.match(r"^[A-Za-z]:", target):
        entry = f"{name}' -> '{link}" if link else name
        raise DataDamaged(
            f"'{label}' holds the entry '{entry}', which leads out of the archive.",
            "Legal: entries below the archive's own root.",
            "Do not unpack it; fetch the owner's file again.",
        )
    return posixpath.normpath(path)


class _Part(Protocol):
    """One folder or one archive."""

    @property
    def label(self) -> str: ...
    def entries(self) -> Iterator[tuple[str, int]]:
        """Yield (name, bytes) of every regular file; reads the whole archive where its format asks for that."""
        ...

    def stream(self, names: Collection[str]) -> Iterator[tuple[str, BinaryIO]]:
        """Yield each of `names` once, in the order they are stored; a file is valid until the next one."""
        ...


@dataclass(frozen=True)
class _Folder:
    root: Path

    @property
    def label(self) -> str:
        return str(self.root)

    def entries(self) -> Iterator[tuple[str, int]]:
        seen: set[str] = set()
        for folder, folders, files in os.walk(self.root, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen:  # a link that leads back up
                folders.clear()
                continue
            seen.add(real)
            folders.sort()
            for file in sorted(files):
                path = os.path.join(folder, file)
                if os.path.isfile(path):
                    yield os.path.relpath(path, self.root).replace(os.sep, "/"), os.path.getsize(path)

    def stream(self, names: Collection[str]) -> Iterator[tuple[str, BinaryIO]]:
        for name in sorted(names):
            with reading(str(self.root / name)), open(self.root / name, "rb") as file:
                yield name, file


@dataclass(frozen=True)
class _Zip:
    label: str
    opener: Callable[[], BinaryIO]
    hint: str = ""

    @contextmanager
    def _archive(self) -> Iterator[zipfile.ZipFile]:
        with self.opener() as file:
            try:
                archive = zipfile.ZipFile(file)
            except zipfile.BadZipFile:
                if not self.hint:
                    raise
                raise DataMissing(
                    f"'{self.hint}' is missing: the parts of '{self.label}' that are here do not make a whole zip.",
                    "Legal: all parts .001, .002, ... in one folder.",
                    f"Fetch '{self.hint}' and the parts after it, then give the same command.",
                ) from None
            with archive:
                yield archive

    def entries(self) -> Iterator[tuple[str, int]]:
        with reading(self.label), self._archive() as archive:
            for info in archive.infolist():
                name = safe(info.filename, self.label)
                if not info.is_dir():
                    yield name, info.file_size

    def stream(self, names: Collection[str]) -> Iterator[tuple[str, BinaryIO]]:
        with reading(self.label), self._archive() as archive:
            for info in sorted(archive.infolist(), key=lambda i: i.header_offset):
                name = posixpath.normpath(info.filename.replace("\\", "/"))
                if not info.is_dir() and name in names:
                    with reading(f"{self.label}: {name}"), archive.open(info) as file:
                        yield name, cast(BinaryIO, file)


@dataclass(frozen=True)
class _Tar:
    label: str
    opener: Callable[[], BinaryIO]

    @contextmanager
    def _stream(self) -> Iterator[tuple[tarfile.TarFile, BinaryIO]]:
        """Open as a stream of blocks; some owners name a plain tar .tar.gz, so the content decides."""
        with self.opener() as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            plain = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if packed else raw
            with tarfile.open(fileobj=plain, mode="r|") as archive:
                yield archive, plain

    def _members(self, archive: tarfile.TarFile) -> Iterator[tuple[str, tarfile.TarInfo]]:
        for info in archive:
            archive.members = []  # tarfile keeps every header it has seen; a hundred thousand of them are not needed
            name = safe(info.name, self.label)
            if info.issym() or info.islnk():
                safe(info.name if info.issym() else "", self.label, info.linkname)
            elif info.isfile():
                yield name, info

    def entries(self) -> Iterator[tuple[str, int]]:
        with reading(self.label), self._stream() as (archive, plain):
            for name, info in self._members(archive):
                yield name, info.size
            while plain.read(1 << 20):  # to the end, where gzip keeps its checksum
                pass

    def stream(self, names: Collection[str]) -> Iterator[tuple[str, BinaryIO]]:
        left = set(names)
        with reading(self.label), self._stream() as (archive, _):
            for name, info in self._members(archive) if left else ():
                if name in left:
                    left.remove(name)
                    file = archive.extractfile(info)
                    if file is not None:
                        yield name, cast(BinaryIO, file)
                if not left:
                    return


@dataclass(frozen=True)
class _Gzip:
    label: str
    path: Path

    def entries(self) -> Iterator[tuple[str, int]]:
        with reading(self.label), open(self.path, "rb") as file:
            file.seek(-4, os.SEEK_END)
            size = struct.unpack("<I", file.read(4))[0]  # modulo 4 GiB, the best that gzip tells
        yield self.path.name[: -len(".gz")], max(size, self.path.stat().st_size)

    def stream(self, names: Collection[str]) -> Iterator[tuple[str, BinaryIO]]:
        if names:
            with reading(self.label), gzip.open(self.path, "rb") as file:
                yield self.path.name[: -len(".gz")], cast(BinaryIO, file)


class _Joined(io.RawIOBase):
    """The parts of a split file (x.zip.001, x.zip.002, ...) as the one file they were cut from."""

    def __init__(self, parts: Sequence[Path]) -> None:
        self._files = [open(part, "rb") for part in parts]  # noqa: SIM115 - closed in close()
        self._sizes = [part.stat().st_size for part in parts]
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: sum(self._sizes)}[whence]
        return self._at

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        start = 0
        for file, size in zip(self._files, self._sizes, strict=True):
            if self._at < start + size:
                file.seek(self._at - start)
                data = file.read(min(len(buffer), start + size - self._at))
                buffer[: len(data)] = data
                self._at += len(data)
                return len(data)
            start += size
        return 0

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()


@dataclass(frozen=True)
class Tree:
    """Every file of a folder and of the archives in it, by its path.

    Attributes:
        root: the folder (or the one archive) it was opened on.
        sizes: path -> bytes; an unpacked file wins over the same path in an archive.
        packed: the archives that were opened, as files on disk.
        rars: RAR files beside them, which cannot be read.
    """

    root: Path
    sizes: dict[str, int]
    packed: tuple[Path, ...]
    rars: tuple[Path, ...]
    _parts: tuple[_Part, ...] = field(repr=False)
    _owner: dict[str, int] = field(repr=False)

    def matching(self, pattern: str) -> list[str]:
        """Return the paths in which the regular expression `pattern` is found, sorted."""
        found = re.compile(pattern)
        return sorted(name for name in self.sizes if found.search(name))

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
                "Legal: a folder, .zip, .tar, .tar.gz, .gz.",
                f"Unpack it: unrar x '{rar}' '{rar.parent}/' (or: 7z x '{rar}' -o'{rar.parent}').",
            )
        return DataMissing(
            f"'{what}' is not in '{self.root}'.",
            "Legal: the owner's archive or the folder unpacked from it.",
            "Fetch or unpack it there, or name another folder with --source.",
        )

    def path(self, name: str) -> Path | None:
        """Return the file on disk where `name` is not inside an archive."""
        part = self._parts[self._owner[name]]
        return part.root / name if isinstance(part, _Folder) else None

    def label(self, name: str) -> str:
        """Return how an error calls `name`."""
        part = self._parts[self._owner[name]]
        return str(part.root / name) if isinstance(part, _Folder) else f"{part.label}: {name}"

    def stream(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Yield (name, content), each once, in the order they are stored: one pass through each archive."""
        for index, part in enumerate(self._parts):
            mine = {name for name in names if self._owner[name] == index}
            for name, file in part.stream(mine) if mine else ():
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

    def local(self, name: str, work: Path) -> Path:
        """Return `name` as a file on disk, unpacked under `work` if it must be. Raises DiskFull before it starts."""
        path = self.path(name)
        if path is not None:
            return path
        target = work / name.replace("/", "_")
        if not target.is_file():
            work.mkdir(parents=True, exist_ok=True)
            need_space(work, self.sizes[name], f"unpack '{name}'")
            part = target.with_name(target.name + ".part")
            with self.open(name) as file, open(part, "wb") as out:
                shutil.copyfileobj(file, out, 1 << 20)
            part.replace(target)
        return target


def need_space(folder: Path, size: int, what: str) -> None:
    """Raise DiskFull if less than `size` bytes (and a little more) are free where `folder` lies."""
    free = shutil.disk_usage(folder).free
    if free < size + (64 << 20):
        raise DiskFull(
            f"Not enough room to {what}: {size / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free in '{folder}'.",
            "",
            "Make room, or choose another disk with VITFT_DATA and VITFT_CACHE.",
        )


def open_tree(source: Path, patterns: Sequence[str] = ()) -> Tree:
    """Open a folder with the archives in it that match `patterns`, or one archive.

    Raises:
        DataMissing: no such folder; a part of a multi-part zip is missing.
        DataDamaged: an archive is damaged or has an entry that leads out of it.
    """
    if source.is_file():
        parts: list[_Part] = []
        files, patterns, root = [source], ["*"], source.parent
    elif source.is_dir():
        folder = _Folder(source)
        parts, files, root = [folder], [source / name for name, _ in folder.entries()], source
    else:
        raise DataMissing(f"'{source}' does not exist.", "Legal: a folder or an archive.", "Check the path.")
    packed = [f for f in files if any(fnmatch(_archive_name(f), pattern) for pattern in patterns)]
    parts += _archives(packed)
    sizes: dict[str, int] = {}
    owner: dict[str, int] = {}
    for index, part in enumerate(parts):
        for name, size in part.entries():
            if name not in sizes and not re.search(r"(^|/)(__MACOSX/|\._|\.DS_Store$)", name):
                sizes[name], owner[name] = size, index
    rars = tuple(f for f in files if f.suffix.lower() == ".rar")
    return Tree(root, sizes, tuple(packed), rars, tuple(parts), owner)


def _archive_name(path: Path) -> str:
    part = _PART.match(path.name)
    return part["base"] if part else path.name


def _archives(files: Sequence[Path]) -> list[_Part]:
    parts: list[_Part] = []
    split: dict[Path, dict[int, Path]] = {}
    for file in files:
        name = file.name.lower()
        numbered = _PART.match(file.name)
        if numbered:
            split.setdefault(file.with_name(numbered["base"]), {})[int(numbered["number"])] = file
        elif name.endswith(".zip"):
            archive = _Zip(str(file), lambda file=file: open(file, "rb"))  # type: ignore[misc]
            parts += [archive, *_inside(archive)]
        elif name.endswith(_TAR):
            parts.append(_Tar(str(file), lambda file=file: open(file, "rb")))  # type: ignore[misc]
        elif name.endswith(".gz"):
            parts.append(_Gzip(str(file), file))
    for base, numbers in sorted(split.items()):
        gap = next(n for n in range(1, len(numbers) + 2) if n not in numbers)
        if gap <= max(numbers):
            raise DataMissing(
                f"'{base.name}.{gap:03d}' is missing: '{base.name}.{max(numbers):03d}' is here.",
                "Legal: all parts .001, .002, ... in one folder.",
                f"Fetch '{base.name}.{gap:03d}' into '{base.parent}', then give the same command.",
            )
        ordered = [numbers[n] for n in sorted(numbers)]
        opener: Callable[[], BinaryIO] = lambda ordered=ordered: cast(  # type: ignore[misc]  # noqa: E731
            BinaryIO, io.BufferedReader(_Joined(ordered), 1 << 20)
        )
        parts.append(_Zip(str(base), opener, f"{base.name}.{gap:03d}"))
    return parts


def _inside(outer: _Zip) -> Iterator[_Part]:
    """Yield the tars inside a zip (Caltech101 is published so)."""
    for name, _ in list(outer.entries()):
        if name.lower().endswith(_TAR) and "__MACOSX" not in name:
            yield _Tar(f"{outer.label}: {name}", lambda name=name: _member(outer, name))  # type: ignore[misc]


def _member(outer: _Zip, name: str) -> BinaryIO:
    """Open a file of a zip so that closing it closes the zip as well."""
    file = outer.opener()
    archive = zipfile.ZipFile(file)
    member = archive.open(name)
    close = member.close

    def close_all() -> None:
        close()
        archive.close()
        file.close()

    member.close = close_all  # type: ignore[method-assign]
    return cast(BinaryIO, member)
