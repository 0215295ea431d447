"""Sources of data: one shared class that every source passes, then what each must refuse and say."""

import io
import json
import os
import pickle
import tarfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vitft.catalog import tasks
from vitft.data import carve, lists, splits
from vitft.data.find import at, find
from vitft.data.inventory import inventory
from vitft.data.sources import cifar_archive, hub, hub_cache, image_folder, imagenet, parquet, vtab_folder
from vitft.data.sources.cifar_archive import CifarArchive
from vitft.data.sources.digits import Digits
from vitft.data.sources.drawn import Drawn
from vitft.data.sources.image_folder import ImageFolder
from vitft.data.sources.imagenet import ImageNet
from vitft.data.sources.parquet import Parquet
from vitft.data.sources.vtab_folder import VtabFolder
from vitft.data.split import Source
from vitft.errors import DataDamaged, DataError, DataMissing, UnknownName, UsageError, VitftError


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No caches of this machine and no network."""
    empty = tmp_path_factory.mktemp("empty")
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_DATASETS_CACHE", "HF_ENDPOINT", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(empty / "hf"))
    monkeypatch.setenv("VITFT_DATA", str(empty / "data"))
    monkeypatch.setenv("VITFT_CACHE", str(empty / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def image(number: int, kind: str = "PNG") -> bytes:
    """Draw an image that tells its number by its first pixel."""
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, number // 256, 7)).save(out, kind)
    return out.getvalue()


def number_of(data: bytes) -> int:
    red, green, _ = Image.open(io.BytesIO(data)).convert("RGB").getpixel((0, 0))  # type: ignore[misc]
    return int(red + 256 * green)


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def image_folders(
    root: Path, classes: tuple[str, ...] = ("cat", "dog"), names: tuple[str, ...] = ("train", "test")
) -> Path:
    for split in names:
        for label, name in enumerate(classes):
            for i in range(3):
                write(root / split / name / f"{i}.png", image(10 * label + i))
    return root


def vtab_folders(root: Path, k: int = 102, joined: bool = True, test: int = 20) -> Path:
    sizes = {"train800": 800, "val200": 200, "test": test} | ({"train800val200": 1000} if joined else {})
    shown = image(1, "JPEG")
    for split, n in sizes.items():
        for i in range(n):
            write(root / f"images/{split}/{i:06d}.jpg", shown)
        lines = [f"images/{split}/{i:06d}.jpg {i % k}" for i in range(n)]
        write(root / f"{split}.txt", "\n".join(lines) + "\n")
    return root


def table(
    values: list[object],
    image_name: str = "img",
    label_name: str = "label",
    names: list[str] | None = None,
    **more: object,
) -> pa.Table:
    cells = [{"bytes": image(i), "path": None} for i in range(len(values))]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {image_name: pa.array(cells, kind), label_name: pa.array(values), **more}
    made = pa.table(columns)
    if names is not None:
        features = {image_name: {"_type": "Image"}, label_name: {"names": names, "_type": "ClassLabel"}}
        made = made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    return made


def parquet_folder(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        table([0, 1, 1, 0, 1], names=["cat", "dog"]), root / "train-00000-of-00002.parquet", row_group_size=2
    )
    pq.write_table(table([1, 0], names=["cat", "dog"]), root / "train-00001-of-00002.parquet")
    pq.write_table(table([1, 0, 0], names=["cat", "dog"]), root / "test.parquet")
    return root


def arrow_folder(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    made = table([2, 1, 0, 1, 2])
    for split in ("train", "test"):
        with pa.OSFile(str(root / f"toy-{split}.arrow"), "wb") as file, pa.ipc.new_stream(file, made.schema) as out:
            out.write_table(made, max_chunksize=2)
    return root


def cifar_folder(root: Path, task: str = "cifar10", python: bool = False, packed: bool = False) -> Path:
    rng = np.random.default_rng(0)
    form = next(f for f in cifar_archive._FORMS if f.task == task and (f.head == 0) == python)
    folder = root / form.folder
    for split, files in form.files.items():
        for at_file, name in enumerate(files):
            rows = rng.integers(0, 256, (4, 3072), dtype=np.uint8)
            labels = [(at_file + i) % 10 for i in range(4)]
            if python:
                key = b"fine_labels" if task == "cifar100" else b"labels"
                write(folder / name, pickle.dumps({b"data": rows, key: labels, b"filenames": [split.encode()]}, 2))
            else:
                heads = np.array([[3] * (form.head - 1) + [y] for y in labels], dtype=np.uint8)
                write(folder / name, np.concatenate([heads, rows], axis=1).tobytes())
    if packed:
        with tarfile.open(root / form.archive, "w:gz") as archive:
            archive.add(folder, form.folder)
        for file in sorted(folder.iterdir()):
            file.unlink()
        folder.rmdir()
    return root


WNIDS = lists.names("imagenet")


def imagenet_name(number: int) -> str:
    return f"ILSVRC2012_val_{number:08d}.JPEG"


def imagenet_tar(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    with tarfile.open(root / "ILSVRC2012_img_val.tar", "w") as archive:
        for n in (3, 1, 2):
            entry = tarfile.TarInfo(imagenet_name(n))
            entry.size = len(image(n, "JPEG"))
            archive.addfile(entry, io.BytesIO(image(n, "JPEG")))
    return root


def imagenet_flat(root: Path, shift: int = 0) -> Path:
    labels = lists.imagenet_validation()
    for n in (5, 9, 14):
        write(root / "images" / imagenet_name(n), image(n, "JPEG"))
    write(root / "labels.txt", "".join(f"{imagenet_name(n)} {labels[n - 1] + shift}\n" for n in (14, 5, 9)))
    return root


def imagenet_classes(root: Path) -> Path:
    labels = lists.imagenet_validation()
    for n in (1, 2, 3):
        write(root / "val" / WNIDS[labels[n - 1]] / imagenet_name(n), image(n, "JPEG"))
    return root


def hub_snapshot(root: Path, name: str = "org/toy", commit: str = "a" * 40) -> Path:
    """Lay out the hub client's cache as it lays it out itself: blobs, and links to them in a snapshot."""
    repo = root / "hub" / f"datasets--{name.replace('/', '--')}"
    parquet_folder(repo / "blobs")
    data = repo / "snapshots" / commit / "data"
    data.mkdir(parents=True)
    for number, file in enumerate(sorted((repo / "blobs").iterdir())):
        blob = file.rename(repo / "blobs" / f"{number:064x}")
        (data / file.name).symlink_to(os.path.relpath(blob, data))
    write(repo / "refs" / "main", commit)
    return root


