"""Jobs as users request them, and their units as engines run them. No torch.

A unit is (task, settings of one point of the sweep, phase, seed): one result file. A job is a plan of a few units:
tune units that see train and val only, then, with the best point, final units that see test once at their end.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from pydantic import TypeAdapter

from vitft import machine
from vitft.catalog.shots import first_of, split_name
from vitft.data.portions import JOINED
from vitft.data.sources import own_split
from vitft.errors import DataMissing, RecipeError
from vitft.models import places
from vitft.recipe_faults import rescaled
from vitft.results.folders import slug
from vitft.results.parts import Phase, Seen
from vitft.results.schema import UnitResult
from vitft.settings import Scalar, Settings, contradictions

DEV = "dev"
"""Name of the end of the training split, held out while tuning where the data has no val of its own."""


@dataclass(frozen=True)
class Scheme:
    """Which split each phase uses.

    Attributes:
        tune_train, tune_val: trained on and selected on while tuning; `tune_val` = "dev" is cut from the end of
            `tune_train` (the recipe's dev_fraction), as the paper does for data sets without an official val; "" =
            there is nothing to select on, and only a plan that tunes nothing can run.
        final_train, test: the final fit and its single evaluation.
    """

    tune_train: str
    tune_val: str
    final_train: str
    test: str


@dataclass(frozen=True)
class Point:
    """One of the settings that are compared: the values that tell it from the others, and all of its settings."""

    values: dict[str, Scalar]
    settings: Settings


@dataclass(frozen=True)
class Job:
    """One task to bring to its number, as asked for on the command line.

    Attributes:
        task: a name, or an absolute path.
        name: the source's name for it: canonical where it is a known task.
        model: alias, timm:..., hf-hub:..., or a path.
        model_sha256: of a local checkpoint, else "".
        recipe_digest: changes with any value of the recipe's document or any override.
        data_dir: `--data-dir`, absolute, or "".
        shots: "full" or a number where VTAB's splits are asked for, else "".
        settings: every key of the recipe, resolved for this task.
        scheme: which splits its phases use.
        sweep: key -> values to choose from on val.
        limit: at most so many examples of every split; None = all.
        per_class: so many training examples of each class; None = all.
        given: the keys that the user has set.
        seen: of the training images, where their size decides settings.
        grid: what `vitft sweep` compares, each point resolved by itself; empty = the product of `sweep`. A grid is
            compared over all seeds, a recipe's sweep with one.
        on: "val": the best of the grid there is tested; "test": all of it is tested, and the choice has seen test.
    """

    task: str
    name: str
    model: str
    model_sha256: str
    recipe: str
    recipe_digest: str
    settings: Settings
    scheme: Scheme
    sweep: dict[str, list[Scalar]] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    data_dir: str = ""
    shots: str = ""
    from_scratch: bool = False
    limit: int | None = None
    per_class: int | None = None
    given: tuple[str, ...] = ()
    seen: Seen | None = None
    grid: tuple[Point, ...] = ()
    on: Literal["val", "test"] = "val"

    def identity(self) -> dict[str, object]:
        """Return all that decides the numbers, as run.json holds it."""
        fields = {k: v for k, v in _as_json(self).items() if k not in ("scheme", *_OF_GRID)}
        kind = {"kind": "sweep", "on": self.on} if self.grid else {"kind": "finetune"}
        return {**kind, **fields, "model": model_label(self.model, self.model_sha256)}

    def splits(self) -> list[str]:
        """Return the names of the splits that the units will open, but for dev."""
        tuned = [self.scheme.tune_train, self.scheme.tune_val] if tune_units(self) else []
        names = [*tuned, self.scheme.final_train, self.scheme.test]
        return list(dict.fromkeys(part for name in names if name != DEV for part in name.split(JOINED)))


def model_label(model: str, sha256: str) -> str:
    """Return a model's name in results; of a file (which has a digest) without its folder."""
    name, word = places.split(model)
    if word.startswith("base="):
        word = ""  # the digest is of both
    return f"{Path(name).name}{places.SEPARATOR if word else ''}{word}" if sha256 else model


def short_label(model: str, sha256: str) -> str:
    """Return a model's name in the path of a run folder: without the suffix where it is a file."""
    return Path(model_label(model, sha256)).stem if sha256 else model


_OF_GRID = ("grid", "on")

# A unit's own settings stand in its id; where the data and the model lie does not change what it is.
_NOT_IN_ID = ("seeds", "sweep", "settings", "scheme", "data_dir", "task", "model", "recipe_digest", "given", "seen")


@dataclass(frozen=True)
class Unit:
    """One fit and one evaluation."""

    job: Job
    phase: Phase
    seed: int
    settings: Settings
    point: dict[str, Scalar]

    @property
    def scheme(self) -> Scheme:
        return self.job.scheme

    @property
    def held_out(self) -> str:
        """The split that it is evaluated on."""
        return self.scheme.tune_val if self.phase == "tune" else self.scheme.test

    @cached_property
    def id(self) -> str:
        """A folder name that is the same in every process: `<task>/<phase>-<digest>-seed<n>`."""
        what = {
            "job": {k: v for k, v in _as_json(self.job).items() if k not in (*_NOT_IN_ID, *_OF_GRID)},
            "phase": self.phase,
            "settings": self.settings.model_dump(),
            "scheme": asdict(self.scheme),
        }
        return f"{slug(self.job.name)}/{self.phase}-{machine.digest(what)[:10]}-seed{self.seed}"

    @property
    def title(self) -> str:
        """A few words for a progress line."""
        point = ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in self.point.items())
        return f"{self.job.name}: {self.phase}" + (f" ({point})" if point else "") + f", seed {self.seed}"

    def to_json(self) -> str:
        """Return JSON that `from_json` reads."""
        return _UNIT.dump_json(self).decode()

    @staticmethod
    def from_json(text: str) -> "Unit":
        """Rebuild a unit from `to_json`'s text."""
        return _UNIT.validate_json(text)


