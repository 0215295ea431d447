"""Images that stand in two splits, byte for byte."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from vitft.data.split import Split
from vitft.images import fingerprints
from vitft.images.fingerprints import Fingerprints
from vitft.progress import Hooks
from vitft.results.parts import Overlap


def overlap(
    held_out: Split, trained_on: Mapping[str, Fingerprints], tuned_on: Mapping[str, Fingerprints], hooks: Hooks
) -> Overlap:
    """Compare the images of a split with those that were trained or selected on, by the digests of their bytes."""
    left = fingerprints.fingerprints(held_out, hooks)
    found = {}
    for name in dict.fromkeys((*trained_on, *tuned_on)):
        seen = np.concatenate([of[name] for of in (trained_on, tuned_on) if name in of])
        twice = among(left, seen)
        if twice.any():
            found[name] = int(twice.sum())
        left = left[~twice]
    return Overlap(n=sum(found.values()), splits=found)


def among(images: Fingerprints, others: Fingerprints) -> NDArray[np.bool_]:
    """Return for each digest whether it is among the others, with a few numbers of memory an image."""
    first, second = (np.ascontiguousarray(of[:, :8]).view(np.uint64)[:, 0] for of in (images, others))
    alike = np.isin(first, second)
    candidates = {row.tobytes() for row in others[np.isin(second, first[alike])]}
    alike[alike] = [row.tobytes() in candidates for row in images[alike]]
    return alike
