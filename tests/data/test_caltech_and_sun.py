"""Caltech101 as TensorFlow Datasets draws it, and the one image of SUN397 that it leaves out."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.layouts import alone, image, write  # noqa: F401
from tests.prepare.test_prepare import write_tfds
from vitft.data import find, official
from vitft.data.manifest import Manifest
from vitft.data.sources.prepared import Prepared
from vitft.errors import DataDamaged
from vitft.prepare import prepare, verify

NAMES = {
    "BACKGROUND_Google": 33, "Faces": 31, "Leopards": 47, "accordion": 55, "inline_skate": 31, "wild_cat": 34,
}  # fmt: skip


def caltech(target: Path, counts: dict[str, int], more: tuple[str, ...] = ()) -> Path:
    """Pack tiny images under the names of the owner's archive, in no sorted order."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(target, "w:gz", compresslevel=1) as archive:
        names = [f"{name}/image_{i:04d}.jpg" for name, n in counts.items() for i in range(n, 0, -1)]
        for i, name in enumerate((*names, *more)):
            shown = image(3, "JPEG") + i.to_bytes(4)  # no two are the same: verify compares what the files hold
            info = tarfile.TarInfo(f"101_ObjectCategories/{name}")
            info.size = len(shown)
            archive.addfile(info, io.BytesIO(shown))
    return target


def owners_draw(counts: dict[str, int], more: tuple[str, ...] = ()) -> dict[str, list[str]]:
    """The owner's rule, written again: keys of train and test in the order of md5(split + key)."""
    numpy_state = np.random.get_state()
    np.random.seed(1234)
    train, test = [], []
    for folder in sorted(counts):
        files = [f"image_{i:04d}.jpg" for i in range(1, counts[folder] + 1)]
        files = sorted([*files, *(name.split("/")[1] for name in more if name.split("/")[0] == folder)])
        drawn = list(np.random.choice(files, 30, replace=False))
        train += [f"{folder}/{name}" for name in drawn if name.endswith(".jpg")]
        test += [f"{folder}/{name}" for name in set(files) - set(drawn) if name.endswith(".jpg")]
    np.random.set_state(numpy_state)

    def ordered(raw_split: str, keys: list[str]) -> list[str]:
        return sorted(keys, key=lambda key: int(hashlib.md5((raw_split + key).encode()).hexdigest(), 16))

    return {"train": ordered("train", train), "test": ordered("test", test)}


def prepared(tmp_path: Path, source: Path, **more: Any) -> tuple[Prepared, Manifest]:
    folder, manifest = prepare.prepare("caltech101", source, tmp_path / "out", "full", **more)
    return Prepared(folder, "caltech101"), manifest


def test_the_whole_of_caltech101_is_3060_and_6084_in_the_order_of_the_rule(shared: Path, tmp_path: Path) -> None:
    lines = (shared / "cases" / "caltech101_class_counts.txt").read_text().splitlines()
    counts = {name: int(n) for name, n in (line.split() for line in lines if not line.startswith("#"))}
    assert (len(counts), sum(counts.values())) == (102, 9144)
    archive = caltech(tmp_path / "101_ObjectCategories.tar.gz", counts)
    source, manifest = prepared(tmp_path, archive)
    expected = owners_draw(counts)
    assert (len(expected["train"]), len(expected["test"])) == (3060, 6084)
    assert list(source.open("test").keys) == expected["test"]
    assert list(source.open("train800").keys) == expected["train"][:800]
    assert list(source.open("val200").keys) == expected["train"][2754:2954]
    assert list(source.open("train").keys) + list(source.open("val").keys) == expected["train"]
    test = source.open("test")
    assert [test.class_names[label] for label in test.labels] == [key.split("/")[0].lower() for key in test.keys]
    assert (manifest.completeness, manifest.reference) == ("full", False)
    assert "listing" in manifest.why  # what remains unknown: the order in which the file system gave the names
    assert not [fault for found in verify.verify(source) for fault in found.faults]


def test_what_is_no_jpg_stands_in_the_draw_and_is_dropped_after_it(tmp_path: Path) -> None:
    more = ("BACKGROUND_Google/tmp", "Faces/a.png", "wild_cat/Thumbs.db", "accordion/image_9999.JPG")
    source, manifest = prepared(tmp_path, caltech(tmp_path / "101_ObjectCategories.tar.gz", NAMES, more),
                                allow_partial=True)  # fmt: skip
    expected = owners_draw(NAMES, more)
    assert owners_draw(NAMES) != expected
    assert [*source.open("train").keys, *source.open("val").keys] == expected["train"]
    assert list(source.open("test").keys) == expected["test"]
    assert all(any(f"'{name}'" in note for note in manifest.notes) for name in more)
    assert len(expected["train"]) + len(expected["test"]) == sum(NAMES.values())


