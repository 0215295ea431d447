"""The kind of a file by its first bytes, whatever its name: a checkpoint's, or what a failed download left."""

import struct
import zipfile
from pathlib import Path

from vitft.errors import CheckpointError

NPZ, SAFETENSORS, PICKLE = ".npz", ".safetensors", ".pth"
LEGAL = ".npz, .safetensors, .pth (also .pt, .bin, .ckpt), or a run folder."

_OTHERS = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras or TensorFlow)"),
    (b"GGUF", "a GGUF file (llama.cpp)"),
    (b"\x93NUMPY", "a single NumPy array"),
    (b"\x1f\x8b", "a gzip archive: unpack it"),
    (b"BZh", "a bzip2 archive: unpack it"),
    (b"\xfd7zXZ\x00", "an xz archive: unpack it"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive: unpack it"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it"),
    (b"Rar!", "a rar archive: unpack it"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "an image"),
    (b"\xff\xd8\xff", "an image"),
    (b"PAR1", "a parquet table"),
    (b"\x57\xfb\x80\x8b\x24\x75\x47\xdb", "an index of a TensorFlow checkpoint"),
)
_CONVERT = "Save its weights with PyTorch or as .npz where it was made, or use the model's timm copy: timm:NAME."
_AGAIN = "Fetch the weights themselves."


def kind(path: Path) -> str:
    """Return NPZ, SAFETENSORS or PICKLE.

    Raises CheckpointError for what is none of them, saying what it is.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(1024)
            file.seek(max(0, size - 8))
            tail = file.read(8)
    except OSError as error:
        what = f"'{path}' cannot be read: {error.strerror or error}."
        raise CheckpointError(what, LEGAL, "Check its permissions and its disk.") from None
    if not head:
        what = f"'{path}' is empty, truncated to nothing by a copy or a download."
        raise CheckpointError(what, LEGAL, "Copy or download it again.")
    if head[:4] == b"PK\x03\x04":
        return _zip(path, size)
    header = struct.unpack("<Q", head[:8])[0] if len(head) >= 9 else 0
    if head[8:9] == b"{" and 0 < header < 1 << 27:
        if header + 8 > size:
            raise _cut(path, size, f"its header alone has {header:,}")
        return SAFETENSORS
    if head[:1] == b"\x80" and head[1:2] <= b"\x05" and not path.name.endswith(".msgpack"):
        return PICKLE
    what, action = _what(path, head, tail)
    raise CheckpointError(f"'{path}' is no checkpoint but {what}.", LEGAL, action)


def _zip(path: Path, size: int) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise _cut(path, size, "the list at its end is missing") from None
    if any(name.split("/")[-1] == "data.pkl" for name in names):
        return PICKLE
    if any(name.endswith(".npy") for name in names):
        return NPZ
    kinds = {"model.weights.h5": "a Keras model", "saved_model.pb": "a TensorFlow model"}
    what = next((what for name, what in kinds.items() if any(n.endswith(name) for n in names)), "a zip archive")
    first = ", ".join(names[:3]) or "nothing"
    raise CheckpointError(f"'{path}' is no checkpoint but {what} (of {first}).", LEGAL, "Unpack it, or see its source.")


def _cut(path: Path, size: int, why: str) -> CheckpointError:
    return CheckpointError(
        f"'{path}' is truncated: {size:,} bytes are here, and {why}.",
        "the whole file.",
        "Compare its size with the source and copy or download it again.",
    )


def _what(path: Path, head: bytes, tail: bytes) -> tuple[str, str]:
    """Return the description of a file that is no checkpoint, and the advice."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    low = start[:64].lower()
    if not head.strip(b"\x00"):
        return "zeros: a download that was never filled", "Copy or download it again."
    if start.startswith(b"version https://git-lfs"):
        pointed = next(
            (line.split()[-1] for line in start.decode("ascii", "ignore").splitlines() if "size" in line), "?"
        )
        return f"a Git LFS pointer to a file of {pointed} bytes that was not fetched", "Run 'git lfs pull' there."
    if low.startswith((b"<!doctype html", b"<html", b"<head")):
        return "a web page (HTML): the address gave a page, not the file", _AGAIN
    if low.startswith(b"<"):
        return f"an XML text ({_line(start)}): a server's refusal, as it seems", _AGAIN
    if low.startswith((b"{", b"[")) and _is_text(head):
        return f"a JSON text ({_line(start)})", _AGAIN
    known = _foreign(path, head, tail)
    if known is not None:
        return known
    if _is_text(head):
        return f"a text ({_line(start)})", _AGAIN
    return f"of no known kind (it begins with {head[:8].hex(' ')})", _CONVERT


def _foreign(path: Path, head: bytes, tail: bytes) -> tuple[str, str] | None:
    """Return the description of another program's binary file, and the advice; None where it is not known."""
    for magic, what in _OTHERS:
        if head.startswith(magic) or tail[-len(magic) :] == magic:
            return what, _CONVERT
    if path.suffix == ".pb" or ".data-0" in path.name or path.name.endswith((".index", ".meta")):
        return "a part of a TensorFlow model", _CONVERT
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model", _CONVERT
    if head[257:262] == b"ustar":
        return (
            "a tar archive: unpack it",
            "Name a file of it. PyTorch files of before 2017 are tar archives: save it again.",
        )
    if head[:1] == b"\x08" and head[1:2] <= b"\x20" and head[2:3] in (b"\x12", b":", b"B", b"\x1a"):
        return (
            "an ONNX model",
            "'vitft predict' and 'vitft eval' take one that 'vitft export' wrote; train from the run itself.",
        )
    if head[:1] in b"\x81\x82\x83\x84\x85\x86\x87\x88\xde\xdf" or path.name.endswith(".msgpack"):
        return "a MessagePack file (Flax)", _CONVERT
    return None


def _is_text(head: bytes) -> bool:
    return not any(byte < 9 for byte in head) and b"\xff" not in head


def _line(start: bytes) -> str:
    line = start.decode("utf-8", "replace").splitlines()[0].strip()
    return f"'{line[:60]}'" if len(line) <= 60 else f"'{line[:60]}...'"
