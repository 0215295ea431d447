"""What the result files of a run hold, as types: the one description that users and other programs need.

Every number is a share in [0, 1], every resolution [height, width] in pixels, every duration seconds. A field that
means nothing for a result is absent from its file. `vitft runs schema` prints this as JSON Schema.
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from vitft.results.checkpoint import CheckpointInfo, Size
from vitft.results.parts import (
    Computed,
    Cost,
    Env,
    EvalProtocol,
    FewshotProtocol,
    Interval,
    Loss,
    Metrics,
    Overlap,
    Part,
    Phase,
    Provenance,
    Share,
    Timing,
    TrainSize,
    UnitProtocol,
)
from vitft.settings import Method, Preprocess, Scalar, Settings

SCHEMA_VERSION = 2
"""Of the files below; version 1 (resolutions as words) is still read, see `results.upgrade`."""


class _Result(Part):
    schema_version: Literal[2] = 2
    status: Literal["finished"] = "finished"
    task: str
    model: str
    provenance: Provenance
    settings: Computed
    checkpoint: CheckpointInfo
    preprocess: Preprocess
    num_classes: int
    class_names: tuple[str, ...] = Field((), description="of the head's outputs, in order; empty in older files")
    env: Env


class UnitResult(_Result):
    """One fit and one evaluation: `units/<unit id>/result.json`."""

    kind: Literal["finetune"] = "finetune"
    recipe: str
    method: Method
    phase: Phase
    seed: int
    metrics: Metrics
    protocol: UnitProtocol
    recipe_settings: Settings
    point: dict[str, Scalar] = Field({}, description="what the sweep chose")
    loss: Loss
    cost: Cost
    timing: Timing
    warnings: tuple[str, ...] = ()


class Tuned(Part):
    """One point of the sweep and its score on what the choice was made on: a mean where it was made over seeds."""

    point: dict[str, Scalar]
    top1: Share
    n: int
    ci95: Interval | None = Field(None, description="Wilson on n; Student's t over seeds; absent in older files")
    seeds: dict[str, Share] | None = Field(None, description="seed -> top1, where the choice was made over several")
    warnings: tuple[str, ...] = ()


class Lost(Part):
    """One point of a grid that has no score, as its training came to nothing."""

    point: dict[str, Scalar]
    seed: int
    why: str


class RunResult(UnitResult):
    """One task brought to its number, over all seeds: `result.json` of a run folder."""

    unit: str | None = None
    tuned: tuple[Tuned, ...] = ()
    lost: tuple[Lost, ...] = ()
    seeds: dict[str, Metrics] | None = Field(None, description="seed -> metrics, where there are several")
    units: tuple[str, ...] | None = None


class ClassAccuracy(Part):
    """The answers for the images of one class; no accuracy where it has none."""

    class_name: str = Field(alias="class")
    correct: int
    n: int
    accuracy: Share | None = None
    model_config = ConfigDict(populate_by_name=True)


class EvalResult(_Result):
    """One network as it is on a whole test split: `result.json` of `vitft eval`."""

    kind: Literal["eval"] = "eval"
    metrics: Metrics
    seeds: dict[str, Metrics] | None = Field(None, description="seed -> metrics, of a run with several")
    among_present: Metrics | None = Field(
        None, description="the same answers among the classes that have images, where the head has more"
    )
    stamp: str = Field("", description='"" for a whole split, else "subset n"; "n images" of more')
    missing: tuple[str, ...] = ()
    protocol: EvalProtocol
    timing: Timing
    per_class: tuple[ClassAccuracy, ...] | None = None
    confusion: tuple[tuple[int, ...], ...] | None = Field(None, description="[label][answer] -> images")


class Comparison(Part):
    """Two networks on the same images: a minus b."""

    a: str
    b: str
    seed: int | None = Field(None, description="of both, where there are several")
    n: int
    a_only: int = Field(description="images that only a has right")
    b_only: int
    difference: float
    ci95: Interval
    p: float = Field(description="exact two-sided McNemar test")


class FewshotRow(Part):
    """One number of examples a class, over its draws."""

    per_class: int | Literal["all"]
    examples: int
    top1: Share
    ci95: Interval
    interval: str
    values: tuple[Share, ...]
    correct: tuple[int, ...]
    n: int
    seeds: tuple[int, ...]
    short_classes: int = 0
    fewest: int | None = None
    k: int | None = None
    C: tuple[float, ...] | None = None


class FewshotResult(_Result):
    """Frozen features and k examples a class: `result.json` of `vitft fewshot`."""

    kind: Literal["fewshot"] = "fewshot"
    classifier: str
    stamps: tuple[str, ...] = ()
    rows: tuple[FewshotRow, ...]
    protocol: FewshotProtocol


class SuiteTask(Part):
    """One column of a suite, over its seeds."""

    task: str | None = Field(None, description="where the column is called otherwise")
    run: Literal["eval", "fewshot"] | None = Field(None, description="absent for a fine-tune")
    labels: Literal["real"] | None = Field(None, description="ImageNet-ReaL; absent for the data set's own labels")
    recipe: str | None = Field(None, description="where the suite has several")
    top1: Share
    n: int
    seeds: dict[str, Share] = Field(description="empty for an evaluation")
    resolution: Size
    point: dict[str, Scalar] = Field(default_factory=dict)
    protocol_id: str
    provenance: Provenance
    warnings: tuple[str, ...] = ()
    ci95: Interval | None = None
    ci95_over_seeds: Interval | None = None


class OverSeeds(Part):
    """A mean over tasks for each seed, and Student's t interval over them."""

    seeds: dict[str, float]
    ci95: Interval


