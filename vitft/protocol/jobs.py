"""From what a user asks for to a job with every setting decided. No torch."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Required, TypedDict, Unpack

from vitft import machine
from vitft.catalog.models import MODELS
from vitft.catalog.shots import Shots
from vitft.compiling import Compile
from vitft.data import vtab_splits
from vitft.data.find import checked, find, path_of
from vitft.data.portions import JOINED
from vitft.data.split import Opened, Sized, Source
from vitft.errors import DataMissing
from vitft.group import Parallel
from vitft.images import sizes
from vitft.models import places
from vitft.protocol.guard import watched
from vitft.protocol.units import DEV, Job, Point, Scheme, at_point, points, scheme, short_label, tune_units
from vitft.recipes import Recipe
from vitft.results.folders import default_folder, slug
from vitft.results.parts import Seen
from vitft.settings import Checkpointing, Settings


@dataclass(frozen=True)
class Runtime:
    """How units are run; nothing here changes what a number means, and a begun unit keeps what it began with.

    Attributes:
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        precision: "auto" (bf16 on CUDA, else float32), "float32" or "bf16".
        micro_batch: images a forward pass; 0 = by device.
        workers: threads that decode; 0 = one a core.
        deterministic: torch's deterministic algorithms.
        save_weights: keep the fine-tuned network; without it the head alone is kept.
        state_seconds: least time between two saved states.
        parallel: how several processes hold a network, see `group`.
        val_every: updates from one look at val to the next while it trains; 0 = none.
        models: that one command runs on the same data.
        compile: blocks compiled: "auto" (on CUDA), "on" or "off".
        checkpoint_activations: computed again in the backward pass: "auto" (where not one image fits otherwise), "on"
            or "off".
    """

    device: str = "auto"
    precision: str = "auto"
    micro_batch: int = 0
    workers: int = 0
    deterministic: bool = False
    save_weights: bool = True
    state_seconds: float = 60.0
    parallel: Parallel = "auto"
    val_every: int = 0
    models: int = 1
    compile: Compile = "auto"
    checkpoint_activations: Checkpointing = "auto"


class JobOptions(TypedDict, total=False):
    """Fields of `Job` that come from neither its recipe nor its data."""

    seeds: tuple[int, ...]
    from_scratch: bool
    limit: int | None
    per_class: int | None
    on: Literal["val", "test"]


class PlanOptions(JobOptions, total=False):
    """Arguments of `plan` besides task, data and model."""

    recipe: Required[Recipe]
    overrides: Required[Mapping[str, Any]]
    axes: Mapping[str, Sequence[Any]] | None


class ModelPlanOptions(PlanOptions):
    """Arguments of `plan` besides task and data."""

    model: str


class MakeOptions(ModelPlanOptions, total=False):
    """Arguments of `make` besides the task."""

    data_dir: Path | None
    shots: Shots | None


def make(
    task: str, *, data_dir: Path | None = None, shots: Shots | None = None, **options: Unpack[ModelPlanOptions]
) -> tuple[Job, Opened]:
    """Find the data and `plan` a job; the source's splits are opened once. Raises as `opened` and `plan`."""
    source = opened(task, data_dir, shots)
    return plan(task, source, data_dir=data_dir, shots=shots, **options), source


def opened(task: str, data_dir: Path | None = None, shots: Shots | None = None) -> Opened:
    """Find a task's data; its splits are opened once. Raises as `data.find`."""
    return Opened(find(task, data_dir, shots))


def plan(
    task: str,
    data: Sized,
    *,
    model: str,
    recipe: Recipe,
    overrides: Mapping[str, Any],
    axes: Mapping[str, Sequence[Any]] | None = None,
    data_dir: Path | None = None,
    shots: Shots | None = None,
    **options: Unpack[JobOptions],
) -> Job:
    """Decide every setting and choose the splits.

    Args:
        data: of the task.
        axes: key -> several values: every combination is a point of a grid, with what the recipe itself sweeps.
            None = no grid, but what the recipe itself chooses.

    Raises:
        RecipeError: exit code 2.
        DataMissing: no split to train or to evaluate on, or the recipe looks at images of which numbers alone are
            known (exit code 3).
    """
    data_dir = checked(data_dir)
    path = path_of(task, data_dir)
    said = str(path or task)
    if path is not None:  # absolute: the same word elsewhere is another data set
        task = str(path.resolve())
    splits = scheme(data.splits, said, shots or "", vtab_splits.val_is_train(data))
    n = examples(data, splits, options.get("limit"), options.get("per_class")) if recipe.for_size else 0
    seen = _seen(data, splits, recipe) if recipe.looks_at_images(data.task) else None
    document = _Document(recipe, data.task, overrides, n, seen.pixels if seen else 0)
    several = {key: list(values) for key, values in (axes or {}).items()}
    crossed = [dict(zip(several, values, strict=True)) for values in itertools.product(*several.values())]
    settings = document.settings(crossed[0])
    if settings.select_on == "dev":
        # Of what the final run trains on, so that its train_fraction leaves out the same images.
        splits = replace(splits, tune_train=splits.final_train, tune_val=DEV)
    base = Job(
        task=task,
        name=data.task,
        model=model,
        model_sha256="" if options.get("from_scratch") else model_sha256(model),
        recipe=recipe.name,
        recipe_digest=recipe.digest({**overrides, **several}),
        settings=settings,
        scheme=splits,
        data_dir=str(data_dir or ""),
        shots=shots or "",
        given=tuple(sorted({**overrides, **several})),
        seen=seen,
        **options,
    )
    return document.job(base, None if axes is None else crossed)


