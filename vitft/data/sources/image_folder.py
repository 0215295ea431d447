"""One folder for each class: `train/<class>/*`, `val/<class>/*`, `test/<class>/*`."""

import os
import unicodedata
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vitft.data.sources.files import LEGAL, images_below, is_image, printable
from vitft.data.sources.own_split import command
from vitft.data.sources.rows import NAMES, by_split, of_files
from vitft.data.split import Split
from vitft.errors import DataDamaged, DataMissing, some

_LEGAL = "train/<class>/*.jpg, val/<class>/*.jpg (or validation/), test/<class>/*.jpg."


def detect(path: Path) -> bool:
    """Tell whether `path` holds split folders with class folders in them, or class folders alone."""
    if not path.is_dir():
        return False
    return has_splits(path) or any(_holds_image(folder) for folder in _folders(path))


def has_splits(path: Path) -> bool:
    """Tell whether `path` holds split folders with class folders in them."""
    return any(_class_folders(folder) for folder in split_folders(path).values())


@dataclass(frozen=True)
class ImageFolder:
    """A user's own images. A folder of class folders without a split above them is one split, `test`.

    Attributes:
        path: the folder above the split folders.
        task: what the data set is called.
    """

    path: Path
    task: str

    @cached_property
    def _folders(self) -> dict[str, Path]:
        folders = split_folders(self.path)
        if any(_class_folders(folder) for folder in folders.values()):
            return folders
        flat = next((folder for folder in folders.values() if _holds_image(folder)), None)
        if flat is not None:  # the name of a split is never a class
            raise DataDamaged(
                f"'{flat}' holds images without class folders, and no metadata.csv gives their labels.",
                _LEGAL,
                f"If their names tell their class, run: {command(self.path)}",
            )
        return {"test": self.path}

    def _classes(self, split: str) -> dict[str, Path]:
        folders = _class_folders(self._folders[split])
        if self._folders[split] != self.path:
            return folders
        return {name: folder for name, folder in folders.items() if name.lower() not in NAMES}

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(name for name in ("train", "val", "test") if name in self._folders)

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the class folders, sorted: those of train, of which the other splits may lack some.

        Without train they are those of all splits. Raises DataDamaged where another split has a class of its own.
        """
        named = {name: set(self._classes(name)) for name in self.splits}
        first = self.splits[0]
        for other in self.splits if first == "train" else ():
            if unknown := sorted(named[other] - named[first]):
                shown = some([f"'{name}'" for name in unknown], 3)
                raise DataDamaged(
                    f"Split '{first}' of '{self.path}' has no class folder {shown}, which '{other}' has.",
                    "in every split the class folders of train, or some of them.",
                )
        if not named[first]:
            raise DataDamaged(f"'{self._folders[first]}' holds no class folder.", _LEGAL)
        return tuple(sorted(set().union(*named.values())))

    def open(self, split: str) -> Split:
        """Open one split. Raises DataMissing for an absent split, DataDamaged for an empty class folder."""
        if split not in self._folders:
            raise DataMissing(f"'{self.path}' has no split '{split}'; it has: {', '.join(self.splits)}.", _LEGAL)
        root, names = self._folders[split], self.class_names
        folders = self._classes(split)
        files: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(names):
            if name not in folders:  # no image of it in this split; train has
                continue
            images = images_below(folders[name])
            if not images:
                raise DataDamaged(
                    f"Class folder '{folders[name]}' holds no image.",
                    LEGAL,
                    "Add images, or remove the folder from every split.",
                )
            files += (f"{folders[name].name}/{file}" for file in images)
            labels += [label] * len(images)
        lists = [f.name for f in sorted(self.path.glob("*.[tT][xX][tT]")) if f.stem.lower() in NAMES]
        note = f"; lists beside the folders are not read: {', '.join(lists)}" if lists else ""
        return of_files(root, files, self.task, split, names, labels, "image folder", note)


def split_folders(path: Path) -> dict[str, Path]:
    """Map "train", "val", "test" to the folders of that meaning. Raises DataDamaged where two mean the same."""
    return by_split(_folders(path), _LEGAL)


def _class_folders(path: Path) -> dict[str, Path]:
    """Map class names to their folders. Names are NFC: macOS archives spell an accent in two characters."""
    found: dict[str, Path] = {}
    for folder in _folders(path):
        name = unicodedata.normalize("NFC", printable(folder.name))
        if name in found:
            raise DataDamaged(f"'{path}' holds the class folder '{name}' twice, in two spellings of its accents.")
        found[name] = folder
    return found


def _folders(path: Path) -> list[Path]:
    try:
        with os.scandir(path) as entries:
            names = [e.name for e in entries if not e.name.startswith((".", "__")) and e.is_dir()]
    except OSError as error:
        raise DataMissing(f"Folder '{path}' cannot be read ({error.strerror}).") from None
    return [path / name for name in sorted(names)]


def _holds_image(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(is_image(e.name) for e in entries)
    except OSError:
        return False
