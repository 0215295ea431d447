"""Owners' files that are not whole, or are another thing: each is refused by its name, and no label comes of it."""

import io
import json
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from tests.data import test_label_rules as owners
from tests.data.test_label_rules import picture, put
from tests.layouts import refused
from tests.prepare.test_collections import draw_kitti, opened
from tests.prepare.test_edges import example
from vitft.catalog import tasks
from vitft.errors import DataDamaged, DataMissing, UsageError, VitftError
from vitft.images.decode import decode
from vitft.prepare import collections
from vitft.prepare.collections import opencv

NORB = "smallnorb-5x46789x9x18x6x2x96x96-training-"


def emptied(*patterns: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        found = [file for pattern in patterns for file in root.rglob(pattern)]
        assert found
        for file in found:
            file.unlink()

    return change


def matlab(name: str, **variables: object) -> Callable[[Path], None]:
    return lambda root: savemat(root / name, variables)


def text(name: str, words: str) -> Callable[[Path], None]:
    return lambda root: put(next(root.rglob(name)), words)


def data(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda root: put(root / name, content)


def hdf5(pattern: str, name: str, array: np.ndarray | None) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        with h5py.File(next(root.rglob(pattern)), "a") as file:
            del file[name]
            if array is not None:
                file[name] = array

    return change


HEAD = struct.pack("<iiiii", 0x1E3D4C54, 2, 2, 4, 1)
SVHN = {"y": np.array([[10], [1], [9]], np.uint8)}


@pytest.mark.parametrize(
    ("owner", "change", "kind", "words"),
    [
        (owners.cifar100, emptied("test.bin"), DataMissing, ("test.bin",)),
        (owners.cifar100, data("cifar-100-binary/train.bin", b""), DataDamaged, ("train.bin", "0 bytes", "3,074")),
        (owners.cifar100, data("cifar-100-binary/train.bin", bytes(3073)), DataDamaged, ("3,073 bytes",)),
        (owners.eurosat, emptied("*.jpg"), DataMissing, ("AnnualCrop/*.jpg",)),
        (owners.resisc45, emptied("*.jpg"), DataMissing, ("airplane/*.jpg",)),
        (owners.dtd, emptied("val1.txt"), DataMissing, ("labels/val1.txt",)),
        (owners.oxford_flowers102, emptied("setid.mat"), DataMissing, ("setid.mat",)),
        (owners.oxford_flowers102, matlab("setid.mat", trnid=[[2, 5]], valid=[[4]], tstid=[[1]]), DataDamaged,
         ("names image 5; imagelabels.mat has 4 labels",)),
        (owners.oxford_flowers102, matlab("setid.mat", trnid=[[2]], valid=[[3, 0]], tstid=[[1]]), DataDamaged,
         ("names image 0",)),
        (owners.oxford_flowers102, matlab("setid.mat", trnid=[[2]], tstid=[[1]]), DataDamaged, ("'valid'",)),
        (owners.sun397, emptied("sun_*.jpg"), DataMissing, ("SUN397.tar.gz",)),
        (owners.svhn_cropped, matlab("train_32x32.mat", X=np.zeros((32, 32, 3, 2), np.uint8), **SVHN), DataDamaged,
         ("X (32, 32, 3, 2) of uint8, 3 labels",)),
        (owners.svhn_cropped, matlab("train_32x32.mat", X=np.zeros((32, 32, 3, 3)), **SVHN), DataDamaged,
         ("of float64, 3 labels",)),
        (owners.svhn_cropped, data("test_32x32.mat", b"no MATLAB"), DataDamaged, ("test_32x32.mat",)),
        (owners.patch_camelyon, hdf5("*train_x.h5", "x", np.zeros((3, 96, 96, 3), np.uint8)), DataDamaged,
         ("(3, 96, 96, 3) of uint8", "Legal: (2, 96, 96, 3) of uint8")),
        (owners.patch_camelyon, hdf5("*train_x.h5", "x", np.zeros((2, 96, 96, 3), np.int64)), DataDamaged,
         ("of int64",)),
        (owners.patch_camelyon, hdf5("*valid_y.h5", "y", None), DataDamaged, ("no data set 'y'",)),
        (owners.dsprites, hdf5("*.hdf5", "imgs", np.zeros((2, 64, 64), np.uint8)), DataDamaged, ("(2, 64, 64)",)),
        (owners.dsprites, hdf5("*.hdf5", "latents/classes", np.zeros((3, 5), int)), DataDamaged, ("(3, 5)", "(N, 6)")),
        (owners.dsprites, hdf5("*.hdf5", "latents/classes", np.zeros(6, int)), DataDamaged, ("(6,)", "(N, 6)")),
        (owners.diabetic_retinopathy_detection, emptied("*.jpeg"), DataMissing, ("train.zip.001",)),
        (owners.diabetic_retinopathy_detection, data("trainLabels.csv", b"image,level\n10_left,x\n"), DataDamaged,
         ("trainLabels.csv", "a level that is no number")),
        (owners.clevr, text("CLEVR_val_scenes.json", '{"scenes": []}'), DataDamaged, ("0 scenes", "1 images")),
        (owners.clevr, text("CLEVR_val_scenes.json", json.dumps(
            {"scenes": [{"objects": [], "image_filename": "CLEVR_val_000001.png"}]})), DataDamaged,
         ("'CLEVR_val_000001.png'", "the images have 'CLEVR_val_000000.png'")),
        (owners.smallnorb, data(f"{NORB}info.mat", HEAD + bytes(28)), DataDamaged, ("(2, 4) in 28 bytes",)),
        (owners.smallnorb, data(f"{NORB}info.mat", struct.pack("<iiiii", 0x1E3D4C54, 2, 4, 2, 1) + bytes(32)),
         DataDamaged, ("(4, 2) in 32 bytes",)),
        (owners.smallnorb, data(f"{NORB}info.mat", struct.pack("<iiiii", 0x1E3D4C54, 1, 8, 1, 1) + bytes(32)),
         DataDamaged, ("(8,) in 32 bytes",)),
        (owners.smallnorb, data(f"{NORB}info.mat", struct.pack("<i", 7) + HEAD[4:] + bytes(32)), DataDamaged,
         ("another header",)),
        (owners.smallnorb, data(f"{NORB}info.mat", struct.pack("<ii", 0x1E3D4C54, 0)), DataDamaged,
         ("another header",)),
        (owners.smallnorb, data(f"{NORB}info.mat", struct.pack("<ii", 0x1E3D4C54, 9)), DataDamaged,
         ("another header",)),
        (owners.smallnorb, data(f"{NORB}info.mat", b"1234"), DataDamaged, ("another header",)),
        (owners.smallnorb, data(f"{NORB}dat.mat", struct.pack("<iiiiii", 0x1E3D4C55, 4, 3, 2, 96, 96)), DataDamaged,
         ("(3, 2, 96, 96) of uint8", "(2, 2, 96, 96) of uint8")),
    ],
)  # fmt: skip
def test_what_is_not_the_owners_file_is_refused(
    owner: Callable[[Path], object], change: Callable[[Path], None], kind: type[VitftError], words: tuple[str, ...],
    tmp_path: Path,
) -> None:  # fmt: skip
    owner(tmp_path)
    change(tmp_path)

    def read() -> None:
        raw = opened(owner.__name__, tmp_path)
        for raw_split, keys in raw.keys.items():
            list(raw.read(raw_split, range(len(keys))))

    refused(read, *words, kind=kind)


def varint(number: int, payload: bytes) -> bytes:
    return bytes([number * 8 + 2, len(payload)]) + payload


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"label": b""}, ("['filename', 'image']",)),
        ({"filename": varint(3, varint(1, bytes([5])))}, ("no text or bytes",)),
        ({"image": varint(3, varint(1, bytes([5])))}, ("no text or bytes",)),
        ({"image": varint(1, b"")}, ("['filename', 'image', 'label']",)),
    ],
)
def test_an_example_of_dmlab_that_lacks_a_part(
    others: dict[str, bytes], words: tuple[str, ...], tmp_path: Path
) -> None:
    for raw_split in ("train", "validation", "test"):
        frame = example("k", 3, b"x", **(others if raw_split == "validation" else {}))
        put(tmp_path / f"dmlab-{raw_split}.tfrecord-00000-of-00001", frame)
    refused(lambda: opened("dmlab", tmp_path), "dmlab-validation.tfrecord-00000-of-00001", *words, kind=DataDamaged)
    (tmp_path / "dmlab-test.tfrecord-00000-of-00001").unlink()
    refused(lambda: opened("dmlab", tmp_path), "dmlab-test.tfrecord", kind=DataMissing)


