"""Sources of data: one shared class that every source passes, then digits and the two kinds of folder."""

import io
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.layouts import (  # noqa: F401
    alone,
    arrow_folder,
    cifar_folder,
    hub_snapshot,
    image,
    image_folders,
    imagenet_classes,
    imagenet_flat,
    imagenet_tar,
    number_of,
    parquet_folder,
    refused,
    vtab_folders,
    write,
)
from vitft.catalog import tasks
from vitft.data.find import at, find
from vitft.data.sources.cifar_archive import CifarArchive
from vitft.data.sources.digits import Digits
from vitft.data.sources.drawn import Drawn
from vitft.data.sources.image_folder import ImageFolder
from vitft.data.sources.imagenet import ImageNet
from vitft.data.sources.parquet import Parquet
from vitft.data.sources.vtab_folder import VtabFolder
from vitft.data.split import Source
from vitft.errors import DataDamaged, DataMissing


def hub_source(root: Path) -> Source:
    hub_snapshot(root)
    os.environ["HF_HOME"] = str(root)  # restored by the fixture above
    return find("hf:org/toy")


def metadata_folders(root: Path) -> Path:
    for split in ("train", "test"):
        for i in range(4):
            write(root / split / f"{i}.png", image(i))
        write(root / split / "metadata.csv", "file_name,label\n" + "".join(f"{i}.png,{i % 2}\n" for i in range(4)))
    return root


def listed_folder(root: Path) -> Path:
    for split in ("train", "test"):
        for i in range(4):
            write(root / f"images/{split}_{i}.png", image(i))
        write(root / f"{split}.txt", "".join(f"images/{split}_{i}.png {i % 2}\n" for i in range(4)))
    return root


SOURCES: dict[str, Callable[[Path], Source]] = {
    "digits": lambda root: Digits(),
    "drawn": lambda root: Drawn("mini-count"),
    "image folder": lambda root: ImageFolder(image_folders(root), "pets-at-home"),
    "metadata": lambda root: at(metadata_folders(root)),
    "lists": lambda root: at(listed_folder(root)),
    "vtab folder": lambda root: VtabFolder(vtab_folders(root), "caltech101"),
    "vtab folder without the joined list": lambda root: VtabFolder(vtab_folders(root, joined=False), "caltech101"),
    "parquet": lambda root: Parquet(parquet_folder(root), "toy"),
    "arrow": lambda root: Parquet(arrow_folder(root), "toy"),
    "cifar binary": lambda root: CifarArchive(cifar_folder(root), "cifar10"),
    "cifar python": lambda root: CifarArchive(cifar_folder(root, "cifar100", python=True), "cifar100"),
    "cifar tar.gz": lambda root: CifarArchive(cifar_folder(root, python=True, packed=True), "cifar10"),
    "imagenet tar": lambda root: ImageNet(imagenet_tar(root)),
    "imagenet list": lambda root: ImageNet(imagenet_flat(root)),
    "imagenet classes": lambda root: ImageNet(imagenet_classes(root)),
    "hub": hub_source,
}


@pytest.mark.parametrize("name", SOURCES)
class TestEverySource:
    """What the rest of vitft relies on, whatever the source."""

    def test_contract(self, name: str, tmp_path: Path) -> None:
        source = SOURCES[name](tmp_path / "set")
        assert source.splits
        for split_name in source.splits:
            split = source.open(split_name)
            assert (split.task, split.name) == (source.task, split_name)
            assert len(split) == len(split.keys) == len(split.labels) == len(set(split.keys)) > 0
            assert split.labels.dtype == np.int64
            assert 0 <= split.labels.min() <= split.labels.max() < split.num_classes == len(set(split.class_names))
            assert split.provenance.source
            assert split.provenance.reference or split.provenance.why, "a number that is no reference says why"
            assert "\n" not in "".join(split.keys)
            assert source.open(split_name).digest == split.digest
            # Read from several threads, out of order, each gives the same bytes as alone; and they are images.
            rows = np.random.default_rng(0).permutation(len(split))[:64].tolist()
            single = [split.read(i) for i in rows]
            with ThreadPoolExecutor(4) as pool:
                assert list(pool.map(split.read, rows)) == single
            for data in single[:4]:
                Image.open(io.BytesIO(data)).load()

    def test_a_split_that_it_does_not_have_is_named_with_those_it_has(self, name: str, tmp_path: Path) -> None:
        source = SOURCES[name](tmp_path / "set")
        with pytest.raises(DataMissing) as caught:
            source.open("minival")
        assert caught.value.exit_code == 3
        assert "'minival" in str(caught.value)
        assert len(caught.value.lines) <= 3


