"""The 16 collections: against what TensorFlow Datasets gives, packed against unpacked, and against drawn files."""

import gzip
import hashlib
import io
import json
import pickle
import random
import shutil
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vitft.catalog import tasks
from vitft.data import label_rules, tfrecord
from vitft.data.official_splits import hash_order
from vitft.errors import DataDamaged, DataError, DataMissing
from vitft.images.decode import decode
from vitft.prepare import collections
from vitft.prepare.archives import open_tree
from vitft.prepare.collections import kitti, opencv
from vitft.prepare.collections.clevr import scenes
from vitft.prepare.collections.raw import Raw

NAMES = [collection.name for collection in collections.COLLECTIONS]


def opened(name: str, source: Path, work: Path | None = None) -> Raw:
    collection = next(c for c in collections.COLLECTIONS if c.name == name)
    return collection.open(open_tree(source, [*(f.filename for f in collection.files), *collection.archives], work))


def contents(raw: Raw) -> dict[str, dict[str, tuple[bytes, tuple[int, ...]]]]:
    """Everything a collection gives: raw split -> key -> (image, labels)."""
    return {
        raw_split: {
            keys[row]: (data, tuple(int(of_task[raw_split][row]) for of_task in raw.labels.values()))
            for row, data in raw.read(raw_split, range(len(keys)))
        }
        for raw_split, keys in raw.keys.items()
    }


@pytest.fixture(scope="module")
def samples(shared: Path) -> Path:
    return shared / "data" / "raw-format-samples"


@pytest.mark.parametrize("name", NAMES)
def test_keys_order_labels_and_pixels_are_those_of_tensorflow_datasets(name: str, shared: Path, samples: Path) -> None:
    oracle = json.loads((shared / "facts" / "tfds_oracle.json").read_text())["collections"]
    if name == "kitti":
        pytest.skip("the sample has no images: drawn below")
    raw = opened(name, samples / name)
    used = {piece.raw_split for t in tasks.TASKS if t.collection == name for ps in t.splits.values() for piece in ps}
    assert set(raw.keys) == used
    assert all(set(of_task) == used for of_task in raw.labels.values())
    examples = {raw_split: split["examples"] for raw_split, split in oracle.get(name, {"splits": {}})["splits"].items()}
    if name == "caltech101":  # which of the two images of a class is train is not defined
        pool = {str(e["key"]): e for split in examples.values() for e in split}
        examples = {
            raw_split: [pool[keys[i]] for i in hash_order(keys, raw_split)] for raw_split, keys in raw.keys.items()
        }
        assert sorted(pool) == sorted([*raw.keys["train"], *raw.keys["test"]])
    for raw_split, keys in raw.keys.items():
        rows = range(len(keys)) if examples else range(min(2, len(keys)))
        images = dict(raw.read(raw_split, rows))
        assert sorted(images) == list(rows)
        assert len(keys) > 0
        pixels = {row: decode(data, keys[row]) for row, data in images.items()}
        order = hash_order(keys, raw_split).tolist()
        if not examples:
            continue
        assert [keys[i] for i in order] == [str(e["key"]) for e in examples[raw_split]]
        for row, e in zip(order, examples[raw_split], strict=True):
            ((task, label),) = e["vtab_label"].items()
            assert raw.labels[task][raw_split][row] == label
            expected = e["image"].get("sha256_islow", e["image"]["sha256"])
            assert hashlib.sha256(pixels[row].tobytes()).hexdigest() == expected
            if e["encoded"]["format"] == "jpeg":  # the owner's bytes are kept
                assert hashlib.sha256(images[row]).hexdigest() == e["encoded"]["sha256"]


