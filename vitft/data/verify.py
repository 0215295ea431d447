"""Seeing that a data set is what it says: counts, digests, keys, labels, and that every image decodes."""

import hashlib
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from vitft import machine
from vitft.catalog import tasks
from vitft.data import official
from vitft.data import splits as official_splits
from vitft.data.decode import decode
from vitft.data.download import Progress, silent
from vitft.data.sources.prepared import Prepared
from vitft.data.split import Source, Split
from vitft.errors import DataError

_SHOWN = 10  # faults of one split that are named; the others are counted
_JOINED = {"train800val200": ("train800", "val200")}


@dataclass(frozen=True)
class Checked:
    """What one split holds.

    Attributes:
        split: its name.
        n: examples.
        official: the counts that the official split may have; empty where there is none.
        completeness, reference, why, source: as its provenance says.
        digest: of keys and labels in their order, see `Split.digest`.
        faults: one line each; empty when all is well.
        also_in: training split -> how many images of this evaluation split stand in it too, byte for byte. No fault of
            the data (some official ones have such), but what a number on it may owe to memory.
    """

    split: str
    n: int
    official: tuple[int, ...]
    completeness: str
    reference: bool
    why: str
    source: str
    digest: str
    faults: tuple[str, ...]
    also_in: dict[str, int] = field(default_factory=dict)


def verify(source: Source, progress: Progress = silent) -> list[Checked]:
    """Check every split of a source; a split joined from two others is checked as those."""
    names = [name for name in source.splits if not set(_JOINED.get(name, ("",))) <= set(source.splits)]
    images: dict[str, list[bytes]] = {name: [] for name in names}
    checked = [_check(source, name, progress, images[name]) for name in names]
    training = {name: set(images[name]) for name in names if name.startswith("train")}
    return [c if c.split in training else replace(c, also_in=_shared(images[c.split], training)) for c in checked]


def _shared(images: list[bytes], training: dict[str, set[bytes]]) -> dict[str, int]:
    counts = {name: sum(image in seen for image in images) for name, seen in training.items()}
    return {name: n for name, n in counts.items() if n}


def report(task: str, checked: list[Checked]) -> dict[str, Any]:
    """Return what `vitft data verify --format json` prints."""
    return {"task": task, "ok": not any(c.faults for c in checked), "splits": [asdict(c) for c in checked]}


def _check(source: Source, name: str, progress: Progress, images: list[bytes]) -> Checked:
    counts = official.counts(source.task, name)
    try:
        split = source.open(name)
    except DataError as error:
        return Checked(name, 0, counts, "", False, "", "", "", (f"{name}: {error.lines[0]}",))
    faults = [*_file(source, name), *_labels(split), *_membership(split), *_images(split, progress, images)]
    found = split.provenance
    if found.completeness == "full" and counts and len(split) not in counts:
        faults.insert(0, f"{name} claims to be full with {len(split):,} images; the official split has {counts[0]:,}")
    if len(faults) > _SHOWN:
        faults = [*faults[:_SHOWN], f"{name}: {len(faults) - _SHOWN:,} more"]
    return Checked(
        name,
        len(split),
        counts,
        found.completeness,
        found.reference,
        found.why,
        found.source,
        split.digest,
        tuple(faults),
    )


def _file(source: Source, name: str) -> list[str]:
    """Compare the file of a prepared split with the checksum in its manifest."""
    if not isinstance(source, Prepared):
        return []
    stated = source.manifest["splits"][name]
    digest = machine.sha256(source.path / stated["file"])
    return [f"{stated['file']} does not have the sha256 of its manifest"] if digest != stated["sha256"] else []


def _labels(split: Split) -> list[str]:
    wrong = [i for i, label in enumerate(split.labels.tolist()) if not 0 <= label < split.num_classes]
    return [
        f"{split.name}/{split.keys[i]} has the label {split.labels[i]}, outside 0 to {split.num_classes - 1}"
        for i in wrong
    ]


def _membership(split: Split) -> list[str]:
    """Compare the keys with the official ones where the source claims those and they are known without data."""
    if len(set(split.keys)) != len(split.keys):
        return [f"{split.name} holds a key twice"]
    if not (split.provenance.reference and "prepared" in split.provenance.source) or not tasks.canonical(split.task):
        return []
    try:
        expected = official_splits.split_keys(split.task, split.name)
    except DataError:  # known from the data only
        return []
    differing = [i for i, (a, b) in enumerate(zip(split.keys, expected, strict=False)) if a != b]
    if not differing and len(expected) == len(split):
        return []
    at = differing[0] if differing else min(len(expected), len(split))
    return [f"{split.name} differs from the official split from position {at} on"]


def _images(split: Split, progress: Progress, seen: list[bytes]) -> list[str]:
    """Decode every image; leave the digest of each in `seen`."""
    faults = []
    for i, key in enumerate(split.keys):
        try:
            encoded = split.read(i)
            seen.append(hashlib.blake2b(encoded, digest_size=16).digest())
            decode(encoded, f"{split.name}/{key}")
        except DataError as error:
            faults.append(error.lines[0])
        progress(f"decode {split.task} {split.name}", i + 1, len(split))
    return faults
