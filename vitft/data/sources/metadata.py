"""Images with a table metadata.csv (.jsonl, .parquet) of `file_name` and `label`, as the Hugging Face hub has them.

train/metadata.csv, test/metadata.csv     one table a split, its names relative to its folder
metadata.csv                              one table at the root: names that begin with train/, test/, ..., or a
                                          column `split`; without either all of it is one split, `test`
"""

import csv
import io
import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vitft.data.sources.columns import stated_names
from vitft.data.sources.files import below, numbered_lines, printable, read_text, refuse
from vitft.data.sources.image_folder import split_folders
from vitft.data.sources.rows import NAMES, Label, Row, Rows, number_or_name, relative
from vitft.errors import DataDamaged

_FORMATS = (".csv", ".jsonl", ".parquet")
_LABELS = ("label", "labels", "fine_label", "class", "class_name")
_LEGAL = "columns file_name and label in train/metadata.csv, test/metadata.csv (.jsonl, .parquet), or at the root."


def detect(path: Path) -> bool:
    """Tell whether `path` holds such tables. A table without file names or labels is another thing (captions, say)."""
    if not path.is_dir():
        return False
    folders = [path, *(folder for folder in path.iterdir() if folder.name.lower() in NAMES)]
    return any(_labelled(table) for folder in folders for table in _tables(folder))


def build(path: Path, task: str) -> Rows:
    """Return the source of such a folder."""
    return Rows(path, task, "image folder, labels of its metadata", _rows)


def tables(folder: Path) -> list[Path]:
    """Return the tables of any name directly in a folder that have file names and labels."""
    return [f for f in sorted(folder.iterdir()) if f.suffix.lower() in _FORMATS and f.is_file() and _labelled(f)]


def labels(table: Path, root: Path) -> dict[str, list[Row]]:
    """Return split -> rows of a table of any name, "test" where it names no split; files are below `root`.

    Its names are relative to `root`, or to an images/ in it. Raises DataDamaged as for metadata.csv.
    """
    rows = _parsed(table, root)
    first = next(iter(rows.values()))[0][0]
    base = "" if (root / first).is_file() or not (root / "images" / first).is_file() else "images/"
    moved = {split: [(base + file, label) for file, label in found] for split, found in rows.items()}
    _complete(root, table, [row for of_split in moved.values() for row in of_split])
    return moved


def _tables(folder: Path) -> list[Path]:
    try:
        names = sorted(folder.iterdir())
    except OSError:
        return []
    return [f for f in names if f.stem.lower() == "metadata" and f.suffix.lower() in _FORMATS and f.is_file()]


def _labelled(table: Path) -> bool:
    try:
        row = next(iter(_read(table)), {})
    except DataDamaged:
        return True  # said when it is opened
    return bool(_file_columns(row)) and bool(set(_LABELS) & row.keys())


def _rows(path: Path) -> Mapping[str, Sequence[Row]]:
    folders, here = split_folders(path), _tables(path)
    inside = {name: tables for name, folder in folders.items() if (tables := _tables(folder))}
    for tables in (here, *inside.values()):
        if len(tables) > 1:
            raise DataDamaged(f"'{tables[0].parent}' holds both '{tables[0].name}' and '{tables[1].name}'.", _LEGAL)
    if here and inside:
        table = next(iter(inside.values()))[0]
        raise DataDamaged(f"'{path}' holds both '{here[0].name}' and '{table.relative_to(path)}'.", _LEGAL)
    if here:
        return _of_root(path, here[0])
    found: dict[str, list[Row]] = {}
    for name, folder in folders.items():
        if name in inside:
            rows = _parsed(inside[name][0], None)
            _complete(folder, inside[name][0], rows["test"])
            found[name] = [(f"{folder.name}/{file}", label) for file, label in rows["test"]]
        elif any(below(folder)):
            raise DataDamaged(f"'{folder}' holds images and no metadata, which other splits have.", _LEGAL)
    return found


def _of_root(path: Path, table: Path) -> dict[str, list[Row]]:
    rows = _parsed(table, path)
    _complete(path, table, [row for of_split in rows.values() for row in of_split])
    return rows


