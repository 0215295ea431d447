"""What a measurement of speed leaves: images a second of each loop, in turn, and what vitft's own loop waited for."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from vitft.errors import CheckpointError
from vitft.results.checkpoint import Size
from vitft.results.files import read_json
from vitft.results.parts import Env, Part, Share
from vitft.results.reading import parse

Span = tuple[float, float]


class Pace(Part):
    """Images a second: the median of the rounds, the slowest and the fastest."""

    images_per_s: float = Field(gt=0)
    span: Span
    ratio: float | None = Field(None, description="vitft's over this one's, the median of the rounds' own ratios")
    ratio_span: Span | None = None


class LoopPace(Part):
    """One loop's."""

    name: Literal["vitft", "bare", "compiled", "timm"]
    train: Pace | None = None
    evaluate: Pace | None = None
    why: str = Field("", description="why there is no number")


class Saving(Part):
    """What a saved state costs: seconds it holds the updates up, and its share of the time at the usual intervals."""

    seconds: float = Field(ge=0)
    share: Share


class Products(Part):
    """Floating-point operations a second of matrix products, and of training (six a multiply-accumulate)."""

    square: float = Field(gt=0, description="of a large square product, in the precision of the loops")
    own_shapes: float | None = Field(None, description="of the products of one block, at the micro-batch")
    train: float = Field(gt=0)
    share: float = Field(gt=0, description="train / square")


def load(path: Path) -> "BenchResult":
    """Read a measurement that `vitft bench --save` has written. Raises CheckpointError (exit code 4)."""
    value = read_json(path)
    if value is None:
        raise CheckpointError(f"There is no profile '{path}'.", "a file of 'vitft bench --save'.")
    return parse(value, BenchResult, f"'{path}'", "Measure anew: vitft bench --save FILE.")


class BenchResult(Part):
    """A measurement of speed on one machine."""

    kind: Literal["bench"] = "bench"
    model: str
    data: str = Field(description="whose images")
    method: str
    optimizer: str
    resolution: Size
    batch_size: int
    micro_batch: int
    precision: str
    threads: int
    workers: int
    compiled: bool = Field(False, description="vitft's own blocks ran compiled")
    eager_why: str = Field("", description="why those that were to be compiled ran eagerly")
    rounds: int
    steps: int = Field(description="updates a round")
    loops: tuple[LoopPace, ...]
    waiting: Share = Field(description="of vitft's training time, until a batch was ready")
    saving: Saving
    decoded_per_s: float | None = Field(None, description="images read, decoded and resized, by all workers")
    memory_bytes: int = Field(description="the card's peak, or this process's on a CPU, with vitft's loop alone")
    macs_per_image: float
    products: Products
    env: Env
