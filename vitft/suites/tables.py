"""The tables of a suite's document, and the faults of their keys in words. No torch."""

import itertools
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError
from pydantic_core import PydanticCustomError

from vitft.catalog.shots import MOST
from vitft.errors import hint
from vitft.settings import Classifier
from vitft.suites.suite import Protocol, Run
from vitft.words import uncapitalised


def _shots(value: object) -> int | str:
    """Take a number of VTAB-1k's examples, or "full"."""
    if value == "full" or (isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST):
        return value
    raise PydanticCustomError("shots", "input should be 1 to {most} or 'full'", {"most": MOST})


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Choices(_Part):
    """What is run; None = as said further out."""

    run: Run | None = None
    recipe: str | None = None
    shots: Annotated[int | str | None, PlainValidator(_shots)] = None
    per_class: int | None = Field(None, ge=1)
    classifier: Classifier | None = None
    protocol: Protocol | None = None

    def chosen(self) -> dict[str, Any]:
        return {name: value for name in Choices.model_fields if (value := getattr(self, name)) is not None}


class ColumnTable(Choices):
    task: str
    title: str = ""
    key: str = ""
    real: bool = False


class GroupTable(Choices):
    name: str
    columns: list[ColumnTable] = Field(min_length=1)
    prefix: str = ""
    mean: bool = True
    show: Literal["columns", "mean"] = "columns"


class MeanTable(_Part):
    name: str = ""
    title: str = ""
    of: list[str] = Field(min_length=1)
    by: Literal["tasks", "groups"] = "tasks"
    block: str = "all"


class PublishedTable(_Part):
    title: str
    rows: list[str] = Field(min_length=1)


class Document(Choices):
    title: str
    source: str = ""
    seeds: list[int] = Field([0], min_length=1)
    group: list[GroupTable] = Field(min_length=1)
    mean: list[MeanTable] = []
    published: list[PublishedTable] = []


_MAKING = ("name", "task", "columns", "of", "rows")


def _spelled_out(data: Mapping[str, Any]) -> dict[str, Any]:
    """Write columns that are a name alone as tables."""
    out = dict(data)
    if isinstance(out.get("group"), list):
        out["group"] = [_with_tables(group) if isinstance(group, dict) else group for group in out["group"]]
    return out


def _with_tables(group: dict[str, Any]) -> dict[str, Any]:
    columns = group.get("columns")
    if not isinstance(columns, list):
        return group
    return {**group, "columns": [{"task": c} if isinstance(c, str) else c for c in columns]}


def sound(data: Mapping[str, Any], problems: list[str]) -> Document | None:
    """Return the document without its faulty keys, and add their faults to `problems`.

    What is wrong is left out, and the rest looked at, too; None where nothing can be made of the rest.
    """
    data = _spelled_out(data)
    try:
        return Document(**data)
    except ValidationError as error:
        wrong = error.errors()
    for item in wrong:
        problems.append(_fault(item["loc"], item["type"], item["msg"], item["input"], data))
    # Without what makes it one, an entry goes as a whole; the last of a list first, so that numbers keep their meaning.
    places = {w["loc"][:-1] if w["loc"][-1] in _MAKING and len(w["loc"]) > 1 else w["loc"] for w in wrong}
    for place in sorted(places, key=lambda place: [str(step).rjust(9) for step in place], reverse=True):
        _cut(data, place)
    try:
        return Document(**data)
    except ValidationError:
        return None


def _cut(data: Any, where: tuple[int | str, ...]) -> None:
    """Take a value out of a document, or put a word in the place of one that is missing."""

    for step in where[:-1]:
        data = data[step]
    last: Any = where[-1]
    if isinstance(data, list) or last in data:
        del data[last]
    else:
        data[last] = f"({last})"


_TABLES: dict[tuple[str, int], type[BaseModel]] = {
    ("group", 3): GroupTable,
    ("group", 5): ColumnTable,
    ("mean", 3): MeanTable,
    ("published", 3): PublishedTable,
}


def _fault(where: tuple[int | str, ...], kind: str, message: str, value: Any, data: Mapping[str, Any]) -> str:
    """Return the fault of one key and its place, in words."""
    place, key = _place(where, data), str(where[-1])
    if kind == "extra_forbidden":
        table = _TABLES.get((str(where[0]), len(where)), Document)
        return f"{place}unknown key '{key}'{hint(key, table.model_fields)}"
    if kind == "missing":
        return f"{place}'{key}' is missing"
    if kind == "too_short" and not value:
        return f"{place}{'a mean over nothing' if key == 'of' else f'no {key}'}"
    return f"{place}{key}: {uncapitalised(message)}, not {value!r}"


def _place(where: tuple[int | str, ...], data: Mapping[str, Any]) -> str:
    """Return "group 'natural', column 'dtd': " for a key of that column."""
    words, here = [], data
    for step, position in itertools.pairwise(where):
        if isinstance(step, str) and isinstance(position, int):
            entry = here[step][position]
            one = "column" if step == "columns" else step
            name_of = next(
                (entry[k] for k in ("name", "key", "task", "title") if isinstance(entry, dict) and k in entry), 0
            )
            words.append(f"{one} '{name_of}'" if name_of else f"{one} {position + 1}")
            here = entry if isinstance(entry, dict) else {}
    return ", ".join(words) + ": " * bool(words)
