"""The Hugging Face hub: its caches, no network, and a hub of our own on this machine."""

import importlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow.parquet as pq
import pytest

from tests.layouts import alone, arrow_folder, hub_snapshot, number_of, parquet_folder, refused, table  # noqa: F401
from vitft import hub as client
from vitft import machine
from vitft.data import lists
from vitft.data.find import find
from vitft.data.sources import hub, hub_cache
from vitft.errors import DataMissing, UsageError
from vitft.prepare.inventory import inventory


class TestHub:
    def test_snapshot_in_the_cache_with_its_revision(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_HOME", str(hub_snapshot(tmp_path)))
        for name in ("hf:org/toy", "hf:org/toy@main", f"hf:org/toy@{'a' * 40}"):
            split = find(name).open("test")
            assert len(split) == 3
            assert split.provenance.revision == "a" * 40
            assert "org/toy" in split.provenance.source

    def test_a_pinned_revision_is_not_replaced_by_another(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_HOME", str(hub_snapshot(tmp_path)))
        error = refused(
            lambda: find(f"hf:org/toy@{'b' * 40}"), "HF_HUB_OFFLINE", f"--revision {'b' * 40}", kind=DataMissing
        )
        assert str(tmp_path / "hub") in str(error)

    def test_the_cache_of_datasets(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
        arrow_folder(tmp_path / "org___toy" / "default" / "0.0.0" / ("c" * 40))
        arrow_folder(tmp_path / "org___toy" / "default" / "0.0.0" / f"{'d' * 40}.incomplete")
        split = find("hf:org/toy").open("train")
        assert len(split) == 5
        assert split.provenance.revision == "c" * 40

    def test_known_task_by_its_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_HOME", str(tmp_path))
        folder = tmp_path / "hub" / "datasets--uoft-cs--cifar10" / "snapshots" / ("e" * 40) / "plain_text"
        folder.mkdir(parents=True)
        names = list(lists.names("cifar10"))
        pq.write_table(table([3, 1], names=names), folder / "test-00000-of-00001.parquet")
        for name in ("cifar10", "hf:uoft-cs/cifar10", f"hf:cifar10@{'e' * 40}"):
            source = find(name)
            assert (source.task, source.splits) == ("cifar10", ("test",))
        assert source.open("test").provenance.why == "test has 2 of the official 10,000 images"
        assert next(row for row in inventory() if row.task == "cifar10").status == "ready"

    def test_without_a_network_it_says_so_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("HF_HUB_OFFLINE")
        # A network that swallows everything: the question is never answered.
        monkeypatch.setattr(client, "PATIENCE_S", 0.2)
        monkeypatch.setenv("HF_ENDPOINT", "http://192.0.2.1")
        importlib.import_module("huggingface_hub.hf_api")  # its second on a busy machine is not what is timed
        start = time.monotonic()
        error = refused(lambda: find("hf:org/toy"), "does not answer", "hf download org/toy", kind=DataMissing)
        assert time.monotonic() - start < 3
        assert error.exit_code == 3
        refused(lambda: find("cifar10"), "Hugging Face caches", "vitft data prepare cifar10", kind=DataMissing)

    @pytest.mark.parametrize("text", ["hf:", "hf:a/b/c", "hf:../x", "hf:a b", "hf:a/b@"])
    def test_a_name_that_is_none(self, text: str) -> None:
        refused(lambda: find(text), "names no data set of the hub", kind=UsageError)

    def test_several_configurations_are_named(self) -> None:
        names = ["red/train-0.parquet", "blue/train-0.parquet", "blue/test/0000.parquet", "README.md"]
        refused(lambda: hub._by_split(names[:3], hub_cache.parse("hf:org/toy")), "blue, red", "hf:org/toy:blue")
        assert hub._by_split(names[:3], hub_cache.parse("hf:org/toy:blue")) == {"train": [names[1]], "test": [names[2]]}
        refused(lambda: hub._by_split(names[:3], hub_cache.parse("hf:org/toy:green")), "'green'", "blue, red")


class _Hub(ThreadingHTTPServer):
    """As much of the hub as a download needs: the list of files of a commit, and the files."""

    def __init__(self, files: dict[str, bytes], commit: str = "f" * 40) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.files, self.commit, self.refusal = files, commit, ("", 0)
        self.asked: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Answers(BaseHTTPRequestHandler):
    server: _Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        code, status = self.server.refusal
        if status:
            return self._send(status, b"{}", {"X-Error-Code": code})
        if path.startswith("/api/datasets/org/toy"):
            siblings = [{"rfilename": name} for name in self.server.files]
            listing = {"id": "org/toy", "sha": self.server.commit, "siblings": siblings, "tags": []}
            return self._send(200, json.dumps(listing).encode(), {"Content-Type": "application/json"})
        name = path.removeprefix(f"/datasets/org/toy/resolve/{self.server.commit}/")
        if name not in self.server.files:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        data = self.server.files[name]
        return self._send(200, data, {"X-Repo-Commit": self.server.commit, "ETag": f'"{hash(data):x}"'})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        return


def _new_sessions() -> None:
    """Let the client open its connections anew: before its version 1 they stayed as offline as they were opened."""
    from huggingface_hub.utils import _http

    getattr(_http, "reset_sessions", lambda: None)()


@pytest.fixture
def own_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Hub]:
    import huggingface_hub.constants as constants

    folder = parquet_folder(tmp_path / "served")
    server = _Hub({f"data/{file.name}": file.read_bytes() for file in folder.iterdir()} | {"README.md": b"hello"})
    monkeypatch.delenv("HF_HUB_OFFLINE")
    # The client reads its switches when it is imported, which another test may have done.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    _new_sessions()
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield server
    _new_sessions()
    server.shutdown()
    server.server_close()


class TestOnline:
    def test_only_the_split_asked_for_is_fetched_and_found_again_offline(
        self, own_hub: _Hub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = find("hf:org/toy")
        assert source.splits == ("train", "test")
        assert not [asked for asked in own_hub.asked if "resolve" in asked], "nothing is fetched before it is needed"
        test = source.open("test")
        assert [number_of(test.read(i)) for i in range(3)] == [0, 1, 2]
        assert test.provenance.revision == own_hub.commit
        assert not [asked for asked in own_hub.asked if "train" in asked]
        assert next((machine.cache() / "hub").glob("datasets--org--toy/snapshots/*/data/test.parquet")).is_file()

        own_hub.asked.clear()
        assert find("hf:org/toy").open("test").digest == test.digest
        assert not own_hub.asked, "what is in the cache needs no network"
        assert len(find("hf:org/toy").open("train")) == 7, "the split that was not fetched is still known, and fetched"

        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        own_hub.asked.clear()
        assert len(find("hf:org/toy").open("train")) == 7
        assert not own_hub.asked

    def test_a_split_that_was_not_fetched_is_missing_offline(
        self, own_hub: _Hub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        find("hf:org/toy").open("test")
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        refused(lambda: find("hf:org/toy").open("train"), "train-0000", "forbids the network", "hf download org/toy")
        monkeypatch.delenv("HF_HUB_OFFLINE")
        monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
        refused(lambda: find("hf:org/toy").open("train"), "HF_DATASETS_OFFLINE forbids the network")
        assert not client.offline(), "weights may still be fetched"

    @pytest.mark.parametrize(
        ("code", "status", "words"),
        [
            ("RepoNotFound", 404, ("has no data set 'org/toy'",)),
            ("RevisionNotFound", 404, ("'org/toy'",)),
            ("GatedRepo", 403, ("terms accepted", "hf auth login")),
            ("", 500, ("could not be fetched", "hf download org/toy")),
        ],
    )
    def test_refusals_are_explained(self, own_hub: _Hub, code: str, status: int, words: tuple[str, ...]) -> None:
        own_hub.refusal = (code, status)
        start = time.monotonic()
        assert refused(lambda: find("hf:org/toy"), *words, kind=DataMissing).exit_code == 3
        assert time.monotonic() - start < 3

    def test_a_file_that_the_hub_lists_and_lacks(self, own_hub: _Hub) -> None:
        source = find("hf:org/toy")
        del own_hub.files["data/test.parquet"]
        refused(lambda: source.open("test"), "'org/toy' could not be fetched", kind=DataMissing)
