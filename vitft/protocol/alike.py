"""Processes that share a unit must start from the same weights and see the same images: else their sum is no number."""

import numpy as np

from vitft.data.split import Split
from vitft.errors import CheckpointError, DataError
from vitft.group import Group
from vitft.images.batches import shares
from vitft.images.fingerprints import fingerprints
from vitft.progress import Hooks
from vitft.results.checkpoint import CheckpointInfo


def hold_weights(info: CheckpointInfo, group: Group) -> None:
    """Raise CheckpointError in all processes where one has opened another file."""
    if other := group.unlike(info.sha256):
        raise CheckpointError(
            f"Another checkpoint lies at '{info.path or info.name}' for {other} than for process 0.",
            "the same file on all machines.",
            "Give a path on a disk that they share, or copy the file anew.",
        )


def hold_names(split: Split, group: Group) -> None:
    """Raise DataError in all processes where one has other names or labels to be tested on."""
    _refuse(group.unlike((split.digest, split.class_names)), split)


def hold_images(split: Split, size: int, group: Group, hooks: Hooks) -> None:
    """Raise DataError in all processes where one has answered for other images than those of process 0.

    Args:
        size: images in a batch, by which the processes have shared them.
    """
    if group.size == 1:
        return
    own = np.concatenate([np.zeros(0, dtype=np.int64), *shares(len(split), size, group)])
    with group.together():  # process 0 keeps digests of all images anyway
        seen = fingerprints(split if group.first else split.select(own), hooks)
    whole = group.from_first(seen)
    of_each = group.all((own, seen[own] if group.first else seen))
    unlike = [rank for rank, (rows, digests) in enumerate(of_each) if not np.array_equal(whole[rows], digests)]
    _refuse(group.who(unlike[0]) if unlike else "", split)


def _refuse(other: str, split: Split) -> None:
    if other:
        raise DataError(
            f"Other images of '{split.name}' are seen by {other} than by process 0.",
            "the same data on all machines.",
            "Compare what --data-dir holds there.",
        )
