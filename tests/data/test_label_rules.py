"""Each task's labels from files drawn as their owner lays them out, against a table written from the owner's rules.

The table follows task_adaptation/data/*.py and the builders of TensorFlow Datasets that it pins.
"""

import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from tests.prepare.test_collections import contents, draw_kitti, opened
from vitft.catalog.tasks import VTAB
from vitft.data.labels import class_names
from vitft.images.decode import decode
from vitft.prepare.collections import opencv

Found = dict[str, dict[str, Any]]  # raw split -> key -> label, or (label, label) where two tasks share the images


def picture(n: int, kind: str = "JPEG", shape: tuple[int, ...] = (12, 12, 3)) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full(shape, n % 256, np.uint8)).save(out, kind)
    return out.getvalue()


def put(path: Path, data: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def cifar100(root: Path) -> Found:
    """A row is coarse label, fine label, pixels: the fine one counts."""
    for raw_split, rows in (("train", [(19, 3), (2, 99)]), ("test", [(0, 41)])):
        data = b"".join(bytes([coarse, fine]) + bytes(3072) for coarse, fine in rows)
        put(root / "cifar-100-binary" / f"{raw_split}.bin", data)
    return {"train": {"0": 3, "1": 99}, "test": {"0": 41}}


def dtd(root: Path) -> Found:
    """The folder's place in the alphabet; the first of ten folds."""
    keys = (
        "banded/banded_0001.jpg\nzigzagged/zigzagged_0002.jpg\n",
        "blotchy/blotchy_0003.jpg\n",
        "woven/woven_0004.jpg\n",
    )
    for fold, lines in ((1, keys), (2, keys[::-1])):
        for name, text in zip(("train", "val", "test"), lines, strict=True):
            put(root / "dtd" / "labels" / f"{name}{fold}.txt", text)
    for key in ("banded/banded_0001", "zigzagged/zigzagged_0002", "blotchy/blotchy_0003", "woven/woven_0004"):
        put(root / "dtd" / "images" / f"{key}.jpg", picture(1))
    # 47 names: banded, blotchy, ..., woven, wrinkled, zigzagged
    train = {"banded/banded_0001.jpg": 0, "zigzagged/zigzagged_0002.jpg": 46}
    return {"train": train, "validation": {"blotchy/blotchy_0003.jpg": 1}, "test": {"woven/woven_0004.jpg": 44}}


def oxford_flowers102(root: Path) -> Found:
    """Labels count from 1 in the file; trnid is train, valid validation, tstid test."""
    savemat(_under(root) / "imagelabels.mat", {"labels": np.array([[77, 1, 102, 5]], np.uint8)})
    savemat(root / "setid.mat", {"trnid": np.array([[2]]), "valid": np.array([[4]]), "tstid": np.array([[1, 3]])})
    for n in range(1, 5):
        put(root / "jpg" / f"image_{n:05d}.jpg", picture(n))
    test = {"image_00001.jpg": 76, "image_00003.jpg": 101}
    return {"train": {"image_00002.jpg": 0}, "validation": {"image_00004.jpg": 4}, "test": test}


def oxford_iiit_pet(root: Path) -> Found:
    """The second column, from 1: neither species (third) nor breed (fourth)."""
    put(
        root / "annotations" / "trainval.txt",
        "#Image CLASS-ID SPECIES BREED ID\nAbyssinian_100 1 1 1\nyorkshire_9 37\n",
    )
    put(root / "annotations" / "test.txt", "Bengal_2 6 1 3\n")
    for name in ("Abyssinian_100", "yorkshire_9", "Bengal_2"):
        put(root / "images" / f"{name}.jpg", picture(1))
    return {"train": {"Abyssinian_100.jpg": 0, "yorkshire_9.jpg": 36}, "test": {"Bengal_2.jpg": 5}}


def sun397(root: Path) -> Found:
    names = class_names("sun397")
    assert len(names) == 397 and list(names) == sorted(names) and names[0] == "/a/abbey"
    keys = {"tr": "/a/abbey/sun_a.jpg", "va": "/c/church/outdoor/sun_b.jpg", "te": "/y/youth_hostel/sun_c.jpg"}
    for short, key in keys.items():
        put(root / f"sun397_tfds_{short}.txt", key + "\n")
        put(root / f"SUN397{key}", picture(1))
    church = names.index("/c/church/outdoor")
    return {"train": {keys["tr"]: 0}, "validation": {keys["va"]: church}, "test": {keys["te"]: 396}}


def svhn_cropped(root: Path) -> Found:
    """10 stands for the digit 0."""
    for raw_split, digits in (("train", [10, 1, 9]), ("test", [10, 5])):
        pixels = np.zeros((32, 32, 3, len(digits)), np.uint8)
        savemat(_under(root) / f"{raw_split}_32x32.mat", {"X": pixels, "y": np.array(digits, np.uint8)[:, None]})
    return {"train": {"0": 0, "1": 1, "2": 9}, "test": {"0": 0, "1": 5}}


def patch_camelyon(root: Path) -> Found:
    for short, labels in (("train", [1, 0]), ("valid", [0, 1]), ("test", [1])):
        stem = f"camelyonpatch_level_2_split_{short}"
        with h5py.File(_under(root) / f"{stem}_x.h5", "w") as file:
            file["x"] = np.zeros((len(labels), 96, 96, 3), np.uint8)
        with h5py.File(root / f"{stem}_y.h5", "w") as file:
            file["y"] = np.array(labels, np.uint8).reshape(-1, 1, 1, 1)
    return {"train": {"train_0": 1, "train_1": 0}, "validation": {"valid_0": 0, "valid_1": 1}, "test": {"test_0": 1}}


def eurosat(root: Path) -> Found:
    for name in ("AnnualCrop", "Forest", "SeaLake"):
        put(root / "2750" / name / f"{name}_7.jpg", picture(1))
    # AnnualCrop Forest HerbaceousVegetation Highway Industrial Pasture PermanentCrop Residential River SeaLake
    return {"train": {"AnnualCrop_AnnualCrop_7.jpg": 0, "Forest_Forest_7.jpg": 1, "SeaLake_SeaLake_7.jpg": 9}}


def resisc45(root: Path) -> Found:
    for name in ("airplane", "airport", "wetland"):
        put(root / "NWPU-RESISC45" / name / f"{name}_001.jpg", picture(1))
    return {"train": {"airplane_airplane_001.jpg": 0, "airport_airport_001.jpg": 1, "wetland_wetland_001.jpg": 44}}


def diabetic_retinopathy_detection(root: Path) -> Found:
    """The competition's public test images are validation, its private ones test."""
    put(root / "trainLabels.csv", "image,level\n10_left,0\n10_right,4\n")
    put(root / "retinopathy_solution.csv", "image,level,Usage\n1_left,1,Private\n1_right,2,Public\n2_left,3,Private\n")
    for folder, names in (("train", ("10_left", "10_right")), ("test", ("1_left", "1_right", "2_left"))):
        for name in names:
            put(root / folder / f"{name}.jpeg", picture(60, shape=(40, 40, 3)))
    return {"train": {"10_left": 0, "10_right": 4}, "validation": {"1_right": 2}, "test": {"1_left": 1, "2_left": 3}}


def clevr(root: Path) -> Found:
    """(objects - 3, interval of the smallest third pixel coordinate), closed above."""
    scenes = {
        "train": [[8.0] * 3, [8.01, 30.0, 9.0, 9.0], [12.0, 9.5] + [50.0] * 8],
        "val": [[9.51, 10.0, 11.0, 12.0, 12.0]],
    }
    for split, distances in scenes.items():
        told = [{"objects": [{"pixel_coords": [0.5, 700.0, z]} for z in zs]} for zs in distances]
        put(root / "CLEVR_v1.0" / "scenes" / f"CLEVR_{split}_scenes.json", json.dumps({"scenes": told}))
        for i in range(len(distances)):
            put(root / "CLEVR_v1.0" / "images" / split / f"CLEVR_{split}_{i:06d}.png", picture(i, "PNG"))
    train = {"CLEVR_train_000000.png": (0, 0), "CLEVR_train_000001.png": (1, 1), "CLEVR_train_000002.png": (7, 3)}
    return {"train": train, "validation": {"CLEVR_val_000000.png": (2, 4)}}


def dsprites(root: Path) -> Found:
    """(x in 16 of 32, orientation in 16 of 40); columns are colour, shape, scale, orientation, x, y."""
    latents = np.array([[0, 1, 2, 39, 0, 31], [0, 2, 5, 2, 31, 0], [0, 0, 0, 3, 17, 4]])
    with h5py.File(_under(root) / "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.hdf5", "w") as file:
        file["latents/classes"] = latents
        file["imgs"] = np.zeros((3, 64, 64), np.uint8)
    return {"train": {"0": (0, 15), "1": (15, 0), "2": (8, 1)}}


def smallnorb(root: Path) -> Found:
    """(azimuth / 2, elevation); columns are instance, elevation, azimuth, lighting."""
    for stem, rows in (
        ("5x46789x9x18x6x2x96x96-training", [[4, 0, 34, 5], [6, 8, 2, 1]]),
        ("5x01235x9x18x6x2x96x96-testing", [[0, 3, 10, 2]]),
    ):
        n = len(rows)
        head = struct.pack("<iiiii", 0x1E3D4C54, 2, n, 4, 1)
        put(root / f"smallnorb-{stem}-info.mat", head + np.array(rows, "<i4").tobytes())
        pixels = np.stack([np.full((96, 96), 7), np.full((96, 96), 200)]).astype(np.uint8)  # left and right camera
        head = struct.pack("<iiiiii", 0x1E3D4C55, 4, n, 2, 96, 96)
        put(root / f"smallnorb-{stem}-dat.mat", head + pixels.tobytes() * n)
    return {"train": {"0": (17, 0), "1": (1, 8)}, "test": {"0": (5, 3)}}


def _under(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    return root


DRAWN: tuple[Callable[[Path], Found], ...] = (
    cifar100, dtd, oxford_flowers102, oxford_iiit_pet, sun397, svhn_cropped, patch_camelyon, eurosat, resisc45,
    diabetic_retinopathy_detection, clevr, dsprites, smallnorb,
)  # fmt: skip
TASKS = {"clevr": ("clevr_count", "clevr_distance"), "dsprites": ("dsprites_location", "dsprites_orientation")}
TASKS |= {"smallnorb": ("smallnorb_azimuth", "smallnorb_elevation")}


@pytest.mark.parametrize("made", DRAWN, ids=lambda made: made.__name__)
def test_labels_are_those_of_the_owners_rules(made, tmp_path):
    expected = made(tmp_path)
    raw = opened(made.__name__, tmp_path)
    named = {task.name for task in VTAB if task.collection == made.__name__}
    assert set(raw.labels) == named == set(TASKS.get(made.__name__, named))
    for raw_split, of_key in expected.items():
        assert set(raw.keys[raw_split]) == set(of_key)
        for i, key in enumerate(raw.keys[raw_split]):
            wanted = of_key[key] if isinstance(of_key[key], tuple) else (of_key[key],)
            got = [int(raw.labels[task][raw_split][i]) for task in TASKS.get(made.__name__, tuple(named))]
            assert got == list(wanted), (raw_split, key)
    assert set(raw.keys) == set(expected)


def test_only_the_left_camera_is_used_and_drawn_pixels_become_black_and_white(tmp_path):
    smallnorb(tmp_path / "norb")
    left = dict(opened("smallnorb", tmp_path / "norb").read("train", [0, 1]))
    assert {int(decode(data, "x").max()) for data in left.values()} == {7}
    dsprites(tmp_path / "dsprites")
    with h5py.File(next((tmp_path / "dsprites").iterdir()), "a") as file:
        file["imgs"][1, 10:20, 30:33] = 1
    image = decode(dict(opened("dsprites", tmp_path / "dsprites").read("train", [1]))[1], "x")
    assert image.shape == (64, 64, 3) and (image[10:20, 30:33] == 255).all() and int((image > 0).sum()) == 3 * 30


def test_caltech101_is_named_in_lower_case(tmp_path):
    names = class_names("caltech101")
    assert len(names) == 102 and list(names) == sorted(names) and "background_google" in names
    for folder in ("BACKGROUND_Google", "Faces"):
        for i in range(40):
            put(tmp_path / "101_ObjectCategories" / folder / f"image_{i:04d}.jpg", picture(i))
    raw = opened("caltech101", tmp_path)
    for raw_split, keys in raw.keys.items():
        for key, label in zip(keys, raw.labels["caltech101"][raw_split], strict=True):
            assert names[label] == key.split("/")[0].lower()


FIELDS = "0.00 0 -0.55 373.52 147.98 885.01 156.89 1.00 2.49 0.12 12.00 23.14 {z:.2f} 0.01"


@pytest.mark.parametrize(
    ("objects", "label"),
    [
        ([("Truck", 7.0), ("Van", 15.0), ("Car", 30.0)], 0),
        ([("Van", 20.0), ("Truck", 20.01)], 1),
        ([("Car", 20.01), ("Truck", 99.0)], 2),
        ([("Pedestrian", 2.0), ("Cyclist", 3.0), ("Tram", 4.0), ("Misc", 5.0), ("Person_sitting", 6.0)], 3),
        ([("Tram", 2.0), ("Truck", 60.0)], 2),
        ([("Car", -3.0)], 0),
        ([("Car", 8.0)], 0),
        ([], 3),
    ],
)
def test_kitti_counts_cars_vans_and_trucks(tmp_path, objects, label):
    draw_kitti(tmp_path, n=20)
    lines = [f"{kind} {FIELDS.format(z=z)}" for kind, z in objects] + ["DontCare " + FIELDS.format(z=-1000)]
    archive = tmp_path / "data_object_label_2.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for i in range(20):
            file.writestr(f"training/label_2/{i:06d}.txt", "\n".join(lines) + "\n")
    raw = opened("kitti", tmp_path)
    assert {int(y) for labels in raw.labels["kitti_distance"].values() for y in labels} == {label}
    assert sum(map(len, raw.keys.values())) == len({k for keys in raw.keys.values() for k in keys}) == 20
    assert contents(raw)


# --- processed images ------------------------------------------------------------------------------------------------


def eye(spot: bool) -> bytes:
    """Draw a dim eye of radius 100 in 400 x 500, with one glaring pixel in its middle row."""
    y, x = np.mgrid[:400, :500]
    image = ((y - 200) ** 2 + (x - 250) ** 2 < 100**2)[..., None] * np.array([22, 22, 22], np.uint8)
    if spot:
        image[200, 250] = 255
    out = io.BytesIO()
    Image.fromarray(image.astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def test_a_bright_spot_does_not_change_the_radius_of_an_eye():
    plain, spotted = (decode(opencv.retinopathy(eye(spot), "x"), "x").astype(int) for spot in (False, True))
    y, x = np.mgrid[:540, :540] - 270
    away = np.hypot(y, x) > 60
    assert plain.shape == spotted.shape == (540, 540, 3)
    assert np.abs(plain - spotted)[away].max() <= 6
    assert np.abs(plain - 128)[np.hypot(y, x) < 230].max() <= 6  # the eye's rim lies at 300, outside


def test_processed_images_have_their_references_jpeg_quality():
    def tables(data: bytes) -> dict[int, list[int]]:
        return {n: list(table) for n, table in Image.open(io.BytesIO(data)).quantization.items()}  # type: ignore[attr-defined]

    def of_quality(quality: int) -> dict[int, list[int]]:
        out = io.BytesIO()
        Image.new("RGB", (16, 16)).save(out, "JPEG", quality=quality)
        return tables(out.getvalue())

    assert tables(opencv.retinopathy(eye(False), "x")) == of_quality(72)
    assert tables(opencv.sun397(eye(False), "x")) == of_quality(95)  # OpenCV's own
    small = decode(opencv.sun397(picture(9, "PNG", (30, 20, 3)), "x"), "x")
    assert small.shape == (30, 20, 3) and set(small.ravel().tolist()) == {9}


@pytest.mark.parametrize("kind", ["PNG", "PCX"])  # the second OpenCV does not read, and Pillow does
def test_colours_keep_their_order_through_opencv(kind):
    out = io.BytesIO()
    Image.new("RGB", (40, 40), (200, 90, 30)).save(out, kind)
    assert np.abs(decode(opencv.sun397(out.getvalue(), "x"), "x").astype(int) - [200, 90, 30]).max() <= 3