_UNIT = TypeAdapter(Unit)


def _as_json(job: Job) -> dict[str, object]:
    """Return a job as JSON has it."""
    seen = job.seen.model_dump() if job.seen else {}
    return {**asdict(replace(job, grid=())), "settings": job.settings.model_dump(mode="json"), "seen": seen}


def scheme(splits: tuple[str, ...], task: str, shots: str = "", val_is_train: bool = False) -> Scheme:
    """Choose the splits of a task's phases from what its source has.

    VTAB-1k (`shots` "1000", or a source with nothing else): tune on train800 / val200, then train800val200; where
    there is only that, nothing can be tuned.
    The first N of VTAB-1k (a smaller number): tune on them less their end, which selects, then on all N: no other label
    is seen.
    Full VTAB (`shots` "full"): tune on train / val, then both. Otherwise train: all of it in the final run, val only
    selects; val stands for test where there is no test, as in ImageNet.

    Args:
        splits: of the source.
        task: its name, for messages.
        shots: "full" or a number where VTAB's splits are asked for.
        val_is_train: val is the end of the owner's train, as VTAB cuts it; without `shots` they are one again.

    Raises:
        DataMissing: no training split, or nothing to evaluate on (exit code 3).
    """
    have = set(splits)
    if n := first_of(shots):
        return Scheme(split_name(n), DEV, split_name(n), "test")
    if {"train800", "test"} <= have and (shots == "1000" or "train" not in have):
        val = "val200" if "val200" in have else DEV
        return Scheme("train800", val, "train800val200" if "train800val200" in have else "train800", "test")
    if {"train800val200", "test"} <= have and (shots == "1000" or "train" not in have):
        return Scheme("train800val200", "", "train800val200", "test")
    if "train" not in have or not have & {"test", "val"}:
        splits_it = own_split.command(task) if len(have) < 2 else ""
        raise DataMissing(
            f"Data set '{task}' has the splits {', '.join(splits) or 'none'}.",
            "train and test (or val), or the VTAB-1k splits train800, val200 and test.",
            f"To split it, run: {splits_it}" if splits_it else "Add what is missing, or give another folder.",
        )
    if "test" not in have:
        return Scheme("train", DEV, "train", "val")
    if val_is_train and not shots:
        return Scheme(f"train{JOINED}val", DEV, f"train{JOINED}val", "test")
    both = f"train{JOINED}val" if shots == "full" and "val" in have else "train"
    return Scheme("train", "val" if "val" in have else DEV, both, "test")


TUNE_SEED = 0
"""Of the tune units of a recipe's sweep: what is chosen does not depend on which seeds are asked for."""


