"""CIFAR-10 and CIFAR-100 as their owner publishes them: python or binary files, unpacked or in their .tar.gz."""

import io
import pickle
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitft.data import labels as label_names
from vitft.data import official
from vitft.data.encode import png
from vitft.data.official_splits import hash_order
from vitft.data.split import Provenance, Split
from vitft.errors import DataDamaged, DataMissing

_PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class _Form:
    """One of the four archives.

    Attributes:
        folder: the folder inside.
        files: raw split -> the files of it, in order.
        head: label bytes before the pixels of a row, the last being the (fine) label; 0 for pickles.
    """

    task: str
    archive: str
    folder: str
    files: dict[str, tuple[str, ...]]
    head: int


def _batches(suffix: str) -> dict[str, tuple[str, ...]]:
    return {"train": tuple(f"data_batch_{n}{suffix}" for n in range(1, 6)), "test": (f"test_batch{suffix}",)}


FORMS = (
    _Form("cifar10", "cifar-10-python.tar.gz", "cifar-10-batches-py", _batches(""), 0),
    _Form("cifar10", "cifar-10-binary.tar.gz", "cifar-10-batches-bin", _batches(".bin"), 1),
    _Form("cifar100", "cifar-100-python.tar.gz", "cifar-100-python", {"train": ("train",), "test": ("test",)}, 0),
    _Form(
        "cifar100", "cifar-100-binary.tar.gz", "cifar-100-binary", {"train": ("train.bin",), "test": ("test.bin",)}, 2
    ),
)


def detect(path: Path) -> bool:
    """Tell whether `path` is one of the archives, its folder, or a folder that holds either."""
    return _locate(path) is not None


@dataclass(frozen=True)
class CifarArchive:
    """The official archive. Examples stand in the order of TensorFlow Datasets, so that train[:98%] is the paper's.

    Attributes:
        path: the archive, its folder, or a folder that holds either.
        task: "cifar10" or "cifar100", or the user's name for it.
    """

    path: Path
    task: str

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train", "test")

    @property
    def owner_keys(self) -> bool:
        """Whether keys are the owner's own, so that official splits can be cut out of these."""
        return True

    @property
    def class_names(self) -> tuple[str, ...]:
        return label_names.class_names(self._place[0].task)

    @property
    def place(self) -> Path:
        """The archive, or its folder: other data sets may lie beside it."""
        return self._place[1]

    @cached_property
    def _place(self) -> tuple[_Form, Path]:
        place = _locate(self.path)
        if place is None:
            raise DataMissing(f"'{self.path}' holds no CIFAR archive.", _legal())
        return place

    @cached_property
    def _raw(self) -> dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]]:
        form, place = self._place
        content = _content(form, place)
        raw = {}
        for raw_split, names in form.files.items():
            parts = [rows_of(content[name], f"{place}: {name}", form.head) for name in names]
            images, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
            if not len(labels) or labels.min() < 0 or labels.max() >= len(self.class_names):
                raise DataDamaged(
                    f"'{place}' has labels outside 0 to {len(self.class_names) - 1}.", "the official files."
                )
            raw[raw_split] = images, labels
        return raw

    def open(self, split: str) -> Split:
        """Open "train" or "test"; a key is the number of the row.

        Raises:
            DataMissing, DataDamaged: a file is absent, cut short, or holds what it should not (exit code 3).
        """
        if split not in self.splits:
            raise DataMissing(f"'{self.path}' has no split '{split}'.", f"{', '.join(self.splits)}.")
        images, labels = self._raw[split]
        order = hash_order([str(row) for row in range(len(labels))], split)
        form, place = self._place
        why = official.shortfall(form.task, split, len(labels))
        return Split(
            self.task,
            split,
            self.class_names,
            [str(row) for row in order],
            labels[order],
            lambda i: png(picture(images[order[i]]), compress_level=1),
            Provenance(
                f"official archive ({place.name})", not why, why, official.completeness(form.task, split, len(labels))
            ),
        )


