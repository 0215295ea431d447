"""Small data sets in every layout, drawn for the tests of sources."""

import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vitft.data import lists
from vitft.data.sources import cifar_archive
from vitft.errors import DataError, VitftError


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
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


def vtab_folders(root: Path, k: int = 102, joined: bool = True, test: int = 20, train: int = 8, val: int = 4) -> Path:
    sizes = {"train800": train, "val200": val, "test": test} | ({"train800val200": train + val} if joined else {})
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
    form = next(f for f in cifar_archive.FORMS if f.task == task and (f.head == 0) == python)
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


def refused(call: Callable[[], object], *words: str, kind: type[VitftError] = DataError) -> VitftError:
    with pytest.raises(kind) as caught:
        call()
    for word in words:
        assert word in str(caught.value), (word, str(caught.value))
    assert len(caught.value.lines) <= 3
    return caught.value
