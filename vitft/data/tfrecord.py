"""TFRecord files and the `tf.train.Example` inside, read without TensorFlow.

A record is: length (uint64 LE), masked crc32c of the length, the bytes, masked crc32c of the bytes
(tensorflow/core/lib/io/record_writer.h). An Example is a protobuf map from a name to bytes, floats or int64s.
"""

import struct
from collections.abc import Iterator
from functools import cache
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from vitft.errors import DataDamaged

Feature = list[bytes] | NDArray[np.float32] | NDArray[np.int64]
_BLOCK = 64  # bytes of one row of the vectorised checksum
_LARGEST = 1 << 30  # no example is larger; a longer one is a damaged length


def records(file: BinaryIO, label: str, check: bool = True) -> Iterator[bytes]:
    """Yield the records of one TFRecord file in order.

    Args:
        file: opened at its start; only read forwards.
        label: what an error names.
        check: compare the checksum of the bytes (that of the length is always compared).

    Raises:
        DataDamaged: a checksum differs, or the file ends inside a record.
    """
    number = 0
    while head := file.read(12):
        if not intact(head[:8], head[8:]):
            raise _damaged(label, number, "its length has a wrong checksum" if len(head) == 12 else "it is cut short")
        length = struct.unpack("<Q", head[:8])[0]
        if length > _LARGEST:
            raise _damaged(label, number, f"it claims {length} bytes")
        data, tail = file.read(length), file.read(4)
        if len(data) < length or len(tail) < 4:
            raise _damaged(label, number, "it is cut short")
        if check and not intact(data, tail):
            raise _damaged(label, number, "its bytes have a wrong checksum")
        yield data
        number += 1


def intact(data: bytes, checksum: bytes) -> bool:
    """Tell whether bytes have the checksum, 4 bytes, that a file stores behind them."""
    return len(checksum) == 4 and struct.unpack("<I", checksum)[0] == masked_crc32c(data)


def example(data: bytes, label: str) -> dict[str, Feature]:
    """Parse one serialised `tf.train.Example` to {name: values}. Raises DataDamaged."""
    features: dict[str, Feature] = {}
    try:
        for number, body in _fields(data):
            for _, entry in _fields(_message(body)) if number == 1 else ():
                parts = dict(_fields(_message(entry)))
                features[bytes(_message(parts[1])).decode()] = _values(_message(parts.get(2, memoryview(b""))))
    except (ValueError, KeyError, IndexError, struct.error) as error:
        raise DataDamaged(
            f"'{label}' holds a record that is no tf.train.Example ({error}).",
            "TFRecord files of serialised examples.",
            "Fetch the file again.",
        ) from None
    return features


def _values(feature: memoryview) -> Feature:
    for kind, body in _fields(feature):
        items = [value for number, value in _fields(_message(body)) if number == 1]
        if kind == 1:
            return [bytes(_message(item)) for item in items]
        if kind == 2:  # packed: one run of little-endian floats; else four bytes each
            return np.frombuffer(b"".join(bytes(_message(item)) for item in items), dtype="<f4").astype(np.float32)
        if kind == 3:
            numbers: list[int] = []
            for item in items:
                numbers += [item] if isinstance(item, int) else _varints(item)
            return np.asarray([n - (1 << 64) if n >> 63 else n for n in numbers], dtype=np.int64)
    return []


def _message(value: memoryview | int) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands where a message should")
    return value


def _fields(data: bytes | memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Yield (field number, value) of one protobuf message."""
    view = memoryview(data)
    at = 0
    while at < len(view):
        tag, at = _varint(view, at)
        wire = tag & 7
        if wire == 0:
            number, at = _varint(view, at)
            yield tag >> 3, number
            continue
        length = {1: 8, 5: 4}.get(wire)
        if length is None:
            if wire != 2:
                raise ValueError(f"wire type {wire}")
            length, at = _varint(view, at)
        if at + length > len(view):
            raise ValueError("a field runs past the end")
        yield tag >> 3, view[at : at + length]
        at += length


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = view[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")


def _varints(view: memoryview) -> list[int]:
    numbers, at = [], 0
    while at < len(view):
        number, at = _varint(view, at)
        numbers.append(number)
    return numbers


def _damaged(label: str, number: int, why: str) -> DataDamaged:
    return DataDamaged(
        f"'{label}' is damaged at record {number}: {why}.",
        "a whole TFRecord file.",
        "Fetch it again, then give the same command.",
    )


def masked_crc32c(data: bytes) -> int:
    """Return the crc32c of `data`, rotated and offset as TFRecord stores it."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """Return CRC-32C (Castagnoli, RFC 3720 appendix B.4).

    The checksum is linear, so rows of 64 bytes are run side by side and then joined; plain Python would take minutes
    for a gigabyte.
    """
    table = _table()
    crc = 0xFFFFFFFF
    head = len(data) % _BLOCK
    for byte in data[:head]:
        crc = int(table[(crc ^ byte) & 0xFF]) ^ (crc >> 8)
    if len(data) > head:
        rows = np.frombuffer(data, np.uint8, offset=head).reshape(-1, _BLOCK)
        state = np.zeros(len(rows), np.uint32)
        for column in np.ascontiguousarray(rows.T):
            state = table[(state ^ column) & 0xFF] ^ (state >> 8)
        a, b, c, d = _shift()
        for row in state.tolist():
            crc = a[crc & 0xFF] ^ b[crc >> 8 & 0xFF] ^ c[crc >> 16 & 0xFF] ^ d[crc >> 24] ^ row
    return crc ^ 0xFFFFFFFF


@cache
def _table() -> NDArray[np.uint32]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, np.uint32(0x82F63B78) ^ (table >> 1), table >> 1).astype(np.uint32)
    return table


@cache
def _shift() -> tuple[list[int], list[int], list[int], list[int]]:
    """Return the effect of 64 zero bytes on each byte of the register."""
    table = _table()
    columns = []
    for position in range(4):
        state = np.arange(256, dtype=np.uint32) << np.uint32(8 * position)
        for _ in range(_BLOCK):
            state = table[state & 0xFF] ^ (state >> 8)
        columns.append(state.tolist())
    return columns[0], columns[1], columns[2], columns[3]
