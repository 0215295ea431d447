"""The protocol and the data fields of a result, beside the provenance of the split it was tested on."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitft.catalog.shots import first_of
from vitft.data import labels, official
from vitft.data.portions import JOINED
from vitft.data.reader import DIGEST
from vitft.data.split import Split
from vitft.images import fingerprints
from vitft.images.fingerprints import Fingerprints
from vitft.images.overlap import overlap
from vitft.progress import Hooks
from vitft.protocol.units import Unit
from vitft.recipes import digest
from vitft.results.checkpoint import side
from vitft.results.files import write_atomic
from vitft.results.folders import SEEN, slug, task_folder
from vitft.results.parts import Completeness, Overlap, UnitProtocol
from vitft.settings import Settings


@dataclass(frozen=True)
class DataStamp:
    """The fields of `provenance` that vitft finds out itself.

    Attributes:
        split, split_digest, images_digest: what was evaluated.
        split_completeness: of that split alone.
        train_split, train_n, train_digest, train_images_digest: what was trained on, after `--per-class` and `--limit`.
        train_whole: examples of the training split before those.
        train_official: examples it should have, where it has other than these; else None.
        overlap: see there.
        classes_without_test: classes that have no image in the whole evaluated split, `--limit` aside.
        classes_without_train: classes that have evaluated images, and no training image.
        completeness: "partial" where the evaluated or the training split is.
    """

    split: str
    split_digest: str
    images_digest: str
    split_completeness: Completeness
    train_split: str
    train_n: int
    train_digest: str
    train_images_digest: str
    train_whole: int
    train_official: int | None
    overlap: Overlap
    classes_without_test: tuple[str, ...]
    classes_without_train: tuple[str, ...]
    completeness: Completeness


def stamp(
    train: Split,
    whole: Split,
    held_out: Split,
    lacking: tuple[str, ...],
    tuned_on: Mapping[str, Fingerprints],
    limited: bool,
    hooks: Hooks,
) -> DataStamp:
    """Return the data fields of a unit's result, after its training is over.

    Args:
        train: what was trained on; `whole`: the training split it was taken from.
        held_out: what was evaluated; `lacking`: classes without an image in it.
        tuned_on: split -> digests of the images a choice was made on, see `seen_before`.
        limited: `--limit` was given.
    """
    counts = official.joined(whole.task, whole.name.split(JOINED))
    short = whole.provenance.completeness != "full" and bool(counts) and len(whole) not in counts
    tested = held_out.provenance.completeness
    partial = limited or (short and whole.provenance.completeness == "partial")
    return DataStamp(
        split=held_out.name,
        split_digest=held_out.digest,
        images_digest=fingerprints.encoded_digest(held_out, hooks),
        split_completeness=tested,
        train_split=train.name,
        train_n=len(train),
        train_digest=train.digest,
        train_images_digest=fingerprints.encoded_digest(train, hooks),
        train_whole=len(whole),
        train_official=counts[0] if short else None,
        overlap=overlap(held_out, {train.name: fingerprints.fingerprints(train, hooks)}, tuned_on, hooks),
        classes_without_test=lacking,
        classes_without_train=labels.untrained([train], held_out),
        completeness="partial" if partial else tested,
    )


def remember(folder: Path, splits: tuple[Split, ...], hooks: Hooks) -> None:
    """Store digests of the images that a tune unit selected on, for the final units, which may not open that split."""
    for split in splits:
        file = task_folder(folder, split.task) / f"{SEEN}{slug(split.name)}"
        if not file.exists():
            write_atomic(file, np.unique(fingerprints.fingerprints(split, hooks), axis=0).tobytes())


def seen_before(folder: Path, task: str) -> dict[str, Fingerprints]:
    """Return split -> digests of the images that a task's tune units have seen; empty where nothing was tuned."""
    found = {}
    for file in sorted(task_folder(folder, task).glob(f"{SEEN}*")):
        data = np.frombuffer(file.read_bytes(), dtype=np.uint8)
        found[file.name.removeprefix(SEEN)] = data[: len(data) // DIGEST * DIGEST].reshape(-1, DIGEST)
    return found


def classes(train: Split, held_out: Split) -> tuple[Split, tuple[str, ...]]:
    """Return the evaluated split with the classes of the training split, and those it has no image of.

    Raises:
        DataError: it has a class that was not trained on.
    """
    same = labels.by_name(held_out, train.class_names, f"'{train.name}'")
    return same, labels.absent(same)


def protocol(unit: Unit, settings: Settings, gelu: str) -> UnitProtocol:
    """Return the protocol of a unit; numbers are averaged only where its id is equal."""
    job = unit.job
    first = first_of(job.shots)
    words: dict[str, object] = {
        "recipe": job.recipe,
        "recipe_digest": job.recipe_digest,
        "resize": settings.resize,
        "interpolation": settings.interpolation,
        "antialias": settings.antialias,
        "normalise": settings.normalise,
        "gelu": gelu,
        "selection": _selection(unit),
        "from_scratch": job.from_scratch,
        "train": {"per_class": job.per_class, "limit": job.limit} | ({"first": first} if first else {}),
    } | ({"chosen_by_pixels": job.seen.model_dump()} if job.seen else {})
    # The digest is over the words that version 1 had: runs begun with it go on to the same protocol.
    identity = digest({**words, "resolution": side(settings.size)})
    return UnitProtocol.model_validate({"id": identity, "resolution": settings.size, **words})


def _selection(unit: Unit) -> str:
    job = unit.job
    if not job.sweep:
        return "none"
    if job.on == "test":
        return f"{unit.scheme.test}, best of {len(job.grid)} settings by top1 on the test split itself"
    beyond = "" if job.per_class is None else ", labels beyond --per-class"
    over = f" over seeds {', '.join(map(str, job.seeds))}" if job.grid and len(job.seeds) > 1 else ""
    return f"{unit.scheme.tune_val}, best top1{over}, ties to the smaller lr{beyond}"