def hub_source(root: Path) -> Source:
    hub_snapshot(root)
    os.environ["HF_HOME"] = str(root)  # restored by the fixture above
    return find("hf:org/toy")


SOURCES: dict[str, Callable[[Path], Source]] = {
    "digits": lambda root: Digits(),
    "drawn": lambda root: Drawn("mini-count"),
    "image folder": lambda root: ImageFolder(image_folders(root), "pets-at-home"),
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
            alone = [split.read(i) for i in rows]
            with ThreadPoolExecutor(4) as pool:
                assert list(pool.map(split.read, rows)) == alone
            for data in alone[:4]:
                Image.open(io.BytesIO(data)).load()

    def test_a_split_that_it_does_not_have_is_named_with_those_it_has(self, name: str, tmp_path: Path) -> None:
        source = SOURCES[name](tmp_path / "set")
        with pytest.raises(DataMissing) as caught:
            source.open("minival")
        assert caught.value.exit_code == 3
        assert "'minival" in str(caught.value)
        assert len(caught.value.lines) <= 3


def _refused(call: Callable[[], object], *words: str, kind: type[VitftError] = DataError) -> VitftError:
    with pytest.raises(kind) as caught:
        call()
    for word in words:
        assert word in str(caught.value), (word, str(caught.value))
    assert len(caught.value.lines) <= 3
    return caught.value


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
        error = _refused(
            lambda: ImageFolder(root, "x").open("train"), "train/empty", "holds no image", kind=DataDamaged
        )
        assert error.exit_code == 3

    def test_class_sets_must_agree(self, tmp_path: Path) -> None:
        root = image_folders(tmp_path)
        write(root / "test/ferret/a.png", image(1))
        _refused(lambda: ImageFolder(root, "x").open("test"), "'train'", "'ferret'")

    def test_two_folders_of_one_meaning(self, tmp_path: Path) -> None:
        root = image_folders(tmp_path, names=("train", "val", "validation"))
        _refused(lambda: ImageFolder(root, "x").splits, "'val'", "'validation'")

    def test_an_image_that_goes_away(self, tmp_path: Path) -> None:
        split = ImageFolder(image_folders(tmp_path), "x").open("train")
        (tmp_path / "train/cat/0.png").unlink()
        _refused(lambda: split.read(0), "train/cat/0.png", kind=DataMissing)

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
        assert _refused(lambda: VtabFolder(root, "caltech101").open("test"), *words).exit_code == 3

    def test_joined_list_is_made_of_the_two(self, tmp_path: Path) -> None:
        split = VtabFolder(vtab_folders(tmp_path, joined=False), "caltech101").open("train800val200")
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
        _refused(lambda: VtabFolder(root, "caltech101").open("test"), "20", "declares 21", kind=DataDamaged)
        write(root / "manifest.json", json.dumps({"completeness": "full"}))
        _refused(lambda: VtabFolder(root, "caltech101").open("test"), "claims to be full", kind=DataDamaged)
        write(root / "manifest.json", "{")
        _refused(lambda: VtabFolder(root, "caltech101").open("test"), "manifest.json", kind=DataDamaged)

    @pytest.mark.parametrize("n", [6084, 6085])
    def test_both_counts_of_caltech101_are_official(self, tmp_path: Path, n: int) -> None:
        root = vtab_folders(tmp_path, test=1)
        shown = root / "images/test/000000.jpg"
        for i in range(1, n):
            (root / f"images/test/{i:06d}.jpg").symlink_to(shown)
        write(root / "test.txt", "\n".join(f"images/test/{i:06d}.jpg 5" for i in range(n)))
        stamp = VtabFolder(root, "caltech101").open("test").provenance
        assert (stamp.completeness, stamp.reference) == ("full", True)

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


class TestParquet:
    def test_shards_in_order_and_every_row_its_own_image(self, tmp_path: Path) -> None:
        split = Parquet(parquet_folder(tmp_path), "toy").open("train")
        assert split.labels.tolist() == [0, 1, 1, 0, 1, 1, 0]
        assert split.class_names == ("cat", "dog")
        assert [number_of(split.read(i)) for i in range(7)] == [0, 1, 2, 3, 4, 0, 1]
        assert "image 'img', label 'label', key row" in split.provenance.source

    def test_a_missing_shard_is_named(self, tmp_path: Path) -> None:
        (parquet_folder(tmp_path) / "train-00001-of-00002.parquet").unlink()
        _refused(lambda: Parquet(tmp_path, "toy").open("train"), "shard 00001 of 2", kind=DataMissing)

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
        _refused(lambda: at(tmp_path), "no data set that vitft can read", "--data-dir")

    def test_columns_are_never_guessed(self, tmp_path: Path) -> None:
        pq.write_table(table([0, 1], labels=pa.array([1, 0])), tmp_path / "train.parquet")
        _refused(lambda: Parquet(tmp_path, "t").open("train"), "several label columns: label, labels")
        pq.write_table(table([0, 1], image=pa.array([b"a", b"b"])), tmp_path / "train.parquet")
        _refused(lambda: Parquet(tmp_path, "t").open("train"), "several image columns: image, img")
        pq.write_table(table([0, 1], label_name="species"), tmp_path / "train.parquet")
        _refused(lambda: Parquet(tmp_path, "t").open("train"), "no label column", "species", "fine_label")
        pq.write_table(table([0.0, 1.0]), tmp_path / "train.parquet")
        _refused(lambda: Parquet(tmp_path, "t").open("train"), "'label'", "double")
        pq.write_table(pa.table({"image": ["a.png"], "label": [0]}), tmp_path / "train.parquet")
        _refused(lambda: Parquet(tmp_path, "t").open("train"), "'image'", "string", "binary")

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
        _refused(lambda: source.open("test"), "-1 in 2 of 2 rows", "hidden")
        pq.write_table(table([0, None]), tmp_path / "test.parquet")
        _refused(lambda: Parquet(tmp_path, "t").open("test"), "Row 1", "None")
        pq.write_table(table([0, 3]), tmp_path / "test.parquet")
        _refused(lambda: Parquet(tmp_path, "t").open("test"), "none of class 2")
        pq.write_table(table([0, 2], names=["a", "b"]), tmp_path / "test.parquet")
        pq.write_table(table([0, 1], names=["a", "b"]), tmp_path / "train.parquet")
        _refused(lambda: Parquet(tmp_path, "t").open("test"), "Row 1", "'2'", "2 classes")
        pq.write_table(table([0, 1], names=["b", "a"]), tmp_path / "test.parquet")
        _refused(lambda: Parquet(tmp_path, "t").open("test"), "name different classes")

    def test_a_row_without_image_is_named_when_it_is_read(self, tmp_path: Path) -> None:
        cells = [{"bytes": image(0), "path": None}, None, {"bytes": None, "path": "gone.png"}]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        pq.write_table(pa.table({"image": pa.array(cells, kind), "label": [0, 1, 0]}), tmp_path / "train.parquet")
        split = Parquet(tmp_path, "t").open("train")
        assert number_of(split.read(0)) == 0
        for row in (1, 2):
            _refused(lambda row=row: split.read(row), f"Row {row}", "no image", kind=DataDamaged)

    @pytest.mark.parametrize("damage", ["cut", "text", "empty"])
    def test_an_unreadable_file_is_named(self, tmp_path: Path, damage: str) -> None:
        file = parquet_folder(tmp_path) / "test.parquet"
        whole = file.read_bytes()
        file.write_bytes({"cut": whole[: len(whole) // 2], "text": b"no parquet at all", "empty": b""}[damage])
        _refused(lambda: Parquet(tmp_path, "t").open("test"), "test.parquet", "cannot be read", kind=DataDamaged)

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
            error = _refused(
                lambda: CifarArchive(tmp_path, "cifar10").open("train"), "would run", "system", "nothing was run"
            )
            assert error.exit_code == 3
            assert not marker.exists()

    def test_a_codec_is_not_looked_up(self) -> None:
        import codecs

        class Payload:
            def __reduce__(self) -> tuple[object, ...]:
                return codecs.encode, ("x", "rot13")

        _refused(lambda: cifar_archive.batch(pickle.dumps(Payload(), 2), "f"), "_codecs.encode")

    @pytest.mark.parametrize(
        "content", [b"", b"\x80\x02K\x01.", pickle.dumps({b"data": np.zeros((2, 5), np.uint8)}, 2), b"xx"]
    )
    def test_a_damaged_pickle_is_named(self, content: bytes) -> None:
        _refused(
            lambda: cifar_archive.batch(content, "data_batch_3"), "data_batch_3", "cannot be read", kind=DataDamaged
        )

    def test_a_file_or_an_archive_cut_short(self, tmp_path: Path) -> None:
        file = cifar_folder(tmp_path / "a") / "cifar-10-batches-bin" / "data_batch_2.bin"
        file.write_bytes(file.read_bytes()[:-1])
        _refused(lambda: CifarArchive(tmp_path / "a", "cifar10").open("train"), "data_batch_2.bin", kind=DataDamaged)
        file.unlink()
        _refused(lambda: CifarArchive(tmp_path / "a", "cifar10").open("train"), "data_batch_2.bin", kind=DataMissing)
        packed = cifar_folder(tmp_path / "b", packed=True) / "cifar-10-binary.tar.gz"
        packed.write_bytes(packed.read_bytes()[:4000])
        _refused(
            lambda: CifarArchive(tmp_path / "b", "cifar10").open("test"), "tar.gz", "cannot be read", kind=DataDamaged
        )

    def test_vtab_splits_are_cut_out_of_the_whole_archive_only(self, tmp_path: Path) -> None:
        source = find("cifar100", cifar_folder(tmp_path, "cifar100"), shots="1000")
        assert isinstance(source, carve.Carved)
        _refused(lambda: source.open("train800"), "4 of the official 50,000", kind=DataDamaged)

    def test_carved_splits_are_the_official_ones(self) -> None:
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
            source = carve.Carved(Whole(), full)
            assert source.splits == names
            for name in names[:2]:
                split = source.open(name)
                assert list(split.keys) == splits.split_keys("cifar100", name)
                assert split.labels[3] == int(split.keys[3]) % 100
                assert split.read(3) == split.keys[3].encode()
                assert (split.provenance.completeness, split.provenance.reference) == ("full", True)


class TestImageNet:
    def test_four_layouts_give_the_same_labels_and_keys(self, tmp_path: Path) -> None:
        labels = lists.imagenet_validation()
        tar = ImageNet(imagenet_tar(tmp_path / "tar")).open("test")
        assert list(tar.keys) == [imagenet_name(n) for n in (1, 2, 3)]
        classes = ImageNet(imagenet_classes(tmp_path / "classes")).open("test")
        flat = ImageNet(imagenet_flat(tmp_path / "flat")).open("test")
        (tmp_path / "flat/labels.txt").unlink()
        numbered = ImageNet(tmp_path / "flat").open("test")
        for split in (tar, classes, flat, numbered):
            for key, label in zip(split.keys, split.labels.tolist(), strict=True):
                assert label == labels[int(key[15:23]) - 1]
            assert split.class_names == WNIDS
            assert split.provenance.completeness == "partial"
            first = Image.open(io.BytesIO(split.read(0))).convert("RGB").getpixel((0, 0))
            assert abs(first[0] - int(split.keys[0][15:23])) <= 3  # type: ignore[index]

    def test_lists_with_identifiers_folders_bom_and_crlf(self, tmp_path: Path) -> None:
        root = imagenet_flat(tmp_path)
        (root / "labels.txt").unlink()
        wnid = WNIDS[lists.imagenet_validation()[4]]
        write(root / "val.txt", f"\ufeffval/{imagenet_name(5)} {wnid}\r\n")
        split = at(root).open("test")
        assert split.labels.tolist() == [lists.imagenet_validation()[4]]

    @pytest.mark.parametrize(
        "line", ["ILSVRC2012_val_00000005.JPEG 1000", "ILSVRC2012_val_00000005.JPEG -1", "ILSVRC2012_val_00000005.JPEG"]
    )
    def test_a_label_outside_is_shown(self, tmp_path: Path, line: str) -> None:
        write(imagenet_flat(tmp_path) / "labels.txt", f"{imagenet_name(9)} 4\n{line}\n")
        _refused(lambda: ImageNet(tmp_path).open("test"), "line 2", "0 to 999", kind=DataDamaged)

    def test_an_image_that_is_listed_but_absent_or_listed_twice(self, tmp_path: Path) -> None:
        root = imagenet_flat(tmp_path)
        write(root / "labels.txt", f"{imagenet_name(5)} 4\n{imagenet_name(6)} 4\n")
        _refused(lambda: ImageNet(root).open("test"), imagenet_name(6), "line 2", kind=DataMissing)
        write(root / "labels.txt", f"{imagenet_name(5)} 4\n{imagenet_name(5)} 4\n")
        _refused(lambda: ImageNet(root).open("test"), imagenet_name(5), "more than once", kind=DataDamaged)

    def test_a_tar_cut_short(self, tmp_path: Path) -> None:
        file = imagenet_tar(tmp_path) / "ILSVRC2012_img_val.tar"
        for size in (600, 512 * 3 + 40, 100):
            file.write_bytes(file.read_bytes()[:size])
            _refused(lambda: ImageNet(tmp_path).open("test"), "ILSVRC2012_img_val.tar", kind=DataDamaged)

    def test_tables_of_the_hub_have_their_validation_as_test(self, tmp_path: Path) -> None:
        names = [f"class {i}" for i in range(1000)]
        folder = tmp_path / "imagenet-1k" / "data"
        folder.mkdir(parents=True)
        cells = [{"bytes": image(n), "path": f"ILSVRC2012_val_{n:08d}_{WNIDS[0]}.JPEG"} for n in (8, 3)]
        made = table([5, 6], "image", names=names)
        made = made.set_column(0, "image", pa.array(cells)).replace_schema_metadata(made.schema.metadata)
        pq.write_table(made, folder / "validation-00000-of-00001.parquet")
        pq.write_table(table([-1, -1], "image", names=names), folder / "test-00000-of-00001.parquet")
        source = find("imagenet", tmp_path)
        assert source.splits == ("test",)
        split = source.open("test")
        assert list(split.keys) == [imagenet_name(8), imagenet_name(3)]
        assert split.labels.tolist() == [5, 6]

    def test_the_validation_images_are_not_called_val(self, tmp_path: Path) -> None:
        _refused(
            lambda: ImageNet(imagenet_classes(tmp_path)).open("val"), "are the split 'test' here", kind=DataMissing
        )

    def test_a_task_of_a_few_of_its_classes_is_the_users_own(self, tmp_path: Path) -> None:
        image_folders(tmp_path / "imagenette", classes=WNIDS[:3], names=("train", "val"))
        source = at(tmp_path / "imagenette")
        assert source.open("train").num_classes == 3
        assert find("imagenet", tmp_path / "imagenette").open("test").num_classes == 1000

    def test_real_ones(self, shared: Path) -> None:
        split = find("imagenet", shared / "data" / "imagenet-val-sample").open("test")
        official = lists.imagenet_validation()
        assert len(split) == 1300
        assert [official[int(key[15:23]) - 1] for key in split.keys] == split.labels.tolist()
        tar = at(shared / "data" / "raw-format-samples" / "imagenet2012").open("test")
        assert tar.keys[0] == imagenet_name(1)
        assert tar.read(9)[:3] == b"\xff\xd8\xff"


class TestHub:
    def test_snapshot_in_the_cache_with_its_revision(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_HOME", str(hub_snapshot(tmp_path)))
        for name in ("hf:org/toy", "hf:org/toy@main", f"hf:org/toy@{'a' * 40}"):
            split = find(name).open("test")
            assert len(split) == 3
            assert split.provenance.revision == "a" * 40
            assert "org/toy" in split.provenance.source

    def test_a_pinned_revision_is_not_replaced_by_another(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_HOME", str(hub_snapshot(tmp_path)))
        error = _refused(
            lambda: find(f"hf:org/toy@{'b' * 40}"), "HF_HUB_OFFLINE", f"--revision {'b' * 40}", kind=DataMissing
        )
        assert str(tmp_path / "hub") in str(error)

    def test_the_cache_of_datasets(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
        arrow_folder(tmp_path / "org___toy" / "default" / "0.0.0" / ("c" * 40))
        arrow_folder(tmp_path / "org___toy" / "default" / "0.0.0" / f"{'d' * 40}.incomplete")
        split = find("hf:org/toy").open("train")
        assert len(split) == 5
        assert split.provenance.revision == "c" * 40

    def test_known_task_by_its_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_HOME", str(tmp_path))
        folder = tmp_path / "hub" / "datasets--uoft-cs--cifar10" / "snapshots" / ("e" * 40) / "plain_text"
        folder.mkdir(parents=True)
        names = list(lists.names("cifar10"))
        pq.write_table(table([3, 1], names=names), folder / "test-00000-of-00001.parquet")
        source = find("cifar10")
        assert (source.task, source.splits) == ("cifar10", ("test",))
        assert source.open("test").provenance.why == "test has 2 of the official 10,000 images"
        assert next(row for row in inventory() if row.task == "cifar10").status == "ready"

    def test_without_a_network_it_says_so_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("HF_HUB_OFFLINE")
        # A network that swallows everything: the question is never answered.
        monkeypatch.setattr(hub, "PROBE_SECONDS", 0.2)
        monkeypatch.setenv("HF_ENDPOINT", "http://192.0.2.1")
        start = time.monotonic()
        error = _refused(lambda: find("hf:org/toy"), "does not answer", "hf download org/toy", kind=DataMissing)
        assert time.monotonic() - start < 3
        assert error.exit_code == 3
        _refused(lambda: find("cifar10"), "Hugging Face caches", "vitft data prepare cifar10", kind=DataMissing)

    @pytest.mark.parametrize("text", ["hf:", "hf:a/b/c", "hf:../x", "hf:a b", "hf:a/b@"])
    def test_a_name_that_is_none(self, text: str) -> None:
        _refused(lambda: find(text), "names no data set of the hub", kind=UsageError)

    def test_several_configurations_are_named(self) -> None:
        names = ["red/train-0.parquet", "blue/train-0.parquet", "blue/test/0000.parquet", "README.md"]
        _refused(lambda: hub._by_split(names[:3], hub_cache.parse("hf:org/toy")), "blue, red", "hf:org/toy:blue")
        assert hub._by_split(names[:3], hub_cache.parse("hf:org/toy:blue")) == {"train": [names[1]], "test": [names[2]]}
        _refused(lambda: hub._by_split(names[:3], hub_cache.parse("hf:org/toy:green")), "'green'", "blue, red")


class TestFind:
    def test_a_users_own_folder_that_is_called_like_a_task(self, tmp_path: Path) -> None:
        root = image_folders(tmp_path / "flowers")
        assert at(root).task == "flowers-2-classes"
        _refused(lambda: find("oxford_flowers102", tmp_path), "2 classes", "102", kind=DataDamaged)

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
        error = _refused(
            lambda: find("dtd", tmp_path), str(tmp_path), "VITFT_DATA", "vitft data prepare dtd", kind=DataMissing
        )
        assert error.exit_code == 3
        _refused(lambda: find("dtd", tmp_path / "nowhere"), "nowhere", "does not exist", kind=DataMissing)
        _refused(lambda: find("./nowhere"), "does not exist", kind=DataMissing)
        _refused(lambda: at(tmp_path), "no data set that vitft can read", kind=DataMissing)
        _refused(lambda: find("oxford_pett", tmp_path), "Did you mean 'oxford_pet'", kind=UnknownName)

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
        _refused(
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
