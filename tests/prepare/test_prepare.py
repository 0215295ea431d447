"""`vitft data prepare` and what reads its result; TFDS directories and wds mirrors in place."""

import errno
import io
import json
import shutil
import struct
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.prepare.readme_table import readme_table
from vitft.catalog import tasks
from vitft.data import find, official, official_splits
from vitft.data.manifest import Manifest, StoredSplit
from vitft.data.sources import prepared, tfds, wds
from vitft.data.split import Split
from vitft.errors import DataDamaged, DataError, DataMissing, DiskFull, UsageError
from vitft.images.decode import decode
from vitft.prepare import collections, prepare, verify
from vitft.prepare.collections import hdf5
from vitft.prepare.spool import Spool
from vitft.prepare.table_writer import write_split
from vitft.progress import silent


@pytest.fixture(scope="module")
def samples(shared: Path) -> Path:
    return shared / "data" / "raw-format-samples"


@pytest.fixture(autouse=True)
def _own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VITFT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("VITFT_CACHE", str(tmp_path / "cache"))


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []


def test_a_prepared_task_opens_everywhere_with_the_same_keys_labels_and_pixels(samples: Path, shared: Path) -> None:
    folder, manifest = prepare.prepare("cifar100", samples / "cifar100", shots="full", allow_partial=True)
    assert visible(folder.parent) == ["cifar100"]
    assert not any(p.name.startswith(".") for p in folder.parent.iterdir())
    examples = json.loads((shared / "facts" / "tfds_oracle.json").read_text())["collections"]["cifar100"]["splits"]
    source = find.find("cifar100")
    assert isinstance(source, prepared.Prepared)
    assert source.splits == ("train800", "train", "test")
    for raw_split in ("train", "test"):
        split = source.open(raw_split)
        assert list(split.keys) == [str(e["key"]) for e in examples[raw_split]["examples"]]
        assert split.labels.tolist() == [e["labels"]["label"] for e in examples[raw_split]["examples"]]
        assert split.digest == manifest.splits[raw_split].digest
        assert split.provenance.completeness == "partial"
        assert not split.provenance.reference
    import datasets

    files = {"train": str(folder / "train.parquet"), "test": str(folder / "test.parquet")}
    table = datasets.load_dataset("parquet", data_files=files, cache_dir=str(folder.parent / ".hf"))
    assert table["train"].features["label"].names == list(source.class_names)
    for i, row in enumerate(table["train"]):
        assert row["key"] == source.open("train").keys[i]
        assert row["label"] == source.open("train").labels[i]
        assert np.array_equal(np.asarray(row["image"]), decode(source.open("train").read(i), "x"))
    # The same command again reads nothing and returns the same.
    assert prepare.prepare("cifar100", Path("/nowhere"), allow_partial=True) == (folder, manifest)


def test_every_sample_prepares_and_verifies(samples: Path, tmp_path: Path) -> None:
    for task in tasks.VTAB:
        if task.collection in ("kitti", "diabetic_retinopathy_detection"):
            continue
        _, manifest = prepare.prepare(task.name, samples, tmp_path / "data" / task.name, "full", allow_partial=True)
        assert manifest.completeness == "partial", task.name
        assert manifest.why, task.name
        assert [s.n for s in manifest.splits.values() if s.n], task.name
        source = find.find(task.name)
        if task.name in ("oxford_iiit_pet", "clevr_distance"):  # the samples' own labels run from -1
            with pytest.raises(DataDamaged, match="label -1"):
                source.open("train800")
            continue
        assert all(not checked.faults for checked in verify.verify(source)), task.name
    norb = find.find("smallnorb_azimuth").open("train800val200")
    assert norb.keys == [*find.find("smallnorb_azimuth").open("train800").keys, *norb.keys[5:]]
    assert decode(norb.read(7), "x").shape == (96, 96, 3)
    assert len(norb) == 10
    assert [norb.read(i) for i in range(5, 10)] == [
        find.find("smallnorb_azimuth").open("val200").read(i) for i in range(5)
    ]