class SuiteCheckpoint(Part):
    """The weights all tasks began with."""

    timm_name: str | None = None
    sha256: str | None = None
    notes: tuple[str, ...] = ()
    assumptions: str = ""


class SuiteProtocol(Part):
    """What all tasks of a suite share; what a recipe itself varies by task stands with the task."""

    id: str
    recipe: str | None = None
    recipe_digest: str | None = None
    normalise: str | None = None
    gelu: str | None = None
    from_scratch: bool | None = None
    train: TrainSize | None = None


class SuiteResult(Part):
    """A suite, derived from its units: `suite.json`. A mean over a hole is absent, never a mean over what is there.

    `tasks`, `resolutions` and `missing` are by column: a task's name, where no column of it is called otherwise.
    """

    schema_version: Literal[2] = 2
    kind: Literal["suite"] = "suite"
    suite: str
    shots: int | None = Field(None, description="training examples a task; 0 = all; absent where tasks differ in it")
    model: str | None = None
    checkpoint: SuiteCheckpoint = SuiteCheckpoint()
    recipe: str | None = None
    method: Method | None = None
    resolutions: dict[str, Size] = Field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    protocol: SuiteProtocol
    tasks: dict[str, SuiteTask] = Field(default_factory=dict)
    groups: dict[str, float] = Field(default_factory=dict)
    mean_of_tasks: float | None = None
    mean_of_groups: float | None = None
    means: dict[str, float] | None = Field(None, description="means of other names that the suite's document has")
    complete: bool
    missing: dict[str, str] = Field({}, description="column -> why it has no number")
    over_seeds: dict[str, OverSeeds] | None = None
    footnotes: dict[str, tuple[str, ...]] = Field(default_factory=dict)


def worst_overlap(finals: Sequence[UnitResult]) -> Overlap | None:
    """Return the largest overlap of several seeds' results; None where they are of a vitft that did not look for it.

    The draws of `--per-class` may meet test images in one seed and not in another.
    """
    overlaps = [r.provenance.overlap for r in finals if r.provenance.overlap is not None]
    return max(overlaps, key=lambda overlap: overlap.n, default=None)


Measured = UnitResult | EvalResult | FewshotResult
"""Of one data set: what a suite's tables are made of."""

Result = UnitResult | RunResult | EvalResult | FewshotResult | SuiteResult


def to_json(value: BaseModel) -> dict[str, object]:
    """Return a result as its file holds it: what is absent is left out."""
    return value.model_dump(mode="json", exclude_none=True, by_alias=True)


def json_schema() -> dict[str, object]:
    """Return the JSON Schema of all result files."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Results of vitft"}
    return dialect | TypeAdapter(Result).json_schema(by_alias=True)
