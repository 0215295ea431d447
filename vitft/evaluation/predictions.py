"""Predictions on disk: what was answered for each image, so that models can be compared later, image by image."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitft.errors import DataDamaged
from vitft.evaluation import metrics
from vitft.results.files import write_atomic
from vitft.words import cause


@dataclass(frozen=True)
class Saved:
    """A predictions file.

    Attributes:
        keys: N names of the images.
        labels: (N,).
        top5: (N, min(5, K)) classes, best first.
        probabilities: (N, min(5, K)) of those classes, after softmax.
        label_names, answer_names: N names of the label's and the first answer's class; "" in files of an older vitft.
    """

    keys: tuple[str, ...]
    labels: NDArray[np.int64]
    top5: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    label_names: tuple[str, ...] = ()
    answer_names: tuple[str, ...] = ()

    @property
    def correct(self) -> NDArray[np.bool_]:
        """(N,) whether the first answer is the label."""
        return np.asarray(self.top5[:, 0] == self.labels)


def save(
    path: Path,
    keys: Sequence[str],
    labels: NDArray[np.int64],
    logits: NDArray[np.float32],
    class_names: Sequence[str],
) -> None:
    """Write one row an image, in the split's order.

    Columns: key, label, top5 (classes, best first), probabilities (of those), label_name, answer_name (of the best).

    Raises:
        DiskFull: it could not be written whole.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    best = metrics.top(logits, 5)
    chances = np.take_along_axis(metrics.probabilities(logits), best, axis=1)
    table = pa.table(
        {
            "key": pa.array([str(key) for key in keys], pa.string()),
            "label": pa.array(np.asarray(labels), pa.int64()),
            "top5": pa.array(list(best.astype(np.int32)), pa.list_(pa.int32())),
            "probabilities": pa.array(list(chances), pa.list_(pa.float32())),
            "label_name": pa.array([_name(class_names, label) for label in labels], pa.string()),
            "answer_name": pa.array([_name(class_names, answer) for answer in best[:, 0]], pa.string()),
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    write_atomic(path, buffer.getvalue())


def _name(class_names: Sequence[str], index: int) -> str:
    return str(class_names[index]) if 0 <= index < len(class_names) else ""


def load(path: Path) -> Saved:
    """Read what `save` wrote. Raises DataDamaged for a damaged file or one of something else."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path).read(use_threads=False)
        n = len(table)
        unnamed = [""] * n
        names = {key: table[key].to_pylist() if key in table.column_names else unnamed for key in _NAMES}
        keys: list[str] = table["key"].to_pylist()
        return Saved(
            tuple(keys),
            np.array(_ints(table["label"].combine_chunks()), dtype=np.int64),
            np.array(_rows(table["top5"].combine_chunks(), n), dtype=np.int64),
            np.array(_rows(table["probabilities"].combine_chunks(), n), dtype=np.float32),
            tuple(names["label_name"]),
            tuple(names["answer_name"]),
        )
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise DataDamaged(f"'{path}' holds no predictions ({cause(error, 120)}).") from None


_NAMES = ("label_name", "answer_name")


def _rows(lists: Any, n: int) -> NDArray[Any]:
    """Return an Arrow array of n lists of one length as (n, length); not through lists of Python, which is slow."""
    ends, values = _ints(lists.offsets), lists.values
    whole = np.frombuffer(values.buffers()[1], dtype={"float": "float32"}.get(str(values.type), str(values.type)))
    flat = whole[values.offset :][ends[0] : ends[-1]]
    return flat.reshape(n, -1)


def load_correct(path: Path) -> NDArray[np.bool_]:
    """Read which images were answered rightly, (N,), and nothing else: a table of many runs reads many files.

    Raises DataDamaged as `load`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # `read_table` and an array's `to_numpy` import pandas, which takes as long as reading a hundred files.
        table = pq.ParquetFile(path).read(columns=["label", "top5"], use_threads=False)
        labels, lists = (table[name].combine_chunks() for name in ("label", "top5"))
        return np.asarray(_ints(lists.values)[_ints(lists.offsets)[:-1]] == _ints(labels), dtype=bool)
    except (OSError, pa.ArrowException, KeyError, ValueError, IndexError) as error:
        raise DataDamaged(f"'{path}' holds no predictions ({cause(error, 120)}).") from None


def _ints(array: Any) -> NDArray[np.int64]:
    """Return an Arrow array of whole numbers without copying its buffer."""
    whole = np.frombuffer(array.buffers()[1], dtype=str(array.type))
    return np.asarray(whole[array.offset : array.offset + len(array)], dtype=np.int64)
