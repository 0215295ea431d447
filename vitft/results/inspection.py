"""What `vitft inspect` found, as its `inspect.json` holds it; whole arrays lie beside it in `arrays.npz`. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vitft.results.checkpoint import CheckpointInfo, Size
from vitft.results.files import write_json, writing
from vitft.results.parts import Env, Part, Share
from vitft.settings import Preprocess

OF_WEIGHTS = ("filters", "positions")
OF_IMAGES = ("attention", "rollout", "class", "norms", "features")
OF_TWO = ("moved", "cka")
WHAT = (*OF_WEIGHTS, *OF_IMAGES, *OF_TWO)
"""What can be asked for; parameters, operations and memory are always told."""

SHOWN_IMAGES = 8
"""Images that pictures show; numbers are over all of them."""


class NetworkCost(Part):
    parameters: int
    head_parameters: int
    macs_per_image: float = Field(description="multiply-accumulates of one forward pass")
    weights_mib: float = Field(description="float32")
    activations_mib: float = Field(description="kept by one image's forward pass for its backward pass, float32")
    device: str = Field(description="where activations were measured: what kernels keep differs")


class Filters(Part):
    layer: str
    filters: int
    shape: Size = Field(description="of one filter, (height, width) in pixels")
    variance: tuple[float, ...] = Field(description="share of the filters' variance, one a component shown")


class Alike(Part):
    """Mean cosine similarity of a position to others of its own row, of its own column, and elsewhere."""

    grid: Size
    row: float
    column: float
    elsewhere: float
    share: Share = Field(description="of positions more like their own row and their own column than like the rest")


class Positions(Part):
    before: Alike | None = Field(None, description="in the file; absent for a grid of one row or column")
    after: Alike | None = Field(None, description="at the resolution asked for")
    resize: str = ""


class AttentionLayer(Part):
    layer: int = Field(description="from 1")
    heads: tuple[float, ...] = Field(description="mean attention distance in pixels, one a head")
    mean: float
    spread: float = Field(description="standard deviation over heads, pixels")


class Attention(Part):
    images: int
    layers: tuple[AttentionLayer, ...]
    early_spread: float = Field(description="mean spread of the first third of the layers, pixels")
    late_spread: float = Field(description="of the last third")


class NormLayer(Part):
    layer: int = Field(description="from 1")
    median: float
    p1: float
    p99: float
    largest: float
    artifacts: Share = Field(description="share of patch tokens in a second, higher mode; 0 where there is none")


class Norms(Part):
    images: int
    tokens: int = Field(description="patch tokens, over all images")
    layers: tuple[NormLayer, ...]


class ImageMap(Part):
    image: str
    target: str = Field(description="the class whose map was drawn")
    probability: Share
    given: bool = Field(description="whether the user named the class; else it is the answer")


class Looked(Part):
    """One network."""

    model: str
    title: str
    resolution: Size
    patch: Size
    grid: Size
    prefix_tokens: int
    layers: int = Field(description="blocks; stages of a ResNet")
    reading: str = Field(description="which tokens the head reads, and so whose rows rollout and attention maps show")
    checkpoint: CheckpointInfo
    preprocess: Preprocess
    cost: NetworkCost
    filters: Filters | None = None
    positions: Positions | None = None
    attention: Attention | None = None
    norms: Norms | None = None
    feature_variance: tuple[float, ...] = Field((), description="shares of the three components shown as colours")
    class_method: str = ""
    class_maps: tuple[ImageMap, ...] = ()
    absent: dict[str, str] = Field({}, description="what was asked for and this network does not have, and why")


class MovedPart(Part):
    part: str
    relative: float = Field(description="norm of the difference over the norm of the first network's part")


class Moved(Part):
    parts: tuple[MovedPart, ...]
    left_out: tuple[str, ...] = Field((), description="tensors that only one has, or in another shape")


class Cka(Part):
    tokens: int
    of: str
    values: tuple[tuple[float, ...], ...] = Field(description="[layer of the first][layer of the second]")


class Inspection(Part):
    schema_version: Literal[1] = 1
    kind: Literal["inspection"] = "inspection"
    models: tuple[Looked, ...]
    images: tuple[str, ...] = ()
    moved: Moved | None = None
    cka: Cka | None = None
    notes: tuple[str, ...] = ()
    pictures: dict[str, tuple[str, ...]] = Field({}, description="picture -> its files, beside this one")
    env: Env


Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Inspected:
    """An inspection with the arrays that its pictures show.

    Attributes:
        arrays: for each network, by name, where it has them: filters (n, h, w, C); before, after (rows, columns, rows,
            columns); images (k, H, W, 3) uint8; rollout, attention, class (k, rows, columns); norms (images, rows,
            columns) of the last layer; features (k, rows, columns, 3).
    """

    numbers: Inspection
    arrays: tuple[Arrays, ...]


def save(folder: Path, inspected: Inspected) -> None:
    """Write inspect.json and arrays.npz, each whole or not at all. Raises DiskFull."""
    named = {f"{i}-{name}": array for i, own in enumerate(inspected.arrays, 1) for name, array in own.items()}
    with writing(folder / "arrays.npz") as file:
        np.savez_compressed(file, allow_pickle=False, **named)
    write_json(folder / "inspect.json", inspected.numbers.model_dump(mode="json", exclude_none=True))
