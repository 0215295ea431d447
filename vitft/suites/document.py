"""A suite is a document: which tasks, how each is run, and which means its table has. No torch.

`[[group]]` tables hold columns in the order of the table. A column is a task's name, a path relative to the document,
or a table with more keys. What is run (`run`, `recipe`, `shots`, `per_class`, `classifier`, `protocol`) is said once
for all, for a group or for a column; the nearest counts. `[[mean]]` names a mean over several groups or columns,
`[[published]]` rows of `catalog/published.json` that stand below. Unknown keys are errors, and all errors come at once.
"""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vitft import recipes
from vitft.catalog import published, tasks
from vitft.errors import UnknownName, UsageError, VitftError, hint
from vitft.suites.suite import MEAN_OF_GROUPS, MEAN_OF_TASKS, Beside, Column, Group, Mean, Run, Suite
from vitft.suites.tables import ColumnTable, Document, GroupTable, sound
from vitft.words import uncapitalised


def names() -> list[str]:
    """Return the names of the shipped suites, sorted."""
    return sorted(path.stem for path in _folder().glob("*.toml"))


def _folder() -> Path:
    return recipes.folder() / "suites"


def load(name_or_path: str) -> Suite:
    """Load a shipped suite by name, or a TOML file by its path (anything with a slash or ending in .toml).

    Raises:
        UnknownName: no shipped suite has that name (exit code 2).
        UsageError: the file is missing, no TOML, or has mistakes: all of them are told (exit code 2).
    """
    own = recipes.is_path(name_or_path)
    path = Path(name_or_path).expanduser().absolute() if own else _folder() / f"{name_or_path}.toml"
    if not own and name_or_path not in names():
        raise UnknownName("suite", name_or_path, names(), "A file of your own is given by its path: ./mine.toml.")
    if not path.is_file():
        raise UsageError(
            f"No suite file '{name_or_path}'.",
            f"the path of a TOML file, or a shipped suite: {', '.join(names())}.",
        )
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"Suite '{name_or_path}' is not readable TOML: {error}.") from None
    return parse(data, path.stem, path if own else None)


def parse(data: Mapping[str, Any], name: str, path: Path | None = None) -> Suite:
    """Build a suite from parsed TOML.

    Args:
        path: absolute, of a user's own document: its paths are relative to that file's folder.

    Raises:
        UsageError: for all that is wrong with it (exit code 2).
    """
    problems: list[str] = []
    document = sound(data, problems)
    if document is not None:
        suite = _suite(document, name, path, problems)
        problems += _faults(suite, document)
        if not problems:
            return suite
    raise UsageError(
        f"Suite '{name}': " + "; ".join(dict.fromkeys(problems)) + ".",
        "",
        "Shipped ones to copy from stand in recipes/suites; their keys in recipes/README.md.",
    )


def _suite(document: Document, name: str, path: Path | None, problems: list[str]) -> Suite:
    columns = [_column(document, group, column, path, problems) for group in document.group for column in group.columns]
    groups = tuple(Group(g.name, g.mean, g.show == "columns") for g in document.group)
    by_group = {g.name: [c.key for c in columns if c.group == g.name and not c.real] for g in document.group}
    means = []
    for mean in document.mean:
        of = mean.of
        if mean.by == "tasks":
            of = [key for word in of for key in by_group.get(word, [word])]
        own = mean.name or {"tasks": MEAN_OF_TASKS, "groups": MEAN_OF_GROUPS}[mean.by]
        means.append(Mean(own, mean.title or own.replace("_", " "), tuple(dict.fromkeys(of)), mean.by, mean.block))
    return Suite(
        name=name,
        title=document.title,
        columns=tuple(columns),
        group_list=groups,
        means=tuple(means),
        beside=tuple(Beside(row.title, tuple(row.rows)) for row in document.published),
        seeds=tuple(document.seeds),
        source=document.source,
        path=path,
    )