class TestDigits:
    def test_halves_are_stratified_and_apart(self) -> None:
        train, test = Digits().open("train"), Digits().open("test")
        assert (len(train), len(test)) == (901, 896)
        assert not set(train.keys) & set(test.keys)
        difference = np.bincount(train.labels) - np.bincount(test.labels)
        assert set(difference.tolist()) <= {0, 1}

    def test_the_membership_never_changes(self) -> None:
        assert Digits().open("train").digest == "d7ca7089ecb43408dd701745cc0cd658263a2f5722590f1b8cdfcdb9677695dc"

    def test_pixels_are_scikit_learns(self) -> None:
        from sklearn.datasets import load_digits

        raw = load_digits()
        split = Digits().open("test")
        for i in (0, 500, 895):
            pixels = np.asarray(Image.open(io.BytesIO(split.read(i))))
            row = int(split.keys[i])
            assert np.abs(pixels * (16 / 255) - raw.images[row]).max() < 0.04
            assert split.labels[i] == raw.target[row]


class TestImageFolder:
    def test_nested_folders_upper_case_and_odd_names(self, tmp_path: Path) -> None:
        root = tmp_path / "my photographs"
        write(root / "train/cat/deep er/Ünï (1).JPG", image(1, "JPEG"))
        write(root / "train/cat/b.PNG", image(2))
        write(root / "train/cat/._b.PNG", b"resource fork")
        write(root / "train/cat/Thumbs.db", b"x")
        write(root / "train/dog/a.webp", image(3, "WEBP"))
        write(root / "validation/cat/a.png", image(4))
        write(root / "validation/dog/a.png", image(5))
        (root / "train/cat/loop").symlink_to(root / "train/cat", target_is_directory=True)
        (root / "train/cat/up").symlink_to(root / "train", target_is_directory=True)  # dogs are no cats
        source = at(root)
        assert (source.splits, source.task) == (("train", "val"), "my photographs")
        split = source.open("train")
        assert list(split.keys) == ["cat/b.PNG", "cat/deep er/Ünï (1).JPG", "dog/a.webp"]
        assert [number_of(split.read(i)) for i in (0, 2)] == [2, 3]
        assert split.exif

    def test_an_accent_in_two_spellings_is_one_class(self, tmp_path: Path) -> None:
        write(tmp_path / "train/cafe\u0301/a.png", image(1))
        write(tmp_path / "test/caf\u00e9/a.png", image(1))
        assert ImageFolder(tmp_path, "x").open("test").class_names == ("caf\u00e9",)

    def test_a_file_name_that_is_no_utf8_has_a_printable_key(self, tmp_path: Path) -> None:
        folder = os.fsencode(image_folders(tmp_path) / "train" / "cat")
        try:
            with open(folder + b"/\xff.png", "wb") as file:  # noqa: PTH123  pathlib takes no bytes
                file.write(image(9))
        except OSError:
            pytest.skip("this file system takes UTF-8 names only")
        split = ImageFolder(tmp_path, "x").open("train")
        assert "cat/\\xff.png" in split.keys
        assert split.digest
        assert number_of(split.read(list(split.keys).index("cat/\\xff.png"))) == 9

    def test_an_empty_class_folder_is_named(self, tmp_path: Path) -> None:
        root = image_folders(tmp_path)
        for split in ("train", "test"):
            (root / split / "empty").mkdir()
        error = refused(lambda: ImageFolder(root, "x").open("train"), "train/empty", "holds no image", kind=DataDamaged)
        assert error.exit_code == 3

    def test_class_sets_must_agree(self, tmp_path: Path) -> None:
        root = image_folders(tmp_path)
        write(root / "test/ferret/a.png", image(1))
        refused(lambda: ImageFolder(root, "x").open("test"), "'train'", "'ferret'")

    def test_two_folders_of_one_meaning(self, tmp_path: Path) -> None:
        root = image_folders(tmp_path, names=("train", "val", "validation"))
        refused(lambda: ImageFolder(root, "x").splits, "'val'", "'validation'")

    def test_an_image_that_goes_away(self, tmp_path: Path) -> None:
        split = ImageFolder(image_folders(tmp_path), "x").open("train")
        (tmp_path / "train/cat/0.png").unlink()
        refused(lambda: split.read(0), "train/cat/0.png", kind=DataMissing)

    def test_class_folders_without_a_split_are_a_test_split(self, tmp_path: Path) -> None:
        image_folders(tmp_path, names=(".",))
        source = at(tmp_path)
        assert source.splits == ("test",)
        assert len(source.open("test")) == 6


