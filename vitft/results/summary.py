"""Many results side by side: rows are models, recipes or methods, columns tasks and their means. No torch.

`vitft report --format json` prints a `Summary`; every other format is drawn from one. Shares lie in [0, 1].
"""

from typing import Literal

from pydantic import Field

from vitft.results.checkpoint import Size
from vitft.results.parts import Interval, Part

Mark = Literal["", "best", "tie"]
By = Literal["model", "recipe", "method"]
View = Literal["", "pretraining", "scratch", "compute"]


class SummaryColumn(Part):
    """One column: a task, or a mean of columns.

    A mean has `of`: groups of column keys. Each group is averaged, then their averages: one group is a plain mean of
    tasks, several are a mean of groups.
    """

    key: str
    title: str
    group: str = Field("", description="heading over neighbouring columns")
    of: tuple[tuple[str, ...], ...] = ()

    @property
    def tasks(self) -> tuple[str, ...]:
        """The columns that a mean is over."""
        return tuple(key for group in self.of for key in group)


class Cell(Part):
    """One number, with what a reader needs to trust it; without a value, `why` there is none."""

    value: float | None = None
    why: str = Field("", description="why there is no value")
    n: int | None = Field(None, description="test images; of a mean, its tasks")
    seeds: tuple[int, ...] = ()
    ci95: Interval | None = None
    ci95_of: str = Field("", description="which interval it is")
    examples: str = Field("", description="training examples; see Described")
    mark: Mark = Field("", description='"best" where every other row is separated from it by a test')
    least: float | None = Field(
        None, description="smallest difference from the best other row that the test could tell at 5 %"
    )
    notes: tuple[str, ...] = ()
    protocol: str = Field("", description="protocol.id")
    split_digest: str = Field("", description="of the evaluated images and labels")
    flops: float | None = Field(None, description="of training, mean over seeds")
    seconds: float | None = Field(None, description="on the device, training and evaluation, mean over seeds")
    macs_per_image: float | None = None


class Described(Part):
    """What a row is; equal in all its cells, or all of them joined."""

    model: str = ""
    sha256: str = ""
    architecture: str = ""
    pretraining: str = ""
    timm_name: str = ""
    method: str = ""
    recipe: str = ""
    resolutions: tuple[Size, ...] = ()
    examples: str = Field("", description='training examples a task: "1,000", "10 a class", "all"; "" for none')
    selected: str = Field(
        "", description='how the number was chosen: "last", "best on val", "best on test"; "" unknown'
    )
    device: str = ""


class SummaryRow(Part):
    """One row."""

    label: str
    kind: Literal["result", "published", "difference"] = "result"
    what: Described = Described()
    cells: dict[str, Cell] = Field(default_factory=dict)
    differs: tuple[str, ...] = Field((), description="what is unlike the other rows of its model")
    notes: tuple[str, ...] = ()
    source: str = Field("", description="of published numbers")
    reproducible: bool = Field(True, description="false where the weights were never released")
    flops: float | None = Field(None, description="of all its tasks for one seed, tuning included")
    seconds: float | None = Field(None, description="device-seconds of all its tasks for one seed, tuning included")
    macs_per_image: float | None = None


class PairTest(Part):
    """Two rows compared on one column: a minus b."""

    column: str
    a: str
    b: str
    difference: float
    ci95: Interval
    p: float
    p_holm: float = Field(description="adjusted over all comparisons of the summary (Holm)")
    test: str


class Summary(Part):
    """A table of results, before it is drawn."""

    schema_version: Literal[2] = 2
    kind: Literal["summary"] = "summary"
    by: By = "model"
    view: View = ""
    title: str = "top-1 in percent"
    columns: tuple[SummaryColumn, ...]
    rows: tuple[SummaryRow, ...]
    tests: tuple[PairTest, ...] = Field((), description="of each column's highest row with the others")
    compared: int = Field(0, description="how many comparisons Holm's adjustment counts")
    notes: tuple[str, ...] = ()