def drawn(job: Job) -> Job:
    """Return a job that starts from random weights instead, so that the checkpoint's file decides nothing."""
    return replace(job, from_scratch=True, model_sha256="")


@dataclass(frozen=True)
class _Document:
    """A recipe for one task and its data, with what the user has set over it."""

    recipe: Recipe
    task: str
    overrides: Mapping[str, Any]
    examples: int
    pixels: int

    def settings(self, chosen: Mapping[str, Any]) -> Settings:
        """Return the settings with these values set, too. Raises RecipeError."""
        return self.recipe.resolve(self.task, {**self.overrides, **chosen}, self.examples, self.pixels)

    def job(self, base: Job, crossed: Sequence[Mapping[str, Any]] | None) -> Job:
        """Return a job with all its points: a grid's, or those that the recipe sweeps. Raises RecipeError."""
        if crossed is not None:
            grid = self.grid(base, crossed)
            return replace(base, grid=grid, sweep=_values(grid))
        job = self.swept(base, {})
        points(job)  # every point of it goes together, before the first is run
        return job

    def swept(self, base: Job, chosen: Mapping[str, Any]) -> Job:
        """Return a job with these values set, and with what the recipe sweeps there; a single value is a setting."""
        own = self.settings(chosen)
        sweep = self.recipe.sweep_for(self.task, own, {**self.overrides, **chosen})
        fixed = {k: v[0] for k, v in sweep.items() if len(v) == 1}
        job = replace(base, settings=own)
        return replace(job, settings=at_point(job, fixed), sweep={k: v for k, v in sweep.items() if k not in fixed})

    def grid(self, base: Job, crossed: Sequence[Mapping[str, Any]]) -> tuple[Point, ...]:
        """Return a point for each combination of values and each of what the recipe sweeps there."""
        return tuple(
            Point({**{key: getattr(point.settings, key) for key in chosen}, **point.values}, point.settings)
            for chosen in crossed
            for point in points(self.swept(base, chosen))
        )


def _values(grid: Sequence[Point]) -> dict[str, list[Any]]:
    """Return key -> the different values it has in a grid, in their order."""
    values: dict[str, list[Any]] = {}
    for point in grid:
        for key, value in point.values.items():
            if value not in values.setdefault(key, []):
                values[key].append(value)
    return values


def source_of(job: Job) -> Source:
    """Find a job's data again. Raises DataMissing or DataDamaged (exit code 3)."""
    data_dir = Path(job.data_dir) if job.data_dir else None
    return find(job.task, data_dir, job.shots or None)


def examples(data: Sized, splits: Scheme, limit: int | None, per_class: int | None) -> int:
    """Return how many examples the final run trains on."""
    parts = splits.final_train.split(JOINED)
    n = sum(data.count(part) for part in parts)
    if per_class is not None:
        n = min(n, per_class * data.num_classes(parts[0]))
    return n if limit is None else min(n, limit)


def _seen(data: Sized, splits: Scheme, recipe: Recipe) -> Seen:
    """Measure the images of the training split that is trained on first; test is never looked at."""
    if not isinstance(data, Opened):
        raise DataMissing(
            f"Recipe '{recipe.name}' chooses by the size of the images, and those of '{data.task}' are not here.",
            "a recipe that does not look at images.",
            f"Run 'vitft data prepare {data.task}', or name their folder with --data-dir.",
        )
    return sizes.median(data.open(splits.final_train.split(JOINED)[0]))


def resolution_note(job: Job) -> str:
    """Return a line that says which images chose the resolution; "" where they did not."""
    if not job.seen:
        return ""
    size, s = f"{job.seen.pixels:,} pixels", job.settings
    larger = f" from {s.crop_from}" if s.crop == "random" and s.crop_from else ""
    return f"Resolution {s.resolution}{larger}: the median of {job.seen.of} training images has {size}."


def watch_note(job: Job, runtime: Runtime) -> str:
    """Return a line where `--val-every` finds no val to look at while the final runs train; "" where it does."""
    if not runtime.val_every or watched(job, "final"):
        return ""
    tuned = "; the runs that are compared have it" if tune_units(job) else ""
    return (
        f"--val-every: '{job.name}' has no val that the final run does not train on, and test is not looked at before "
        f"the end: no val accuracy is written{tuned}."
    )


def model_sha256(model: str) -> str:
    """Return the digest of a local checkpoint and of what decides how it is read, "" for what is no file here.

    Of a single file it is the file's own sha256; of a file or folder with configs, parts or a base, of all of them.
    """
    alias = MODELS.get(model)
    if alias is not None:
        return machine.sha256_once(alias.file) if alias.file is not None else ""
    name, word = places.split(model)
    digests = [machine.sha256_once(file) for file in places.files(Path(name).expanduser())]
    if digests and word.startswith("base="):
        digests.append(model_sha256(word.removeprefix("base=")))
    return digests[0] if len(digests) == 1 else places.joined(digests) if digests else ""


def run_folder(job: Job) -> Path:
    """Return the folder of a job without --output."""
    model = slug(short_label(job.model, job.model_sha256)) + "-scratch" * job.from_scratch
    recipe = job.recipe + "-sweep" * bool(job.grid)
    return default_folder(job.name, model, job.model_sha256, recipe, job.identity())