def test_counts_that_are_not_official_are_refused_unless_said(samples: Path, tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match="train has 10 of 50,000") as caught:
        prepare.prepare("cifar100", samples / "cifar100")
    assert "--complete" in str(caught.value)
    assert caught.value.exit_code == 3
    assert visible(tmp_path / "data") == []
    assert list((tmp_path / "data").iterdir()) == []
    folder, _ = prepare.prepare("cifar100", samples / "cifar100", allow_partial=True)
    with pytest.raises(DataMissing):  # a partial result does not satisfy the strict command
        prepare.prepare("cifar100", samples / "cifar100")
    assert visible(folder)


def draw_camelyon(folder: Path, sizes: dict[str, int]) -> None:
    """Draw PatchCamelyon's HDF5 files; a patch holds its row number. Chunks that are not written take no room."""
    import h5py

    folder.mkdir(parents=True)
    for short, n in sizes.items():
        with h5py.File(folder / f"camelyonpatch_level_2_split_{short}_y.h5", "w") as file:
            file["y"] = (np.arange(n) % 2).reshape(n, 1, 1, 1)
        with h5py.File(folder / f"camelyonpatch_level_2_split_{short}_x.h5", "w") as file:
            x = file.create_dataset("x", (n, 96, 96, 3), np.uint8, chunks=(4, 96, 96, 3), fillvalue=7)
            raw_split = {"valid": "validation"}.get(short, short)
            keys = [f"{short}_{i}" for i in range(n)]
            for row in official_splits.hash_order(keys, raw_split)[:800].tolist():
                patch = np.zeros((96, 96, 3), np.uint8)
                patch[0, :4, 0] = list(struct.pack(">I", row))
                x[row] = patch


