"""CIFAR-10 and CIFAR-100, as the owner's binary files or as the python ones."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from vitft.data.encode import png
from vitft.errors import DataDamaged
from vitft.prepare.archives import Tree
from vitft.prepare.collections.raw import Collection, File, Raw

_PIXELS = 3 * 32 * 32


def _open_100(tree: Tree) -> Raw:
    return _open(tree, "cifar100", {"train": ("train.bin",), "test": ("test.bin",)}, 2)


def _open_10(tree: Tree) -> Raw:
    batches = tuple(f"data_batch_{n}.bin" for n in range(1, 6))
    return _open(tree, "cifar10", {"train": batches, "test": ("test_batch.bin",)}, 1)


def _open(tree: Tree, task: str, files: dict[str, tuple[str, ...]], head: int) -> Raw:
    """Read rows of `head` label bytes (the last is the fine label) and 3,072 planar pixels."""
    notes: tuple[str, ...] = ()
    folder = "cifar-100-python" if task == "cifar100" else "cifar-10-batches-py"
    inside = "" if tree.root.name == folder else f"{folder}/"
    if tree.find(files["test"][0]) is None and tree.find(inside + files["test"][0].removesuffix(".bin")):
        images, labels = _python(
            tree,
            {raw_split: [inside + name.removesuffix(".bin") for name in found] for raw_split, found in files.items()},
        )
        notes = ("the rows of the python archive are taken to be in the order of the binary one",)
    else:
        images, labels = {}, {}
        for raw_split, names in files.items():
            rows = np.concatenate([_rows(tree, tree.need(name), head) for name in names])
            images[raw_split], labels[raw_split] = rows[:, head:], rows[:, head - 1].astype(np.int64)

    def read(raw_split: str, rows: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        for row in rows:
            yield int(row), png(images[raw_split][row].reshape(3, 32, 32).transpose(1, 2, 0))

    keys = {raw_split: [str(i) for i in range(len(found))] for raw_split, found in labels.items()}
    return Raw(keys, {task: labels}, read, drawn=True, notes=notes)


def _rows(tree: Tree, name: str, head: int) -> NDArray[np.uint8]:
    data = np.frombuffer(tree.read(name), np.uint8)
    if data.size == 0 or data.size % (head + _PIXELS):
        raise DataDamaged(
            f"'{tree.label(name)}' has {data.size:,} bytes.",
            f"a multiple of {head + _PIXELS:,}, the bytes of one image and its labels.",
            "Fetch the archive again.",
        )
    return data.reshape(-1, head + _PIXELS)


def _python(
    tree: Tree, files: dict[str, list[str]]
) -> tuple[dict[str, NDArray[np.uint8]], dict[str, NDArray[np.int64]]]:
    from vitft.data.sources.cifar_archive import batch

    images, labels = {}, {}
    for raw_split, wanted in files.items():
        names = [tree.need(name) for name in wanted]
        batches = [batch(tree.read(name), tree.label(name)) for name in names]
        images[raw_split] = np.concatenate([found[0] for found in batches])
        labels[raw_split] = np.concatenate([found[1] for found in batches])
    return images, labels


CIFAR100 = Collection(
    "cifar100",
    "CIFAR-100",
    "https://www.cs.toronto.edu/~kriz/cifar.html",
    "none stated; see the owner's page",
    (
        File(
            "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
            168_513_733,
            "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        ),
    ),
    _open_100,
    ("cifar-100-python.tar.gz",),
)
CIFAR10 = Collection(
    "cifar10",
    "CIFAR-10",
    "https://www.cs.toronto.edu/~kriz/cifar.html",
    "none stated; see the owner's page",
    (
        File(
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            170_052_171,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        ),
    ),
    _open_10,
    ("cifar-10-python.tar.gz",),
)