def _column(
    document: Document, group: GroupTable, column: ColumnTable, path: Path | None, problems: list[str]
) -> Column:
    chosen = {**document.chosen(), **group.chosen(), **column.chosen()}
    run: Run = chosen.get("run", "finetune")
    where = f"group '{group.name}', column '{column.task}': "
    task, title = _task(column.task, path)
    if not task:
        problems.append(f"{where}{_unknown(column.task)}")
        task, title = column.task, column.task
    shots = str(chosen["shots"]) if chosen.get("shots") and run == "finetune" else None
    per_class = chosen.get("per_class", 0) if run == "fewshot" else 0
    ending = "_real" * column.real + f"_{per_class}" * bool(per_class)
    return Column(
        key=column.key or f"{group.prefix}{Path(task).name}{ending}",
        title=column.title or ("ReaL" if column.real else title.removeprefix("mini-")),
        group=group.name,
        task=task,
        run=run,
        recipe=_recipe(chosen.get("recipe", ""), path, where, problems) if run == "finetune" else "",
        shots=shots,
        real=column.real,
        per_class=per_class,
        classifier=chosen.get("classifier", "ridge"),
        protocol=chosen.get("protocol", "checkpoint"),
    )


def _task(word: str, path: Path | None) -> tuple[str, str]:
    """Return (canonical name or absolute path, title); "" for what is neither."""
    known = tasks.canonical(word)
    if known is not None:
        return known, tasks.get(known).title
    if path is None:
        return "", ""
    place = (path.parent / Path(word).expanduser()).resolve()
    if not place.exists() and not word.startswith((".", "~", "/")) and "/" not in word:
        return "", ""
    return str(place), place.name


def _unknown(word: str) -> str:
    return f"unknown task '{word}'{hint(word.lower(), [t.name for t in tasks.TASKS])}"


def _recipe(word: str, path: Path | None, where: str, problems: list[str]) -> str:
    """Return a recipe's name or absolute path, after a look that it loads."""
    if not word:
        problems.append(f"{where}no recipe: name one here, for its group or for the suite")
        return ""
    own = recipes.is_path(word)
    task = str((path.parent / Path(word).expanduser()).resolve()) if own and path else word
    try:
        recipes.load(task)
    except VitftError as error:
        absent = own and not Path(task).is_file()
        problems.append(f"no recipe file '{word}'" if absent else uncapitalised(error.lines[0].rstrip(".")))
    return task


def _faults(suite: Suite, document: Document) -> Iterator[str]:
    """Yield what is wrong with a suite beyond single keys."""
    for what, found in (
        ("groups", [g.name for g in suite.group_list]),
        ("columns", list(suite.keys)),
        ("means", [*(g.name for g in suite.group_list if g.mean), *(m.name for m in suite.means)]),
    ):
        for twice in dict.fromkeys(name for name in found if found.count(name) > 1):
            more = ": give one a key of its own, or its group a prefix" * (what == "columns")
            yield f"two {what} are called '{twice}'{more}"
    if len(set(document.seeds)) < len(document.seeds) or min(document.seeds) < 0:
        yield f"seeds: different numbers from 0 up, not {document.seeds}"
    for column in suite.columns:
        yield from (f"group '{column.group}', column '{column.key}': {fault}" for fault in _column_faults(column))
    for part in suite.parts():
        own = {c.task: Path(c.task).name for c in part.columns if c.own}
        for name in dict.fromkeys(n for n in own.values() if list(own.values()).count(n) > 1):
            yield f"two data sets of one recipe have the folder name '{name}': rename one"
    for mean in suite.means:
        yield from _mean_faults(suite, mean)
    for group in suite.group_list:
        if (group.mean or not group.columns_shown) and not suite.counted(group.name):
            yield f"group '{group.name}': a mean over nothing: ReaL columns stand in no mean"
    known = {row.key for row in published.rows()}
    for beside in suite.beside:
        yield from (f"published '{beside.title}': unknown row '{row}'" for row in beside.rows if row not in known)


def _mean_faults(suite: Suite, mean: Mean) -> Iterator[str]:
    legal = [g for g in suite.groups if suite.counted(g)] if mean.by == "groups" else list(suite.keys)
    for word in mean.of:
        if word not in legal:
            what = "group" if mean.by == "groups" else "column or group"
            yield f"mean '{mean.name}': unknown {what} '{word}'{hint(word, [*legal, *suite.groups])}"


def _column_faults(column: Column) -> Iterator[str]:
    entry = None if column.own else tasks.by_name(column.task)
    if column.real and (column.run == "fewshot" or (entry is not None and entry.name != "imagenet")):
        yield "ReaL labels are of ImageNet, fine-tuned or evaluated"
    if column.run == "fewshot" and not column.per_class:
        yield "few-shot needs per_class, the examples of each class"
    if column.shots and entry is not None and "train800" not in entry.splits:
        yield f"shots is of VTAB's tasks, and '{entry.name}' has no such splits"
    if column.shots == "full" and entry in tasks.MINI:
        yield "it has 1,000 training examples: shots = 1000"
