"""Seeing that a data set is what it says: counts, digests, keys, labels, and that every image decodes.

Images of an evaluation split that stand in a training split, too, byte for byte, are always counted; images of test are
also looked for in val, on which choices are made. They are a fault

- wherever one key stands for the same image in both, more than once: files were put into two splits;
- in a data set of the user's own, as who made its splits can make them apart;
- in a task with official splits where they are several, and more than one image in twenty. Below that the owner's
  collection may hold them itself: of dSprites' images one in twenty has a twin (the first and the last of 40
  orientations are the same angle), of which four fifths fall into train.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import NamedTuple

from vitft import machine
from vitft.catalog import tasks
from vitft.data import official, official_splits
from vitft.data.sources.prepared import Prepared
from vitft.data.sources.vtab_folder import VtabFolder
from vitft.data.split import Source, Split
from vitft.errors import DataError
from vitft.images import fingerprints
from vitft.images.decode import decode
from vitft.progress import Progress, silent

_SHOWN = 10  # faults of one split that are named; the others are counted
_JOINED = {"train800val200": ("train800", "val200")}
_BESIDE = {"val": ("train",), "val200": ("train800",)}  # what is trained on while it is selected on
_TWINS = 0.05  # of an official evaluation split that may stand in train


class _Image(NamedTuple):
    key: str
    label: int
    digest: bytes


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
        also_in: split that is trained or selected on -> how many images of this evaluation split stand in it, too,
            byte for byte: what a number on it may owe to memory.
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
    """Check every split of a source; a split that is only the other two joined is checked as those."""
    seen: dict[str, list[_Image]] = {name: [] for name in source.splits}
    checked = [_check(source, name, progress, seen[name]) for name in source.splits if not _is_joined(source, name)]
    checked = [_with_twins(c, seen, source.task) for c in checked]
    return [_with_joined(c, seen) if c.split in _JOINED else c for c in checked]


def _is_joined(source: Source, name: str) -> bool:
    """Tell whether a split has no list of its own, but is made of two others."""
    parts = set(_JOINED.get(name, ("",)))
    return parts <= set(source.splits) and not (isinstance(source, VtabFolder) and source.lists(name))


def _with_twins(checked: Checked, seen: Mapping[str, list[_Image]], task: str) -> Checked:
    """Compare an evaluation split with all that is trained or selected on."""
    name = checked.split
    counts, faults = {}, []
    for other in (o for o in seen if o != name and (name == "test" or o in _BESIDE.get(name, ()))):
        known = {image.digest: image.key for image in seen[other]}
        twins = [image for image in seen[name] if image.digest in known]
        if not twins:
            continue
        counts[other] = len(twins)
        there = {(image.digest, image.key) for image in seen[other]}
        same = sum((image.digest, image.key) in there for image in twins)
        own = not tasks.canonical(task)
        if same > 1 or own or len(twins) > max(1, _TWINS * len(seen[name])):
            what = f"{len(twins):,} of the {len(seen[name]):,} images of {name} also stand in {other}"
            faults.append(f"{what} (first '{twins[0].key}', there '{known[twins[0].digest]}')")
    return replace(checked, also_in=counts, faults=(*checked.faults, *faults))


def _with_joined(checked: Checked, seen: Mapping[str, list[_Image]]) -> Checked:
    """Hold a list of train800val200 against train800 and val200: the same examples with the same labels.

    They are the same by their keys, or, where each list has its own folder of images, by their bytes.
    """
    parts = _JOINED[checked.split]
    if not all(part in seen and seen[part] for part in parts):
        return checked
    joined, apart = seen[checked.split], [image for part in parts for image in seen[part]]
    by_key = [Counter((image.key, image.label) for image in images) for images in (joined, apart)]
    by_bytes = [Counter((image.digest, image.label) for image in images) for images in (joined, apart)]
    if by_key[0] == by_key[1] or by_bytes[0] == by_bytes[1]:
        return checked
    less, more = ((a - b).total() for a, b in (by_bytes[::-1], by_bytes))
    both = " and ".join(parts)
    fault = f"{checked.split} ({len(joined):,} examples) is not {both} ({len(apart):,}): "
    fault += f"{less:,} with their labels are only in these, {more:,} only in it"
    return replace(checked, faults=(*checked.faults, fault))


def report(task: str, checked: list[Checked]) -> dict[str, object]:
    """Return the JSON of `vitft data verify`."""
    return {"task": task, "ok": not any(c.faults for c in checked), "splits": [asdict(c) for c in checked]}


def _check(source: Source, name: str, progress: Progress, images: list[_Image]) -> Checked:
    counts = official.counts(source.task, name)
    try:
        split = source.open(name)
    except DataError as error:
        return Checked(name, 0, counts, "", False, "", "", "", (f"{name}: {error.lines[0]}",))
    faults = [*_file(source, name), *_labels(split), *_membership(split), *_images(split, progress, images)]
    stamp = split.provenance
    if stamp.completeness == "full" and counts and len(split) not in counts:
        faults.insert(0, f"{name} claims to be full with {len(split):,} images; the official split has {counts[0]:,}")
    if len(faults) > _SHOWN:
        faults = [*faults[:_SHOWN], f"{name}: {len(faults) - _SHOWN:,} more"]
    return Checked(
        name,
        len(split),
        counts,
        stamp.completeness,
        stamp.reference,
        stamp.why,
        stamp.source,
        split.digest,
        tuple(faults),
    )


def _file(source: Source, name: str) -> list[str]:
    """Compare the file of a prepared split with the checksum in its manifest."""
    if not isinstance(source, Prepared):
        return []
    stated = source.manifest.splits[name]
    digest = machine.sha256(source.path / stated.file)
    return [f"{stated.file} does not have the sha256 of its manifest"] if digest != stated.sha256 else []


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
    if official.SUN397_LEFT_OUT not in split.keys:
        expected = [key for key in expected if key != official.SUN397_LEFT_OUT]
    differing = [i for i, (a, b) in enumerate(zip(split.keys, expected, strict=False)) if a != b]
    if not differing and len(expected) == len(split):
        return []
    at = differing[0] if differing else min(len(expected), len(split))
    return [f"{split.name} differs from the official split from position {at} on"]


def _images(split: Split, progress: Progress, seen: list[_Image]) -> list[str]:
    """Decode every image; leave what can be compared of each in `seen`."""
    faults = []
    for i, key in enumerate(split.keys):
        try:
            encoded = split.read(i)
            seen.append(_Image(str(key), int(split.labels[i]), fingerprints.fingerprint(encoded)))
            decode(encoded, f"{split.name}/{key}")
        except DataError as error:
            faults.append(error.lines[0])
        progress(f"decode {split.task} {split.name}", i + 1, len(split))
    return faults
