"""ImageNet as its owner's files and as people keep them. Its validation images are the split `test` here.

    val/n01440764/ILSVRC2012_val_00000293.JPEG    class folders named by WordNet identifier (`train/` beside them)
    images/ILSVRC2012_val_00000293.JPEG           with labels.txt or val.txt of "NAME LABEL" lines beside `images`
    ILSVRC/Data/CLS-LOC/val/*                     as Kaggle unpacks it, LOC_val_solution.csv beside ILSVRC or not
    ILSVRC2012_img_val.tar                        the official archive, read in place
    validation-00000-of-00014.parquet             tables, as on the Hugging Face hub

A key is the official file name; images without a list beside them are labelled by their number.
"""

import os
import re
import tarfile
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from vitft.catalog import tasks
from vitft.data import labels as label_names
from vitft.data import lists
from vitft.data import official as counts
from vitft.data.reader import Reader
from vitft.data.sources import parquet
from vitft.data.sources.files import images_below, is_debris, is_image, numbered_lines, read_text, reader, refuse
from vitft.data.split import Provenance, Split
from vitft.errors import DataDamaged, DataMissing

_VAL = re.compile(r"ILSVRC2012_val_(\d{7,8})(?!\d)[^/]*$", re.IGNORECASE)
_LISTS = ("labels.txt", "val.txt", "val_labels.txt")
_SOLUTION = "LOC_val_solution.csv"
_TAR = "ILSVRC2012_img_val.tar"
_FOLDERS = ("val", "validation", "ILSVRC2012_img_val", "images", ".")
_LEGAL = (
    "val/<wnid>/*.JPEG, images/ beside labels.txt, ILSVRC/Data/CLS-LOC/val, ILSVRC2012_img_val.tar, or "
    "validation*.parquet."
)

Form = Literal["classes", "list", "solution", "numbers", "tar", "parquet"]


def detect(path: Path) -> bool:
    """Tell whether `path` is ImageNet by its names alone: official files, or the folders of its classes.

    A folder of a few ImageNet classes with a train folder is somebody's own task of those classes.
    """
    located = _locate(path)
    if located is None:
        return False
    form, place = located
    if form == "classes":
        theirs = not (path / "train").is_dir() or path.name == "CLS-LOC"
        return theirs or len(_wnids(place)) == len(lists.names("imagenet"))
    return form != "parquet" or path.name.lower() in ("imagenet", "imagenet2012", "imagenet-1k", "imagenet1k")


def holds(path: Path) -> bool:
    """Tell whether ImageNet can be read from `path`, a few of its classes or plain tables included."""
    return _locate(path) is not None


def official(path: Path) -> bool:
    """Tell by their names whether they are ImageNet's own images; ImageNet-A, -R and -Sketch have its class folders."""
    located = _locate(path)
    if located is None or located[0] != "classes" or (_kaggle(path) / "train").is_dir():
        return True
    first = (name for wnid in _wnids(located[1]) for name in images_below(located[1] / wnid)[:1])
    return _VAL.search(next(first, "")) is not None


@dataclass(frozen=True)
class ImageNet:
    """The 1,000 classes of ILSVRC2012, labels in the order of their sorted identifiers.

    Attributes:
        path: a folder in one of the layouts above, the tar, or a parquet file.
        task: "imagenet", or the user's name for it.
    """

    path: Path
    task: str = "imagenet"

    @cached_property
    def _place(self) -> tuple[Form, Path]:
        located = _locate(self.path)
        if located is None:
            raise DataMissing(f"'{self.path}' holds no ImageNet validation images.", _LEGAL)
        return located

    @cached_property
    def _tables(self) -> parquet.Parquet:
        # The test tables of the hub have no labels: the world's "test" is the validation set.
        take = (("train", "train"), ("val", "test"))
        return parquet.Parquet(self._place[1], self.task, take=take)

    @property
    def class_names(self) -> tuple[str, ...]:
        return lists.names("imagenet")

    @property
    def splits(self) -> tuple[str, ...]:
        if self._place[0] == "parquet":
            return self._tables.splits
        return ("train", "test") if _wnids(_kaggle(self.path) / "train") else ("test",)

    def open(self, split: str) -> Split:
        """Open "test" (the validation images) or "train" (class folders or tables).

        Raises:
            DataMissing: no such split, or a listed image is absent.
            DataDamaged: a label outside 0..999, an image twice, a damaged archive.
        """
        if split not in self.splits:
            action = "ImageNet's validation images are the split 'test' here." if split == "val" else ""
            raise DataMissing(
                f"'{self.path}' has no split '{split}'; it has: {', '.join(self.splits)}.", _LEGAL, action
            )
        form, place = self._place
        if form == "parquet":
            return _renamed(self._tables.open(split), self.class_names)
        if split == "train":
            return self._split(split, "class folders", *_class_files(_kaggle(self.path) / "train"))
        if form == "classes":
            return self._split(split, "class folders", *_class_files(place))
        if form == "tar":
            return self._split(split, "official tar", *_tar_files(place))
        if form == "list":
            return self._split(split, "images and their list", *_listed_files(self.path, place))
        if form == "solution":
            return self._split(split, "Kaggle's archive", *_solved_files(_kaggle(self.path) / "val", place))
        return self._split(split, "images, labelled by number", *_numbered_files(place, place != self.path))

    def _split(self, split: str, kind: str, names: list[str], labels: list[int], read: Reader) -> Split:
        keys = [official_name(name) for name in names] if split == "test" else names
        twice = [key for key, n in Counter(keys).items() if n > 1]
        if twice:
            raise DataDamaged(f"'{self.path}' holds '{twice[0]}' more than once.", "each image once.")
        why = counts.shortfall("imagenet", split, len(keys))
        completeness = counts.completeness("imagenet", split, len(keys))
        if tasks.canonical(self.task) != "imagenet" and not any(_VAL.search(key) for key in keys):
            why, completeness = "images of ImageNet's classes, not its validation images", "partial"
        stamp = Provenance(f"imagenet ({kind})", not why, why, completeness)
        return Split(self.task, split, self.class_names, keys, np.asarray(labels, dtype=np.int64), read, stamp)