def repacked(archive: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    with zipfile.ZipFile(archive) as file:
        entries = {name: change(name, file.read(name)) for name in file.namelist()}
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in entries.items():
            if content is not None:
                file.writestr(name, content)


@pytest.mark.parametrize(
    ("archive", "name", "content", "kind", "words"),
    [
        ("data_object_label_2.zip", "training/label_2/", None, DataMissing, ("000000.txt (data_object_label_2.zip)",)),
        ("data_object_image_2.zip", "training/image_2/", None, DataMissing, ("000000.png (data_object_image_2.zip)",)),
        ("data_object_label_2.zip", "training/label_2/000007.txt", None, DataMissing, ("label of image 000007",)),
        ("data_object_label_2.zip", "training/label_2/000007.txt", b"Car 1 2 3\n", DataDamaged,
         ("'Car 1 2 3'", "15 fields")),
        ("data_object_label_2.zip", "training/label_2/000007.txt", b"Van " + b"x " * 14, DataDamaged, ("'Van x",)),
        ("devkit_object.zip", "mapping/train_rand.txt", b"1,2,99", DataDamaged, ("do not fit together",)),
        ("devkit_object.zip", "mapping/train_rand.txt", b"1,two", DataDamaged, ("do not fit together",)),
        ("devkit_object.zip", "mapping/train_mapping.txt", b"one\n" * 20, DataDamaged, ("do not fit together",)),
    ],
)  # fmt: skip
def test_what_kitti_lacks_is_named(
    archive: str, name: str, content: bytes | None, kind: type[VitftError], words: tuple[str, ...], tmp_path: Path
) -> None:
    draw_kitti(tmp_path, n=20)
    repacked(tmp_path / archive, lambda entry, old: content if entry.startswith(name) else old)
    refused(lambda: opened("kitti", tmp_path), *words, kind=kind)


def test_caltech101_without_images_or_with_a_short_class(tmp_path: Path) -> None:
    put(tmp_path / "101_ObjectCategories" / "Faces" / "list.txt", "x")
    refused(lambda: opened("caltech101", tmp_path), "accordion/*.jpg", kind=DataMissing)
    for folder, n in (("Faces", 30), ("ant", 29)):
        for i in range(n):
            put(tmp_path / "101_ObjectCategories" / folder / f"image_{i:04d}.jpg", picture(i))
    refused(lambda: opened("caltech101", tmp_path), "'ant'", "29 images", "at least 30", kind=DataDamaged)


def test_opencv_is_asked_for_by_its_extra_and_reads_sixteen_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = np.arange(40 * 30, dtype=np.uint16).reshape(40, 30) * 54
    out = io.BytesIO()
    Image.fromarray(wide).save(out, "PNG")
    found = opencv._decode(out.getvalue(), "x")
    assert found.dtype == np.uint8 and np.array_equal(found[..., 0], wide // 256)
    assert decode(opencv.sun397(out.getvalue(), "x"), "x").shape == (40, 30, 3)
    monkeypatch.setitem(sys.modules, "cv2", None)
    refused(opencv.library, "OpenCV is not installed", "vitft[opencv]", kind=DataMissing)


def test_each_task_of_vtab_has_its_collection_and_what_has_none_is_told() -> None:
    assert [c.name for c in collections.COLLECTIONS] == [*(c.name for c in collections.VTAB), "cifar10"]
    assert len(collections.VTAB) == 16 and {c.name for c in collections.VTAB} == {t.collection for t in tasks.VTAB}
    for task in (*tasks.VTAB, tasks.get("cifar10")):
        assert collections.of_task(task.name).name == task.collection
    refused(lambda: collections.of_task("imagenet"), "'imagenet' cannot be prepared", "cifar10", kind=UsageError)
