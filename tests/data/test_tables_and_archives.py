"""Parquet and arrow tables, and the official CIFAR archives."""

import io
import json
import os
import pickle
import struct
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.layouts import alone, cifar_folder, image, number_of, parquet_folder, refused, table  # noqa: F401
from vitft.data import official_splits, vtab_splits
from vitft.data.find import at, find
from vitft.data.sources import cifar_archive, parquet
from vitft.data.sources.cifar_archive import CifarArchive
from vitft.data.sources.parquet import Parquet
from vitft.errors import DataDamaged, DataMissing


class TestParquet:
    def test_shards_in_order_and_every_row_its_own_image(self, tmp_path: Path) -> None:
        split = Parquet(parquet_folder(tmp_path), "toy").open("train")
        assert split.labels.tolist() == [0, 1, 1, 0, 1, 1, 0]
        assert split.class_names == ("cat", "dog")
        assert [number_of(split.read(i)) for i in range(7)] == [0, 1, 2, 3, 4, 0, 1]
        assert "image 'img', label 'label', key row" in split.provenance.source

    def test_a_missing_shard_is_named(self, tmp_path: Path) -> None:
        (parquet_folder(tmp_path) / "train-00001-of-00002.parquet").unlink()
        refused(lambda: Parquet(tmp_path, "toy").open("train"), "shard 00001 of 2", kind=DataMissing)

    @pytest.mark.parametrize("where", ["data", "plain_text", "train", "."])
    def test_folders_of_the_hub(self, tmp_path: Path, where: str) -> None:
        (tmp_path / where).mkdir(exist_ok=True)
        pq.write_table(table([0, 1]), tmp_path / where / "train-00000-of-00001-b35aa5b386dfd627.parquet")
        assert Parquet(tmp_path, "toy").splits == ("train",)
        assert parquet.detect(tmp_path)

    def test_a_folder_of_data_sets_is_not_one(self, tmp_path: Path) -> None:
        for name in ("one", "two"):
            parquet_folder(tmp_path / name)
        assert not parquet.detect(tmp_path)
        refused(lambda: at(tmp_path), "no data set that vitft can read", "--data-dir")

    @pytest.mark.parametrize(
        ("names", "split"),
        [(("val", "dev"), "val"), (("train", "train_small"), "train"), (("a-test", "b-test-00000-of-00001"), "test")],
    )
    def test_two_tables_of_one_split_are_not_joined(self, tmp_path: Path, names: tuple[str, str], split: str) -> None:
        for name in names:
            pq.write_table(table([0, 1]), tmp_path / f"{name}.parquet")
        refused(lambda: Parquet(tmp_path, "t").open(split), f"'{names[0]}", f"'{names[1]}", f"same split, {split}")

    @pytest.mark.parametrize(
        "name", ["train_{}", "train-part{}", "train.{}", "train-0000{}-of-00002-b35aa5b386dfd62{}"]
    )
    def test_parts_by_number_are_one_table(self, tmp_path: Path, name: str) -> None:
        for i in (0, 1):
            pq.write_table(table([i]), tmp_path / f"{name.format(i, i)}.parquet")
        assert Parquet(tmp_path, "t").open("train").labels.tolist() == [0, 1]

    def test_tables_of_no_split_are_told_of(self, tmp_path: Path) -> None:
        for name in ("train", "evaluation", "holdout"):
            pq.write_table(table([0, 1]), tmp_path / f"{name}.parquet")
        source = Parquet(tmp_path, "t")
        assert source.splits == ("train", "test")
        assert source.open("test").provenance.why.endswith("; tables not read: holdout.parquet")

    def test_photographs_are_turned_as_in_an_image_folder(self, tmp_path: Path) -> None:
        parquet_folder(tmp_path)
        assert Parquet(tmp_path, "mine").open("test").exif
        assert not Parquet(tmp_path, "cifar10").open("test").exif  # as its reference code reads it

    def test_columns_are_never_guessed(self, tmp_path: Path) -> None:
        pq.write_table(table([0, 1], labels=pa.array([1, 0])), tmp_path / "train.parquet")
        refused(lambda: Parquet(tmp_path, "t").open("train"), "several label columns: label, labels")
        pq.write_table(table([0, 1], image=pa.array([b"a", b"b"])), tmp_path / "train.parquet")
        refused(lambda: Parquet(tmp_path, "t").open("train"), "several image columns: image, img")
        pq.write_table(table([0, 1], label_name="species"), tmp_path / "train.parquet")
        refused(lambda: Parquet(tmp_path, "t").open("train"), "no label column", "species", "fine_label")
        pq.write_table(table([0.0, 1.0]), tmp_path / "train.parquet")
        refused(lambda: Parquet(tmp_path, "t").open("train"), "'label'", "double")
        pq.write_table(pa.table({"image": ["a.png"], "label": [0]}), tmp_path / "train.parquet")
        refused(lambda: Parquet(tmp_path, "t").open("train"), "'image'", "string", "binary")

    def test_fine_labels_beside_coarse_ones(self, tmp_path: Path) -> None:
        pq.write_table(table([1, 0], label_name="fine_label", coarse_label=pa.array([0, 0])), tmp_path / "test.parquet")
        split = Parquet(tmp_path, "t").open("test")
        assert split.labels.tolist() == [1, 0]
        assert "label 'fine_label'" in split.provenance.source

    def test_plain_binary_text_labels_and_dictionaries(self, tmp_path: Path) -> None:
        columns = {"image": [image(3), image(4)], "label": pa.array(["dog", "cat"]).dictionary_encode()}
        pq.write_table(pa.table(columns), tmp_path / "train.parquet")
        split = Parquet(tmp_path, "t").open("train")
        assert split.class_names == ("cat", "dog")
        assert split.labels.tolist() == [1, 0]
        assert number_of(split.read(1)) == 4

    def test_keys_are_file_names_where_every_row_has_its_own(self, tmp_path: Path) -> None:
        made = table([0, 1]).drop_columns("img")
        cells = [{"bytes": image(0), "path": "b.png"}, {"bytes": image(1), "path": "a.png"}]
        pq.write_table(made.append_column("img", pa.array(cells)), tmp_path / "train.parquet")
        assert list(Parquet(tmp_path, "t").open("train").keys) == ["b.png", "a.png"]

    def test_labels_hidden_absent_or_with_a_gap(self, tmp_path: Path) -> None:
        pq.write_table(table([0, 1, 1]), tmp_path / "train.parquet")
        pq.write_table(table([-1, -1]), tmp_path / "test.parquet")
        source = Parquet(tmp_path, "t")
        assert len(source.open("train")) == 3
        refused(lambda: source.open("test"), "-1 in 2 of 2 rows", "hidden")
        pq.write_table(table([0, None]), tmp_path / "test.parquet")
        refused(lambda: Parquet(tmp_path, "t").open("test"), "Row 1", "None")
        for far in (3, 10**15):
            pq.write_table(table([0, far]), tmp_path / "test.parquet")
            refused(lambda: Parquet(tmp_path, "t").open("test"), f"labels up to {far}", "none of class 2")
        pq.write_table(table([0, 2], names=["a", "b"]), tmp_path / "test.parquet")
        pq.write_table(table([0, 1], names=["a", "b"]), tmp_path / "train.parquet")
        refused(lambda: Parquet(tmp_path, "t").open("test"), "Row 1", "'2'", "2 classes")
        pq.write_table(table([0, 1], names=["b", "a"]), tmp_path / "test.parquet")
        refused(lambda: Parquet(tmp_path, "t").open("test"), "name different classes")

    def test_a_row_without_image_is_named_when_it_is_read(self, tmp_path: Path) -> None:
        cells = [{"bytes": image(0), "path": None}, None, {"bytes": None, "path": "gone.png"}]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        pq.write_table(pa.table({"image": pa.array(cells, kind), "label": [0, 1, 0]}), tmp_path / "train.parquet")
        split = Parquet(tmp_path, "t").open("train")
        assert number_of(split.read(0)) == 0
        for row in (1, 2):
            refused(partial(split.read, row), f"Row {row}", "no image", kind=DataDamaged)

    @pytest.mark.parametrize("damage", ["cut", "text", "empty"])
    def test_an_unreadable_file_is_named(self, tmp_path: Path, damage: str) -> None:
        file = parquet_folder(tmp_path) / "test.parquet"
        whole = file.read_bytes()
        file.write_bytes({"cut": whole[: len(whole) // 2], "text": b"no parquet at all", "empty": b""}[damage])
        refused(lambda: Parquet(tmp_path, "t").open("test"), "test.parquet", "cannot be read", kind=DataDamaged)

    def test_wrong_offsets_in_an_arrow_file_do_not_end_the_process(self, tmp_path: Path) -> None:
        cells = [image(0), image(1)]
        made = pa.table({"image": pa.array(cells, pa.binary()), "label": [0, 1]})
        with pa.OSFile(str(tmp_path / "test.arrow"), "wb") as file, pa.ipc.new_stream(file, made.schema) as out:
            out.write_table(made)
        offsets = struct.pack("<3i", 0, len(cells[0]), len(cells[0]) + len(cells[1]))
        data = (tmp_path / "test.arrow").read_bytes()
        assert data.count(offsets) == 1
        (tmp_path / "test.arrow").write_bytes(data.replace(offsets, struct.pack("<3i", 0, -(2**30), 2**30)))
        split = Parquet(tmp_path, "t").open("test")
        refused(lambda: split.read(0), "test.arrow", "cannot be read", kind=DataDamaged)

    def test_only_some_row_groups_stay_in_memory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from vitft.data.sources import tables

        pq.write_table(table([i % 2 for i in range(40)]), tmp_path / "train.parquet", row_group_size=4)
        monkeypatch.setattr(tables, "_KEPT", 1500)
        opened = tables.open_table([tmp_path / "train.parquet"])
        for row in np.random.default_rng(0).integers(0, 40, 80).tolist():
            data, _ = opened.image("img", row)
            assert data is not None
            assert number_of(data) == row
            assert len(opened._cache) < 10

    def test_cifar10(self, shared: Path) -> None:
        source = find("cifar10", shared / "data")
        train, test = source.open("train"), source.open("test")
        assert (len(train), len(test), train.class_names[3]) == (50_000, 10_000, "cat")
        assert test.provenance.completeness == "full"
        assert Image.open(io.BytesIO(train.read(49_999))).size == (32, 32)


class TestCifarArchive:
    @pytest.mark.parametrize("task", ["cifar10", "cifar100"])
    def test_order_keys_labels_and_pixels_are_those_of_tensorflow_datasets(self, shared: Path, task: str) -> None:
        from hashlib import sha256

        oracle = json.loads((shared / "facts" / "tfds_oracle.json").read_text())["collections"][task]
        source = find(task, shared / "data" / "raw-format-samples")
        for name in source.splits:
            split = source.open(name)
            for i, example in enumerate(oracle["splits"][name]["examples"]):
                assert split.keys[i] == str(example["key"])
                assert split.labels[i] == example["labels"]["label"]
                pixels = np.asarray(Image.open(io.BytesIO(split.read(i))))
                assert sha256(pixels.tobytes()).hexdigest().startswith(example["image"]["sha256"])

    def test_python_binary_packed_and_unpacked_agree(self, tmp_path: Path) -> None:
        made = [
            CifarArchive(cifar_folder(tmp_path / f"{python}{packed}", "cifar10", python, packed), "cifar10").open(
                "train"
            )
            for python in (False, True)
            for packed in (False, True)
        ]
        assert len({split.digest for split in made}) == 1
        assert len({split.read(7) for split in made}) == 1

    def test_a_pickle_with_a_payload_is_not_run(self, tmp_path: Path) -> None:
        folder = cifar_folder(tmp_path, python=True) / "cifar-10-batches-py"
        marker = tmp_path / "was-run"

        class Payload:
            def __reduce__(self) -> tuple[object, ...]:
                return os.system, (f"touch {marker}",)

        for payload in (Payload(), {b"data": Payload()}):
            (folder / "data_batch_3").write_bytes(pickle.dumps(payload, 2))
            error = refused(
                lambda: CifarArchive(tmp_path, "cifar10").open("train"), "would run", "system", "nothing was run"
            )
            assert error.exit_code == 3
            assert not marker.exists()

    def test_a_codec_is_not_looked_up(self) -> None:
        import codecs

        class Payload:
            def __reduce__(self) -> tuple[object, ...]:
                return codecs.encode, ("x", "rot13")

        refused(lambda: cifar_archive.batch(pickle.dumps(Payload(), 2), "f"), "_codecs.encode")

    @pytest.mark.parametrize(
        "content", [b"", b"\x80\x02K\x01.", pickle.dumps({b"data": np.zeros((2, 5), np.uint8)}, 2), b"xx"]
    )
    def test_a_damaged_pickle_is_named(self, content: bytes) -> None:
        refused(
            lambda: cifar_archive.batch(content, "data_batch_3"), "data_batch_3", "cannot be read", kind=DataDamaged
        )

    def test_a_file_or_an_archive_cut_short(self, tmp_path: Path) -> None:
        file = cifar_folder(tmp_path / "a") / "cifar-10-batches-bin" / "data_batch_2.bin"
        file.write_bytes(file.read_bytes()[:-1])
        refused(lambda: CifarArchive(tmp_path / "a", "cifar10").open("train"), "data_batch_2.bin", kind=DataDamaged)
        file.unlink()
        refused(lambda: CifarArchive(tmp_path / "a", "cifar10").open("train"), "data_batch_2.bin", kind=DataMissing)
        packed = cifar_folder(tmp_path / "b", packed=True) / "cifar-10-binary.tar.gz"
        packed.write_bytes(packed.read_bytes()[:4000])
        refused(
            lambda: CifarArchive(tmp_path / "b", "cifar10").open("test"), "tar.gz", "cannot be read", kind=DataDamaged
        )

    def test_vtab_splits_are_cut_out_of_the_whole_archive_only(self, tmp_path: Path) -> None:
        source = find("cifar100", cifar_folder(tmp_path, "cifar100"), shots="1000")
        assert isinstance(source, vtab_splits.OfRaw)
        refused(lambda: source.open("train800"), "4 of the official 50,000", kind=DataDamaged)

    def test_splits_cut_of_raw_ones_are_the_official_ones(self) -> None:
        from vitft.data.split import Provenance, Split

        class Whole:
            task, splits, owner_keys = "cifar100", ("train", "test"), True

            def open(self, name: str) -> Split:
                n = {"train": 50_000, "test": 10_000}[name]
                keys = [str(i) for i in range(n)]
                y = np.arange(n, dtype=np.int64) % 100
                return Split(
                    self.task,
                    name,
                    tuple(map(str, range(100))),
                    keys,
                    y,
                    lambda i: keys[i].encode(),
                    Provenance("w", True),
                )

        for full, names in (
            (False, ("train800", "val200", "train800val200", "test")),
            (True, ("train", "val", "test")),
        ):
            source = vtab_splits.OfRaw(Whole(), full)
            assert source.splits == names
            for name in names[:2]:
                split = source.open(name)
                assert list(split.keys) == official_splits.split_keys("cifar100", name)
                assert split.labels[3] == int(split.keys[3]) % 100
                assert split.read(3) == split.keys[3].encode()
                assert (split.provenance.completeness, split.provenance.reference) == ("full", True)
