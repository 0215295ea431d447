"""A suite as legs: which run folders it fills, what is ready, what is planned, what it costs, what came of it.

A leg is one model on the columns that share recipe and number of examples. No torch.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from vitft import recipes
from vitft.catalog.shots import number, splits_of
from vitft.data.find import UNTUNED, WHOLE, at, checked, find
from vitft.data.split import Counts
from vitft.errors import DataError, UsageError
from vitft.evaluation.request import SETTABLE
from vitft.prepare.inventory import Row, inventory, own_row
from vitft.protocol import unchanged
from vitft.protocol.jobs import MakeOptions, make, model_sha256
from vitft.protocol.preflight import check_splits
from vitft.protocol.units import Job, model_label, scheme, short_label
from vitft.recipes import Recipe
from vitft.results.files import RESULT
from vitft.results.folders import beside, collect, default_folder, slug, task_folder
from vitft.results.reading import load
from vitft.results.schema import EvalResult, FewshotResult, Measured, UnitResult
from vitft.suites.suite import Column, Part, Suite, choose


@dataclass(frozen=True)
class Leg:
    """One model on one part of a suite; everything in it but columns, seeds and places decides the numbers.

    Attributes:
        suite: the whole of it.
        columns: those asked for; all are of `part`.
        recipe: what is trained with; None where nothing is.
        overrides: of the recipe's keys; where nothing is trained, those of them that mean something without.
        output: the run folder; None = the one that follows from the rest.
    """

    suite: Suite
    part: Part
    columns: tuple[Column, ...]
    model: str
    recipe: Recipe | None
    overrides: Mapping[str, Any]
    data_dir: Path | None
    seeds: tuple[int, ...]
    output: Path | None = None
    _names: dict[str, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def trained(self) -> Recipe:
        """The recipe of a leg that trains."""
        assert self.recipe is not None
        return self.recipe

    def name(self, column: Column) -> str:
        """Return how results name a column's data set."""
        if not column.own:
            return column.task
        if column.task not in self._names:
            try:
                self._names[column.task] = at(Path(column.task)).task
            except DataError:
                return Path(column.task).name
        return self._names[column.task]

    def options(self, column: Column) -> MakeOptions:
        """Return the arguments that a column's job is planned with, besides its task."""
        return {
            "model": self.model,
            "recipe": self.trained,
            "overrides": self.overrides,
            "data_dir": self.data_dir,
            "shots": column.shots,
            "seeds": self.seeds,
        }

    def tasks(self, columns: Iterable[Column] | None = None) -> dict[str, Column]:
        """Return (name of the data set -> first column of it), in the order of the table.

        Raises:
            UsageError: two data sets are called alike, so that their results would be (exit code 2).
        """
        found: dict[str, Column] = {}
        for column in self.columns if columns is None else columns:
            first = found.setdefault(self.name(column), column)
            if first.task != column.task:
                raise UsageError(
                    f"Two data sets of the suite are called '{self.name(column)}': {first.task} and {column.task}.",
                    "different names within one recipe.",
                    "Rename the folder.",
                )
        return found

    def identity(self) -> dict[str, Any]:
        """Return all that must be equal to continue in the same folder; more tasks or seeds only add units."""
        sha256, first = model_sha256(self.model), self.part.first
        shots = None if first.shots is None else number(first.shots)
        run = {"run": first.run, "recipe": self.part.name} if self.recipe is None else {}
        return {
            "kind": "suite",
            "suite": self.suite.name,
            **({"document": str(self.suite.path)} if self.suite.path else {}),
            **({} if shots is None else {"shots": shots}),
            "model": model_label(self.model, sha256),
            "model_sha256": sha256,
            **run,
            **(
                {"recipe": self.recipe.name, "recipe_digest": self.recipe.digest(self.overrides)}
                if self.recipe is not None
                else {}
            ),
            "overrides": json.loads(json.dumps(dict(self.overrides))),
            "data_dir": str(self.data_dir or ""),
        }

    def folder(self) -> Path:
        """Return the run folder."""
        if self.output is not None:
            return self.output
        identity = self.identity()
        of_suite, sha256 = self.suite.name + "-full" * (self.part.first.shots == "full"), identity["model_sha256"]
        return default_folder(of_suite, short_label(self.model, sha256), sha256, identity["recipe"], identity)


