"""Folders and archives as one kind of thing: a list of entries, and the entries in the order they are stored."""

import gzip
import io
import os
import posixpath
import re
import struct
import tarfile
import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from vitft.data.reading import reading
from vitft.data.sources.files import walk
from vitft.errors import DataDamaged, DataMissing
from vitft.results.files import Pieces

_TAR = (".tar", ".tar.gz", ".tgz")
_PART = re.compile(r"^(?P<base>.+\.zip)\.(?P<number>\d{3})$", re.IGNORECASE)


def safe(name: str, label: str, link: str = "") -> str:
    """Return an entry's path with forward slashes. Raises DataDamaged for one that leads out of its archive."""
    path = name.replace("\\", "/")
    target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link.replace("\\", "/")) if link else path)
    if target.startswith(("/", "../")) or target == ".." or re.match(r"^[A-Za-z]:", target):
        entry = f"{name}' -> '{link}" if link else name
        raise DataDamaged(
            f"'{label}' holds the entry '{entry}', which leads out of the archive.",
            "entries below the archive's own root.",
            "Do not unpack it; fetch the owner's file again.",
        )
    return posixpath.normpath(path)


class Part(Protocol):
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
class Folder:
    root: Path

    @property
    def label(self) -> str:
        return str(self.root)

    def entries(self) -> Iterator[tuple[str, int]]:
        for prefix, _, files in walk(self.root):
            for file in files:
                path = self.root / prefix / file
                if path.is_file():
                    yield prefix + file, path.stat().st_size

    def stream(self, names: Collection[str]) -> Iterator[tuple[str, BinaryIO]]:
        for name in sorted(names):
            with reading(str(self.root / name)), (self.root / name).open("rb") as file:
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
                    "all parts .001, .002, ... in one folder.",
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
            archive.members = []  # type: ignore[attr-defined]  # tarfile keeps every header it has seen; a hundred thousand of them are not needed
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
        with reading(self.label), self.path.open("rb") as file:
            file.seek(-4, os.SEEK_END)
            size = struct.unpack("<I", file.read(4))[0]  # modulo 4 GiB, the best that gzip tells
        yield self.path.name[: -len(".gz")], max(size, self.path.stat().st_size)

    def stream(self, names: Collection[str]) -> Iterator[tuple[str, BinaryIO]]:
        if names:
            with reading(self.label), gzip.open(self.path, "rb") as file:
                yield self.path.name[: -len(".gz")], cast(BinaryIO, file)


def archive_name(path: Path) -> str:
    part = _PART.match(path.name)
    return part["base"] if part else path.name


def archives(files: Sequence[Path]) -> list[Part]:
    parts: list[Part] = []
    split: dict[Path, dict[int, Path]] = {}
    for file in files:
        name = file.name.lower()
        numbered = _PART.match(file.name)
        if numbered:
            split.setdefault(file.with_name(numbered["base"]), {})[int(numbered["number"])] = file
        elif name.endswith(".zip"):
            archive = _Zip(str(file), lambda file=file: file.open("rb"))  # type: ignore[misc]
            parts += [archive, *_inside(archive)]
        elif name.endswith(_TAR):
            parts.append(_Tar(str(file), lambda file=file: file.open("rb")))  # type: ignore[misc]
        elif name.endswith(".gz"):
            parts.append(_Gzip(str(file), file))
    for base, numbers in sorted(split.items()):
        gap = next(n for n in range(1, len(numbers) + 2) if n not in numbers)
        if gap <= max(numbers):
            raise DataMissing(
                f"'{base.name}.{gap:03d}' is missing: '{base.name}.{max(numbers):03d}' is here.",
                "all parts .001, .002, ... in one folder.",
                f"Fetch '{base.name}.{gap:03d}' into '{base.parent}', then give the same command.",
            )
        ordered = [numbers[n] for n in sorted(numbers)]
        opener: Callable[[], BinaryIO] = lambda ordered=ordered: cast(  # type: ignore[misc]  # noqa: E731
            BinaryIO, io.BufferedReader(Pieces([(part.open("rb"), part.stat().st_size) for part in ordered]), 1 << 20)
        )
        parts.append(_Zip(str(base), opener, f"{base.name}.{gap:03d}"))
    return parts


def _inside(outer: _Zip) -> Iterator[Part]:
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