def batch(data: bytes, label: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read one file of a python archive without running anything in it.

    Args:
        data: the pickle.
        label: what an error calls the file.

    Returns:
        images (N, 3072) uint8, planar red, green, blue; labels (N,) int64, the fine ones of CIFAR-100.

    Raises:
        DataDamaged: not such a file, or one that would have to run code.
    """
    try:
        content = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except _ForbiddenError as error:
        raise DataDamaged(
            f"'{label}' would run '{error}' when read; nothing was run.",
            "the owner's file, which holds one array, labels and names.",
            "Fetch the archive again from its owner.",
        ) from None
    except Exception as error:  # a damaged pickle raises almost anything
        raise _damaged(label, f"{type(error).__name__}: {error}") from None
    if not isinstance(content, dict):
        raise _damaged(label, "it is no dictionary")
    entries = {key.decode(errors="replace") if isinstance(key, bytes) else key: value for key, value in content.items()}
    images, labels = entries.get("data"), entries.get("fine_labels", entries.get("labels"))
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 2 or images.shape[1] != _PIXELS:
        raise _damaged(label, "it has no array 'data' of rows of 3,072 bytes")
    if not isinstance(labels, list) or len(labels) != len(images) or not all(type(y) is int for y in labels):
        raise _damaged(label, "its labels are not one number a row")
    return images, np.asarray(labels, dtype=np.int64)


class _ForbiddenError(Exception):
    """A pickle names something other than the few parts of a numpy array."""


def _encode(text: str, encoding: str) -> bytes:
    """Stand in for `_codecs.encode`, by which Python 3 writes bytes into old pickles."""
    if encoding != "latin1":
        raise _ForbiddenError(f"_codecs.encode(..., {encoding!r})")
    return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    """Builds plain containers and numpy arrays of numbers, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _encode
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.empty(0).__reduce__()[0]  # the same function, wherever this numpy keeps it
        raise _ForbiddenError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise _ForbiddenError(f"persistent_load({pid!r})")


def picture(row: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a row of 3,072 planar bytes as (32, 32, 3)."""
    return row.reshape(3, 32, 32).transpose(1, 2, 0)


def rows_of(data: bytes, label: str, head: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read one file of an archive, whose rows begin with `head` label bytes; 0 for a pickle. As `batch`."""
    if not head:
        return batch(data, label)
    if not data or len(data) % (head + _PIXELS):
        raise _damaged(label, f"{len(data):,} bytes, where an image has {head + _PIXELS:,}")
    rows = np.frombuffer(data, np.uint8).reshape(-1, head + _PIXELS)
    return rows[:, head:], rows[:, head - 1].astype(np.int64)


def _locate(path: Path) -> tuple[_Form, Path] | None:
    """Return the form and the archive or folder of its files: unpacked before packed, binary before pickles."""
    forms = sorted(FORMS, key=lambda form: form.head == 0)
    for form in forms:
        for folder in (path, path / form.folder):
            present = all((folder / form.files[split][0]).is_file() for split in ("train", "test"))
            # "train" and "test" alone are names that anything may have.
            ours = form.folder != "cifar-100-python" or folder.name == form.folder or (folder / "meta").is_file()
            if present and ours:
                return form, folder
    for form in forms:
        for file in (path, path / form.archive):
            if file.is_file() and file.name == form.archive:
                return form, file
    return None


def _content(form: _Form, place: Path) -> Mapping[str, bytes]:
    """Return the wanted files by name. A .tar.gz is read once from start to end; nothing is unpacked to the disk."""
    wanted = {name for names in form.files.values() for name in names}
    content: dict[str, bytes] = {}
    try:
        if place.is_dir():
            content = {name: (place / name).read_bytes() for name in wanted if (place / name).is_file()}
        else:
            with tarfile.open(place, "r:gz") as archive:
                for member in archive:
                    name = member.name.rpartition("/")[2]
                    file = archive.extractfile(member) if name in wanted and member.isfile() else None
                    if file is not None:
                        content[name] = file.read()
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise _damaged(str(place), str(error) or type(error).__name__) from None
    if absent := sorted(wanted - content.keys()):
        raise DataMissing(f"'{place}' lacks '{absent[0]}'.", f"all of {', '.join(sorted(wanted))}.")
    return content


def _damaged(label: str, reason: str) -> DataDamaged:
    return DataDamaged(f"'{label}' cannot be read ({reason[:120]}).", _legal(), "Fetch it again.")


def _legal() -> str:
    return ", ".join(form.archive for form in FORMS) + ", or the folder unpacked from one."
