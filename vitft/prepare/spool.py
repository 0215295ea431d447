"""Images gathered in the order a source gives them, to be written in another; what is gathered outlives a crash."""

import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from vitft.errors import DataDamaged

_FLUSH = 16 << 20  # bytes gathered between two entries into the index


class Spool:
    """One file of bytes and one index of (raw split, row, offset, length, crc32).

    Bytes reach the disk before their line in the index does, so what the index names is whole.

    Args:
        folder: where both files lie.
        fingerprint: of the source; a spool of another source is thrown away.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._data, self._index = folder / "spool.bin", folder / "spool.index"
        self._where: dict[tuple[str, int], tuple[int, int, int]] = {}
        self._pending: list[str] = []
        self._unflushed = 0
        end = self._load(fingerprint)
        if not self._where:
            self._index.write_text(fingerprint + "\n")
        self._file = self._data.open("r+b" if self._data.exists() else "w+b")
        self._file.truncate(end)
        self._end = end

    def _load(self, fingerprint: str) -> int:
        """Take over the index of an earlier start; return where its last image ends."""
        if not (self._index.is_file() and self._data.is_file()):
            return 0
        size = self._data.stat().st_size
        lines = self._index.read_text(errors="replace").split("\n")
        if lines[0] != fingerprint:
            return 0
        end = 0
        whole = 1
        for line in lines[1:-1]:
            try:
                raw_split, *numbers = line.split("\t")
                row, offset, length, crc = map(int, numbers)
            except ValueError:
                break
            if offset != end or offset + length > size:
                break
            self._where[raw_split, row] = (offset, length, crc)
            end = offset + length
            whole += 1
        self._index.write_text("".join(line + "\n" for line in lines[:whole]))  # drops a line cut by the crash
        return end

    def missing(self, raw_split: str, rows: Iterable[int]) -> list[int]:
        """Return the rows that are not gathered yet."""
        return [row for row in rows if (raw_split, row) not in self._where]

    def add(self, raw_split: str, row: int, data: bytes) -> None:
        """Keep one image."""
        self._file.seek(self._end)
        self._file.write(data)
        crc = zlib.crc32(data)
        self._where[raw_split, row] = (self._end, len(data), crc)
        self._pending.append(f"{raw_split}\t{row}\t{self._end}\t{len(data)}\t{crc}\n")
        self._end += len(data)
        self._unflushed += len(data)
        if self._unflushed > _FLUSH:
            self.flush()

    def flush(self) -> None:
        """Make what was added known to the next start."""
        self._file.flush()
        os.fsync(self._file.fileno())
        with self._index.open("a") as index:
            index.write("".join(self._pending))
        self._pending.clear()
        self._unflushed = 0

    def get(self, raw_split: str, row: int) -> bytes:
        """Return one image. Raises DataDamaged where the disk gives back something else; the spool is then dropped."""
        offset, length, crc = self._where[raw_split, row]
        self._file.seek(offset)
        data = self._file.read(length)
        if zlib.crc32(data) != crc:
            self._index.unlink(missing_ok=True)
            raise DataDamaged(
                f"'{self._data}' does not hold what was written to it.", "", "Give the same command again."
            )
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if self._index.exists():
                self.flush()
        finally:
            self._file.close()