def points(job: Job) -> list[Point]:
    """Return the points to choose from; a single one where nothing is chosen."""
    if job.grid:
        return list(job.grid)
    products = [dict(zip(job.sweep, values, strict=True)) for values in itertools.product(*job.sweep.values())]
    return [Point(values, at_point(job, values)) for values in products]


def tune_units(job: Job) -> list[Unit]:
    """Return the units that are compared on val, the seeds of a point together; none where there is no choice."""
    compared = points(job)
    if job.on == "test" or len(compared) < 2:
        return []
    seeds = job.seeds if job.grid else (TUNE_SEED,)
    return [Unit(job, "tune", seed, point.settings, point.values) for point in compared for seed in seeds]


def alike(unit: Unit) -> list[Unit]:
    """Return the units of a phase that train on the same images, by settings that differ in lr and weight_decay alone.

    The unit itself is one of them.
    """
    job = unit.job
    if unit.phase == "tune":
        near = tune_units(job)
    elif job.on == "test":
        near = final_units(job, [])
    else:
        near = [replace(unit, seed=seed) for seed in job.seeds]
    own = job.per_class is not None or job.from_scratch  # what the seed draws
    rest = {"lr": 0.0, "weight_decay": 0.0}
    same = unit.settings.model_copy(update=rest)
    return [one for one in near if one.settings.model_copy(update=rest) == same and (one.seed == unit.seed or not own)]


def final_units(job: Job, tuned: Sequence[UnitResult]) -> list[Unit]:
    """Return the final units: one a seed with the point that was best on val, or with every point of a grid on test.

    Args:
        tuned: the results of all tune units, empty where there were none.
    """
    finals = points(job)
    if job.on == "val":
        best = select(tuned).point if tuned else finals[0].values
        finals = [point for point in finals if point.values == best]
    return [Unit(job, "final", seed, point.settings, point.values) for point in finals for seed in job.seeds]


def counts(job: Job) -> tuple[int, int]:
    """Return how many tune units and how many final units a job has."""
    return len(tune_units(job)), len(job.seeds) * (len(job.grid) if job.on == "test" else 1)


def fits(job: Job) -> list[tuple[Settings, str]]:
    """Return (settings, evaluated split) of every fit; the largest point stands for one that is yet to be chosen."""
    if job.on == "test":
        finals = [point.settings for point in points(job)]
    elif job.grid:
        finals = [max((point.settings for point in job.grid), key=lambda s: s.steps * s.batch_size)]
    else:
        finals = [job.settings]
    tuning = [(unit.settings, job.scheme.tune_val) for unit in tune_units(job)]
    return tuning + [(settings, job.scheme.test) for settings in finals for _ in job.seeds]


def at_point(job: Job, point: Mapping[str, Any]) -> Settings:
    """Return a job's settings at one point of its sweep; warmup and staircase keep their share of swept steps.

    What the user has given stays as it is.

    Raises:
        RecipeError: a warmup that the user has given is as long as a swept number of steps (exit code 2).
    """
    own = job.settings.model_dump()
    share = {key: value for key, value in rescaled(own, point).items() if key not in job.given}
    settings = Settings.model_validate({**own, **share, **point})
    if faults := [text for _, text in contradictions(dict(settings))]:
        raise RecipeError(f"Recipe '{job.recipe}': {'; '.join(faults)}.", "", "Set both, or neither.")
    return settings


def by_point(results: Sequence[UnitResult]) -> list[list[UnitResult]]:
    """Return the results of each point together, in the order of their first ones."""

    def same(a: UnitResult, b: UnitResult) -> bool:
        return (a.point, a.recipe_settings) == (b.point, b.recipe_settings)

    groups: list[list[UnitResult]] = []
    for result in results:
        of_point = next((group for group in groups if same(group[0], result)), None)
        if of_point is None:
            groups.append([result])
        else:
            of_point.append(result)
    return groups


def select(scored: Sequence[UnitResult]) -> UnitResult:
    """Return the first result of the point with the highest top1, the mean over its seeds.

    Of equals the one with the smaller lr, then with fewer steps, then the earlier one.
    """
    best = min(
        by_point(scored),
        key=lambda of: (-fmean(r.metrics.top1 for r in of), of[0].recipe_settings.lr, of[0].recipe_settings.steps),
    )
    return best[0]