def official_name(name: str) -> str:
    """Return "ILSVRC2012_val_00000293.JPEG" for any path that ends in such a name, another path as it is."""
    match = _VAL.search(name)
    return f"ILSVRC2012_val_{int(match[1]):08d}.JPEG" if match else name


def _locate(path: Path) -> tuple[Form, Path] | None:
    """Return the layout and its folder or file."""
    if path.is_file():
        if path.name == _TAR:
            return "tar", path
        return ("parquet", path) if path.suffix.lower() in parquet.SUFFIXES else None
    if not path.is_dir():
        return None
    data = _kaggle(path)
    return _locate_inside(path) if data == path else _locate_kaggle(path, data)


def _locate_inside(path: Path) -> tuple[Form, Path] | None:
    for name in _LISTS:
        if (path / name).is_file() and _images_of_list(path, path / name) is not None:
            return "list", path / name
    for name in _FOLDERS:
        if _wnids(path / name):
            return "classes", path / name
    for name in _FOLDERS:
        if _first_image(path / name):
            return "numbers", path / name
    if (path / _TAR).is_file():
        return "tar", path / _TAR
    if (path / "train").is_dir() and _wnids(path / "train") and not parquet.detect(path):
        return None
    return ("parquet", path) if parquet.detect(path) else None


def _kaggle(path: Path) -> Path:
    """Return the folder of train/ and val/ where `path` is the root of Kaggle's archive or its ILSVRC, else `path`."""
    inside = (path / name / "Data" / "CLS-LOC" for name in ("ILSVRC", "."))
    return next((folder for folder in inside if (folder / "val").is_dir() or (folder / "train").is_dir()), path)


def _locate_kaggle(path: Path, data: Path) -> tuple[Form, Path] | None:
    val = data / "val"
    solution = next((f for f in (path / _SOLUTION, path.parent / _SOLUTION, data / _SOLUTION) if f.is_file()), None)
    if _wnids(val):
        return "classes", val
    if _first_image(val):
        return ("solution", solution) if solution else ("numbers", val)
    return None


def _listed(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()]


def _wnids(folder: Path) -> list[str]:
    known = set(lists.names("imagenet"))
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if e.name in known and e.is_dir())
    except OSError:
        return []


