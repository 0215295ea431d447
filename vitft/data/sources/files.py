"""What is an image file and what is debris, for every verb; image and list files read whole, errors naming the file."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

from vitft.data.reader import Reader
from vitft.errors import DataDamaged, DataMissing

LEGAL = "files of the formats that Pillow reads (.jpg .png .webp .avif .jp2 .tif .bmp .gif ...), in either case."
# Formats that Pillow registers and does not decode by itself: stubs, films, and PostScript, which is a program.
_NO_IMAGES = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"})
_CODECS = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}
_DEBRIS = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
_DEBRIS_FOLDERS = frozenset({"@eadir", "__macosx", "$recycle.bin"})
_TEXT = frozenset({
    ".txt", ".text", ".md", ".rst", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".ini",
    ".cfg", ".log", ".lst", ".list", ".html", ".htm", ".url", ".md5", ".sha1", ".sha256",
})  # fmt: skip
_TEXT_NAMES = frozenset({"readme", "license", "licence", "copying", "notice", "authors", "md5sums", "sha256sums"})


@cache
def suffixes() -> frozenset[str]:
    """Return the suffixes of image files, in lower case: those of every format that this Pillow decodes.

    `.heic` is one of them only where a plugin of Pillow reads it.
    """
    from PIL import Image, features

    Image.init()

    def readable(kind: str) -> bool:
        if kind not in Image.OPEN or kind in _NO_IMAGES:
            return False
        own = Image.OPEN[kind][0].__module__.startswith("PIL.")
        return not (own and kind in _CODECS) or bool(features.check(_CODECS[kind]))

    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if readable(kind))


def is_image(name: str) -> bool:
    """Tell by its name whether a file is an image; "._x.jpg", which macOS leaves beside "x.jpg", is none."""
    return not name.startswith(".") and _suffix(name) in suffixes()


def is_debris(name: str) -> bool:
    """Tell by its name whether a file is what systems leave among images, or a text or list kept beside them."""
    lower, suffix = name.lower(), _suffix(name)
    if name.startswith("."):
        return name.startswith("._") or suffix not in suffixes()
    return lower in _DEBRIS or lower in _TEXT_NAMES or suffix in _TEXT


def refuse_listed(folder: Path, names: Iterable[str]) -> None:
    """Raise DataDamaged naming listed files whose suffix is that of no image; without one, the content decides."""
    refuse(folder, [name for name in names if _suffix(name) and not is_image(name.rpartition("/")[2])])


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122  a million names are asked


def images_below(folder: Path) -> list[str]:
    """Return the images below a class folder as sorted relative paths; a folder is entered once, links included.

    Raises DataDamaged naming what is neither an image nor debris: left out in silence it would change the number.
    """
    found, others = below(folder)
    refuse(folder, others)
    return found


def below(folder: Path) -> tuple[list[str], list[str]]:
    """Return the images below a folder and the other files that are no debris, as sorted relative paths."""
    found: list[str] = []
    others: list[str] = []
    for prefix, folders, files in walk(folder):
        folders[:] = [n for n in folders if not n.startswith(".") and n.lower() not in _DEBRIS_FOLDERS]
        for name in files:
            image = is_image(name)
            if image or not is_debris(name):
                (found if image else others).append(prefix + name)
    return sorted(found), sorted(others)


def walk(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walk a folder and all below it, links followed, each folder once, and none that it lies in itself.

    Yields:
        the path of a folder below `root` ("" or with a slash at its end), the sorted names of its folders, of which
        those that are taken out are not entered, and the sorted names of its files.
    """
    # A link upwards would show a class the images of all others.
    seen = {(state.st_dev, state.st_ino) for state in (above.stat() for above in root.resolve().parents)}
    for parent, folders, files in os.walk(root, followlinks=True):
        state = Path(parent).stat()
        if (state.st_dev, state.st_ino) in seen:
            folders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        folders.sort()
        inside = os.path.relpath(parent, root)
        yield "" if inside == "." else f"{inside}/", folders, sorted(files)


def refuse(folder: Path, others: list[str]) -> None:
    """Raise DataDamaged naming and counting files that are no images; return where there are none."""
    if not others:
        return
    shown = ", ".join(f"'{printable(name)}'" for name in others[:3])
    kinds = Counter(Path(name).suffix.lower() or "no suffix" for name in others)
    counted = ", ".join(f"{n:,} {kind}" for kind, n in sorted(kinds.items())[:6])
    what = "file that is no image" if len(others) == 1 else "files that are no images"
    raise DataDamaged(
        f"'{printable(folder)}' holds {len(others):,} {what} by name ({counted}): {shown}"
        f"{', ...' if len(others) > 3 else '.'}",
        LEGAL,
        "Convert, rename or remove them; vitft leaves no image out silently.",
    )


def read_file(path: Path) -> bytes:
    """Return the bytes of an image file. Raises DataMissing or DataDamaged naming it."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataMissing(f"Image '{printable(path)}' is missing.") from None
    except OSError as error:
        raise DataDamaged(f"Image '{printable(path)}' cannot be read ({error.strerror}).") from None


def reader(root: Path, files: Sequence[str]) -> Reader:
    """Return a reader of image files below a folder."""
    return Reader(lambda i: read_file(root / files[i]), file=lambda i: (root / files[i], -1))


def read_text(file: Path) -> str:
    """Return a text file without its byte-order mark. Raises DataDamaged naming it."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataDamaged(f"'{file}' is not UTF-8 text (byte {error.start}).", "a list in UTF-8.") from None
    except OSError as error:
        raise DataDamaged(f"'{file}' cannot be read ({error.strerror}).") from None


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """Return (number from 1, line without spaces around it) of a text file's lines that are not empty.

    Raises as `read_text`.
    """
    lines = enumerate(map(str.strip, read_text(path).splitlines()), 1)
    return [(number, line) for number, line in lines if line]


def filled_lines(file: Path) -> list[str]:
    """Return the lines of a text file that are not empty, without the spaces around them. Raises as `read_text`."""
    return [line for _, line in numbered_lines(file)]


def printable(path: str | Path) -> str:
    """Return a path as legal text: bytes of a file name that are no UTF-8 are escaped."""
    return os.fsencode(path).decode(errors="backslashreplace")
