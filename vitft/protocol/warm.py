"""What a process keeps between the units that it runs one after the other."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vitft.data.split import Opened, Source
from vitft.errors import CheckpointError
from vitft.group import ALONE, Group
from vitft.models import build as models
from vitft.models.checkpoint import Checkpoint
from vitft.protocol.jobs import model_sha256, source_of
from vitft.protocol.units import Job
from vitft.settings import CHECKPOINT_KEYS, Settings
from vitft.training.heads import TrainedHead


@dataclass(frozen=True)
class Trained:
    """A head that was trained with others like it, and has not had its own unit yet.

    Attributes:
        seconds: its share of the training.
        computed: images of which the features were computed, for all of them.
        micro_batch: of those.
    """

    head: TrainedHead
    seconds: float
    computed: int
    micro_batch: int


@dataclass(frozen=True)
class Features:
    """Features (n, D) of the images that several units are evaluated on, `rows` of each batch, and what they are of."""

    key: tuple[Any, ...]
    values: NDArray[np.float32]
    rows: list[NDArray[np.int64]]


@dataclass
class Warm:
    """What a process keeps between units: the network of the last one, to be reset in place, its checkpoint and data.

    Attributes:
        opened: the checkpoint, for the units that build anew; `opened_as`: what it was opened for.
        source: of the data of the last unit's job.
        group: the processes that share each unit.
        alone: units come one after the other here, and not each in a process of its own.
        heads: folder of a unit -> its head; features: of the last evaluation (see `frozen`).
    """

    key: tuple[Any, ...] = ()
    built: models.Built | None = None
    initial: dict[str, torch.Tensor] = field(default_factory=dict)
    opened_as: tuple[Any, ...] = ()
    opened: Checkpoint | None = None
    source: Source | None = None
    place: tuple[str, ...] | None = None
    group: Group = ALONE
    alone: bool = True
    heads: dict[Path, Trained] = field(default_factory=dict)
    features: Features | None = None

    def open(self, job: Job) -> Source:
        """Return the source of a job's data; where it is that of the last job, its splits are open already."""
        place = (job.task, job.data_dir, job.shots)
        if self.source is None or (self.place is not None and self.place != place):
            self.source = source_of(job)
        if self.place != place:
            self.source = self.source if isinstance(self.source, Opened) else Opened(self.source)
            self.place = place
        return self.source

    def checkpoint(self, job: Job, settings: Settings, opened: Checkpoint | None = None) -> Checkpoint:
        """Return a job's checkpoint, opened; that of the last job where it is the same one, said to be the same.

        Args:
            opened: it, where it is open already.

        Raises:
            CheckpointError: the file is another one than when the command was typed, or on its machine.
            See also `models.opening`.
        """
        declared = tuple(getattr(settings, k) for k in CHECKPOINT_KEYS)
        which = (job.model, job.model_sha256, job.from_scratch, *declared)
        if self.opened is None or self.opened_as != which:
            self.opened = None  # before the next one takes room
            _hold_file(job)
            self.opened = opened or models.opening(job.model, settings, from_scratch=job.from_scratch)
            self.opened_as = which
        return self.opened


def _hold_file(job: Job) -> None:
    if job.model_sha256 and (here := model_sha256(job.model)) != job.model_sha256:
        raise CheckpointError(
            f"'{job.model}' is another file here than where, or when, the command was typed "
            f"({here[:12] or 'none'}, not {job.model_sha256[:12]}).",
            "the same file on all machines, from beginning to end.",
            "Give a path on a disk that they share, or copy the file anew.",
        )
