"""Downloads from a server on this machine: resumed, checked, and quick to fail without a network."""

import hashlib
import http.server
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vitft.errors import DataDamaged, DataError, DataMissing, DiskFull
from vitft.prepare import collections, download, owner_files, prepare
from vitft.prepare.collections.raw import Collection, File

CONTENT = random.Random(0).randbytes(300_000)


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT; cuts each connection after `cut` bytes, with or without ranges."""

    cut = 0
    ranges = True
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.server.asked.append(wanted)
        if "missing" in self.path:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        end = min(len(CONTENT), start + self.server.cut) if self.server.cut else len(CONTENT)
        self.wfile.write(CONTENT[start:end])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    served = Server()
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield served
    served.shutdown()
    served.server_close()


def file_of(server: Server, **changes: Any) -> File:
    digest = hashlib.sha256(CONTENT).hexdigest()
    known: dict[str, Any] = {"address": f"{server.address}/x.bin?download=1", "size": len(CONTENT), "sha256": digest}
    return File(**(known | changes))


def test_a_cut_download_goes_on_from_its_last_byte(server: Server, tmp_path: Path) -> None:
    server.cut = 70_000
    told: list[tuple[str, int, int]] = []
    path = download.fetch(file_of(server), tmp_path, lambda *progress: told.append(progress))
    assert path == tmp_path / "x.bin"
    assert path.read_bytes() == CONTENT
    assert server.asked == ["", *(f"bytes={n}-" for n in (70_000, 140_000, 210_000, 280_000))]
    assert [p.name for p in tmp_path.iterdir()] == ["x.bin"]
    assert told


def test_an_earlier_start_is_continued_and_a_server_without_ranges_starts_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".x.bin.part").write_bytes(CONTENT[:123_456])
    assert download.fetch(file_of(server), tmp_path).read_bytes() == CONTENT
    assert server.asked == ["bytes=123456-"]
    (tmp_path / "x.bin").unlink()
    (tmp_path / ".x.bin.part").write_bytes(b"another file's beginning")
    server.ranges = False
    assert download.fetch(file_of(server), tmp_path).read_bytes() == CONTENT


def test_what_has_the_wrong_checksum_is_removed(server: Server, tmp_path: Path) -> None:
    for wrong in ({"sha256": "0" * 64}, {"size": len(CONTENT) + 1}, {"size": 5}):
        with pytest.raises(DataDamaged, match=r"x\.bin") as caught:
            download.fetch(file_of(server, **wrong), tmp_path)
        assert caught.value.exit_code == 3
        assert list(tmp_path.iterdir()) == []
    (tmp_path / ".x.bin.part").write_bytes(b"?" + CONTENT[1:200_000])  # begun with other bytes
    with pytest.raises(DataDamaged, match="sha256"):
        download.fetch(file_of(server), tmp_path)
    assert download.fetch(file_of(server), tmp_path).read_bytes() == CONTENT
    (tmp_path / "x.bin").unlink()
    (tmp_path / ".x.bin.part").write_bytes(CONTENT + b"more than there is")
    with pytest.raises(DataError):
        download.fetch(file_of(server, address=f"{server.address}/missing/x.bin"), tmp_path)
    assert download.fetch(file_of(server), tmp_path).read_bytes() == CONTENT


def test_a_file_that_is_gone_or_a_closed_port_names_the_address_and_the_place(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match="HTTP 404") as caught:
        download.fetch(file_of(server, address=f"{server.address}/missing.bin"), tmp_path)
    assert str(tmp_path / "missing.bin") in str(caught.value)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}/y.bin"
    collection = Collection("c", "C", "", "", (File(closed, manual="ask the owner"),), None)  # type: ignore[arg-type]
    start = time.monotonic()
    with pytest.raises(DataMissing) as caught:
        download.fetch_all(collection, tmp_path / "c")
    assert time.monotonic() - start < 3
    for part in (closed, str(tmp_path / "c" / "y.bin"), "ask the owner", "--source"):
        assert part in str(caught.value)
    assert not (tmp_path / "c").exists()


def test_an_address_that_swallows_packets_fails_within_three_seconds(tmp_path: Path, monkeypatch: Any) -> None:
    over = threading.Event()

    def swallow(*_: Any, **__: Any) -> Any:
        over.wait(30)
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", swallow)
    start = time.monotonic()
    with pytest.raises(DataMissing, match="no answer"):
        download.fetch_all(collections.of_task("svhn"), tmp_path)
    assert time.monotonic() - start < 3
    over.set()


def test_room_is_checked_before_the_first_byte(server: Server, tmp_path: Path) -> None:
    huge = Collection("c", "C", "", "", (file_of(server, size=10**18),), None)  # type: ignore[arg-type]
    with pytest.raises(DiskFull, match="Not enough room"):
        download.fetch_all(huge, tmp_path / "c")
    assert server.asked == []


def test_files_of_a_person_say_what_to_fetch_and_where_to_put_it(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("VITFT_CACHE", str(tmp_path))
    for task, words in {
        "resisc45": ("NWPU-RESISC45.rar", "OneDrive"),
        "diabetic_retinopathy": ("Kaggle", "train.zip"),
    }.items():
        with pytest.raises(DataMissing) as caught:
            prepare.prepare(task)
        place = str(owner_files.downloads(collections.of_task(task)))
        assert all(word in str(caught.value) for word in (*words, place, "--source"))


def test_what_a_person_fetched_is_taken_from_there(server: Server, tmp_path: Path, monkeypatch: Any) -> None:
    collection = collections.of_task("resisc45")
    (tmp_path / "NWPU-RESISC45").mkdir()
    download.fetch_all(collection, tmp_path)
    assert server.asked == []
