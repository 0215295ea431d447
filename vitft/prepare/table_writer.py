"""Writing a split as parquet that `datasets.load_dataset("parquet", ...)` opens with images and class names."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vitft.data.manifest import TableFile

_GROUP_ROWS = 256
_GROUP_BYTES = 8 << 20
_SUFFIXES = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"GI": ".gif", b"RI": ".webp", b"BM": ".bmp"}


def schema(class_names: Sequence[str]) -> pa.Schema:
    """Return the columns image {bytes, path}, label and key with the metadata by which `datasets` knows them."""
    features = {
        "image": {"_type": "Image"},
        "label": {"names": list(class_names), "_type": "ClassLabel"},
        "key": {"dtype": "string", "_type": "Value"},
    }
    columns = [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("label", pa.int64()),
        ("key", pa.string()),
    ]
    return pa.schema(columns, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def write_split(
    path: Path,
    class_names: Sequence[str],
    keys: Sequence[str],
    labels: NDArray[np.int64],
    read: Callable[[int], bytes],
    progress: Callable[[int, int], None],
) -> TableFile:
    """Write one parquet file, holding at most one row group (8 MiB) of images at a time.

    Args:
        path: file to write.
        class_names: index = label.
        keys: N of them.
        labels: (N,).
        read: index -> encoded image.
        progress: called with (done, total).
    """
    columns = schema(class_names)
    # Encoded images do not shrink further.
    with pq.ParquetWriter(path, columns, compression={"image.bytes": "none", "key": "zstd"}) as writer:
        images: list[dict[str, bytes | str]] = []
        size = 0
        for i, key in enumerate(keys):
            data = read(i)
            images.append({"bytes": data, "path": _file_name(key, data)})
            size += len(data)
            if len(images) == _GROUP_ROWS or size >= _GROUP_BYTES or i == len(keys) - 1:
                first = i + 1 - len(images)
                part = [
                    pa.array(images, columns.field("image").type),
                    pa.array(labels[first : i + 1]),
                    pa.array(list(keys[first : i + 1])),
                ]
                writer.write_table(pa.Table.from_arrays(part, schema=columns), row_group_size=len(images))
                images, size = [], 0
                progress(i + 1, len(keys))
    with path.open("rb+") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return TableFile(file=path.name, bytes=path.stat().st_size, sha256=digest)


def _file_name(key: str, data: bytes) -> str:
    """Return the key as a relative file name with the suffix of what it holds."""
    name = key.strip("/")
    return name if "." in name.rsplit("/", 1)[-1] else name + _SUFFIXES.get(data[:2], "")
