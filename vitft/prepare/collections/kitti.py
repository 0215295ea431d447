"""KITTI object detection: the class is how far the closest vehicle is; the splits keep each video in one of them."""

from collections import defaultdict
from collections.abc import Sequence
from posixpath import basename

import numpy as np

from vitft.data import label_rules
from vitft.errors import DataDamaged, DataMissing
from vitft.prepare.archives import Tree
from vitft.prepare.collections.raw import Collection, File, Listed, Raw, from_files

_SEED = 123
_HELD_OUT = 10  # per cent of the videos for test, and as many for validation


def _open(tree: Tree) -> Raw:
    images = {basename(path): path for path in reversed(tree.matching(r"(^|/)training/image_2/\d{6}\.png$"))}
    texts = {path[-10:-4]: path for path in reversed(tree.matching(r"(^|/)training/label_2/(label_)?\d{6}\.txt$"))}
    if not texts:
        raise tree.missing("training/label_2/000000.txt (data_object_label_2.zip)")
    if not images:
        raise tree.missing("training/image_2/000000.png (data_object_image_2.zip)")
    labels: dict[str, int] = {}
    paths = {path: number for number, path in texts.items()}
    for path, data in tree.stream(paths.keys()):
        labels[paths[path]] = int(label_rules.kitti_distance(nearest_vehicle(data.decode(), tree.label(path))))
    listed: dict[str, Sequence[Listed]] = {}
    for raw_split, numbers in splits(
        tree.read(tree.need("mapping/train_rand.txt")).decode(),
        tree.read(tree.need("mapping/train_mapping.txt")).decode(),
    ).items():
        items = []
        for number in numbers:
            if f"{number:06d}" not in labels:
                raise DataMissing(
                    f"The label of image {number:06d} is missing.",
                    "training/label_2/ of data_object_label_2.zip, whole.",
                    "Fetch or unpack it again.",
                )
            key = f"{number:06d}.png"
            items.append(Listed(key, images.get(key), (labels[f"{number:06d}"],)))
        listed[raw_split] = items
    return from_files(tree, ("kitti_distance",), listed)


def nearest_vehicle(text: str, label: str) -> float:
    """Return the smallest z (metres) of a Car, Van or Truck in one label file; label_rules.NO_VEHICLE without any."""
    nearest = label_rules.NO_VEHICLE
    for line in text.splitlines():
        words = line.split()
        if words and words[0] in label_rules.VEHICLES:
            try:
                nearest = min(nearest, float(words[13]))
            except (IndexError, ValueError):
                raise DataDamaged(
                    f"'{label}' has the line '{line[:80]}'.", "15 fields a line.", "Fetch it again."
                ) from None
    return nearest


def splits(order: str, mapping: str) -> dict[str, list[int]]:
    """Return raw split -> image numbers, as kitti of TensorFlow Datasets (3.1.0 to 3.3.0) draws them.

    Args:
        order: mapping/train_rand.txt; its n-th number is the line (from 1) of image n in `mapping`.
        mapping: mapping/train_mapping.txt; the second word of a line is the video.
    """
    lines = mapping.splitlines()
    videos: dict[str, list[int]] = defaultdict(list)
    try:
        for image, line in enumerate(order.split(",")):
            videos[lines[int(line) - 1].split()[1]].append(image)
    except (ValueError, IndexError):
        raise DataDamaged(
            "'mapping/train_rand.txt' and 'mapping/train_mapping.txt' do not fit together.",
            "both from one devkit_object.zip.",
            "Fetch devkit_object.zip again.",
        ) from None
    # The legacy generator and its order of draws decide which videos are held out.
    random = np.random.RandomState(_SEED)
    n = max(1, _HELD_OUT * len(videos) // 100)
    test = set(random.choice(sorted(videos), n, replace=False).tolist())
    validation = set(random.choice(sorted(set(videos) - test), n, replace=False).tolist())
    found: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for video, images in videos.items():
        found["test" if video in test else "validation" if video in validation else "train"] += images
    return found


_S3 = "https://s3.eu-central-1.amazonaws.com/avg-kitti/"
KITTI = Collection(
    "kitti",
    "KITTI object detection",
    "https://www.cvlibs.net/datasets/kitti/",
    "CC BY-NC-SA 3.0",
    (
        File(
            _S3 + "data_object_image_2.zip",
            12_569_945_557,
            "351c5a2aa0cd9238b50174a3a62b846bc5855da256b82a196431d60ff8d43617",
        ),
        File(
            _S3 + "data_object_label_2.zip",
            5_601_213,
            "4efc76220d867e1c31bb980bbf8cbc02599f02a9cb4350effa98dbb04aaed880",
        ),
        File(_S3 + "devkit_object.zip", 63_794, "ce0b76b69c0c5f89690a0d65b7302bbbdb962a0c7e8aba6efc7050d1b04b4cf1"),
    ),
    _open,
)
