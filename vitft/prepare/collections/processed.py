"""The two collections whose images are processed: SUN397 and Diabetic Retinopathy (see opencv.py)."""

import csv
import io
from collections.abc import Mapping, Sequence

from vitft.data import labels as label_names
from vitft.data import lists, official
from vitft.errors import DataDamaged
from vitft.prepare.archives import Tree
from vitft.prepare.collections import opencv
from vitft.prepare.collections.raw import Collection, File, Listed, Raw, from_files

_SUN_LISTS = {"train": "sun397_tfds_tr.txt", "validation": "sun397_tfds_va.txt", "test": "sun397_tfds_te.txt"}


def _open_sun(tree: Tree) -> Raw:
    """Three lists name the images; those beside the archive win over the package's. One image is left out by name."""
    opencv.library()
    listing = lists.sun397()
    index = label_names.index("sun397")
    names: Mapping[str, Sequence[str]] = {
        raw_split: tree.read(found).decode("utf-8-sig").split() if (found := tree.find(file)) else listing[raw_split]
        for raw_split, file in _SUN_LISTS.items()
    }
    files: dict[str, str] = {}
    for path in tree.matching(r"(^|/)[a-z]/[^/]+/([^/]+/)?sun_[^/]+\.jpg$"):
        folders = path.split("/")
        # "/c/church/outdoor/sun_x.jpg" hangs below SUN397/ or below nothing: from the one-letter folder on.
        start = next(i for i in range(len(folders) - 2, -1, -1) if len(folders[i]) == 1)
        files.setdefault("/" + "/".join(folders[start:]), path)
    if not files:
        raise tree.missing("SUN397.tar.gz")
    listed = {
        raw_split: [
            Listed(key, files.get(key), (index.get(key.rpartition("/")[0], -1),))
            for key in keys
            if key != official.SUN397_LEFT_OUT
        ]
        for raw_split, keys in names.items()
    }
    left_out = any(official.SUN397_LEFT_OUT in keys for keys in names.values())
    return from_files(tree, ("sun397",), listed, opencv.sun397, (official.SUN397_NOTE,) if left_out else ())


def _open_retinopathy(tree: Tree) -> Raw:
    """Validation is the competition's public test, test its private one."""
    opencv.library()
    train = _table(tree, tree.need("trainLabels.csv"), ("image", "level"))
    solution = _table(tree, tree.need("retinopathy_solution.csv"), ("image", "level", "Usage"))
    tables = {
        "train": [(row["image"], row["level"], "train") for row in train],
        "validation": [(row["image"], row["level"], "test") for row in solution if row["Usage"] == "Public"],
        "test": [(row["image"], row["level"], "test") for row in solution if row["Usage"] == "Private"],
    }
    paths = tree.matching(r"(^|/)(train|test)/[^/]+\.jpeg$")
    files = {"/".join(path.split("/")[-2:]): path for path in reversed(paths)}
    if not files:
        raise tree.missing("train/*.jpeg (train.zip.001 to train.zip.005) and test/*.jpeg (test.zip.001 to .007)")
    listed = {
        raw_split: [Listed(name, files.get(f"{folder}/{name}.jpeg"), (int(level),)) for name, level, folder in rows]
        for raw_split, rows in tables.items()
    }
    return from_files(tree, ("diabetic_retinopathy",), listed, opencv.retinopathy)


def _table(tree: Tree, name: str, columns: tuple[str, ...]) -> list[dict[str, str]]:
    rows = list(csv.DictReader(io.StringIO(tree.read(name).decode("utf-8-sig"))))
    if not rows or any(not row.get(column) for row in rows for column in columns):
        raise DataDamaged(
            f"'{tree.label(name)}' lacks a value of {', '.join(columns)}.",
            f"a table with the columns {', '.join(columns)}.",
            "Fetch it again.",
        )
    if not all(row["level"].isdigit() for row in rows):
        raise DataDamaged(f"'{tree.label(name)}' has a level that is no number.", "0 to 4.", "Fetch it again.")
    return rows


SUN397 = Collection(
    "sun397",
    "SUN397",
    "https://vision.princeton.edu/projects/2010/SUN/",
    "see the owner's page",
    (
        File(
            "https://vision.princeton.edu/projects/2010/SUN/SUN397.tar.gz",
            39_077_296_924,
            "f404130965a7ad77bed5ececc71e720ab50f3cc1e1bb257257610d38f3b928ec",
            "the owner's address is known to fail; the same SUN397.tar.gz from anywhere is checked by its checksum",
        ),
    ),
    _open_sun,
    processing="at most 120,000 pixels, JPEG (OpenCV)",
    opencv=True,
)
RETINOPATHY = Collection(
    "diabetic_retinopathy_detection",
    "Diabetic Retinopathy Detection (btgraham-300)",
    "https://www.kaggle.com/c/diabetic-retinopathy-detection",
    "the competition's rules",
    (
        File(
            "https://storage.googleapis.com/kaggle-forum-message-attachments/90528/2877/retinopathy_solution.csv",
            1_181_257,
            "a6af3d66804e81887da89b9261bcfb7da4f5bacedb070f1b5db83fa879ab60c9",
        ),
        File(
            "",
            manual="accept the competition's rules at Kaggle (diabetic-retinopathy-detection), then fetch "
            "train.zip.001 to .005, test.zip.001 to .007 and trainLabels.csv.zip",
            name="trainLabels.csv",
        ),
    ),
    _open_retinopathy,
    ("train.zip", "test.zip", "trainLabels.csv.zip"),
    "eyeball scaled to radius 300, local average subtracted, cropped, JPEG quality 72 (OpenCV)",
    True,
)