@dataclass(frozen=True)
class SuiteRequest:
    """A user's request: columns of a suite, models, changed keys and seeds.

    Attributes:
        keys: of the columns.
        output: the run folder, or what holds those of several legs; None = where they follow from the rest.
    """

    suite: Suite
    keys: tuple[str, ...]
    models: tuple[str, ...]
    overrides: Mapping[str, Any]
    data_dir: Path | None
    seeds: tuple[int, ...]
    output: Path | None = None

    @classmethod
    def of(
        cls,
        suite: Suite,
        tasks: str,
        models: Sequence[str],
        overrides: Mapping[str, Any],
        data_dir: Path | None,
        seeds: tuple[int, ...],
        output: Path | None = None,
    ) -> "SuiteRequest":
        """Return a checked request; `tasks` names columns and groups with commas, "" = all of them.

        Raises:
            UnknownName, UsageError: no such task (exit code 2). DataMissing: no such folder (exit code 3).
        """
        keys = choose(suite, tasks or "all")
        return cls(suite, keys, tuple(models), overrides, checked(data_dir), seeds, output)

    def legs(self) -> list[Leg]:
        """Return the legs, model after model. Raises UnknownName or RecipeError of a recipe (exit code 2)."""
        parts = self.suite.parts()
        loaded = {p.first.recipe: recipes.load(p.first.recipe) for p in parts if p.first.run == "finetune"}
        own = [None] * len(self.models) if self.output is None else beside(self.output, self.models)
        legs = []
        for model, folder in zip(self.models, own, strict=True):
            for part in parts:
                columns = tuple(c for c in part.columns if c.key in self.keys)
                if not columns:
                    continue
                recipe = loaded.get(part.first.recipe)
                fixed = self.overrides if recipe else {k: v for k, v in self.overrides.items() if k in SETTABLE}
                place = folder and (folder / slug(part.name) if len(parts) > 1 else folder)
                leg = Leg(self.suite, part, columns, model, recipe, fixed, self.data_dir, self.seeds, place)
                leg.tasks()
                legs.append(leg)
        return legs


def availability(leg: Leg) -> tuple[list[Row], dict[str, str]]:
    """Return a row for each data set of a leg, and its name -> why it cannot run."""
    shots = leg.part.first.shots
    rows, missing = [], {}
    for name, column in leg.tasks().items():
        if column.own:
            row = own_row(Path(column.task), name)
        else:
            (row,) = inventory(leg.data_dir, (name,), shots)
        rows.append(row)
        if row.status not in ("ready", "built-in"):
            missing[name] = f"no data: {row.status}"
        elif lacking := _lacking(column, set(row.splits)):
            missing[name] = f"no split {lacking} in {row.where}"
    return rows, missing


def _lacking(column: Column, have: set[str]) -> str:
    """Return the splits that a column needs and that are not there, "" where none is."""
    if column.run != "finetune":
        pool = column.run == "eval" or bool(have & {"train", "train800", "train800val200"})
        return ", ".join(["train"] * (not pool) + ["test"] * (not have & {"test", "val"}))
    if column.shots is None:
        if not column.own and "train" not in have:
            return "train"  # VTAB-1k's examples are another protocol
        try:
            scheme(tuple(have), column.task)
        except DataError:
            return "train or test"
        return ""
    of = splits_of(column.shots)
    needed = WHOLE[of]
    untuned = of == "1000" and have >= UNTUNED
    return "" if needed <= have or untuned else ", ".join(sorted(needed - have))


@dataclass(frozen=True)
class Planned:
    """What of a leg is to be run.

    Attributes:
        jobs: one for each data set that can be trained on, in the suite's order.
        missing: data set -> why it cannot run, in one line.
        notes: data set -> what the user should know of it.
        counts: of each data set that can be trained on, what its splits hold.
    """

    jobs: tuple[Job, ...]
    missing: Mapping[str, str]
    notes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    counts: Mapping[str, Counts] = field(default_factory=dict)


def plan(leg: Leg, missing: Mapping[str, str]) -> Planned:
    """Plan each data set of a leg, except those in `missing`, and look at names and labels of all their splits.

    Raises:
        UnknownName, RecipeError: exit code 2.
    """
    jobs, missing = [], dict(missing)
    notes, counts = {}, {}
    for name, column in leg.tasks().items() if leg.recipe else ():
        if name in missing:
            continue
        try:
            job, source = make(column.task, **leg.options(column))
            notes[name] = check_splits(job, source)
        except DataError as error:
            missing[name] = error.lines[0].rstrip(".")
        else:
            jobs.append(job)
            counts[name] = source.counts(job.splits())
    return Planned(tuple(jobs), missing, notes, counts)


