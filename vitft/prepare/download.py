"""Fetching an owner's files: resumed where cut off, compared with their checksum, never half there under their name."""

import hashlib
import http.client
import os
import socket
import urllib.error
import urllib.request
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import urlsplit

from vitft import __version__, hub
from vitft.errors import DataDamaged, DataMissing
from vitft.prepare.archives import need_space
from vitft.prepare.collections.raw import Collection, File
from vitft.progress import Progress, silent
from vitft.results.files import cannot_write

_STALL = 60.0  # seconds without a byte
_ATTEMPTS = 5  # in a row without a new byte
_CHUNK = 1 << 20
_AGAIN = "Fetch it again, then give the same command."


def fetch_all(collection: Collection, folder: Path, progress: Progress = silent) -> None:
    """Download what is not in `folder` yet.

    Raises:
        DataMissing: a file has to be fetched by a person, or its address cannot be reached; says where to put it.
        DataDamaged: a file is not the one its owner published.
        DiskFull: no room.
    """
    present = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    for file in collection.files:
        if file.address:
            continue
        patterns = [f"{file.filename}*", *collection.archives, *(f"{p}.0*" for p in collection.archives)]
        if not any(fnmatch(name, pattern) for name in present for pattern in patterns):
            raise DataMissing(
                f"{collection.title} is not in '{folder}', and its owner lets no program fetch it.",
                fact=f"What to do: {file.manual}.",
                action=f"Put it into '{folder}', or name its folder with --source DIR.",
            )
    absent = [file for file in collection.files if file.address and not (folder / file.filename).is_file()]
    if not absent:
        return
    for file in absent:
        _reach(file, folder)
    folder.mkdir(parents=True, exist_ok=True)
    left = sum(max(0, f.size - _begun(_part(folder / f.filename))) for f in absent)
    need_space(folder, left, f"fetch {collection.title}")
    for file in absent:
        fetch(file, folder, progress)


def fetch(file: File, folder: Path, progress: Progress = silent) -> Path:
    """Download one file to `folder`; what an earlier call left of it is continued.

    Raises:
        DataMissing: the address does not answer or has no such file.
        DataDamaged: the connection was cut again and again, or size or checksum differ (what came is then removed).
    """
    target = folder / file.filename
    if target.is_file():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    part = _part(target)
    for _ in range(_ATTEMPTS):
        before = _begun(part)
        total = _receive(file, part, folder, progress)
        if _begun(part) == total:
            break
        if _begun(part) > before:  # it moves: go on for as long as it does
            return fetch(file, folder, progress)
    else:
        raise DataDamaged(
            f"The connection to '{file.address}' was cut at {_begun(part):,} of {total:,} bytes.",
            "",
            "Give the same command again; it goes on from there.",
        )
    try:
        check(part, file, progress, target.name)
    except DataDamaged:
        part.unlink()
        raise
    os.replace(part, target)
    return target


def check(path: Path, file: File, progress: Progress = silent, name: str = "", action: str = _AGAIN) -> str:
    """Return the sha256 of a file. Raises DataDamaged where size or checksum are not the owner's."""
    name = name or str(path)
    size = path.stat().st_size
    if file.size and size != file.size:
        raise DataDamaged(
            f"'{name}' has {size:,} bytes: it is {'cut short' if size < file.size else 'another file'}.",
            f"the {file.size:,} bytes of {file.address or 'its owner'}.",
            action,
        )
    digest = sha256(path, progress)
    if file.sha256 and digest != file.sha256:
        raise DataDamaged(
            f"'{name}' is damaged or another file: its sha256 is {digest}.",
            f"{file.sha256} ({file.address or 'its owner'}).",
            action,
        )
    return digest


def sha256(path: Path, progress: Progress = silent) -> str:
    """Return the hex digest of a file."""
    h = hashlib.sha256()
    size, done = path.stat().st_size, 0
    with path.open("rb") as file:
        while data := file.read(8 * _CHUNK):
            h.update(data)
            done += len(data)
            if size > 64 * _CHUNK:
                progress(f"check {path.name} (MB)", done // 10**6, max(1, size // 10**6))
    return h.hexdigest()


def _part(target: Path) -> Path:
    return target.with_name(f".{target.name}.part")


def _begun(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _receive(file: File, part: Path, folder: Path, progress: Progress) -> int:
    """Append to `part` until the server stops; return the size of the whole file (or what came, where none is told)."""
    start = _begun(part)
    headers = {"User-Agent": f"vitft/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        with urllib.request.urlopen(urllib.request.Request(file.address, headers=headers), timeout=_STALL) as answer:
            if start and answer.status != 206:  # the server knows no ranges and sends the whole file
                start = 0
            length = answer.headers.get("Content-Length")
            total = start + int(length) if length else 0
            with part.open("r+b" if start else "wb") as out:
                out.seek(start)
                return _copy(answer, out, start, total, file, progress)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to send, or what is here is longer than the file
            if file.size and start == file.size:
                return start
            part.unlink()
            return -1
        raise _out_of_reach(file, folder, f"HTTP {error.code} {error.reason}") from None
    except (http.client.HTTPException, ConnectionError, TimeoutError):
        return -1
    except urllib.error.URLError as error:
        raise _out_of_reach(file, folder, str(error.reason)) from None


def _copy(answer: http.client.HTTPResponse, out: object, start: int, total: int, file: File, progress: Progress) -> int:
    done = start
    while True:
        try:
            data = answer.read(_CHUNK)
        except (http.client.HTTPException, OSError):  # cut; what came is kept
            return total or -1
        if not data:
            return total or done
        try:
            out.write(data)  # type: ignore[attr-defined]
        except OSError as error:
            raise cannot_write(file.filename, error) from None
        done += len(data)
        progress(f"fetch {file.filename} (MB)", done // 10**6, max(1, (total or file.size) // 10**6))


def _reach(file: File, folder: Path) -> None:
    """Raise DataMissing within a few seconds where the host (or the proxy before it) does not answer."""
    url = urlsplit(file.address)
    proxy = urllib.request.getproxies().get(url.scheme, "")
    if proxy and not urllib.request.proxy_bypass(url.hostname or ""):
        url = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    answer = hub.within(hub.PATIENCE_S, lambda: socket.create_connection((host, port), timeout=hub.PATIENCE_S))
    if not isinstance(answer, socket.socket):
        raise _out_of_reach(file, folder, str(answer or "no answer"))
    answer.close()


def _out_of_reach(file: File, folder: Path, why: str) -> DataMissing:
    other = f" ({file.manual})" if file.manual else ""
    return DataMissing(
        f"'{file.address}' cannot be fetched: {why}.",
        f"a network, or the file at '{folder / file.filename}'.",
        f"Fetch it elsewhere{other} and put it there, or name its folder with --source DIR.",
    )
