"""CIFAR-10 and CIFAR-100, as the owner's binary files or as the python ones."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from vitft.data.encode import png
from vitft.data.sources.cifar_archive import FORMS, picture, rows_of
from vitft.prepare.archives import Tree
from vitft.prepare.collections.raw import Collection, File, Raw, row_numbers


def _open(task: str, tree: Tree) -> Raw:
    """Read the binary files, or the python ones where those alone are here."""
    binary, python = sorted((form for form in FORMS if form.task == task), key=lambda form: form.head == 0)
    inside = "" if tree.root.name == python.folder else f"{python.folder}/"
    pickled = tree.find(binary.files["test"][0]) is None and tree.find(inside + python.files["test"][0]) is not None
    form, inside = (python, inside) if pickled else (binary, "")
    images, labels = {}, {}
    for raw_split, names in form.files.items():
        files = [tree.need(inside + name) for name in names]
        parts = [rows_of(tree.read(file), tree.label(file), form.head) for file in files]
        images[raw_split], labels[raw_split] = (np.concatenate(column) for column in zip(*parts, strict=True))

    def read(raw_split: str, rows: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        for row in rows:
            yield int(row), png(picture(images[raw_split][row]))

    notes = ("the rows of the python archive are taken to be in the order of the binary one",) if pickled else ()
    return Raw(row_numbers(labels), {task: labels}, read, drawn=True, notes=notes)


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
    partial(_open, "cifar100"),
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
    partial(_open, "cifar10"),
    ("cifar-10-python.tar.gz",),
)
