"""Images that stand in two splits, byte for byte."""

from collections.abc import Mapping

from vitft.data.split import Split
from vitft.images import fingerprints
from vitft.progress import Hooks
from vitft.results.parts import Overlap


def overlap(
    held_out: Split, trained_on: Mapping[str, set[bytes]], tuned_on: Mapping[str, set[bytes]], hooks: Hooks
) -> Overlap:
    """Compare the images of a split with those that were trained or selected on, by the digests of their bytes."""
    left = list(fingerprints.fingerprints(held_out, hooks))
    found = {}
    for name in dict.fromkeys((*trained_on, *tuned_on)):
        seen = trained_on.get(name, set()) | tuned_on.get(name, set())
        rest = [image for image in left if image not in seen]
        if len(rest) < len(left):
            found[name] = len(left) - len(rest)
        left = rest
    return Overlap(n=sum(found.values()), splits=found)