class TestVtabFolder:
    def test_bom_crlf_spaces_backslashes_and_dot_slash(self, tmp_path: Path) -> None:
        root = vtab_folders(tmp_path / "a set")
        write(root / "images/test/a b.jpg", image(3))
        lines = [
            "images/test/000000.jpg 1",
            "./images/test/000001.jpg 2",
            r"images\test\000002.jpg 3",
            "images/test/a b.jpg 4",
        ]
        write(root / "test.txt", "\ufeff" + "\r\n".join(lines) + "\r\n\r\n")
        split = VtabFolder(root, "caltech101").open("test")
        assert split.labels.tolist() == [1, 2, 3, 4]
        assert list(split.keys) == [f"images/test/00000{i}.jpg" for i in range(3)] + ["images/test/a b.jpg"]
        assert number_of(split.read(3)) == 3

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("images/test/000000.jpg 102", ("label 102", "0 to 101")),
            ("images/test/000000.jpg -1", ("line 1", "cannot be used")),
            ("images/test/000000.jpg", ("line 1", "cannot be used")),
            ("images/test/000000.jpg 1.5", ("line 1",)),
            ("../../etc/passwd 1", ("line 1", "below that folder")),
            ("/etc/passwd 1", ("line 1",)),
            ("images/test/999999.jpg 1", ("999999.jpg", "missing")),
            ("images/test/000000.jpg 1\nimages/test/000000.jpg 1", ("2 times",)),
            ("", ("names no image",)),
        ],
    )
    def test_a_line_that_cannot_be_used_is_shown(self, tmp_path: Path, line: str, words: tuple[str, ...]) -> None:
        root = vtab_folders(tmp_path, test=3)
        write(root / "test.txt", line + "\n")
        assert refused(lambda: VtabFolder(root, "caltech101").open("test"), *words).exit_code == 3

    def test_a_users_own_lists_have_as_many_classes_as_their_labels_say(self, tmp_path: Path) -> None:
        root = vtab_folders(tmp_path / "beetles", k=3)
        assert VtabFolder(root, "beetles").open("test").class_names == ("0", "1", "2")
        write(root / "test.txt", f"images/test/000000.jpg {10**15}")
        refused(lambda: VtabFolder(root, "beetles").open("test"), f"label {10**15}", "test.txt", kind=DataDamaged)

    def test_joined_list_is_made_of_the_two(self, tmp_path: Path) -> None:
        split = VtabFolder(vtab_folders(tmp_path, joined=False, train=800, val=200), "caltech101").open(
            "train800val200"
        )
        assert len(split) == 1000
        assert split.keys[0] == "images/train800/000000.jpg"
        assert split.keys[800] == "images/val200/000000.jpg"
        assert split.provenance.completeness == "full"

    def test_completeness(self, tmp_path: Path) -> None:
        root = vtab_folders(tmp_path, test=20)
        stamp = VtabFolder(root, "caltech101").open("test").provenance
        assert (stamp.completeness, stamp.reference) == ("partial", False)
        assert "20 of the official 6,084" in stamp.why
        assert "JPEG re-encoded" in stamp.source
        write(root / "manifest.json", json.dumps({"counts": {"test": 20}}))
        assert VtabFolder(root, "caltech101").open("test").provenance.completeness == "declared"
        write(root / "manifest.json", json.dumps({"counts": {"test": 21}}))
        refused(lambda: VtabFolder(root, "caltech101").open("test"), "20", "declares 21", kind=DataDamaged)
        write(root / "manifest.json", json.dumps({"completeness": "full"}))
        refused(lambda: VtabFolder(root, "caltech101").open("test"), "claims to be full", kind=DataDamaged)
        write(root / "manifest.json", "{")
        refused(lambda: VtabFolder(root, "caltech101").open("test"), "manifest.json", kind=DataDamaged)

    def test_both_counts_of_caltech101_are_official(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        root = vtab_folders(tmp_path, test=1)
        there = {f"{i:06d}.jpg" for i in range(6085)}
        monkeypatch.setattr("vitft.data.sources.vtab_folder._names", lambda folder: there)
        for n, completeness in ((6085, "full"), (6084, "full"), (6083, "partial")):
            write(root / "test.txt", "\n".join(f"images/test/{i:06d}.jpg 5" for i in range(n)))
            stamp = VtabFolder(root, "caltech101").open("test").provenance
            assert (stamp.completeness, stamp.reference) == (completeness, completeness == "full")

    @pytest.mark.parametrize("folder", ["cifar", "cifar100", "oxford_pet", "dsprites_loc", "kitti", "smallnorb_ele"])
    def test_both_spellings_of_folder_names(self, tmp_path: Path, folder: str) -> None:
        task = tasks.get(folder)
        vtab_folders(tmp_path / "vtab-1k" / folder, k=task.num_classes, test=3)
        for data_dir in (tmp_path, tmp_path / "vtab-1k", tmp_path / "vtab-1k" / folder):
            source = find(task.name, data_dir)
            assert source.task == task.name
            assert source.open("test").num_classes == task.num_classes
        assert find(str(tmp_path / "vtab-1k" / folder)).task == task.name

    def test_real_one(self, shared: Path) -> None:
        source = find("caltech101", shared / "data" / "vtab-1k")
        assert {name: len(source.open(name)) for name in source.splits} == {
            "train800": 800,
            "val200": 200,
            "train800val200": 1000,
            "test": 1000,
        }
        assert source.open("test").provenance.completeness == "partial"
