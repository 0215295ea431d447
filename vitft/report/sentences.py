"""Sentences that several tables print below their numbers."""

from vitft.catalog.shots import first_in
from vitft.data import labels
from vitft.results.parts import Provenance
from vitft.results.schema import Comparison
from vitft.words import of_seed

OVER_SEEDS = ("95 %: of the mean, Student's t over the seeds.", "95 %: Wilson; over several seeds Student's t.")
"""The note on intervals over seeds: where all are, and where some are of one seed."""


def of_data(p: Provenance) -> list[str]:
    """Return footnotes on the data: too few training images, test images seen in training, absent classes.

    Results of earlier versions say nothing of these.
    """
    lines = []
    if n := first_in(p.train_split):
        lines.append(f"no VTAB-1k: trained on the first {n:,} of its 1,000 examples")
    if p.train_official is not None:
        lines.append(f"partial: trained on {p.train_whole:,} of {p.train_official:,} official examples")
    if p.overlap is not None and p.overlap.n:
        where = ", ".join(f"{n:,} in {split}" for split, n in p.overlap.splits.items())
        lines.append(f"{p.overlap.n:,} images of {p.split} were trained or selected on, too, byte for byte: {where}")
    absent = (labels.absent_note(p.classes_without_test), labels.untrained_note(p.classes_without_train))
    return [*lines, *(note for note in absent if note)]


def paired_line(pair: Comparison, a: str, b: str) -> str:
    """Return a line on how two models, called `a` and `b`, compare on the same images."""
    low, high = pair.ci95
    return (
        f"{a} - {b}{of_seed(pair.seed)}: {100 * pair.difference:+.1f} points "
        f"[{100 * low:+.1f}, {100 * high:+.1f}], paired on {pair.n:,} images "
        f"({pair.a_only} and {pair.b_only} that only one of them has right), McNemar p = {pair.p:.2g}"
    )
