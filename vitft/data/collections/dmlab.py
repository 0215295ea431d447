"""DMLab: TFRecord shards of (JPEG frame, file name, label)."""

from collections.abc import Iterator, Sequence

import numpy as np

from vitft.data import tfrecord
from vitft.data.archives import Tree
from vitft.data.collections.raw import Collection, File, Raw
from vitft.errors import DataDamaged


def _open(tree: Tree) -> Raw:
    """The key is the file name of the frame; the shards are read in the order of their names."""
    shards = {s: tree.matching(rf"(^|/)dmlab-{s}\.tfrecord[^/]*$") for s in ("train", "validation", "test")}
    keys: dict[str, list[str]] = {}
    labels: dict[str, list[int]] = {}
    for salt, names in shards.items():
        if not names:
            raise tree.missing(f"dmlab-{salt}.tfrecord-00000-of-...")
        keys[salt], labels[salt] = [], []
        for _, found in _examples(tree, names, check=True):
            keys[salt].append(found[0])
            labels[salt].append(found[1])

    def read(salt: str, rows: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        wanted = set(map(int, rows))
        last = max(wanted, default=-1)
        for row, (_, _, image) in _examples(tree, shards[salt], check=False):
            if row in wanted:
                yield row, image
            if row >= last:
                return

    arrays = {salt: np.asarray(values, np.int64) for salt, values in labels.items()}
    return Raw(keys, {"dmlab": arrays}, read)


def _examples(tree: Tree, names: Sequence[str], check: bool) -> Iterator[tuple[int, tuple[str, int, bytes]]]:
    """Yield (row, (key, label, JPEG)); checksums of the bytes are compared in the first pass only."""
    row = 0
    for name in names:
        label = tree.label(name)
        with tree.open(name) as file:
            for data in tfrecord.records(file, label, check):
                found = tfrecord.example(data, label)
                try:
                    key, number, image = found["filename"][0], found["label"][0], found["image"][0]
                except (KeyError, IndexError):
                    raise DataDamaged(
                        f"'{label}' holds an example with {sorted(found)}.",
                        "Legal: filename, label and image.",
                        "Fetch dmlab.tar.gz again.",
                    ) from None
                if not isinstance(key, bytes) or not isinstance(image, bytes):
                    raise DataDamaged(f"'{label}' holds a file name or image that is no text or bytes.")
                yield row, (key.decode(), int(number), image)
                row += 1


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