def test_full_size_camelyon_selects_its_800_rows_in_little_memory(tmp_path: Path) -> None:
    draw_camelyon(tmp_path / "raw", {"train": 262_144, "valid": 300, "test": 40})
    code = (
        "import sys; from pathlib import Path; from vitft.prepare import prepare;"
        "prepare.prepare('patch_camelyon', Path(sys.argv[1]), Path(sys.argv[2]), allow_partial=True);"
        # getrusage would count the test process that was forked; VmHWM begins with the new program.
        "print(next(x.split()[1] for x in open('/proc/self/status') if x.startswith('VmHWM')))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "raw"), str(tmp_path / "patch_camelyon")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=100)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 600_000  # kilobytes; the 800 patches' chunks alone are 88 MB, the file 7.2 GB
    train = prepared.Prepared(tmp_path / "patch_camelyon", "patch_camelyon").open("train800")
    assert list(train.keys) == official_splits.split_keys("patch_camelyon", "train800")
    for i in (0, 1, 399, 799):
        (row,) = struct.unpack(">I", decode(train.read(i), "x")[0, :4, 0].tobytes())
        assert train.keys[i] == f"train_{row}"
        assert train.labels[i] == row % 2


def test_chosen_rows_are_the_rows_for_any_storage(tmp_path: Path) -> None:
    import h5py

    data = np.random.default_rng(0).integers(0, 256, (501, 5, 3), dtype=np.uint8)
    rows = np.random.default_rng(1).permutation(501)[:200].tolist()
    with h5py.File(tmp_path / "x.h5", "w") as file:
        layouts: dict[str, dict[str, Any]] = {
            "contiguous": {},
            "chunks": {"chunks": (7, 5, 3)},
            "gzip": {"chunks": (64, 2, 3), "compression": "gzip"},
            "one": {"chunks": (501, 5, 3)},
        }
        for name, options in layouts.items():
            stored = file.create_dataset(name, data=data, **options)
            found = dict(hdf5.chosen(stored, rows, "x"))
            assert sorted(found) == sorted(rows), name
            assert all(np.array_equal(found[r], data[r]) for r in found), name


class _Cut(BaseException):
    """Stands for a kill: nothing catches it."""


def test_a_second_start_goes_on_where_the_first_was_cut(samples: Path, tmp_path: Path, monkeypatch: Any) -> None:
    whole, expected = prepare.prepare("dtd", samples / "dtd", tmp_path / "whole", "full", True)
    decoded: list[str] = []
    limit = 2

    def dying(data: bytes, key: str) -> Any:
        if len(decoded) == limit:
            raise _Cut
        decoded.append(key)
        return decode(data, key)

    monkeypatch.setattr(prepare, "decode", dying)
    for limit in (2, 5):  # cut twice: in the first and in the second start
        with pytest.raises(_Cut):
            prepare.prepare("dtd", samples / "dtd", tmp_path / "dtd", "full", True)
        assert visible(tmp_path) == ["whole"]
        assert len(decoded) == limit
    limit = 99
    folder, manifest = prepare.prepare("dtd", samples / "dtd", tmp_path / "dtd", "full", True)
    assert len(decoded) == len(set(decoded)) == 6
    assert manifest == expected
    assert visible(tmp_path) == ["dtd", "whole"]
    assert len(list(tmp_path.iterdir())) == 2
    for file in whole.iterdir():
        assert (folder / file.name).read_bytes() == file.read_bytes()


def test_a_spool_keeps_what_is_whole_after_a_crash(tmp_path: Path) -> None:
    with Spool(tmp_path, "source") as spool:
        for row in range(4):
            spool.add("train", row, bytes([row]) * 100)
    index, data = tmp_path / "spool.index", tmp_path / "spool.bin"
    index.write_text(index.read_text()[:-5])  # the last line was being written
    with Spool(tmp_path, "source") as spool:
        assert spool.missing("train", range(5)) == [3, 4]
        assert spool.get("train", 2) == bytes([2]) * 100
        spool.add("train", 4, b"new")
        spool.add("test", 0, b"newer")
    data.write_bytes(data.read_bytes()[:-3])  # the disk lost the end
    with Spool(tmp_path, "source") as spool:
        assert spool.missing("train", range(5)) == [3]
        assert spool.missing("test", [0]) == [0]
        assert spool.get("train", 4) == b"new"
    data.write_bytes(b"x" + data.read_bytes()[1:])
    with Spool(tmp_path, "source") as spool, pytest.raises(DataDamaged, match="does not hold what was written"):
        spool.get("train", 0)
    with Spool(tmp_path, "another source") as spool:
        assert spool.missing("train", range(5)) == [0, 1, 2, 3, 4]


def test_changed_files_throw_away_what_was_gathered(samples: Path, tmp_path: Path, monkeypatch: Any) -> None:
    raw = tmp_path / "dtd"
    shutil.copytree(samples / "dtd", raw, copy_function=shutil.copyfile)
    image = raw / "dtd" / "images" / "striped" / "striped_0000.jpg"
    for path in (raw, *raw.rglob("*")):
        path.chmod(0o755)
    good = image.read_bytes()
    image.write_bytes(good[:-300])
    with pytest.raises(DataDamaged, match=r"striped/striped_0000\.jpg") as caught:
        prepare.prepare("dtd", raw, tmp_path / "out", "full", True)
    assert caught.value.exit_code == 3
    assert not (tmp_path / "out").exists()
    image.write_bytes(good)
    _, manifest = prepare.prepare("dtd", raw, tmp_path / "out", "full", True)
    assert sum(manifest.splits[name].n for name in ("train", "val", "test")) == 6


def test_a_file_with_another_checksum_is_refused_or_noted(samples: Path, tmp_path: Path) -> None:
    with pytest.raises(DataDamaged, match=r"SUN397\.tar\.gz") as caught:
        prepare.prepare("sun397", samples / "sun397", tmp_path / "out")
    assert "39,077,296,924" in str(caught.value)
    assert not (tmp_path / "out").exists()
    _, manifest = prepare.prepare("sun397", samples / "sun397", tmp_path / "out", allow_partial=True)
    assert manifest.notes == ("SUN397.tar.gz does not have its owner's checksum",)
    assert [item.official for item in manifest.source if item.sha256] == [False]


def test_a_full_disk_is_said_and_the_second_start_goes_on(samples: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(prepare, "write_split", full)
        with pytest.raises(DiskFull, match="the disk is full") as caught:
            prepare.prepare("dtd", samples / "dtd", tmp_path / "dtd", allow_partial=True)
    assert caught.value.exit_code == 1
    assert visible(tmp_path) == []
    monkeypatch.setattr(prepare, "decode", full)  # not needed any more: all was gathered
    assert prepare.prepare("dtd", samples / "dtd", tmp_path / "dtd", allow_partial=True)[1].splits["test"].n == 3


def test_other_peoples_folders_are_left_alone(samples: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(UsageError, match="holds other files"):
        prepare.prepare("dtd", samples / "dtd", tmp_path / "mine", allow_partial=True)
    assert visible(tmp_path / "mine") == ["thesis.txt"]


def shades_of(root: Path, **splits: tuple[int, ...]) -> dict[str, verify.Checked]:
    """Write one grey image a shade, half of them in class a, half in b; return what verify says of each split."""
    for split, shades in splits.items():
        for i, shade in enumerate(shades):
            file = root / split / "ab"[2 * i // len(shades)] / f"{split}{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (shade,) * 3).save(file)
    return {c.split: c for c in verify.verify(find.at(root))}


def test_verify_counts_the_test_images_that_were_trained_or_selected_on(tmp_path: Path) -> None:
    checked = shades_of(tmp_path / "own", train=(10, 20, 30, 40), val=(50, 60, 70, 80), test=(20, 90, 40, 60))
    assert {name: c.also_in for name, c in checked.items()} == {"train": {}, "val": {}, "test": {"train": 2, "val": 1}}
    assert [fault.split(" (")[0] for fault in checked["test"].faults] == [
        "2 of the 4 images of test also stand in train",
        "1 of the 4 images of test also stand in val",
    ]
    assert not checked["train"].faults + checked["val"].faults
    whole = shades_of(tmp_path / "apart", train=(10, 20), val=(30, 40), test=(50, 60))
    assert not any(c.faults or c.also_in for c in whole.values())


@pytest.mark.parametrize(("shared", "fault"), [(1, False), (2, True)])
def test_a_twin_in_a_collection_of_its_owner_is_no_fault_many_are(tmp_path: Path, shared: int, fault: bool) -> None:
    """Ten classes as CIFAR-10 has them; 1 of 30 test images is the owner's affair, 2 of 30 are above a twentieth."""
    for split, first, n in (("train", 0, 3), ("test", 100, 3)):
        for label in range(10):
            for i in range(n):
                number = first + 3 * label + i
                twin = split == "test" and number - first < shared
                file = tmp_path / "cifar10" / split / f"c{label}" / f"{split}{i}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8), (number - first * twin, 0, 0)).save(file)
    checked = {c.split: c for c in verify.verify(find.at(tmp_path / "cifar10"))}
    assert checked["test"].also_in == {"train": shared}
    assert bool(checked["test"].faults) == fault


def test_verify_holds_the_joined_list_against_its_parts(tmp_path: Path) -> None:
    """The list of the 1,000 has its own copies of the images, as the community's archive has."""
    rng = np.random.default_rng(0)
    parts = {"train800": 8, "val200": 4, "test": 5}
    lines: dict[str, list[str]] = {"train800val200": []}
    for split, n in parts.items():
        lines[split] = []
        for i in range(n):
            pixels = rng.integers(0, 255, (8, 8, 3)).astype(np.uint8)
            for own in (split, *["train800val200"] * (split != "test")):
                name = f"images/{own}/{len(lines[own]):06d}.png"
                (tmp_path / "dtd" / name).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(tmp_path / "dtd" / name)
                lines[own].append(f"{name} {i}")

    def faults(joined: list[str]) -> list[str]:
        for split, of_split in {**lines, "train800val200": joined}.items():
            (tmp_path / "dtd" / f"{split}.txt").write_text("\n".join(of_split) + "\n")
        return [fault for c in verify.verify(find.at(tmp_path / "dtd")) for fault in c.faults]

    whole = lines["train800val200"]
    assert faults(whole) == faults(whole[::-1]) == []
    assert "train800val200 (10 examples) is not train800 and val200 (12)" in faults(whole[:10])[0]
    first, second = whole[0].split()[0], whole[1].split()[0]
    assert "2 with their labels are only in these" in faults([f"{first} 1", f"{second} 0", *whole[2:]])[0]


def test_verify_names_what_is_wrong(samples: Path, tmp_path: Path) -> None:
    folder, manifest = prepare.prepare("dtd", samples / "dtd", tmp_path / "dtd", allow_partial=True)
    source = prepared.Prepared(folder, "dtd")
    assert [c.faults for c in verify.verify(source)] == [(), (), ()]
    data = (folder / "test.parquet").read_bytes()
    (folder / "test.parquet").write_bytes(data[:-1])
    assert "bytes" in verify.verify(prepared.Prepared(folder, "dtd"))[2].faults[0]
    at = data.index(b"\xff\xd8") + 300
    (folder / "test.parquet").write_bytes(data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :])
    assert "sha256" in verify.verify(prepared.Prepared(folder, "dtd"))[2].faults[0]
    # Files that agree with their manifest and are wrong all the same.
    rewrite(folder, manifest, "test", ["a/1.jpg", "a/2.jpg"], [0, 1], [b"no image", source.open("val200").read(0)])
    faults = verify.verify(prepared.Prepared(folder, "dtd"))[2].faults
    assert len(faults) == 1
    assert "test/a/1.jpg" in faults[0]
    rewrite(folder, manifest, "test", ["a/1.jpg"], [47], [source.open("val200").read(0)])
    assert "label 47" in verify.verify(prepared.Prepared(folder, "dtd"))[2].faults[0]
    (folder / "val200.parquet").unlink()
    assert "missing" in verify.verify(prepared.Prepared(folder, "dtd"))[1].faults[0]
    (folder / "manifest.json").write_text('{"kind": "vitft-prepared"}')
    with pytest.raises(DataDamaged, match="lacks"):
        _ = prepared.Prepared(folder, "dtd").splits


def rewrite(
    folder: Path, manifest: Manifest, name: str, keys: list[str], labels: list[int], images: list[bytes]
) -> None:
    names = manifest.class_names
    values = np.asarray(labels)
    described = write_split(folder / f"{name}.parquet", names, keys, values, lambda i: images[i], silent)
    source = prepared.Prepared(folder, "dtd")
    split = Split("dtd", name, tuple(names), keys, values, lambda i: b"", source._provenance())
    stored = StoredSplit(n=len(keys), digest=split.digest, **described.model_dump())
    manifest.model_copy(update={"splits": {**manifest.splits, name: stored}}).write(folder)


def test_a_whole_collection_is_the_reference_with_the_golden_splits(tmp_path: Path, monkeypatch: Any) -> None:
    """CIFAR-100 at full size: official counts, so nothing is partial and the keys are the golden slices."""
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, n in (("train", 50_000), ("test", 10_000)):
        rows = np.zeros((n, 3074), np.uint8)
        rows[:, 1] = rng.integers(0, 100, n)
        rows[:, 2:6] = np.frombuffer(np.arange(n, dtype=">u4").tobytes(), np.uint8).reshape(n, 4)
        rows.tofile(folder / f"{name}.bin")
    monkeypatch.setitem(prepare._STORED, "1000", ("train800", "val200"))  # the test images would take seconds
    _, manifest = prepare.prepare("cifar100", folder)
    assert manifest.completeness == "full"
    assert manifest.reference
    assert not manifest.why
    assert manifest.splits["train800"].keys_sha256.startswith("5b25ee0661c3bc4a")
    assert manifest.splits["val200"].keys_sha256.startswith("93377e439662509b")
    split = find.find("cifar100").open("train800val200")
    for i in (0, 500, 900):
        pixels = decode(split.read(i), "x")
        assert struct.unpack(">I", pixels[0, :4, 0].tobytes()) == (int(split.keys[i]),)
    assert all(not checked.faults for checked in verify.verify(find.find("cifar100")))


def varint(n: int) -> bytes:
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def serialised(features: dict[str, Any]) -> bytes:
    """Write a tf.train.Example: bytes, list of int, or float32 array."""
    entries = b""
    for name, value in features.items():
        if isinstance(value, bytes):
            kind = field(1, field(1, value))
        elif isinstance(value, np.ndarray):
            kind = field(2, field(1, value.astype("<f4").tobytes()))
        else:
            kind = field(3, field(1, b"".join(varint(v & (1 << 64) - 1) for v in value)))
        entries += field(1, field(1, name.encode()) + field(2, kind))
    return field(1, entries)


def write_tfds(folder: Path, name: str, examples: dict[str, list[list[dict[str, Any]]]]) -> Path:
    """Write a prepared directory: raw split -> shards -> examples."""
    from vitft.data import tfrecord

    folder.mkdir(parents=True)
    for raw_split, shards in examples.items():
        for i, shard in enumerate(shards):
            data = b""
            for example in shard:
                body = serialised(example)
                head = struct.pack("<Q", len(body))
                data += head + struct.pack("<I", tfrecord.masked_crc32c(head))
                data += body + struct.pack("<I", tfrecord.masked_crc32c(body))
            (folder / f"{name}-{raw_split}.tfrecord-{i:05d}-of-{len(shards):05d}").write_bytes(data)
    lengths = {raw_split: [str(len(shard)) for shard in shards] for raw_split, shards in examples.items()}
    info = {
        "name": name,
        "version": folder.name,
        "splits": [{"name": s, "shardLengths": n} for s, n in lengths.items()],
    }
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (folder / "features.json").write_text("{}")
    return folder


def test_a_tfds_directory_gives_what_the_raw_files_give(samples: Path, tmp_path: Path) -> None:
    collection = collections.of_task("cifar100")
    from vitft.prepare.archives import open_tree

    raw = collection.open(open_tree(samples / "cifar100"))
    shards: dict[str, list[list[dict[str, Any]]]] = {}
    for raw_split, keys in raw.keys.items():
        images = dict(raw.read(raw_split, range(len(keys))))
        ordered = [
            {
                "id": f"{raw_split}_{r:05d}".encode(),
                "image": images[r],
                "label": [int(raw.labels["cifar100"][raw_split][r])],
            }
            for r in official_splits.hash_order(keys, raw_split).tolist()
        ]
        shards[raw_split] = [ordered[:3], ordered[3:]]
    folder = write_tfds(tmp_path / "cifar100" / "3.0.2", "cifar100", shards)
    source = find.find("cifar100", tmp_path)
    assert isinstance(source, tfds.Tfds)
    prepare.prepare("cifar100", samples / "cifar100", tmp_path / "p", "full", True)
    other = prepared.Prepared(tmp_path / "p", "cifar100")
    for name in ("train", "train800", "test"):
        a, b = source.open(name), other.open(name)
        assert a.digest == b.digest
        assert [a.read(i) for i in range(len(a))] == [b.read(i) for i in range(len(b))]
        assert a.provenance.completeness == "partial"
    shard = folder / "cifar100-train.tfrecord-00001-of-00002"
    data = shard.read_bytes()
    shard.write_bytes(data[:100] + b"!" + data[101:])
    with pytest.raises(DataDamaged, match="00001-of-00002"):
        source.open("train")
    shard.write_bytes(data[:-9])
    with pytest.raises(DataDamaged, match="00001-of-00002"):
        source.open("train")
    shard.unlink()
    with pytest.raises(DataMissing, match="00001-of-00002"):
        source.open("train")


def test_tfds_examples_of_structured_tasks_get_the_label_rules(tmp_path: Path) -> None:
    image = png()
    scene = np.array([[1, 2, 8.6], [3, 4, 9.1]], np.float32)
    names = ["CLEVR_train_000000.png", "CLEVR_train_000001.png"]
    order = official_splits.hash_order(names, "train").tolist()
    examples = [
        {"file_name": names[i].encode(), "image": image, "objects/pixel_coords": np.repeat(scene, i + 2, 0).ravel()}
        for i in order
    ]
    folder = write_tfds(tmp_path / "clevr" / "3.1.0", "clevr", {"train": [examples]})
    assert tfds.Tfds(folder, "clevr_count").open("train").labels.tolist() == [2 * i + 1 for i in order]
    assert tfds.Tfds(folder, "clevr_distance").open("train800").labels.tolist() == [2, 2]
    with pytest.raises(DataMissing, match="no split 'val200'"):
        tfds.Tfds(folder, "clevr_count").open("val200")
    with pytest.raises(DataDamaged, match="needs 'dmlab'"):
        tfds.Tfds(folder, "dmlab").open("train")
    drives = [
        {"image/file_name": b"000001.png", "image": image, "objects/type": [0, 3], "objects/location": place}
        for place in (np.array([0, 0, 20, 0, 0, 1], np.float32), np.array([0, 0, 20.5, 0, 0, 1], np.float32))
    ]
    folder = write_tfds(tmp_path / "kitti" / "3.3.0", "kitti", {"test": [drives]})
    assert tfds.Tfds(folder, "kitti_distance").open("test").labels.tolist() == [1, 2]
    latents = [{"image": png(1), "label_x_position": [31], "label_orientation": [7]}]
    folder = write_tfds(tmp_path / "dsprites" / "2.0.0", "dsprites", {"train": [latents]})
    sprite = tfds.Tfds(folder, "dsprites_orientation").open("train")
    assert sprite.labels.tolist() == [2]
    assert decode(sprite.read(0), "x").max() == 255


def png(value: int = 9) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((4, 4), value, np.uint8)).save(out, "PNG")
    return out.getvalue()


def webp(value: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(out, "WEBP", lossless=True)
    return out.getvalue()


def write_wds(folder: Path, labels: dict[str, list[int]], shard: int = 700) -> Path:
    pictures = [webp(i) for i in range(50)]
    for split, values in labels.items():
        (folder / split).mkdir(parents=True)
        n = -(-len(values) // shard)
        for k in range(n):
            with tarfile.open(folder / split / f"{k}.tar", "w") as archive:
                for i, label in enumerate(values[k * shard : (k + 1) * shard], k * shard):
                    for kind, data in ((".webp", pictures[label]), (".cls", str(label).encode())):
                        info = tarfile.TarInfo(f"s{i:07d}{kind}")
                        info.size = len(data)
                        archive.addfile(info, io.BytesIO(data))
        (folder / split / "nshards.txt").write_text(str(n))
    (folder / "classnames.txt").write_text("x\n" * 47)
    return folder


def test_a_wds_mirror_has_no_val200_and_its_800_are_not_proven(tmp_path: Path) -> None:
    labels = [i % 47 for i in range(1880)]
    write_wds(tmp_path / "wds_vtab-dtd", {"train": labels, "test": labels[::-1]})
    source = find.find("dtd", tmp_path)
    assert isinstance(source, wds.Wds)
    assert source.splits == ("train", "train800", "test")
    test = source.open("test")
    assert test.labels.tolist() == labels[::-1]
    assert test.provenance.reference
    assert all(decode(test.read(i), "x")[0, 0, 0] == test.labels[i] for i in (0, 699, 700, 1879))
    assert len(source.open("train800")) == 800
    assert not source.open("train800").provenance.reference
    for name in ("val200", "train800val200", "val"):
        with pytest.raises(DataMissing, match=f"no split '{name}'") as caught:
            source.open(name)
        assert "no validation part" in str(caught.value)
    (tmp_path / "wds_vtab-dtd" / "test" / "2.tar").unlink()
    with pytest.raises(DataMissing, match=r"2\.tar"):
        source.open("test")
    (tmp_path / "wds_vtab-dtd" / "test" / "nshards.txt").unlink()
    with pytest.raises(DataDamaged, match="truncated"):
        source.open("test")


def test_wds_labels_of_dsprites_are_binned(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(official, "counts", lambda task, split: (40,))
    folder = write_wds(tmp_path / "dsprites", {"test": list(range(40))})
    assert wds.Wds(folder, "dsprites_orientation").open("test").labels.tolist() == [i * 16 // 40 for i in range(40)]
    with pytest.raises(DataDamaged, match="label 39"):
        wds.Wds(folder, "dsprites_location").open("test")


def test_a_truncated_parquet_conversion_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "dmlab" / "default" / "partial-train"
    folder.mkdir(parents=True)
    struct_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = pa.array([{"bytes": webp(0), "path": "x"}] * 5, struct_type)
    pq.write_table(pa.table({"webp": rows, "cls": [0] * 5, "__key__": list("abcde")}), folder / "0000.parquet")
    source = find.find("dmlab", tmp_path)
    with pytest.raises(DataDamaged, match="5 of 65,550 images in train: it is truncated"):
        source.open("train")


@pytest.mark.parametrize("shards", [1, 2, 16, 32])
def test_the_order_of_a_wds_mirror_is_proven_by_its_labels(shards: int) -> None:
    task = tasks.get("eurosat")
    keys = official_splits.raw_keys(task, "train")
    assert keys is not None
    names = wds.Wds(Path(), "eurosat").class_names
    order = official_splits.hash_order(keys, "train")[:16_200]
    in_hash_order = np.array([names.index(keys[i].split("_")[0]) for i in order])
    read = wds.read_order(27_000, 16_200, shards)
    assert sorted(read.tolist()) == list(range(16_200))
    found = wds.Wds(Path(), "eurosat")._proven(in_hash_order[read])
    assert found is not None
    assert np.array_equal(in_hash_order[read][found], in_hash_order)
    swapped = in_hash_order[read][::-1]
    assert wds.Wds(Path(), "eurosat")._proven(swapped) is None


def test_read_order_takes_sixteen_of_sixteen_in_turn() -> None:
    assert wds.read_order(100, 100, 1).tolist() == list(range(100))
    two = wds.read_order(40, 40, 2).tolist()
    assert two == [*range(16), *range(20, 36), *range(16, 20), *range(36, 40)]


def test_the_readme_table_names_every_collection_once() -> None:
    lines = readme_table().splitlines()
    assert len(lines) == 2 + 16 == 2 + len({task.collection for task in tasks.VTAB})
    assert all(line.count("|") == 7 for line in lines)
    for task in tasks.VTAB:
        assert sum(f"`{task.name}`" in line.split("|")[2] for line in lines) == 1
    assert sum("| manual |" in line for line in lines) == 2
    assert sum("GB |" in line or "MB |" in line for line in lines) == 15  # Kaggle tells no size without a login


def test_keys_of_data_sets_that_tell_them_only_by_their_files(samples: Path) -> None:
    from vitft.prepare.owner_files import split_keys

    assert split_keys("svhn", "val200")[0][0] == "21145"
    with pytest.raises(DataError, match="known from its data only"):
        split_keys("dtd", "test")
    keys, why = split_keys("dtd", "test", samples / "dtd")
    assert len(keys) == 3
    assert "train has 2" in why


def test_a_wds_mirror_that_is_not_vtabs_is_read_as_its_task_or_as_itself(tmp_path: Path) -> None:
    labels = [0, 3, 9, 1, 3]
    folder = write_wds(tmp_path / "wds_vtab-cifar10", {"train": labels, "test": labels[::-1]}, shard=2)
    (folder / "classnames.txt").write_text("\r\n".join(f"a {n}" for n in range(10)) + "\r\n")
    for source in (find.find("cifar10", tmp_path), find.find("cifar10", folder), find.find(str(folder))):
        assert (source.task, source.splits) == ("cifar10", ("train", "test"))
        test = source.open("test")
        assert test.labels.tolist() == labels[::-1]
        assert test.class_names[3] == "cat"
        assert [decode(test.read(i), "x")[0, 0, 0] for i in range(5)] == labels[::-1]
        assert (test.provenance.completeness, test.provenance.reference) == ("partial", False)
        assert "5 of the official 10,000" in test.provenance.why
    folder = folder.rename(tmp_path / "wds_food101")
    (folder / "classnames.txt").write_text("\n".join(["crane", *(f"dish {n}" for n in range(9)), "crane"]) + "\n")
    source = find.find(str(folder))
    assert source.task == "wds_food101"
    assert source.open("test").class_names[:2] == ("crane (0)", "dish 0")
    (folder / "classnames.txt").write_text("a\nb\n")
    with pytest.raises(DataDamaged, match="label 9"):
        find.find(str(folder)).open("test")
