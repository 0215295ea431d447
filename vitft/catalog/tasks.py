"""The tasks vitft knows by name: the 19 of VTAB, their groups and split rules, and a few more."""

from dataclasses import dataclass
from typing import Literal

Group = Literal["natural", "specialized", "structured"]


@dataclass(frozen=True)
class Slice:
    """Positions [start, stop) of one raw split in its hash order (see `data.splits`).

    Attributes:
        salt: the raw split, whose name is also the salt of the order: "train", "validation" or "test".
    """

    salt: str
    start: int
    stop: int


@dataclass(frozen=True)
class Task:
    """One task: a collection, a label rule, its splits.

    Attributes:
        name: canonical name, as on the command line.
        title: as the ViT paper's Table 9 prints it.
        group: VTAB group; None outside VTAB.
        num_classes: K.
        collection: raw collection it is built from (both clevr tasks share "clevr").
        sizes: examples in each raw split.
        splits: "train", "val", "test", "train800", "val200", "train800val200" -> slices, joined in order.
        crop, flip: whether a random crop or flip keeps the label true (BiT appendix F; scenic's VTAB configuration).
        aliases: folder names of the community's VTAB-1k archive, TFDS and task_adaptation names.
        non_reference: why the official membership cannot be rebuilt; empty where it can.
    """

    name: str
    title: str
    group: Group | None
    num_classes: int
    collection: str
    sizes: dict[str, int]
    splits: dict[str, tuple[Slice, ...]]
    crop: bool = True
    flip: bool = True
    aliases: tuple[str, ...] = ()
    non_reference: str = ""