def _parsed(table: Path, root: Path | None) -> dict[str, list[Row]]:
    """Return the rows of a table by split; all under "test" where it is a split's own (no `root`)."""
    found: dict[str, list[Row]] = {}
    unsplit = ""
    for number, row in enumerate(_read(table), 1):
        where = f"'{table}', row {number}"
        file = relative(str(row[_column(row, "file name", _file_columns(row), table)] or ""), where)
        label = _label(row[_column(row, "label", [name for name in _LABELS if name in row], table)], where)
        word = str(row["split"]).strip() if root and row.get("split") else file.split("/")[0] if "/" in file else ""
        split = NAMES.get(word.lower(), "") if root else "test"
        unsplit = unsplit or ("" if split else file)
        found.setdefault(split, []).append((file, label))
    if not found:
        raise DataDamaged(f"'{table}' names no image.", _LEGAL)
    if unsplit and len(found) > 1:
        raise DataDamaged(f"'{table}' names '{unsplit}', of no split, beside images of a split.", _LEGAL)
    _agreeing(found, table)
    return {split or "test": rows for split, rows in found.items()}


def _file_columns(row: Mapping[str, Any]) -> list[str]:
    return [name for name in row if name in ("file_name", "filename") or name.endswith("_file_name")]


def _column(row: Mapping[str, Any], what: str, found: list[str], table: Path) -> str:
    if len(found) != 1:
        has = f"several {what} columns: {', '.join(found)}" if found else f"no {what} column; it has: {', '.join(row)}"
        raise DataDamaged(f"'{table}' has {has}.", _LEGAL)
    return found[0]


def _label(value: object, where: str) -> Label:
    if isinstance(value, str) and value.strip():
        return value.strip()
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise DataDamaged(f"{where}: the label is '{value}'.", "the name of a class, or an integer 0 to K-1.")


def _agreeing(found: Mapping[str, Sequence[Row]], table: Path) -> None:
    """Raise DataDamaged for an image in the folder of one class that the table gives to another."""
    names = {label for rows in found.values() for _, label in rows}
    for file, label in (row for rows in found.values() for row in rows):
        parents = file.split("/")[:-1]
        folder = parents[-1] if parents and not (len(parents) == 1 and parents[0].lower() in NAMES) else ""
        if folder in names and folder != label:
            raise DataDamaged(
                f"'{table}' gives '{printable(file)}' the label '{label}'; it lies in the folder '{folder}'.",
                "folders of classes that agree with the labels, or folders named otherwise.",
            )


def _complete(folder: Path, table: Path, rows: Sequence[Row]) -> None:
    """Raise DataDamaged for files that no row names: they would be left out in silence."""
    images, others = below(folder)
    refuse(folder, [name for name in others if name != table.name])
    named = {unicodedata.normalize("NFC", file) for file, _ in rows}
    left = [name for name in images if unicodedata.normalize("NFC", printable(name)) not in named]
    if left:
        raise DataDamaged(
            f"'{table}' has no row for {len(left):,} of {len(images):,} images: '{printable(left[0])}'"
            f"{', ...' if len(left) > 1 else ''}.",
            "a row for each image.",
            "Add the rows, or move the images away.",
        )


def _read(table: Path) -> Iterator[dict[str, object]]:
    """Yield the rows of a table. Numbers in a .csv are integers only where every label of it is one."""
    match table.suffix.lower():
        case ".csv":
            yield from _csv(table)
        case ".jsonl":
            for number, line in numbered_lines(table):
                try:
                    yield dict(json.loads(line))
                except (ValueError, TypeError):
                    raise DataDamaged(f"'{table}', line {number}: no JSON object.", _LEGAL) from None
        case _:
            yield from _parquet(table)


def _csv(table: Path) -> list[dict[str, object]]:
    text = read_text(table)
    head = text.partition("\n")[0]
    comma = next((mark for mark in (",", ";", "\t") if mark in head), ",")
    try:
        read = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=comma, strict=True))
    except csv.Error as error:
        raise DataDamaged(f"'{table}' cannot be read ({error}).", _LEGAL) from None
    rows = [{str(name).strip(): value for name, value in row.items() if name is not None} for row in read]
    for name in _LABELS:
        words = [str(row.get(name) or "").strip() for row in rows]
        if words and all(isinstance(number_or_name(word), int) for word in words):
            rows = [row | {name: int(word)} for row, word in zip(rows, words, strict=True)]
    return rows


def _parquet(table: Path) -> Iterator[dict[str, object]]:
    from vitft.data.sources.tables import open_table

    opened = open_table([table])
    columns = [name for name in opened.schema.names if name in (*_LABELS, "split") or name in _file_columns({name: 0})]
    values = {name: opened.column(name) for name in columns}
    for name in set(columns) & set(_LABELS):
        if names := stated_names(opened.schema, name):
            values[name] = [names[v] if isinstance(v, int) and 0 <= v < len(names) else v for v in values[name]]
    for row in range(len(opened)):
        yield {name: column[row] for name, column in values.items()}
