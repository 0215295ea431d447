"""DMLab: TFRecord shards of (JPEG frame, file name, label)."""

from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np

from vitft.data import tfrecord
from vitft.errors import DataDamaged
from vitft.prepare.archives import Tree
from vitft.prepare.collections.raw import Collection, File, Raw


def _open(tree: Tree) -> Raw:
    """The key is the file name of the frame; rows count through the shards in the order of their names."""
    shards = {s: tree.matching(rf"(^|/)dmlab-{s}\.tfrecord[^/]*$") for s in ("train", "validation", "test")}
    found: dict[str, list[tuple[str, int]]] = {}
    for raw_split, names in shards.items():
        if not names:
            raise tree.missing(f"dmlab-{raw_split}.tfrecord-00000-of-...")
    # One pass for all of them: they lie in one .tar.gz, which only reads forwards.
    for name, file in tree.files([name for names in shards.values() for name in names]):
        found[name] = [(key, label) for key, label, _ in _examples(file, tree.label(name), check=True)]
    rows = {raw_split: [row for name in names for row in found[name]] for raw_split, names in shards.items()}

    def read(raw_split: str, chosen: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        wanted = set(map(int, chosen))
        starts, total = {}, 0
        for name in shards[raw_split]:
            starts[name] = total
            total += len(found[name])
        needed = {name for name, start in starts.items() if wanted & set(range(start, start + len(found[name])))}
        for name, file in tree.files(needed):
            for row, (_, _, image) in enumerate(_examples(file, tree.label(name), check=False), starts[name]):
                if row in wanted:
                    yield row, image

    return Raw(
        {raw_split: [key for key, _ in pairs] for raw_split, pairs in rows.items()},
        {
            "dmlab": {
                raw_split: np.asarray([label for _, label in pairs], np.int64) for raw_split, pairs in rows.items()
            }
        },
        read,
    )


def _examples(file: BinaryIO, label: str, check: bool) -> Iterator[tuple[str, int, bytes]]:
    """Yield (key, label, JPEG); checksums of the bytes are compared in the first pass only."""
    for data in tfrecord.records(file, label, check):
        example = tfrecord.example(data, label)
        try:
            key, number, image = example["filename"][0], example["label"][0], example["image"][0]
        except (KeyError, IndexError):
            raise DataDamaged(
                f"'{label}' holds an example with {sorted(example)}.",
                "filename, label and image.",
                "Fetch dmlab.tar.gz again.",
            ) from None
        if not isinstance(key, bytes) or not isinstance(image, bytes):
            raise DataDamaged(f"'{label}' holds a file name or image that is no text or bytes.")
        yield key.decode(), int(number), image


DMLAB = Collection(
    "dmlab",
    "DMLab (DeepMind Lab frames)",
    "https://github.com/google-research/task_adaptation",
    "see the owner's page",
    (
        File(
            "https://storage.googleapis.com/dmlab-vtab/dmlab.tar.gz",
            3_017_022_789,
            "638b18fa69a5d61bbc310cd0b87ac603a39f41de0fdb07b6e77de274a24480a4",
        ),
    ),
    _open,
)
