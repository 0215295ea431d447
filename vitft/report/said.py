"""What a result's provenance says of its data, in the words of a footnote."""

from collections.abc import Mapping
from typing import Any

from vitft.data.subsets import absent_note as no_test_image

READ = ("split", "train_whole", "train_official", "classes_without_test")
"""The fields of a provenance that are read here, besides "overlap"."""


def of_data(provenance: Mapping[str, Any]) -> list[str]:
    """Return a line for too few training images, for test images that were seen before, and for absent classes.

    Results of earlier versions say nothing of these.
    """
    lines = []
    official = provenance.get("train_official")
    if official is not None:
        lines.append(f"partial: trained on {provenance['train_whole']:,} of {official:,} official examples")
    overlap = provenance.get("overlap") or {}
    if overlap.get("n"):
        where = ", ".join(f"{n:,} in {split}" for split, n in overlap["splits"].items())
        split = provenance.get("split", "test")
        lines.append(f"{overlap['n']:,} images of {split} were trained or selected on, too, byte for byte: {where}")
    names = provenance.get("classes_without_test") or ()
    return [*lines, *[no_test_image(names)] * bool(names)]
