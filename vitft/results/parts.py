"""What result files are made of: metrics, protocols, provenance, cost. No torch."""

import hashlib
from datetime import UTC, datetime
from platform import python_version
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from vitft import __version__
from vitft.catalog.tasks import canonical
from vitft.results.checkpoint import Size
from vitft.settings import CropMode

Interval = tuple[float, float]
Share = Annotated[float, Field(ge=0, le=1)]
Phase = Literal["tune", "final"]
Completeness = Literal["full", "declared", "partial"]


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Metrics(Part):
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


class TrainSize(Part):
    """What limits the training examples: --per-class, --limit, and --shots below VTAB-1k's 1,000."""

    per_class: int | None = None
    limit: int | None = None
    first: int | None = Field(None, description="the first so many of VTAB-1k's examples: no VTAB-1k")


class Seen(Part):
    """The training images that chose the resolution: the median's pixels (height x width), of how many."""

    pixels: int
    of: int


class Prepared(Part):
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


class Overlap(Part):
    """Images of the evaluated split that were trained or selected on, too, byte for byte."""

    n: int
    splits: dict[str, int] = Field(description="split -> how many; one that stands in several counts in the first")


class Provenance(Part):
    """Where images and weights come from; it only ever adds a footnote to a number."""

    source: str
    reference: bool = False
    why: str = Field("", description="why the examples are not those of the official split")
    completeness: Completeness = "partial"
    revision: str = ""
    split: str = "test"
    split_digest: str = Field(description="sha256 over keys and labels of the evaluated examples, in their order")
    images_digest: str | None = Field(
        None, description="sha256 over digests of the evaluated image files; absent before 0.3"
    )
    split_completeness: Completeness | None = None
    train_split: str | None = None
    train_n: int | None = None
    train_digest: str | None = Field(None, description="sha256 over keys and labels of what was trained on")
    train_images_digest: str | None = Field(
        None, description="sha256 over digests of the image files that were trained on; absent before 0.3"
    )
    train_whole: int | None = Field(None, description="examples of the training split before --per-class and --limit")
    train_official: int | None = Field(None, description="examples it should have, where it has other than these")
    overlap: Overlap | None = None
    classes_without_test: tuple[str, ...] = ()
    classes_without_train: tuple[str, ...] = Field((), description="that have evaluated images, which count as wrong")
    decoder: str = "Pillow"
    checkpoint_sha256: str = ""
    path: str | None = Field(None, description="where the data were, of an evaluation; of a run run.json says it")

    def tested(self, task: str) -> str:
        """Return what is equal for results on the same images with the same labels.

        Names tell them for a task that has official ones. A user's own are known by their content, too: two folders
        called photos, or one whose images were changed, hold other images under the same names.
        """
        return _content(task, self.split_digest, self.images_digest)

    def trained(self, task: str) -> str:
        """Return what is equal for results that were trained on the same images with the same labels; see `tested`."""
        return _content(task, self.train_digest or "", self.train_images_digest)


def _content(task: str, names: str, images: str | None) -> str:
    return names if not images or canonical(task) else hashlib.sha256((names + images).encode()).hexdigest()


class Computed(Part):
    """What a run keeps from its first step to its last: numbers are bit-equal only where this is."""

    device_kind: str
    precision: Literal["float32", "bf16"]
    micro_batch: int | None = None
    threads: int | None = None
    compiled: bool | None = Field(None, description="the blocks ran compiled, which rounds otherwise; absent = eagerly")
    eager_why: str | None = Field(None, description="why blocks that were to be compiled ran eagerly")
    checkpointed: bool | None = Field(None, description="activations were computed again; absent = they were kept")
    attention: str | None = Field(None, description="kernels it may use on a card, torch's preference first")
    tf32: bool | None = Field(None, description="whether a card rounds what stays float32 to TF32")
    linear: Literal["oneDNN"] | None = Field(
        None,
        description="library of a CPU's large linear layers (torch's in updates if checkpointed); absent = torch's",
    )


class Loss(Part):
    """Mean loss over the effective batch of the first and the last update."""

    first: float
    last: float


class Cost(Part):
    """What it took, in operations: a multiply-accumulate is two."""

    macs_per_image: float
    train_images: int
    train_flops: float


class Timing(Part):
    """Seconds, and images a second of all processes that shared the work."""

    evaluate_s: float
    train_s: float | None = None
    total_s: float | None = None
    train_images_per_s: float | None = None
    images_per_s: float | None = None
    processes: int | None = Field(None, description="that shared the work, each on a device of its own; absent = one")

    @property
    def seconds(self) -> float:
        """Seconds of the whole; without the start-up in files that do not say it."""
        return self.total_s if self.total_s is not None else (self.train_s or 0.0) + self.evaluate_s


class Env(Part):
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