def _first_image(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(_VAL.match(e.name) and is_image(e.name) for e in entries)
    except OSError:
        return False


def _images_of_list(path: Path, file: Path) -> Path | None:
    """Return the folder that the names of a list lie in, if its first one is an ImageNet validation image."""
    try:
        with file.open(encoding="utf-8-sig") as text:
            first = next((line.split()[0] for line in text if line.split()), "")
    except (OSError, UnicodeDecodeError):
        return None
    if not _VAL.search(first.replace("\\", "/")):
        return None
    return next((path / name for name in _FOLDERS if (path / name).is_dir() and _first_image(path / name)), None)


def _class_files(root: Path) -> tuple[list[str], list[int], Reader]:
    index = label_names.index("imagenet")
    files: list[str] = []
    labels: list[int] = []
    for wnid in _wnids(root):
        images = images_below(root / wnid)
        if not images:
            raise DataDamaged(f"Class folder '{root / wnid}' holds no image.", _LEGAL)
        files += (f"{wnid}/{name}" for name in images)
        labels += [index[wnid]] * len(images)
    return files, labels, reader(root, files)


def _numbered_files(root: Path, strict: bool) -> tuple[list[str], list[int], Reader]:
    files = _numbered(root, strict)
    return files, [_by_number(name, str(root)) for name in files], reader(root, files)


def _solved_files(root: Path, file: Path) -> tuple[list[str], list[int], Reader]:
    """Label images by rows of "ILSVRC2012_val_00048981,n03995372 85 1 499 272 ...": the number, the class, boxes."""
    index = label_names.index("imagenet")
    known: dict[str, int] = {}
    for number, line in enumerate(read_text(file).splitlines(), 1):
        name, _, boxes = line.strip().partition(",")
        word = (boxes.strip().strip('"').split() or [""])[0]
        if word in index and _VAL.match(name):
            known[official_name(name)] = index[word]
        elif name and number > 1:
            raise DataDamaged(f"'{file}', line {number}: '{line[:80]}' cannot be used.", "ImageId,n01440764 ...")
    files = _numbered(root, strict=True)
    lacking = [name for name in files if official_name(name) not in known]
    if lacking:
        raise DataDamaged(f"'{file}' has no row for '{lacking[0]}' ({len(lacking):,} images lack one).", _LEGAL)
    return files, [known[official_name(name)] for name in files], reader(root, files)


def _numbered(root: Path, strict: bool) -> list[str]:
    """Return the validation images in a folder, sorted. `strict`: nothing else may lie there but debris."""
    names = _listed(root)
    files = sorted(name for name in names if _VAL.match(name) and is_image(name))
    others = set(names) - set(files) if strict else set()
    refuse(root, sorted(name for name in others if not is_debris(name) and not (root / name).is_dir()))
    return files


def _listed_files(path: Path, file: Path) -> tuple[list[str], list[int], Reader]:
    root = _images_of_list(path, file) or path
    index = label_names.index("imagenet")
    present = set(_listed(root))
    names: list[str] = []
    labels: list[int] = []
    for number, line in numbered_lines(file):
        name, _, word = line.replace("\\", "/").rpartition(" ")
        name = name.strip().rpartition("/")[2]
        label = index.get(word, int(word) if word.isascii() and word.isdigit() else -1)
        if not name or not 0 <= label < len(index):
            raise DataDamaged(
                f"'{file}', line {number}: '{line[:120]}' cannot be used.",
                "NAME LABEL, the label from 0 to 999 in the order of the sorted identifiers, or an identifier.",
            )
        if name not in present:
            raise DataMissing(f"Image '{root / name}', line {number} of '{file.name}', is missing.")
        names.append(name)
        labels.append(label)
    return names, labels, reader(root, names)


def _tar_files(file: Path) -> tuple[list[str], list[int], Reader]:
    """Index the archive by one pass over its headers; images are read where they lie."""
    entries: list[tuple[str, int, int]] = []
    size = file.stat().st_size
    try:
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                if member.isfile() and _VAL.search(member.name):
                    if member.offset_data + member.size > size:
                        raise tarfile.ReadError(f"'{member.name}' is cut short")
                    entries.append((member.name, member.offset_data, member.size))
    except (tarfile.TarError, OSError) as error:
        raise DataDamaged(f"'{file}' cannot be read ({error}).", "the official tar.", "Fetch it again.") from None
    if not entries:
        raise DataDamaged(f"'{file}' holds no ILSVRC2012_val_*.JPEG.", "the official tar.")
    entries.sort()
    labels = [_by_number(name, str(file)) for name, _, _ in entries]
    handle = file.open("rb")  # stays open as long as the split

    def read(i: int) -> bytes:
        _, at, length = entries[i]
        return os.pread(handle.fileno(), length, at)

    return [name for name, _, _ in entries], labels, Reader(read, file=lambda i: (file, entries[i][1]))


def _by_number(name: str, where: str) -> int:
    """Return the label of a validation image from the shipped list of the official 50,000."""
    match = _VAL.search(name)
    labels = lists.imagenet_validation()
    if match is None or not 1 <= int(match[1]) <= len(labels):
        raise DataDamaged(f"'{where}' holds '{name}', which has no official label.", "numbers 1 to 50,000.")
    return int(labels[int(match[1]) - 1])


def _renamed(split: Split, names: tuple[str, ...]) -> Split:
    """Give a table's split the official keys, where its rows have the images' names."""
    if split.num_classes != len(names):
        raise DataDamaged(f"The tables of '{split.task}' have {split.num_classes} classes; ImageNet has 1,000.")
    keys = [official_name(key) for key in split.keys] if split.name == "test" else list(split.keys)
    completeness = counts.completeness("imagenet", split.name, len(split))
    stamp = replace(split.provenance, source=f"imagenet ({split.provenance.source})", completeness=completeness)
    return Split(split.task, split.name, names, keys, split.labels, split.read, stamp)