def test_samples_outside_the_oracle_hold_what_their_files_say(samples: Path) -> None:
    norb = opened("smallnorb", samples / "smallnorb")
    stem = samples / "smallnorb" / "smallnorb-5x46789x9x18x6x2x96x96-training-"
    info = np.frombuffer(Path(f"{stem}info.mat").read_bytes()[-80:], "<i4").reshape(5, 4)
    left = np.frombuffer(Path(f"{stem}dat.mat").read_bytes()[-5 * 18432 :], np.uint8).reshape(5, 2, 96, 96)[:, 0]
    assert norb.labels["smallnorb_azimuth"]["train"].tolist() == (info[:, 2] // 2).tolist()
    assert norb.labels["smallnorb_elevation"]["train"].tolist() == info[:, 1].tolist()
    for row, data in norb.read("train", [3, 1]):
        assert np.array_equal(decode(data, "x"), np.repeat(left[row][..., None], 3, 2))
    dmlab = opened("dmlab", samples / "dmlab")
    assert dmlab.keys["test"] == ["video_1900_2_1142.jpg", "video_2000_4_1680.jpg"]
    assert dmlab.labels["dmlab"]["train"].tolist() == [3, 0]
    clevr = opened("clevr", samples / "clevr")
    assert set(clevr.labels["clevr_count"]["train"].tolist()) == {4}  # seven objects in every scene of the sample
    sun = opened("sun397", samples / "sun397")
    names = collections_labels("sun397")
    assert [names[y] for y in sun.labels["sun397"]["test"]] == ["/b/banquet_hall", "/h/hot_spring"]
    eyes = opened("diabetic_retinopathy_detection", samples / "diabetic_retinopathy_detection")
    assert {raw_split: len(keys) for raw_split, keys in eyes.keys.items()} == {"train": 12, "validation": 6, "test": 6}


def collections_labels(task: str) -> tuple[str, ...]:
    from vitft.data.labels import class_names

    return class_names(task)


def zipped(folder: Path, target: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.write(file, prefix + str(file.relative_to(folder)))
    return target


def tarred(folder: Path, target: Path, mode: str = "w:gz") -> Path:
    with tarfile.open(target, mode) as archive:  # type: ignore[call-overload]
        archive.add(folder, ".")
    return target


def test_packed_files_give_the_same_as_unpacked_ones(samples: Path, tmp_path: Path) -> None:
    for name, pack in {
        "cifar100": lambda s, t: tarred(s, t / "cifar-100-binary.tar.gz"),
        "dtd": lambda s, t: tarred(s, t / "dtd-r1.0.1.tar.gz"),
        "eurosat": lambda s, t: zipped(s, t / "EuroSAT.zip"),
        "resisc45": lambda s, t: zipped(s, t / "NWPU-RESISC45.zip"),
        "clevr": lambda s, t: zipped(s, t / "CLEVR_v1.0.zip"),
        "dmlab": lambda s, t: tarred(s, t / "dmlab.tar.gz"),
    }.items():
        target = tmp_path / name
        target.mkdir()
        pack(samples / name, target)
        assert contents(opened(name, target)) == contents(opened(name, samples / name)), name
    assert contents(opened("cifar100", tmp_path / "cifar100" / "cifar-100-binary.tar.gz"))["test"]
    for name in ("patch_camelyon", "smallnorb"):
        target = tmp_path / name
        target.mkdir()
        for file in (samples / name).iterdir():
            (target / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        assert contents(opened(name, target, tmp_path / "work")) == contents(opened(name, samples / name)), name
    pets = tmp_path / "pets"
    pets.mkdir()
    for part in ("images", "annotations"):  # their owner's .tar.gz were once plain tars
        with tarfile.open(pets / f"{part}.tar.gz", "w:" if part == "images" else "w:gz") as archive:
            archive.add(samples / "oxford_iiit_pet" / part, part)
    assert contents(opened("oxford_iiit_pet", pets)) == contents(opened("oxford_iiit_pet", samples / "oxford_iiit_pet"))
    inner = tarred(samples / "caltech101" / "3_ObjectCategories", tmp_path / "101_ObjectCategories.tar.gz")
    outer = tmp_path / "caltech"
    outer.mkdir()
    with zipfile.ZipFile(outer / "caltech-101.zip", "w") as archive:
        archive.write(inner, "caltech-101/101_ObjectCategories.tar.gz")
        archive.writestr("__MACOSX/caltech-101/._101_ObjectCategories.tar.gz", b"x")
    assert contents(opened("caltech101", outer)) == contents(opened("caltech101", samples / "caltech101"))


def test_the_python_archive_gives_the_same_as_the_binary_one(samples: Path, tmp_path: Path) -> None:
    binary = opened("cifar100", samples / "cifar100")
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for raw_split in ("train", "test"):
        rows = np.fromfile(samples / "cifar100" / "cifar-100-binary" / f"{raw_split}.bin", np.uint8).reshape(-1, 3074)
        content = {"data": rows[:, 2:], "fine_labels": rows[:, 1].tolist(), "coarse_labels": rows[:, 0].tolist()}
        (folder / raw_split).write_bytes(pickle.dumps(content, protocol=2))
    (tmp_path / "a").mkdir()
    for raw_split in ("train", "test"):  # files of those names elsewhere are not the archive's
        (tmp_path / "a" / raw_split).write_bytes(b"x")
    for source in (folder, tmp_path):
        raw = opened("cifar100", source)
        assert contents(raw) == contents(binary)
        assert raw.notes
        assert not binary.notes
    shutil.copytree(samples / "cifar100" / "cifar-100-binary", tmp_path / "cifar-100-binary")
    assert not opened("cifar100", tmp_path).notes  # of both the binary one is read


def test_multi_part_zips_are_read_and_a_missing_part_is_named(samples: Path, tmp_path: Path) -> None:
    source = samples / "diabetic_retinopathy_detection"
    for file in ("trainLabels.csv", "retinopathy_solution.csv"):
        shutil.copy(source / file, tmp_path)
    zipped(source / "test", tmp_path / "test.zip", "test/")
    whole = zipped(source / "train", tmp_path / "all", "train/").read_bytes()
    step = -(-len(whole) // 5)
    for n in range(5):
        (tmp_path / f"train.zip.{n + 1:03d}").write_bytes(whole[n * step : (n + 1) * step])
    (tmp_path / "all").unlink()
    name = "diabetic_retinopathy_detection"
    there, here = opened(name, source), opened(name, tmp_path)
    assert there.keys == here.keys
    assert dict(there.read("train", [0, 5])) == dict(here.read("train", [0, 5]))
    (tmp_path / "train.zip.005").unlink()
    with pytest.raises(DataMissing, match=r"'train\.zip\.005' is missing"):
        opened(name, tmp_path)
    (tmp_path / "train.zip.002").unlink()
    with pytest.raises(DataMissing, match=r"'train\.zip\.002' is missing"):
        opened(name, tmp_path)


def test_a_rar_is_refused_with_the_command_that_unpacks_it(tmp_path: Path) -> None:
    (tmp_path / "NWPU-RESISC45.rar").write_bytes(b"Rar!\x1a\x07\x00")
    with pytest.raises(DataMissing, match=r"unrar x '.*NWPU-RESISC45\.rar'"):
        opened("resisc45", tmp_path)


@pytest.mark.parametrize("entry", ["../evil.jpg", "/etc/evil.jpg", "a/../../evil.jpg", "C:\\evil.jpg"])
def test_entries_that_lead_out_of_an_archive_are_refused(entry: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "EuroSAT.zip", "w") as archive:
        archive.writestr("2750/Forest/Forest_1.jpg", b"x")
        archive.writestr(entry, b"x")
    with pytest.raises(DataDamaged, match="evil"):
        opened("eurosat", tmp_path)
    (tmp_path / "EuroSAT.zip").unlink()
    with tarfile.open(tmp_path / "dtd-r1.0.1.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo(entry), io.BytesIO())
    with pytest.raises(DataDamaged, match="evil"):
        opened("dtd", tmp_path)


def test_a_link_that_leads_out_of_a_tar_is_refused(tmp_path: Path) -> None:
    link = tarfile.TarInfo("dtd/images")
    link.type, link.linkname = tarfile.SYMTYPE, "../../etc"
    with tarfile.open(tmp_path / "dtd-r1.0.1.tar.gz", "w:gz") as archive:
        archive.addfile(link)
    with pytest.raises(DataDamaged, match="etc"):
        opened("dtd", tmp_path)


def drawn_png(seed: int, shape: tuple[int, ...] = (6, 8, 3)) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


def draw_kitti(folder: Path, n: int = 60, videos: int = 20) -> dict[int, str]:
    """Draw a small KITTI; return image number -> video. Image n has its nearest vehicle at n metres."""
    generator = random.Random(0)
    order = list(range(1, n + 1))
    generator.shuffle(order)
    lines = [f"2011_09_26 drive_{i % videos:04d} {i:010d}" for i in range(n)]
    with zipfile.ZipFile(folder / "devkit_object.zip", "w") as archive:
        archive.writestr("mapping/train_rand.txt", ",".join(map(str, order)))
        archive.writestr("mapping/train_mapping.txt", "\n".join(lines) + "\n")
    fields = "0.91 0 -0.55 373.52 147.98 885.01 156.89 0.00 2.49 0.12 12.00 23.14"
    with zipfile.ZipFile(folder / "data_object_label_2.zip", "w") as archive:
        for i in range(n):
            text = f"Cyclist {fields} 0.50 0.01\nDontCare {fields} -1000 -10\n"
            text += "" if i == 0 else f"Van {fields} {i}.00 0.01\nCar {fields} {i + 1}.00 0.01\n"
            archive.writestr(f"training/label_2/{i:06d}.txt", text)
            archive.writestr(f"testing/label_2/{i:06d}.txt", "")
    with zipfile.ZipFile(folder / "data_object_image_2.zip", "w") as archive:
        for i in range(n):
            archive.writestr(f"training/image_2/{i:06d}.png", drawn_png(i))
            archive.writestr(f"testing/image_2/{i:06d}.png", b"")
    return {i: lines[order[i] - 1].split()[1] for i in range(n)}


def test_kitti_keeps_each_video_in_one_split_and_labels_the_nearest_vehicle(tmp_path: Path) -> None:
    video_of = draw_kitti(tmp_path)
    for name, data in (("image_2/000003.png", b"x"), ("label_2/000003.txt", b"")):  # again: the first path counts
        file = tmp_path / "z" / "training" / name
        file.parent.mkdir(parents=True)
        file.write_bytes(data)
    raw = opened("kitti", tmp_path)
    np.random.seed(123)
    names = sorted(set(video_of.values()))
    test = set(np.random.choice(names, 2, replace=False).tolist())
    rest = sorted(set(names) - test)
    validation = set(np.random.choice(rest, 2, replace=False).tolist())
    expected = {"test": test, "validation": validation, "train": set(names) - test - validation}
    assert {s: {video_of[int(k[:6])] for k in keys} for s, keys in raw.keys.items()} == expected
    assert sorted(k for keys in raw.keys.values() for k in keys) == [f"{i:06d}.png" for i in range(60)]
    for raw_split, found in contents(raw).items():
        for key, (data, (label,)) in found.items():
            i = int(key[:6])
            assert data == drawn_png(i)
            assert label == (3 if i == 0 else 0 if i <= 8 else 1 if i <= 20 else 2), (raw_split, key)


def test_kitti_sample_splits_its_five_videos_and_names_the_missing_images(samples: Path) -> None:
    with zipfile.ZipFile(samples / "kitti" / "devkit_object.zip") as archive:
        texts = [archive.read(f"mapping/train_{name}.txt").decode() for name in ("rand", "mapping")]
    found = kitti.splits(*texts)
    assert sorted(len(numbers) for numbers in found.values()) == [2, 2, 6]
    assert sorted(i for numbers in found.values() for i in numbers) == list(range(10))
    with pytest.raises(DataMissing, match=r"data_object_image_2\.zip"):
        opened("kitti", samples / "kitti")


def test_label_rules_are_closed_above_in_float32() -> None:
    for rule, bounds in (
        (label_rules.clevr_distance, [0, 8, 8.5, 9, 9.5, 10, 100]),
        (label_rules.kitti_distance, [-100, 8, 20, 999]),
    ):
        assert rule(bounds).tolist() == list(range(-1, len(bounds) - 1))
        above = np.nextafter(np.array(bounds, np.float32), np.float32(1000))
        assert rule(above).tolist() == list(range(len(bounds)))
    assert label_rules.clevr_distance(8.00000001) == 0  # equal to 8 once stored as float32
    assert label_rules.kitti_distance([-50, 8, 8.001, 20, 20.01, 999, label_rules.NO_VEHICLE]).tolist() == [
        0,
        0,
        1,
        1,
        2,
        2,
        3,
    ]
    x, o = np.arange(32), np.arange(40)
    assert label_rules.dsprites_location(x).tolist() == np.floor_divide(x.astype(np.float32), 2.0).astype(int).tolist()
    assert (
        label_rules.dsprites_orientation(o).tolist() == np.floor_divide(o.astype(np.float32), 2.5).astype(int).tolist()
    )
    assert set(label_rules.smallnorb_azimuth(range(0, 36, 2)).tolist()) == set(range(18))
    assert label_rules.clevr_count([3, 10]).tolist() == [0, 7]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((300, 400), (300, 400)), ((301, 400), (300, 399)), ((400, 500), (310, 387)), ((768, 1024), (300, 400))],
)
def test_sun397_resizes_only_above_120000_pixels(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    image = decode(opencv.sun397(drawn_png(0, (*shape, 3)), "x"), "x")
    assert image.shape[:2] == expected


def test_a_processed_image_that_is_cut_short_is_named(samples: Path) -> None:
    data = (samples / "diabetic_retinopathy_detection" / "train" / "2_left.jpeg").read_bytes()
    for process in (opencv.sun397, opencv.retinopathy):
        for broken in (data[:-40], data[: len(data) // 2], b"", b"no image"):
            with pytest.raises(DataDamaged, match="2_left"):
                process(broken, "train/2_left.jpeg")


def test_retinopathy_scales_the_eye_to_radius_300_and_keeps_nine_tenths_of_it() -> None:
    y, x = np.mgrid[:400, :500]
    disc = ((y - 200) ** 2 + (x - 250) ** 2 < 150**2)[..., None] * np.array([40, 90, 160], np.uint8)
    out = io.BytesIO()
    Image.fromarray(disc).save(out, "PNG")
    image = decode(opencv.retinopathy(out.getvalue(), "x"), "x").astype(int)
    assert image.shape == (540, 540, 3)
    y, x = np.mgrid[:540, :540] - 270
    # Flat inside: minus its own average it is 128 as well, until the border's blur; outside all is 128.
    assert abs(image[np.hypot(y, x) > 280] - 128).max() <= 6
    assert abs(image[np.hypot(y, x) < 200] - 128).max() <= 6


@given(st.floats(0, 100, exclude_min=True, width=32), st.floats(-99, 1000, width=32))
def test_label_rules_are_those_of_the_reference(clevr: float, z: float) -> None:
    """task_adaptation: the largest index whose threshold minus the distance is below zero, in float32."""
    for value, bounds, rule in (
        (clevr, label_rules.CLEVR_DISTANCES, label_rules.clevr_distance),
        (z, label_rules.KITTI_DISTANCES, label_rules.kitti_distance),
    ):
        below = np.asarray(bounds, np.float32) - np.float32(value) < 0
        assert rule(value) == np.flatnonzero(below).max()


def test_scenes_that_belong_to_other_images_are_refused(samples: Path, tmp_path: Path) -> None:
    source = tmp_path / "clevr"
    shutil.copytree(samples / "clevr", source, copy_function=shutil.copyfile)
    for path in (source, *source.rglob("*")):
        path.chmod(0o755)
    file = source / "CLEVR_v1.0" / "scenes" / "CLEVR_val_scenes.json"
    found = json.loads(file.read_text())
    for i, scene in enumerate(found["scenes"]):
        scene["image_filename"] = f"CLEVR_val_{i:06d}.png"
    file.write_text(json.dumps(found))
    opened("clevr", source)
    file.write_text(json.dumps({"scenes": found["scenes"][::-1]}))
    with pytest.raises(DataDamaged, match=r"CLEVR_val_000004\.png"):
        opened("clevr", source)
    file.write_text(json.dumps({"scenes": found["scenes"][:3]}))
    with pytest.raises(DataDamaged, match="3 scenes"):
        opened("clevr", source)


def test_crc32c_has_the_known_values_and_sees_every_flipped_bit() -> None:
    assert tfrecord.crc32c(b"123456789") == 0xE3069283  # RFC 3720, B.4
    assert tfrecord.crc32c(bytes(32)) == 0x8A9136AA
    assert tfrecord.crc32c(bytes(range(32))) == 0x46DD794E
    data = bytes(random.Random(1).randbytes(200))
    assert len({tfrecord.crc32c(data[:n]) for n in range(200)}) == 200
    flips = {tfrecord.crc32c(data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :]) for i in range(200)}
    assert tfrecord.crc32c(data) not in flips
    assert len(flips) == 200


def record(data: bytes) -> bytes:
    head = struct.pack("<Q", len(data))
    crcs = [struct.pack("<I", tfrecord.masked_crc32c(part)) for part in (head, data)]
    return head + crcs[0] + data + crcs[1]


def test_shards_of_an_archive_may_lie_in_any_order(samples: Path, tmp_path: Path) -> None:
    whole = opened("dmlab", samples / "dmlab")
    with tarfile.open(tmp_path / "dmlab.tar.gz", "w:gz") as archive:
        for raw_split in ("validation", "train", "test"):
            data = (samples / "dmlab" / f"dmlab-{raw_split}.tfrecord-00000-of-00001").read_bytes()
            for i, content in reversed(list(enumerate(tfrecord.records(io.BytesIO(data), "x")))):
                info = tarfile.TarInfo(f"dmlab/dmlab-{raw_split}.tfrecord-{i:05d}-of-00002")
                info.size = len(record(content))
                archive.addfile(info, io.BytesIO(record(content)))
    raw = opened("dmlab", tmp_path)
    assert raw.keys == whole.keys
    assert contents(raw) == contents(whole)
    assert dict(raw.read("train", [1])) == dict(whole.read("train", [1]))


def test_a_record_cut_or_flipped_anywhere_is_refused() -> None:
    whole = record(b"first") + record(b"second one")
    assert list(tfrecord.records(io.BytesIO(whole), "x")) == [b"first", b"second one"]
    for i in range(len(whole)):
        flipped = whole[:i] + bytes([whole[i] ^ 4]) + whole[i + 1 :]
        with pytest.raises(DataDamaged, match=r"record [01]"):
            list(tfrecord.records(io.BytesIO(flipped), "x"))
        if i not in (0, len(record(b"first"))):
            with pytest.raises(DataDamaged):
                list(tfrecord.records(io.BytesIO(whole[:i]), "x"))


def test_scenes_are_parsed_one_by_one_and_a_cut_list_is_refused() -> None:
    text = json.dumps({"info": {"split": "train"}, "scenes": [{"objects": [{"a": "]}"}]}, {"objects": []}]})
    assert list(scenes(text, "x")) == json.loads(text)["scenes"]
    for end in range(len(text) - 2):
        with pytest.raises(DataDamaged):
            list(scenes(text[:end], "x"))


DAMAGE = {
    "cifar100": "cifar-100-binary/train.bin",
    "svhn_cropped": "train_32x32.mat",
    "oxford_flowers102": "setid.mat",
    "patch_camelyon": "camelyonpatch_level_2_split_train_x.h5",
    "dsprites": "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.hdf5",
    "smallnorb": "smallnorb-5x46789x9x18x6x2x96x96-training-dat.mat",
    "dmlab": "dmlab-train.tfrecord-00000-of-00001",
    "clevr": "CLEVR_v1.0/scenes/CLEVR_train_scenes.json",
    "sun397": "SUN397.tar.gz",
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_file_cut_short_is_named(name: str, samples: Path, tmp_path: Path) -> None:
    source = tmp_path / name
    shutil.copytree(samples / name, source, copy_function=shutil.copyfile)
    file = source / DAMAGE[name]
    for folder in (source, *source.rglob("*")):
        folder.chmod(0o755)
    whole = file.read_bytes()
    for keep in (0.43, 0.77):
        file.write_bytes(whole[: int(len(whole) * keep)])
        with pytest.raises(DataError, match=file.name.split(".")[0]) as caught:
            contents(opened(name, source))
        assert caught.value.exit_code == 3


def test_a_flipped_byte_in_an_archive_is_seen(samples: Path, tmp_path: Path) -> None:
    archive = zipped(samples / "eurosat" / "2750", tmp_path / "EuroSAT.zip", "2750/")
    data = bytearray(archive.read_bytes())
    data[2000] ^= 255
    archive.write_bytes(data)
    with pytest.raises(DataDamaged, match="EuroSAT"):
        contents(opened("eurosat", tmp_path))
    archive.unlink()
    (tmp_path / "EuroSAT.zip").write_text("<html>404</html>")
    with pytest.raises(DataDamaged, match="EuroSAT"):
        opened("eurosat", tmp_path)
    packed = bytearray(tarred(samples / "dtd", tmp_path / "dtd-r1.0.1.tar.gz").read_bytes())
    packed[-6] ^= 255  # the checksum that gzip keeps at its end
    (tmp_path / "dtd-r1.0.1.tar.gz").write_bytes(packed)
    with pytest.raises(DataDamaged, match="dtd"):
        opened("dtd", tmp_path)
