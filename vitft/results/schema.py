"""What the result files of a run hold, as types: the one description that users and other programs need.

Every number is a share in [0, 1], every resolution [height, width] in pixels, every duration seconds. A field that
means nothing for a result is absent from its file. `vitft runs schema` prints this as JSON Schema.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from platform import python_version
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from vitft import __version__
from vitft.settings import CropMode, Method, Preprocess, Settings

SCHEMA_VERSION = 2
"""Of the files below; version 1 (resolutions as words) is still read, see `results.upgrade`."""

Size = tuple[int, int]
Triple = tuple[float, float, float]
Interval = tuple[float, float]
Share = Annotated[float, Field(ge=0, le=1)]
Scalar = bool | int | float | str | tuple[int, ...] | tuple[str, ...] | None
Phase = Literal["tune", "final"]
Completeness = Literal["full", "declared", "partial"]


@dataclass(frozen=True)
class Architecture:
    """A timm model function and the arguments that make it fit the tensors.

    Attributes:
        name: timm's model name without its tag, e.g. "vit_base_patch16_224".
        kwargs: arguments over the function's own; JSON-able; never the image size or the number of classes.
        pre_logits: width of the tanh layer between features and head (the original releases' representation size);
            0 where there is none.
        gelu: "tanh" where every exact GELU is replaced by the original code's approximation.
        norm_eps: epsilon of every layer norm; 0 = the timm function's own.
        activation: of the MLPs, in timm's word ("gelu", "quick_gelu", "relu", ...); "" = the timm function's own.
    """

    name: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    pre_logits: int = 0
    gelu: str = "exact"
    norm_eps: float = 0.0
    activation: str = ""


@dataclass(frozen=True)
class CheckpointInfo:
    """One checkpoint, as it stands in `result.json`.

    Attributes:
        name: what the user wrote after --model.
        kind: "npz", "safetensors", "pth", "run", "hub" or "random".
        path: the file the weights came from; empty for random weights.
        sha256: of that file; empty for random weights.
        timm_name: the timm tag (or bare model name) that the file is, or is taken for.
        mean, std: of the images the weights were trained on, RGB in [0, 1].
        crop_pct: part of the resized image that the checkpoint's own evaluation crops.
        crop_mode: "center" (aspect ratio kept), "squash" (lost) or "none" (no resize), of that resize.
        before: (height, width) before the crop, at `resolution`, where the checkpoint says pixels and no crop_pct.
        interpolation: of the checkpoint's own evaluation.
        native: (height, width) in pixels the weights were trained at.
        num_classes: outputs of the head (0: none): the file's when opened, the network's when built.
        patch: patch (height, width) in pixels; for a hybrid or a ResNet its stride.
        grid: (rows, columns) of position embeddings, the file's when opened, the network's when built; None without.
        resolution: (height, width) in pixels the network was built for; the native one while it is only opened.
        used: the part of it, from the upper left, that the patches cover.
        architecture: the timm function and its arguments.
        channels: of the images the patches are made of; vitft's own images have 3.
        part: place of the network among those of its file, e.g. "model.teacher.backbone"; "" where it is all there is.
        assumed: what the file does not say: fields above that were taken from the timm tag, and num_heads, norm_eps,
            activation, pool and grid of the architecture.
        notes: what a reader should know, e.g. "position embeddings 14x14 -> 24x24 (bilinear)".
    """

    name: str
    kind: str
    path: str
    sha256: str
    timm_name: str
    mean: Triple
    std: Triple
    crop_pct: float
    interpolation: str
    native: Size
    num_classes: int
    patch: Size
    grid: Size | None
    resolution: Size
    used: Size
    architecture: Architecture
    crop_mode: CropMode = "center"
    before: Size | None = None
    channels: int = 3
    assumed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    part: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able data."""
        return asdict(replace(self, architecture=replace(self.architecture, kwargs=dict(self.architecture.kwargs))))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "CheckpointInfo":
        """Rebuild from `to_dict`, through JSON or not."""
        data = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return cls(**{**data, "architecture": Architecture(**data["architecture"])})

    def with_notes(self, *notes: str) -> "CheckpointInfo":
        """Return a copy with more notes; empty ones are dropped."""
        return replace(self, notes=self.notes + tuple(note for note in notes if note))


def side(size: Size) -> str:
    """Write a size: '384' for a square, '224x320' (height x width) otherwise."""
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Metrics(_Part):
    """What was counted. Over several seeds `top1` is their mean, and `correct` is absent: it belongs to one run."""

    top1: Share
    n: int = Field(ge=1, description="images")
    ci95: Interval = Field(description="Wilson on n; Student's t where ci95_of says that it is over seeds")
    correct: int | None = None
    ci95_of: str | None = None
    top5: Share | None = None
    top5_correct: int | None = None
    real_top1: Share | None = Field(None, description="ImageNet-ReaL")
    real_correct: int | None = None
    real_n: int | None = None
    real_ci95: Interval | None = None


class TrainSize(_Part):
    """What limits the training examples: --per-class and --limit."""

    per_class: int | None = None
    limit: int | None = None


class Seen(_Part):
    """The training images that chose the resolution: the median's pixels (height x width), of how many."""

    pixels: int
    of: int


class Prepared(_Part):
    """How images were brought to the network; equal for numbers that stand in one table."""

    id: str = Field(description="digest of what must be equal for numbers to be compared or averaged")
    resolution: Size
    resize: str
    interpolation: str
    antialias: bool
    normalise: str
    gelu: str | None = None


class UnitProtocol(Prepared):
    """The protocol of a fine-tune."""

    recipe: str
    recipe_digest: str = ""
    selection: str = Field("none", description="what a sweep was chosen on")
    from_scratch: bool = False
    train: TrainSize = TrainSize()
    chosen_by_pixels: Seen | None = None


class EvalProtocol(Prepared):
    """The protocol of an evaluation."""

    crop_pct: float | None = None
    crop_mode: CropMode | None = None
    before: Size | None = None
    posembed_resize: str


class FewshotProtocol(EvalProtocol):
    """The protocol of few-shot classification on frozen features."""

    classifier: str
    pool: str = Field(description="split the examples are drawn from")
    l2: float | None = None
    temperature: float | None = None


class Overlap(_Part):
    """Images of the evaluated split that were trained or selected on, too, byte for byte."""

    n: int
    splits: dict[str, int] = Field(description="split -> how many; one that stands in several counts in the first")


class Provenance(_Part):
    """Where images and weights come from; it only ever adds a footnote to a number."""

    source: str
    reference: bool = False
    why: str = Field("", description="why the examples are not those of the official split")
    completeness: Completeness = "partial"
    revision: str = ""
    split: str = "test"
    split_digest: str = Field(description="sha256 over keys and labels of the evaluated examples, in their order")
    split_completeness: Completeness | None = None
    train_split: str | None = None
    train_n: int | None = None
    train_digest: str | None = None
    train_whole: int | None = Field(None, description="examples of the training split before --per-class and --limit")
    train_official: int | None = Field(None, description="examples it should have, where it has other than these")
    overlap: Overlap | None = None
    classes_without_test: tuple[str, ...] = ()
    decoder: str = "Pillow"
    checkpoint_sha256: str = ""


class Computed(_Part):
    """What a run keeps from its first step to its last: numbers are bit-equal only where this is."""

    device_kind: str
    precision: Literal["float32", "bf16"]
    micro_batch: int | None = None
    threads: int | None = None


class Loss(_Part):
    """Mean loss over the effective batch of the first and the last update."""

    first: float
    last: float


class Cost(_Part):
    """What it took, in operations: a multiply-accumulate is two."""

    macs_per_image: float
    train_images: int
    train_flops: float


class Timing(_Part):
    """Seconds, and images a second of this process."""

    evaluate_s: float
    train_s: float | None = None
    total_s: float | None = None
    train_images_per_s: float | None = None
    images_per_s: float | None = None


class Env(_Part):
    """The versions that gave a number."""

    vitft: str
    torch: str = ""
    python: str = ""
    device: str = ""
    finished: str = ""

    @staticmethod
    def now(device: str, torch: str) -> "Env":
        """Return the versions of this process; `device` is the card's name, or the kind of device."""
        return Env(
            vitft=__version__,
            torch=torch,
            python=python_version(),
            device=device,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )


class _Result(_Part):
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


class Tuned(_Part):
    """One point of the sweep and its score on val."""

    point: dict[str, Scalar]
    top1: Share
    n: int


class RunResult(UnitResult):
    """One task brought to its number, over all seeds: `result.json` of a run folder."""

    unit: str | None = None
    tuned: tuple[Tuned, ...] = ()
    seeds: dict[str, Metrics] | None = Field(None, description="seed -> metrics, where there are several")
    units: tuple[str, ...] | None = None


class ClassAccuracy(_Part):
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
    stamp: str = Field("", description='"" for a whole split, else "subset n"')
    missing: tuple[str, ...] = ()
    protocol: EvalProtocol
    timing: Timing
    per_class: tuple[ClassAccuracy, ...] | None = None
    confusion: tuple[tuple[int, ...], ...] | None = Field(None, description="[label][answer] -> images")


class Comparison(_Part):
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


class FewshotRow(_Part):
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


class SuiteTask(_Part):
    """One task of a suite, over its seeds."""

    top1: Share
    n: int
    seeds: dict[str, Share]
    resolution: Size
    point: dict[str, Scalar] = {}
    protocol_id: str
    provenance: Provenance
    warnings: tuple[str, ...] = ()
    ci95: Interval | None = None
    ci95_over_seeds: Interval | None = None


class OverSeeds(_Part):
    """A mean over tasks for each seed, and Student's t interval over them."""

    seeds: dict[str, float]
    ci95: Interval


class SuiteCheckpoint(_Part):
    """The weights all tasks began with."""

    timm_name: str | None = None
    sha256: str | None = None
    notes: tuple[str, ...] = ()
    assumptions: str = ""


class SuiteProtocol(_Part):
    """What all tasks of a suite share; what a recipe itself varies by task stands with the task."""

    id: str
    recipe: str | None = None
    recipe_digest: str | None = None
    normalise: str | None = None
    gelu: str | None = None
    from_scratch: bool | None = None
    train: TrainSize | None = None


class SuiteResult(_Part):
    """A suite, derived from its units: `suite.json`. A mean over a hole is absent, never a mean over what is there."""

    schema_version: Literal[2] = 2
    kind: Literal["suite"] = "suite"
    suite: str
    shots: int = Field(description="training examples a task; 0 = all")
    model: str | None = None
    checkpoint: SuiteCheckpoint = SuiteCheckpoint()
    recipe: str | None = None
    method: Method | None = None
    resolutions: dict[str, Size] = {}
    seeds: tuple[int, ...] = ()
    protocol: SuiteProtocol
    tasks: dict[str, SuiteTask] = {}
    groups: dict[str, float] = {}
    mean_of_tasks: float | None = None
    mean_of_groups: float | None = None
    complete: bool
    missing: dict[str, str] = Field({}, description="task -> why it has no number")
    over_seeds: dict[str, OverSeeds] | None = None
    footnotes: dict[str, tuple[str, ...]] = {}


def worst_overlap(finals: Sequence[UnitResult]) -> Overlap | None:
    """Return the largest overlap of several seeds' results; None where they are of a vitft that did not look for it.

    The draws of `--per-class` may meet test images in one seed and not in another.
    """
    found = [r.provenance.overlap for r in finals if r.provenance.overlap is not None]
    return max(found, key=lambda overlap: overlap.n, default=None)


Result = UnitResult | RunResult | EvalResult | FewshotResult | SuiteResult


def to_json(value: BaseModel) -> dict[str, Any]:
    """Return a result as its file holds it: what is absent is left out."""
    return value.model_dump(mode="json", exclude_none=True, by_alias=True)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of all result files."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Results of vitft"}
    return dialect | TypeAdapter(Result).json_schema(by_alias=True)
