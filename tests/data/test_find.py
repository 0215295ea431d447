"""Where a task's data is found, and what is said where it is not."""

from pathlib import Path

import pytest

from tests.layouts import alone, cifar_folder, image_folders, imagenet_classes, parquet_folder, refused, vtab_folders  # noqa: F401
from vitft.data import lists
from vitft.data.find import at, find
from vitft.data.sources import cifar_archive, image_folder, imagenet, parquet, vtab_folder
from vitft.data.sources.digits import Digits
from vitft.data.sources.image_folder import ImageFolder
from vitft.data.sources.vtab_folder import VtabFolder
from vitft.errors import DataDamaged, DataMissing, UnknownName
from vitft.prepare.inventory import inventory


class TestFind:
    def test_a_users_own_folder_that_is_called_like_a_task(self, tmp_path: Path) -> None:
        root = image_folders(tmp_path / "flowers")
        assert at(root).task == "flowers-2-classes"
        refused(lambda: find("oxford_flowers102", tmp_path), "2 classes", "102", kind=DataDamaged)

    def test_the_nearest_place_wins(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        image_folders(tmp_path / "a" / "digits", classes=tuple("0123456789"))
        assert isinstance(find("digits", tmp_path / "a"), ImageFolder)
        assert isinstance(find("digits"), Digits)
        monkeypatch.setenv("VITFT_DATA", str(tmp_path / "a"))
        assert isinstance(find("digits"), ImageFolder)

    def test_a_name_in_the_data_folder_that_is_no_task(self, tmp_path: Path) -> None:
        image_folders(tmp_path / "my birds")
        assert find("my birds", tmp_path).task == "my birds"

    def test_what_is_not_there_says_where_it_was_looked_for(self, tmp_path: Path) -> None:
        error = refused(
            lambda: find("dtd", tmp_path), str(tmp_path), "VITFT_DATA", "vitft data prepare dtd", kind=DataMissing
        )
        assert error.exit_code == 3
        refused(lambda: find("dtd", tmp_path / "nowhere"), "nowhere", "does not exist", kind=DataMissing)
        refused(lambda: find("./nowhere"), "does not exist", kind=DataMissing)
        refused(lambda: at(tmp_path), "no data set that vitft can read", kind=DataMissing)
        refused(lambda: find("oxford_pett", tmp_path), "Did you mean 'oxford_pet'", kind=UnknownName)

    def test_layouts_are_not_taken_for_one_another(self, tmp_path: Path) -> None:
        image_folders(tmp_path / "i")
        vtab_folders(tmp_path / "v", test=3)
        parquet_folder(tmp_path / "p")
        cifar_folder(tmp_path / "c")
        imagenet_classes(tmp_path / "n")
        detectors = {"i": image_folder, "v": vtab_folder, "p": parquet, "c": cifar_archive, "n": imagenet}
        for name, module in detectors.items():
            assert module.detect(tmp_path / name)
            assert type(at(tmp_path / name)).__module__ == module.__name__

    def test_vtab_splits_are_asked_for_and_refused_where_they_cannot_be(self, tmp_path: Path) -> None:
        vtab_folders(tmp_path / "vtab-1k" / "dtd", k=47, test=3)
        image_folders(tmp_path / "dtd", classes=lists.names("dtd"))
        assert isinstance(find("dtd", tmp_path), ImageFolder)
        assert isinstance(find("dtd", tmp_path, shots="1000"), VtabFolder)
        (row,) = inventory(tmp_path, ("dtd",), "1000")
        assert (row.where, row.splits[0]) == (str(tmp_path / "vtab-1k" / "dtd"), "train800")
        (row,) = inventory(tmp_path, ("dtd",), "full")
        assert (row.where, row.splits) == (str(tmp_path / "dtd"), ("train", "test"))
        refused(
            lambda: find("dtd", tmp_path, shots="full"), "train, test", "prepare dtd --shots full", kind=DataMissing
        )

    def test_inventory(self, tmp_path: Path) -> None:
        vtab_folders(tmp_path / "cifar", k=100, test=3)
        image_folders(tmp_path / "svhn", classes=("a", "b"))
        rows = {row.task: row for row in inventory(tmp_path)}
        assert len(rows) == 22
        assert rows["cifar100"].status == "ready"
        assert rows["cifar100"].where == str(tmp_path / "cifar")
        assert rows["cifar100"].size == sum(f.stat().st_size for f in (tmp_path / "cifar").rglob("*") if f.is_file())
        assert rows["svhn"].status == "damaged"
        assert rows["digits"].status == "built-in"
        assert rows["diabetic_retinopathy"].status == rows["imagenet"].status == "manual"
        assert rows["dsprites_location"].status == "downloadable"
        assert rows["dsprites_location"].size == 28_024_106
        assert [row.task for row in inventory(tmp_path, ("svhn", "cifar"))] == ["svhn", "cifar100"]