def hold(leg: Leg, names: Iterable[str], note: Callable[[str], None]) -> None:
    """Compare data sets with what the run in the leg's folder began with. Raises as `unchanged.hold`."""
    columns = leg.tasks(leg.part.columns)
    for name in names:
        try:
            source = find(columns[name].task, leg.data_dir, columns[name].shots)
        except DataError:
            note(f"The data of '{name}' was not compared with what the stored result was measured on: it is not here.")
            continue
        unchanged.hold(leg.folder(), source, note)


def shard(names: Sequence[str], text: str) -> tuple[str, ...]:
    """Return the tasks of shard "I/N", I from 1: every Nth, so that large tasks are spread. Raises UsageError."""
    first, _, second = text.partition("/")
    if not (first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second)):
        raise UsageError(
            f"Shard '{text}' is not of the form I/N.",
            "1/4, 2/4, 3/4 and 4/4 for four machines.",
            "A Slurm array counts as you tell it: --array=1-4, each index below MaxArraySize ('scontrol show config').",
        )
    return tuple(names[int(first) - 1 :: int(second)])


def of_shard(leg: Leg, text: str) -> Leg:
    """Return a leg with the columns of the data sets of a shard; the same one without. Raises UsageError."""
    if not text:
        return leg
    mine = shard(list(leg.tasks()), text)
    return replace(leg, columns=tuple(c for c in leg.columns if leg.name(c) in mine))


def measurement(leg: Leg, name: str) -> Path:
    """Return the file of what a leg that trains nothing finds of a data set."""
    columns = [c for c in leg.part.columns if leg.name(c) == name]
    first = columns[0]
    what: dict[str, Any] = {"run": first.run, "real": any(c.real for c in columns)}
    if first.run == "fewshot":
        what |= {"per_class": counts(leg, name), "seeds": leg.seeds, **_classified(first)}
    digest = recipes.digest({**what, "overrides": dict(leg.overrides)})
    return task_folder(leg.folder(), name) / f"{first.run}-{digest}" / RESULT


def _classified(column: Column) -> dict[str, str]:
    return {key: value for key, value in asdict(column).items() if key in ("classifier", "protocol")}


def counts(leg: Leg, name: str) -> tuple[int, ...]:
    """Return the numbers of examples of each class that the columns of a data set ask for."""
    return tuple(sorted({c.per_class for c in leg.part.columns if leg.name(c) == name}))


def results(leg: Leg) -> dict[str, dict[Path, Measured]]:
    """Return the column's key -> its results by their folders, one a seed where there are seeds; only what is there.

    Raises:
        CheckpointError: a result is damaged (exit code 4).
    """
    by_column: dict[str, dict[Path, Measured]] = {}
    if leg.recipe is not None:
        units = {p: r for p, r in collect(leg.folder()).items() if r.phase == "final" and r.seed in leg.seeds}
        for column in leg.part.columns:
            by_column[column.key] = {place: r for place, r in units.items() if r.task == leg.name(column)}
    else:
        stored = {name: _stored(leg, name) for name in leg.tasks(leg.part.columns)}
        for column in leg.part.columns:
            one, place = stored[leg.name(column)], measurement(leg, leg.name(column)).parent
            by_column[column.key] = {} if one is None else {place: one}
    return {key: own for key, own in by_column.items() if own}


def _stored(leg: Leg, name: str) -> EvalResult | FewshotResult | None:
    file = measurement(leg, name)
    return load(file, EvalResult) if leg.part.first.run == "eval" else load(file, FewshotResult)


def unfinished(leg: Leg, missing: Mapping[str, str]) -> list[str]:
    """Return the data sets of a leg that have data and not yet all of their results."""
    by_column = results(leg)

    def whole(column: Column) -> bool:
        have = {r.seed for r in by_column.get(column.key, {}).values() if isinstance(r, UnitResult)}
        return have >= {*leg.seeds} if leg.recipe else column.key in by_column

    left = (leg.name(c) for c in leg.columns if not whole(c))
    return [name for name in dict.fromkeys(left) if name not in missing]
