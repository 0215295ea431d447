"""What several processes share must be the same in all of them: their images, told by a group that is played here."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.training.test_training import drawn
from vitft.data.split import Split
from vitft.errors import CheckpointError, DataError
from vitft.group import Group
from vitft.progress import Hooks
from vitft.protocol import alike


class Played(Group):
    """Process `rank` of `size`; what the others answer is computed by running them in turn."""

    def __init__(self, rank: int, size: int, others: Callable[[int], Any]) -> None:
        self.rank, self.size, self._others = rank, size, others
        self.said: list[Any] = []

    def from_first(self, value: Any) -> Any:
        self.said.append(value)
        return value if self.rank == 0 else self._others(0)[0]

    def all(self, value: Any) -> list[Any]:
        self.said.append(value)
        return [value if rank == self.rank else self._others(rank)[1] for rank in range(self.size)]


def held(splits: Sequence[Split], batch: int) -> None:
    """Play all processes, each with its own split; raise what the first of them raises."""

    def said(rank: int) -> list[Any]:
        alone = Played(rank, len(splits), lambda _: [np.zeros(0), (np.zeros(0, dtype=np.int64), np.zeros(0))])
        with suppress(DataError, IndexError):  # the others' answers are not known yet
            alike.hold_images(splits[rank], batch, alone, Hooks())
        return alone.said

    group = Played(0, len(splits), said)
    alike.hold_images(splits[0], batch, group, Hooks())


@pytest.mark.parametrize(("processes", "batch"), [(2, 3), (3, 4), (2, 24), (4, 24)])
def test_images_of_a_process_are_those_that_it_answered_for(processes: int, batch: int) -> None:
    """Process k has every batch from its k-th on; another image there is told, elsewhere nobody has seen it."""
    whole = drawn()
    held([whole] * processes, batch)
    n = len(whole)
    read: Callable[[int], bytes] = whole.read
    for wrong in range(0, n, 5):

        def moved(i: int, wrong: int = wrong) -> bytes:
            return read((i + 1) % n if i == wrong else i)

        other = Split(
            whole.task, whole.name, whole.class_names, list(whole.keys), whole.labels, moved, whole.provenance
        )
        owner = wrong // batch % processes
        for rank in range(1, processes):
            splits = [other if at == rank else whole for at in range(processes)]
            if rank != owner:
                held(splits, batch)
                continue
            with pytest.raises(DataError, match=f"seen by process {rank} than by process 0"):
                held(splits, batch)


def test_a_process_alone_is_asked_nothing() -> None:
    class Silent(Group):
        def all(self, value: Any) -> list[Any]:
            raise AssertionError("nobody is there to answer")

    alike.hold_images(drawn(), 3, Silent(), Hooks())


def test_names_and_weights_are_held_by_what_they_are() -> None:
    split = drawn()

    class Two(Group):
        size = 2

        def all(self, value: Any) -> list[Any]:
            return [value, theirs or value]

    theirs: Any = None
    info: Any = SimpleNamespace(sha256="ab", path="", name="m")
    alike.hold_names(split, Two())
    alike.hold_weights(info, Two())
    theirs = (split.digest, ("x", *split.class_names[1:]))
    with pytest.raises(DataError, match="process 1"):
        alike.hold_names(split, Two())
    theirs = "cd"
    with pytest.raises(CheckpointError, match="'m' for process 1"):
        alike.hold_weights(info, Two())
