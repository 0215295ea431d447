"""Predictions on disk: what paired comparisons and confusion matrices are made from later."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitft.results import write_atomic

TOP = 5


def save(path: Path, keys: Sequence[str], labels: NDArray[np.int64], logits: NDArray[np.float32]) -> None:
    """Write one row an image: key, label, its min(5, K) most probable classes and their probabilities.

    Args:
        labels: (N,).
        logits: (N, K).

    Raises:
        DiskFull: nothing is left half-written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    top = np.argsort(-logits, axis=1, kind="stable")[:, :TOP]
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    table = pa.table(
        {
            "key": pa.array(list(keys), pa.string()),
            "label": pa.array(labels, pa.int64()),
            "top": pa.array(list(top), pa.list_(pa.int64())),
            "probability": pa.array(list(np.take_along_axis(probabilities, top, axis=1)), pa.list_(pa.float32())),
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    write_atomic(path, buffer.getvalue())
