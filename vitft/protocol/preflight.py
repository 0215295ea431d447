"""A look at the names and labels of every split of a plan before its first step. No torch, no pixel.

What is wrong with a test list should not come out after hours of training. Test is not opened for it in the sense of
the guard: `guard.names_only` takes its images away, so that nothing but names, counts and labels can be seen, and
nothing that is seen here goes anywhere but into an error or a note.
"""

import numpy as np

from vitft.data import labels, portions
from vitft.data.portions import JOINED
from vitft.data.split import Source, Split
from vitft.errors import DataDamaged, DataError, DataMissing
from vitft.evaluation import real
from vitft.protocol.guard import names_only
from vitft.protocol.units import Job, tune_units


def check_splits(job: Job, source: Source) -> tuple[str, ...]:
    """Check every split that the units of a job will open; return notes for the user, a line each.

    Raises:
        DataMissing: a split, or an image that a list names, is not there.
        DataDamaged: labels outside the classes, or a split without images.
        DataError: one class, a class that is not trained on, or too few images for `--per-class`.
    """
    scheme = job.scheme
    if tune_units(job) and not scheme.tune_val:
        raise DataMissing(
            f"'{job.name}' has the splits {', '.join(source.splits)}: none to choose {', '.join(job.sweep)} on.",
            "train800 and val200 as well, or a recipe that chooses nothing.",
            f"Fix what it chooses ({' '.join(_fixing(key) for key in job.sweep)}), or take another recipe.",
        )
    splits = {part: names_only(source.open(part)) for part in job.splits()}
    for split in splits.values():
        _sound(split)
    train = splits[scheme.final_train.split(JOINED)[0]]
    for part in scheme.final_train.split(JOINED):
        _trainable(splits[part], job)
    lines = []
    for name, split in splits.items():
        same = labels.by_name(split, train.class_names, f"'{train.name}'")
        if name == scheme.test:
            # Shifted labels of ImageNet's validation images must not come out after the training.
            real.of_validation(same.keys, same.labels, same.num_classes)
            parts = [splits[part] for part in scheme.final_train.split(JOINED)]
            lines.append(labels.absent_note(labels.absent(same)))
            lines.append(labels.untrained_note(labels.untrained(parts, same)))
    return tuple(line for line in lines if line)


def _fixing(key: str) -> str:
    return "--lr LR" if key == "lr" else f"--set {key}=VALUE"


def _sound(split: Split) -> None:
    """Raise DataDamaged for a split whose labels cannot be those of its classes."""
    if not len(split):
        raise DataDamaged(f"'{split.name}' of '{split.task}' holds no image.", "one image or more.")
    wrong = np.flatnonzero((split.labels < 0) | (split.labels >= split.num_classes))
    if len(wrong):
        first = int(wrong[0])
        more = f" ({len(wrong):,} images have such)" if len(wrong) > 1 else ""
        raise DataDamaged(
            f"'{split.keys[first]}' in '{split.name}' of '{split.task}' has the label {split.labels[first]}{more}.",
            f"0 to {split.num_classes - 1}, as there are {split.num_classes} classes.",
        )


def _trainable(split: Split, job: Job) -> None:
    present = np.unique(split.labels)
    if len(present) < 2:
        only = split.class_names[int(present[0])]
        raise DataError(
            f"All {len(split):,} images in '{split.name}' of '{job.name}' are of one class, '{only}'.",
            "two classes or more; with one every answer would be right.",
            "Look at its labels, or its folders: train/<class>/*, test/<class>/*.",
        )
    if job.per_class is not None:
        portions.per_class(split, job.per_class, 0)