def test_3059_and_6085_are_official_where_a_file_that_is_no_image_was_drawn() -> None:
    from vitft.catalog import tasks

    task = tasks.get("caltech101")
    assert official.raw_shortfall(task, {"train": 3059, "test": 6085}) is None
    for train, test in ((3059, 6084), (3060, 6085), (2659, 6485)):
        assert official.raw_shortfall(task, {"train": train, "test": test}) is not None


def test_a_class_of_fewer_than_30_is_an_error_by_name(tmp_path: Path) -> None:
    archive = caltech(tmp_path / "101_ObjectCategories.tar.gz", NAMES | {"Leopards": 29})
    with pytest.raises(DataDamaged, match="'Leopards' of Caltech101 holds 29"):
        prepared(tmp_path, archive, allow_partial=True)


def test_data_of_the_earlier_rule_is_refused_by_name_and_prepared_anew(tmp_path: Path) -> None:
    archive = caltech(tmp_path / "101_ObjectCategories.tar.gz", NAMES)
    source, manifest = prepared(tmp_path, archive, allow_partial=True)
    file = source.path / "manifest.json"
    file.write_text(json.dumps({key: value for key, value in manifest.to_json().items() if key != "rule"}))
    with pytest.raises(DataDamaged, match="earlier rule"):
        find.find(str(source.path)).open("test")
    again, _ = prepared(tmp_path, archive, allow_partial=True)
    assert again.manifest.rule
    assert again.open("test").keys


@pytest.mark.parametrize("lacking", [0, 1, 2])
def test_sun397_of_tfds_4_9_3_lacks_one_image_and_is_read_with_a_note(
    lacking: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sizes are made small; what counts is the difference to the official ones."""
    from dataclasses import replace

    from vitft.catalog import tasks
    from vitft.catalog.tasks import Slice

    sun = tasks.get("sun397")
    sizes = {"train": 6, "validation": 3, "test": 4}
    cut: dict[str, tuple[Slice, ...]] = {
        "train": (Slice("train", 0, 6),),
        "val": (Slice("validation", 0, 3),),
        "test": (Slice("test", 0, 4),),
    }
    small = replace(sun, sizes=sizes, splits=cut)
    monkeypatch.setattr(tasks, "TASKS", tuple(small if task == sun else task for task in tasks.TASKS))
    rows = {
        raw_split: [
            {"image": image(i, "JPEG"), "label": [i], "file_name": f"/a/abbey/sun_{raw_split}{i}.jpg".encode()}
            for i in range(n - lacking * (raw_split == "train"))
        ]
        for raw_split, n in sizes.items()
    }
    folder = write_tfds(tmp_path / "sun397/4.0.0", "sun397", {raw_split: [shard] for raw_split, shard in rows.items()})
    source = find.at(folder, small)
    train = source.open("train")
    assert len(train) == 6 - lacking
    assert train.provenance.completeness == ("partial" if lacking == 2 else "full")
    assert ("sun_aophkoiosslinihb" in train.provenance.source) == (lacking == 1)
    assert len(source.open("test")) == 4


def test_the_badly_encoded_image_of_sun397_does_not_end_the_preparation(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    bad = "/t/track/outdoor/sun_aophkoiosslinihb.jpg"
    keys = {"tr": ["/a/abbey/sun_aaa.jpg", bad], "va": ["/a/abbey/sun_bbb.jpg"], "te": ["/a/abbey/sun_ccc.jpg"]}
    for name, listed in keys.items():
        write(tmp_path / f"in/sun397_tfds_{name}.txt", "\r\n".join(listed) + "\r\n")
        for i, key in enumerate(listed):
            write(tmp_path / f"in/SUN397{key}", b"\xff\xd8 cut" if key == bad else image(i, "JPEG"))
    folder, manifest = prepare.prepare("sun397", tmp_path / "in", tmp_path / "out", "full", allow_partial=True)
    train = Prepared(folder, "sun397").open("train")
    assert list(train.keys) == ["/a/abbey/sun_aaa.jpg"]
    assert any(bad in note for note in manifest.notes)
    assert bad in train.provenance.source
    assert official.counts("sun397", "train") == (76128, 76127)
