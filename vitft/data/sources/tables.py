"""Reading rows of parquet and arrow files at random without holding them whole."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vitft.errors import DataDamaged
from vitft.words import cause

_KEPT = 512 << 20  # bytes of image columns kept, least recently used first out; the newest stays whatever its size

# What pyarrow raises for bytes that are no whole file: its own kinds, and what Python makes of wrong offsets and texts.
_UNREADABLE = (pa.ArrowException, OSError, IndexError, ValueError)


class _Blocks(Protocol):
    """The part of a file that both formats share: columns in blocks of rows."""

    schema: pa.Schema
    rows: list[int]

    def column(self, name: str) -> pa.ChunkedArray: ...

    def block(self, i: int, name: str) -> pa.ChunkedArray: ...

    def holds(self, name: str) -> bool: ...


class _ParquetFile:
    def __init__(self, file: Path) -> None:
        # Not memory-mapped: a file cut short under a map ends the process with SIGBUS instead of an error.
        self._file = pq.ParquetFile(file)
        self.schema = self._file.schema_arrow
        meta = self._file.metadata
        self.rows = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]

    def column(self, name: str) -> pa.ChunkedArray:
        return _child(self._file.read([name], use_threads=False), name)

    def block(self, i: int, name: str) -> pa.ChunkedArray:
        return self._file.read_row_group(i, [name], use_threads=False).column(name)

    def holds(self, name: str) -> bool:
        meta, paths = self._file.metadata, (name, f"{name}.bytes")
        for group in (meta.row_group(i) for i in range(meta.num_row_groups)):
            columns = [group.column(j) for j in range(group.num_columns)]
            counts = [column.statistics for column in columns if column.path_in_schema in paths]
            if not counts or counts[0] is None or not counts[0].has_null_count or counts[0].null_count:
                return False
        return True


class _ArrowFile:
    """An arrow IPC file or stream, memory-mapped: Hugging Face datasets write the second kind under `.arrow`."""

    def __init__(self, file: Path) -> None:
        mapped = pa.memory_map(str(file))
        try:
            reader = pa.ipc.open_file(mapped)
            batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        except pa.ArrowInvalid:
            mapped.seek(0)
            reader = pa.ipc.open_stream(mapped)
            batches = list(reader)
        self.schema = reader.schema
        self._batches = batches
        self.rows = [batch.num_rows for batch in batches]

    def column(self, name: str) -> pa.ChunkedArray:
        return _child(pa.Table.from_batches(self._batches, self.schema), name)

    def block(self, i: int, name: str) -> pa.ChunkedArray:
        return pa.chunked_array([self._batches[i].column(name)])

    def holds(self, name: str) -> bool:
        whole = name if pa.types.is_binary(self.schema.field(name).type) else f"{name}.bytes"
        try:
            return int(self.column(whole).null_count) == 0
        except (KeyError, *_UNREADABLE):
            return False


class Table:
    """The rows of several files, one after the other. Safe to read from several threads."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._paths = list(files)
        self._files: list[_Blocks] = [_opened(file) for file in files]
        self.schema = self._files[0].schema
        for file, opened in zip(files, self._files, strict=True):
            if opened.schema.names != self.schema.names:
                raise DataDamaged(f"'{file}' has other columns than '{files[0]}'.", "shards of one table.")
        self._blocks = [(f, b) for f, opened in enumerate(self._files) for b in range(len(opened.rows))]
        self._starts = np.cumsum([0] + [n for opened in self._files for n in opened.rows])
        self._lock = threading.Lock()
        self._cache: OrderedDict[int, pa.ChunkedArray] = OrderedDict()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def column(self, name: str) -> list[Any]:
        """Return a whole column (not the images'); "a.b" is the field `b` of the struct `a`."""
        values: list[Any] = []
        for path, file in zip(self._paths, self._files, strict=True):
            try:
                of_file = _valid(file.column(name)).to_pylist()
            except _UNREADABLE as error:
                raise _damaged(path, error) from None
            if len(of_file) != sum(file.rows):
                raise _damaged(path, ValueError(f"{len(of_file)} of {sum(file.rows)} rows of '{name}'"))
            values += of_file
        return values

    def image(self, name: str, row: int) -> tuple[bytes | None, str | None]:
        """Return (bytes, path) of one row; either may be None."""
        at = int(np.searchsorted(self._starts, row, side="right")) - 1
        chunk = self._chunk(at, name)
        try:
            value = chunk[row - int(self._starts[at])].as_py()
        except _UNREADABLE as error:
            raise _damaged(self._paths[self._blocks[at][0]], error) from None
        if isinstance(value, dict):
            return value.get("bytes"), value.get("path")
        return value, None

    def holds(self, name: str) -> bool:
        """Tell whether the table is known to hold the bytes of every image, and not the path of some."""
        return all(file.holds(name) for file in self._files)

    def place(self, row: int) -> tuple[Path, int]:
        """Return the file of a row, and the row's number in it."""
        at = int(np.searchsorted(self._starts, row, side="right")) - 1
        file, block = self._blocks[at]
        return self._paths[file], row - int(self._starts[at - block])

    def _chunk(self, at: int, name: str) -> pa.ChunkedArray:
        with self._lock:
            if at in self._cache:
                self._cache.move_to_end(at)
                return self._cache[at]
            file, block = self._blocks[at]
            try:
                chunk = _valid(self._files[file].block(block, name))
            except _UNREADABLE as error:
                raise _damaged(self._paths[file], error) from None
            self._cache[at] = chunk
            while len(self._cache) > 1 and sum(c.nbytes for c in self._cache.values()) > _KEPT:
                self._cache.popitem(last=False)
            return chunk


def open_table(files: Sequence[Path]) -> Table:
    """Open the files of one split. Raises DataDamaged (exit code 3) naming the one that is not readable."""
    return Table(files)


def _opened(file: Path) -> _Blocks:
    try:
        opened: _Blocks = _ParquetFile(file) if file.suffix.lower() == ".parquet" else _ArrowFile(file)
        _names([opened.schema.field(i) for i in range(len(opened.schema))])
        return opened
    except _UNREADABLE as error:
        raise _damaged(file, error) from None


def _names(fields: list[pa.Field]) -> None:
    """Read every name of a schema once: one that is no text raises ValueError here instead of later."""
    for field in fields:
        field.name.encode()
        if pa.types.is_struct(field.type):
            _names([field.type.field(i) for i in range(field.type.num_fields)])


def _valid(chunk: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the column after its offsets are checked: a wrong one ends the process when it is followed."""
    chunk.validate(full=True)
    return chunk


def _damaged(file: Path, error: Exception) -> DataDamaged:
    reason = cause(error, 120)
    return DataDamaged(
        f"'{file}' cannot be read ({reason}).",
        "a whole parquet or arrow file.",
        "Download or write it anew.",
    )


def _child(table: pa.Table, name: str) -> pa.ChunkedArray:
    if "." not in name or name in table.column_names:
        return table.column(name)
    parent, field = name.split(".", 1)
    return pa.chunked_array([pc.struct_field(chunk, field) for chunk in table.column(parent).chunks])
