"""Images with one list a split: train.txt, val.txt, test.txt beside images/, a line `PATH LABEL` or a path alone.

A path is one below the folder or below its images/. A label is an integer or a name; alone, a path has the class of its
parent folder.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from vitft.data.sources import image_folder, own_split
from vitft.data.sources.files import below, is_image, numbered_lines
from vitft.data.sources.rows import NAMES, Row, Rows, by_split, number_or_name, relative
from vitft.errors import DataDamaged, DataMissing

_LINE = re.compile(r"(?P<path>.*\S)[\s,;]+(?P<label>[^\s,;]+)$")
_LEGAL = "one image a line: its path and label ('images/a.jpg 3'), or its path alone in the folder of its class."


def detect(path: Path) -> bool:
    """Tell whether `path` holds lists of splits beside images/, or lists that name images in other folders.

    Class folders of splits (train/<class>) are read as such; lists beside them are only told of.
    """
    if not path.is_dir() or not (lists := _lists(path)) or image_folder.has_splits(path):
        return False
    return (path / "images").is_dir() or any(_names_image(path, file) for file in lists.values())


def build(path: Path, task: str) -> Rows:
    """Return the source of such a folder."""
    return Rows(
        path,
        task,
        "images and their lists",
        _rows,
        _unread,
        lambda folder: own_split.name_of(folder, list(_lists(folder).values())),
    )


def _lists(path: Path) -> dict[str, Path]:
    """Return split -> its list. Raises DataDamaged where two mean one split."""
    files = [file for file in sorted(path.glob("*.[tT][xX][tT]")) if file.is_file()]
    return by_split(files, "one list for each of train, val and test.")


def _base(path: Path, file: str) -> str | None:
    """Return the folder that a list's paths are relative to, "" or "images/"; None where neither leads to a file."""
    return next((base for base in ("", "images/") if (path / base / file).is_file()), None)


def _split_line(path: Path, line: str) -> tuple[str, str]:
    """Return (path, label), the label empty where the line is a path alone."""
    match = _LINE.match(line)
    if match is None:
        return line, ""
    file, label = match["path"].rstrip(" \t,;"), match["label"]
    alone = not is_image(_last(file)) and (is_image(_last(line)) or _base(path, line) is not None)
    return (line, "") if alone else (file, label)


def _last(file: str) -> str:
    return file.replace("\\", "/").rpartition("/")[2]


def _names_image(path: Path, file: Path) -> bool:
    try:
        lines = numbered_lines(file)
        name = relative(_split_line(path, lines[0][1])[0], str(file)) if lines else ""
    except DataDamaged:
        return False
    return bool(name) and _base(path, name) is not None


def _rows(path: Path) -> Mapping[str, Sequence[Row]]:
    found = {name: _parsed(path, file) for name, file in _lists(path).items()}
    alone = {name: {not label for _, label in rows} for name, rows in found.items()}
    if len(set().union(*alone.values())) > 1:
        raise DataDamaged(
            f"The lists of '{path}' give labels to some images and none to others.",
            _LEGAL,
            "Write all lines in one way.",
        )
    return {
        name: [(file, number_or_name(label) if label else _parent(path, file)) for file, label in rows]
        for name, rows in found.items()
    }


def _parsed(path: Path, file: Path) -> list[tuple[str, str]]:
    """Return (path below the folder, label) of each line."""
    rows: list[tuple[str, str]] = []
    base: str | None = None
    for number, line in numbered_lines(file):
        where = f"'{file}', line {number}"
        word, label = _split_line(path, line)
        name = relative(word, where)
        base = _base(path, name) if base is None else base
        if base is None:
            raise DataMissing(f"{where}: image '{name}' is neither in '{path}' nor in its images/.", _LEGAL)
        rows.append((base + name, label))
    if not rows:
        raise DataDamaged(f"'{file}' names no image.", _LEGAL)
    return rows


def _parent(path: Path, file: str) -> str:
    parents = file.split("/")[:-1]
    if not parents or parents == ["images"] or parents[-1].lower() in NAMES:
        raise DataDamaged(f"'{file}' of '{path}' has no label, and no folder of a class.", _LEGAL)
    return parents[-1]


def _unread(path: Path) -> str:
    """Return the note on lists, and on images, that belong to no split."""
    ours = set(_lists(path).values())
    others = [f.name for f in sorted(path.glob("*.[tT][xX][tT]")) if f not in ours and _names_image(path, f)]
    remarks = [f"lists not read: {', '.join(others)}"] if others else []
    if (path / "images").is_dir():
        named = {file for rows in _rows(path).values() for file, _ in rows}
        left = [name for name in below(path / "images")[0] if f"images/{name}" not in named]
        remarks += [f"{len(left):,} images stand in no list"] if left else []
    return "; ".join(remarks)
