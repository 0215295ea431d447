"""Run folders and caches on NFS, by what a client of it does (seen with Linux 6.1, NFS 4.2, two clients).

It remembers which names were absent until their folder is opened, and how large a file was until the file is; it takes
a lock for one alone only through what may write, and a shared one only through what may read.
"""

import errno
import fcntl
import io
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.images.test_room import files, laid
from tests.training.test_training import drawn
from vitft import machine
from vitft.errors import CheckpointError, DataError, Interrupted, UsageError
from vitft.images import cache, room
from vitft.prepare import own_split, prepare
from vitft.progress import Hooks
from vitft.protocol import unchanged
from vitft.results import folders
from vitft.results.files import full, read_json, replacing, write_json
from vitft.results.listing import at_work
from vitft.settings import Preprocess
from vitft.training import state


class Client:
    """What the kernel of this machine remembers of a shared folder."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.absent: set[Path] = set()
        self.known: dict[Path, os.stat_result] = {}
        self.stat, self.open, self.open_file = os.stat, os.open, io.open
        patch.setattr(os, "stat", self._stat)
        patch.setattr(os, "open", self._open)
        patch.setattr(io, "open", self._open_file)

    def _look_up(self, path: Path) -> None:
        for place in (*reversed(path.parents), path):
            if place in self.absent:
                raise FileNotFoundError(errno.ENOENT, "remembered", str(path))
            try:
                self.stat(place)
            except FileNotFoundError:
                self.absent.add(place)
                raise

    def _stat(self, path: Any, **how: Any) -> os.stat_result:
        if not isinstance(path, Path):
            return self.stat(path, **how)
        self._look_up(path)
        return self.known.setdefault(path, self.stat(path))

    def _open(self, path: Any, *how: Any, **more: Any) -> int:
        if isinstance(path, Path):
            self._look_up(path)
            self.absent = {one for one in self.absent if one.parent != path}
        return self.open(path, *how, **more)

    def _open_file(self, path: Any, mode: str = "r", *how: Any, **more: Any) -> Any:
        if isinstance(path, Path) and "r" in mode:
            self._look_up(path)
            self.known.pop(path, None)
        return self.open_file(path, mode, *how, **more)

    def elsewhere(self, path: Path, data: bytes) -> None:
        """Write a file as another machine does."""
        for folder in reversed(path.parents):
            with suppress(FileExistsError):
                os.mkdir(str(folder))  # noqa: PTH102
        with self.open_file(f"{path}.new", "wb") as file:
            file.write(data)
        os.replace(f"{path}.new", str(path))


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    return Client(monkeypatch)


@pytest.mark.parametrize("inner", ["result.json", "units/dtd/final-0/result.json"])
def test_a_result_that_another_machine_wrote_is_there_at_once(client, tmp_path, inner):
    path = tmp_path / inner
    assert read_json(path) is None
    client.elsewhere(path, b'{"kind": "finetune"}')
    assert not path.exists()  # what is asked without opening the folder
    assert read_json(path) == {"kind": "finetune"}


@pytest.mark.parametrize("inner", ["result.json", "units/dtd/final-0/result.json"])
def test_data_that_changed_since_another_machine_finished_are_noticed(client, tmp_path, monkeypatch, inner):
    files: dict[str, list[Any]] = {"a.png": [1, 2]}
    monkeypatch.setattr(unchanged.listing, "of", lambda source: files)
    source: Any = SimpleNamespace(task="dtd")
    (tmp_path / "units" / "dtd" / "final-0").mkdir(parents=True)
    unchanged.hold(tmp_path, source, pytest.fail)  # nothing is finished
    client.elsewhere(tmp_path / inner, b"{}")
    files = {"a.png": [1, 3]}
    with pytest.raises(DataError, match="changed since this run"):
        unchanged.hold(tmp_path, source, pytest.fail)


def test_who_waited_for_another_machine_sees_what_it_made(client, tmp_path):
    path, lock = tmp_path / "dtd" / "train.parquet", tmp_path / ".dtd.lock"
    assert not path.exists()
    with (tmp_path / ".dtd.lock").open("a") as other:
        assert machine.locked(other)

        def waiting(first: bool) -> None:
            client.elsewhere(path, b"made")
            other.close()

        with machine.turn(lock, waiting):
            assert path.exists()


def test_a_state_that_another_machine_saved_is_gone_on_from(client, tmp_path, monkeypatch):
    for name, step in (("before.pt", 1), ("after.pt", 2)):
        saver = state.Saver(tmp_path / "made" / name)
        saver.save({"step": step, "weights": torch.full((step * 1000,), float(step))})
        saver.wait()
    before, after = (client.open_file(f"{tmp_path}/made/{name}", "rb").read() for name in ("before.pt", "after.pt"))
    path = tmp_path / "unit" / "state.pt"
    assert state.load(path) is None
    for data, step in ((before, 1), (after, 2)):
        client.elsewhere(path, data)
        found = state.load(path)
        assert found is not None and found["step"] == step and found["weights"].tolist() == [step] * step * 1000
        assert path.exists()  # and its size is remembered
    lines = path.with_name("metrics.jsonl")
    assert not lines.exists()
    client.elsewhere(lines, b'{"step": 1}\n{"step": 2}\n')
    with state.Metrics(lines, keep=1) as metrics:
        assert metrics.last == {"step": 1}


def test_a_file_that_is_replaced_while_it_is_read_is_read_again(tmp_path, monkeypatch):
    path, reads = tmp_path / "result.json", iter(range(99))
    path.write_text('{"kind": "eval"}')
    stale, read = 2, Path.read_bytes

    def nfs_read(self: Path) -> bytes:
        if next(reads) < stale:
            raise OSError(errno.ESTALE, "Stale file handle")
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", nfs_read)
    assert read_json(path) == {"kind": "eval"} and next(reads) == 3
    stale = 99
    with pytest.raises(CheckpointError, match=r"cannot be read \(Stale file handle\)"):
        read_json(path)


@pytest.fixture
def nfs_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    real = fcntl.flock

    def flock(file: Any, how: int) -> None:
        may = fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE
        if how & (fcntl.LOCK_EX | fcntl.LOCK_SH) and may == (os.O_RDONLY if how & fcntl.LOCK_EX else os.O_WRONLY):
            raise OSError(errno.EBADF, "Bad file descriptor")
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)


def test_locks_are_taken_and_seen_over_nfs(nfs_locks, tmp_path):
    laid(("pixels/a.npy", 5, 50), ("pixels/b.npy", 3, 50))
    with (machine.cache() / "pixels" / "a.npy").open("rb") as held:
        assert room.hold(held) and room.clean() == (["pixels/b.npy"], 3) and files() == {"a.npy": 5}
    assert room.clean() == (["pixels/a.npy"], 5)
    who = f"process {os.getpid()} on {socket.gethostname()}"
    with folders.lock(tmp_path):
        assert at_work(tmp_path)
        with pytest.raises(UsageError, match=who), folders.lock(tmp_path):
            pytest.fail("held twice")
    assert not at_work(tmp_path)
    with machine.turn(tmp_path / "turn", lambda _: pytest.fail("waited")):
        assert not machine.locked((tmp_path / "turn").open("a"))


def test_a_run_on_a_file_system_without_locks_can_be_listed(tmp_path, monkeypatch):
    def flock(file: Any, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with folders.lock(tmp_path):
        assert not at_work(tmp_path)


@pytest.mark.parametrize("variable", ["SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"])
def test_a_command_started_again_waits_for_the_lock_of_a_machine_that_died(tmp_path, monkeypatch, variable):
    shard = tmp_path / "shards" / "1-of-2"
    dead = (shard / ".lock", shard) if variable.startswith("SLURM") else (tmp_path / ".lock", tmp_path)
    dead[1].mkdir(parents=True, exist_ok=True)
    file = dead[0].open("a")
    file.write("process 7 on node-3")
    file.flush()
    assert machine.locked(file)
    notes: list[str] = []
    with pytest.raises(UsageError, match=r"\(process 7 on node-3\)"), folders.lock(tmp_path, note=notes.append):
        pytest.fail("nobody has started it again")
    monkeypatch.setenv(variable, "1")
    with pytest.raises(UsageError), folders.lock(tmp_path):
        pytest.fail("nobody is to wait")
    assert not notes
    timer = threading.Timer(0.5, file.close)  # the server lets go of it
    timer.start()
    with folders.lock(tmp_path, note=notes.append):
        assert file.closed
    assert len(notes) == 1 and "(process 7 on node-3)" in notes[0] and "120 s" in notes[0]
    monkeypatch.setattr(folders, "LEASE_S", 0.1)
    with dead[0].open("a") as file:
        assert machine.locked(file)
        with pytest.raises(UsageError), folders.lock(tmp_path, note=notes.append):
            pytest.fail("it is held for longer")


def test_machines_with_equal_process_ids_write_to_files_of_their_own(tmp_path):
    with replacing(tmp_path / "a") as one, replacing(tmp_path / "a") as other:
        assert one != other
        one.touch()
        other.touch()
    (tmp_path / "cache").mkdir()
    with (
        room.writing(tmp_path / "cache" / "a.npy", 8) as first,
        room.writing(tmp_path / "cache" / "a.npy", 8) as second,
    ):
        assert first.name != second.name
    assert not list((tmp_path / "cache").iterdir())
    (tmp_path / f".split.{os.getpid()}.part").mkdir()  # of another machine's process
    own_split._write(tmp_path / "split", tmp_path, {"train.txt": "a.png"})
    assert (tmp_path / "split" / "train.txt").read_text() == "a.png"


def test_a_quota_that_is_told_late_leaves_pixels_to_be_decoded_as_they_are_needed(monkeypatch):
    def fsync(number: int) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(os, "fsync", fsync)
    assert cache.pixels(drawn(6), Preprocess((16, 16)), 1) is None
    assert not list((machine.cache() / "pixels").glob("**/*.npy"))


@pytest.fixture
def nfs_deletes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what is deleted while it is open under another name in its folder, until it is closed."""
    unlink, rmdir, number = os.unlink, os.rmdir, iter(range(99))

    def full(path: Any, folder: int | None) -> str:
        return os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path) if folder is not None else str(path)  # noqa: PTH115, PTH118

    def is_open(path: str) -> bool:
        links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]  # noqa: PTH208
        return path in [os.readlink(link) for link in links if os.path.lexists(link)]  # noqa: PTH115

    def nfs_unlink(path: Any, *, dir_fd: int | None = None) -> None:
        where = Path(full(path, dir_fd))
        if is_open(str(where)):
            where.rename(where.with_name(f".nfs{next(number):016}"))
        else:
            unlink(path, dir_fd=dir_fd)

    def nfs_rmdir(path: Any, *, dir_fd: int | None = None) -> None:
        for left in Path(full(path, dir_fd)).glob(".nfs*"):
            if not is_open(str(left)):
                unlink(left)
        rmdir(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", nfs_unlink)
    monkeypatch.setattr(os, "rmdir", nfs_rmdir)


def test_a_run_that_came_to_nothing_leaves_no_folder(nfs_deletes, tmp_path):
    run = tmp_path / "run"
    with suppress(UsageError), folders.lock(run), folders.nothing_left_behind(run):
        folders.claim(run, {"kind": "finetune"}, overwrite=False, resume=True)
        assert run.exists()
        raise UsageError("mistyped", "what is right")
    assert not list(tmp_path.iterdir())


def test_data_that_cannot_be_prepared_leave_no_folder(nfs_deletes, tmp_path):
    (tmp_path / "files").mkdir()
    with pytest.raises(DataError):
        prepare.prepare("dtd", tmp_path / "files", tmp_path / "data" / "dtd")
    assert not (tmp_path / "data" / ".dtd.preparing").exists()


def test_signals_are_caught_only_while_a_folder_is_waited_for(tmp_path: Path) -> None:
    caught: list[str] = []

    @contextmanager
    def watched() -> Iterator[Hooks]:
        caught.append("begin")
        yield Hooks(signal=lambda: 15 * (len(asked) > 1))
        caught.append("end")

    with folders.lock(tmp_path, watched=lambda: pytest.fail("it is free")):
        asked: list[int] = [1]
        timer = threading.Timer(0.3, asked.append, [2])
        timer.start()
        with pytest.raises(Interrupted), folders.lock(tmp_path, wait=60, watched=watched):
            pytest.fail("held twice")
    file = (tmp_path / ".lock").open("a")
    assert machine.locked(file)
    asked.clear()
    threading.Timer(0.3, file.close).start()
    with folders.lock(tmp_path, wait=60, watched=watched):
        assert caught == ["begin", "begin", "end"]  # the work that follows catches them itself


def test_a_lock_that_says_something_else_is_not_quoted(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("process 7 on node-3\nrm -rf /")
    with (tmp_path / ".lock").open("a") as file:
        assert machine.locked(file)
        with pytest.raises(UsageError) as caught, folders.lock(tmp_path):
            pytest.fail("it is held")
    assert "rm" not in str(caught.value) and f"at work in '{tmp_path}'." in str(caught.value)


def test_that_shards_are_waited_for_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "_LOOK_EVERY_S", 0.01)
    shard = tmp_path / "shards" / "1-of-2"
    shard.mkdir(parents=True)
    file = (shard / ".lock").open("a")
    assert machine.locked(file)
    timer = threading.Timer(0.2, file.close)
    timer.start()
    told: list[str] = []
    with folders.lock(tmp_path, shards=True, on_shards=told.append):
        assert file.closed
    assert told == [f"Shard 1/2 at work in '{tmp_path}': waiting for its end."]
    timer.join()


def test_what_differs_is_told_leaf_by_leaf() -> None:
    known = {"a": {"b": 1, "c": {"d": 2}}, "e": {"f": 3}, "g": 4, "same": {"x": 1}}
    wanted = {"a": {"b": 1, "c": {"d": 5}}, "e": 6, "g": {"h": 7}, "same": {"x": 1}, "new": 8}
    assert folders.differing(known, wanted) == [
        "a.c.d: 2 there, 5 here",
        "e: {'f': 3} there, 6 here",
        "g: 4 there, {'h': 7} here",
        "new: None there, 8 here",
    ]


def test_json_is_written_for_other_programs_too(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"b": [1], "a": "\u00e9"})
    assert (tmp_path / "x.json").read_text() == '{\n "b": [\n  1\n ],\n "a": "\\u00e9"\n}\n'
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert full(RuntimeError("I/O error: No space left on device (os error 28)"))  # as safetensors says it
    assert full(OSError(errno.EDQUOT, "x")) and not full(OSError(errno.EACCES, "x"))
