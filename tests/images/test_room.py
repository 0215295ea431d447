"""The cache keeps to its size: what goes first, what never goes, what is streamed instead, and what is nobody's."""

import dataclasses
import hashlib
import os
import shutil
import signal
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.data.test_edges import rows
from tests.data.test_label_rules import picture
from vitft import machine
from vitft.data.find import at
from vitft.data.reader import Reader
from vitft.data.split import Split
from vitft.errors import DataDamaged, UsageError
from vitft.images import batches as batching
from vitft.images import cache, fingerprints, room, stored
from vitft.images import digests as kept_digests
from vitft.images.batches import Images, eval_batches
from vitft.settings import Preprocess

PP = Preprocess((4, 4))
ROWS = 3 * 4 * 4 * 3
FILE = 128 + ROWS  # NumPy's header is padded to a multiple of 64


def split(k: int, side: int = 4) -> Split:
    """Return three images that no other k has."""
    return dataclasses.replace(rows(3, [0, 1, 0]), read=lambda i: picture(50 * k + i, "PNG", (side, side, 3)))


def files() -> dict[str, int]:
    """Return the files of the cache in the order of their use, and their sizes."""
    return {entry.path.name: entry.size for entry in room.entries()}


def aged(*ages: int) -> None:
    """Let the files of the cache, in the order of their use, have been used so many seconds ago."""
    for entry, age in zip(room.entries(), ages, strict=True):
        os.utime(entry.path, (entry.used - age, entry.used - age))


UNITS = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "MiB": 1 << 20, "GiB": 1 << 30,
         "TiB": 1 << 40}  # fmt: skip


@pytest.mark.parametrize(("unit", "bytes_"), UNITS.items())
def test_a_size_is_bytes(unit, bytes_, monkeypatch):
    for said, n in ((f"3{unit}", 3), (f" 1.5 {unit.lower()} ", 1.5), (f"0{unit.upper()}", 0)):
        monkeypatch.setenv(room.VARIABLE, said)
        assert room.limit() == int(n * bytes_)


def test_a_share_is_of_what_the_cache_has_and_could_have(monkeypatch):
    cache.pixels(split(1), PP)
    monkeypatch.setattr(machine, "free", lambda _: 1000)
    monkeypatch.delenv("VITFT_CACHE_SIZE", raising=False)
    assert room.limit() == (1000 + FILE) // 4 and room.limit([]) == 250
    assert room.usage() == "0 kB of at most 0 kB (25% of what it leaves free; VITFT_CACHE_SIZE sets it)"
    for said, share in ((" 10 %", 0.1), ("100%", 1.0), ("0.5%", 0.005)):
        monkeypatch.setenv("VITFT_CACHE_SIZE", said)
        assert room.limit() == int(share * (1000 + FILE))
    assert room.usage() == "0 kB of at most 0 kB (VITFT_CACHE_SIZE=0.5%)"
    for wrong in ("much", "101%", "-1GB", "5XB"):
        monkeypatch.setenv("VITFT_CACHE_SIZE", wrong)
        with pytest.raises(UsageError, match="Legal: a size such as 200GB"):
            room.limit()
        assert room.usage() == (
            f"not a size: VITFT_CACHE_SIZE is '{wrong}'. "
            "Legal: a size such as 200GB, a share of the disk such as 10%, or 0."
        )


def test_what_is_free_is_asked_of_the_disk_that_the_cache_will_lie_on(monkeypatch, tmp_path):
    monkeypatch.setenv("VITFT_CACHE", str(tmp_path / "a" / "b"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free={tmp_path: 1000, Path("/"): 7}[path]))
    monkeypatch.setenv(room.VARIABLE, "50%")
    assert room.limit() == 500


def laid(*files: tuple[str, int, float]) -> None:
    """Lay files into the cache, of so many bytes, used at such a time."""
    for name, size, used in files:
        path = machine.cache() / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
        os.utime(path, (used, used))


def test_the_cache_is_its_pixels_features_and_digests(monkeypatch):
    laid(
        ("pixels/b.npy", 3, 50),
        ("pixels/a.npy", 5, 50),
        ("pixels/c.npy", 2, 50),
        ("features/c.npy", 7, 20),
        ("digests/d.bin", 11, 70),
    )
    laid(("pixels/e.lock", 13, 10), ("pixels/folder/f.npy", 17, 10), ("data/g.npy", 19, 10), ("h.npy", 23, 10))
    found = [(str(one.path.relative_to(machine.cache())), one.size) for one in room.entries()]
    pixels = [("pixels/a.npy", 5), ("pixels/b.npy", 3), ("pixels/c.npy", 2)]
    assert found == [("features/c.npy", 7), *pixels, ("digests/d.bin", 11)]
    with (machine.cache() / "pixels" / "a.npy").open("rb") as held:
        assert room.hold(held)
        for dry in (True, False):
            gone = ["features/c.npy", "pixels/b.npy", "pixels/c.npy", "digests/d.bin"]
            assert room.clean(dry=dry) == (gone, 7 + 3 + 2 + 11)
        assert files() == {"a.npy": 5}
        (machine.cache() / "pixels" / "a.npy").unlink()
        assert not room.hold(held)


def test_room_is_made_where_that_helps_and_no_more_than_is_needed(monkeypatch):
    spare = 1 << 30
    free = spare + 10
    monkeypatch.setattr(machine, "free", lambda _: free)

    def made(size: int, limit: int, **how: bool) -> tuple[bool, str]:
        shutil.rmtree(machine.cache(), ignore_errors=True)
        laid(("pixels/a", 4, 10), ("pixels/b", 2, 20), ("pixels/c", 3, 30))
        monkeypatch.setenv(room.VARIABLE, str(limit))
        return room.make(size, **how), "".join(files())

    assert made(10, 19) == (True, "abc") and made(10, 18) == (True, "bc") and made(10, 14) == (True, "c")
    assert made(10, 12) == (True, "") and made(10, 9) == (False, "abc")
    assert made(9, 9) == (True, "") and made(9, 9, evict=False) == (False, "abc")
    # The disk is what is full: a gibibyte of it stays free.
    assert made(11, 100) == (True, "bc") and made(14, 100) == (True, "bc") and made(15, 100) == (True, "c")
    assert made(19, 100) == (True, "") and made(20, 100) == (False, "")
    assert made(11, 100, evict=False) == (False, "abc") and made(10, 100, evict=False) == (True, "abc")


def test_what_a_killed_process_left_goes_at_once_if_it_is_pixels_and_else_after_an_hour(monkeypatch):
    now = 1_000_000.0
    monkeypatch.setattr(room.time, "time", lambda: now)
    monkeypatch.setattr(machine, "free", lambda _: 1 << 40)
    laid(("pixels/.half.npy", 1, now), ("pixels/.held.npy", 1, 1), ("pixels/whole.npy", 1, 1))
    laid(("digests/.old.bin", 1, now - 3600.5), ("digests/.new.bin", 1, now - 3600), ("digests/whole.bin", 1, 1))
    monkeypatch.setenv(room.VARIABLE, "100")
    with (machine.cache() / "pixels" / ".held.npy").open("rb") as held:
        assert room.hold(held) and room.make(1, evict=False)
        assert files().keys() == {".held.npy", "whole.npy", ".new.bin", "whole.bin"}


def test_what_was_used_least_recently_goes_first_and_what_is_in_use_never(monkeypatch):
    monkeypatch.setenv(room.VARIABLE, str(3 * FILE))
    held = cache.pixels(split(1), PP)
    for k in (2, 3):
        cache.pixels(split(k), PP)
    first, second, third = files()
    aged(300, 200, 100)
    cache.pixels(split(2), PP)  # used again: the third is now the oldest that nobody holds
    cache.pixels(split(4), PP)
    assert set(files()) >= {first, second} and third not in files() and sum(files().values()) == 3 * FILE
    assert held is not None and np.array_equal(held.rows([1]), cache.pixels(split(1), PP).rows([1]))
    del held
    assert room.clean(dry=True) == ([f"pixels/{name}" for name in files()], 3 * FILE) and len(files()) == 3
    assert room.clean()[1] == 3 * FILE and not files()


def test_a_process_that_uses_a_file_keeps_it_and_one_that_was_killed_leaves_nothing(monkeypatch):
    monkeypatch.setenv(room.VARIABLE, str(FILE))
    used, done = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            held = cache.pixels(split(1), PP)
            with room.writing(machine.cache() / "pixels" / "half.npy", 10):
                os.write(used[1], b"x" if held is not None else b"")
                os.read(done[0], 1)
        finally:
            os._exit(1)
    os.read(used[0], 1)
    assert cache.pixels(split(2), PP) is not None  # in memory: the only room is taken
    assert sorted(files().values()) == [10, FILE]
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    kept = cache.pixels(split(2), PP)
    assert kept is not None and kept.on_disk and list(files().values()) == [FILE]


def test_what_was_begun_is_gone_where_it_failed(tmp_path):
    seen: list[int] = []

    def fails() -> None:
        with room.writing(tmp_path / "a.npy", 10):
            seen.extend(path.stat().st_size for path in tmp_path.iterdir())
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert seen == [10] and not list(tmp_path.iterdir())


def test_no_room_means_memory_where_that_is_little_and_decoding_anew_where_not(monkeypatch):
    monkeypatch.setenv(room.VARIABLE, str(FILE - 1))
    in_memory = cache.pixels(split(1), PP)
    assert in_memory is not None and not in_memory.on_disk and not files()
    assert cache.pixels(split(1), PP, keep="room") is None
    monkeypatch.setattr(machine, "memory", lambda: 4 * ROWS - 1)
    assert cache.pixels(split(1), PP) is None
    monkeypatch.setenv(room.VARIABLE, "1GB")
    monkeypatch.setattr(machine, "free", lambda _: (1 << 30) + FILE - 1)  # a gibibyte of the disk stays free
    assert cache.pixels(split(1), PP) is None and not files()
    monkeypatch.setattr(machine, "free", lambda _: (1 << 30) + FILE)
    kept = cache.pixels(split(1), PP)
    assert kept is not None and files() and np.array_equal(kept.rows(range(3)), in_memory.rows(range(3)))


def test_test_images_are_kept_only_where_they_are_read_again_and_push_nothing_out(monkeypatch):
    monkeypatch.setenv(room.VARIABLE, str(2 * FILE))
    assert cache.pixels(split(1), PP, keep="no") is None and not files()
    assert len(list(eval_batches(split(1), PP, 2))) == 2 and not files()
    assert cache.pixels(split(1), PP, keep="room") is not None and cache.pixels(split(2), PP, keep="room") is not None
    assert cache.pixels(split(3), PP, keep="room") is None and len(files()) == 2
    assert cache.pixels(split(2), PP, keep="no") is not None  # what is there is taken
    assert cache.pixels(split(3), PP) is not None and len(files()) == 2


@pytest.mark.parametrize("crop", ["none", "random", "pad"])
def test_streamed_batches_are_those_of_kept_pixels_bit_by_bit(crop):
    pp, rng = Preprocess((12, 12), crop=crop, crop_from=16, flip=True), np.random.default_rng(0)
    images, cpu = split(1, 20), torch.device("cpu")
    asked = [rng.integers(0, 3, 2) for _ in range(5)]
    uniforms = [rng.random((2, 24)) for _ in range(5)]
    streaming, kept = Images(images, pp, cpu, 2, None, "no"), Images(images, pp, cpu)
    streaming.soon(asked[0], uniforms[0])
    for a, b in zip(streaming.batches(asked, uniforms), kept.batches(asked, uniforms), strict=True):
        assert torch.equal(a, b)
    assert not streaming._begun and len(files()) == 1


def test_what_is_decoded_soon_is_decoded_once(monkeypatch):
    read: Counter[int] = Counter()
    images, rng = split(1), np.random.default_rng(0)
    plain = images.read
    counted = dataclasses.replace(images, read=lambda i: read.update([i]) or plain(i))
    streaming = Images(counted, Preprocess((4, 4), crop="inception"), torch.device("cpu"), 1, None)
    uniforms = rng.random((3, 24))
    streaming.soon(np.arange(3), uniforms)
    streaming.soon(np.arange(2), uniforms[:2])  # the plan changed: nothing of it is taken for the other
    (batch,) = streaming.batches([np.arange(2)], [uniforms[:2]])
    assert len(batch) == 2 and read[0] + read[1] <= 2 + 2
    read.clear()
    streaming.soon(np.arange(3), uniforms)
    list(streaming.batches([np.arange(3)], [uniforms]))
    assert read == {0: 1, 1: 1, 2: 1}


def test_pixels_stay_on_a_card_where_they_take_less_than_a_fifth_of_what_is_free(monkeypatch):
    monkeypatch.setattr(batching, "_AT_ONCE", 2)
    plain = Images(split(1), PP, torch.device("cpu"))
    whole = cache.pixels(split(1), PP)
    assert whole is not None and np.array_equal(plain._on_device(), whole.rows(range(3))) and plain._resident is None
    plain._resident = plain._on_device()
    (batch,) = plain.batches([np.array([2, 0])])
    assert torch.equal(batch, next(Images(split(1), PP, torch.device("cpu")).batches([np.array([2, 0])])))
    monkeypatch.setattr(Images, "_on_device", lambda self: self.device)
    for free, stays in ((5 * ROWS, False), (5 * ROWS + 1, True)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10**9))
        there = Images(split(1), PP, torch.device("cuda"))
        assert (there._resident is not None) == stays
    assert Images(split(1), Preprocess((4, 4), crop="inception"), torch.device("cuda"))._resident is None


def test_a_file_that_is_cut_short_or_another_is_not_taken():
    whole = cache.pixels(split(1), PP)
    path = machine.cache() / "pixels" / next(iter(files()))
    content = path.read_bytes()
    for wrong in (
        content[:-1],
        content + b"x",
        b"",
        b"y" + content[1:],
        content.replace(b"(3, 4, 4, 3)", b"(4, 3, 4, 3)"),
    ):
        path.write_bytes(wrong)
        assert stored.opened(path, (3, 4, 4, 3)) is None
    again = cache.pixels(split(1), PP)
    assert path.read_bytes() == content and again is not None and whole is not None
    os.truncate(path, len(content) - 1)
    with pytest.raises(DataDamaged, match="cut short while it was read"):
        again.rows([2])


@pytest.mark.parametrize("on_disk", [True, False])
def test_rows_are_those_asked_for_in_their_order(on_disk, tmp_path):
    values = np.arange(5 * 2 * 4 * 3, dtype=np.uint8).reshape(5, 2, 4, 3)
    np.save(tmp_path / "a.npy", values)
    os.utime(tmp_path / "a.npy", (10, 10))
    kept = stored.opened(tmp_path / "a.npy", values.shape) if on_disk else stored.Stored(values.shape, values)
    assert kept is not None and (kept.on_disk, len(kept), kept.nbytes) == (on_disk, 5, values.nbytes)
    assert np.array_equal(kept.rows([3, 0, 3]), values[[3, 0, 3]]) and kept.rows([]).shape == (0, 2, 4, 3)
    out = np.zeros((2, 2, 4, 3), np.uint8)
    assert np.array_equal(kept.rows(np.array([4, 1]), out), values[[4, 1]]) and np.array_equal(out, values[[4, 1]])
    assert stored.size(values.shape) == (tmp_path / "a.npy").stat().st_size
    assert (time.time() - (tmp_path / "a.npy").stat().st_mtime < 60) == on_disk  # it was used just now


# --- digests ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An image folder of six files that were written long ago."""
    for i in range(6):
        file = tmp_path / "photos" / ("train", "test")[i % 2] / "ab"[i // 3] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(40 * i, "PNG", (4, 4, 3)))
        os.utime(file, (1e9, 1e9))
    return tmp_path / "photos"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the image files that are read."""
    from vitft.data.sources import files as image_files

    counted: Counter[str] = Counter()
    plain = image_files.read_file

    def spy(path: Path) -> bytes:
        counted[path.name] += 1
        return plain(path)

    monkeypatch.setattr(image_files, "read_file", spy)
    return counted


def digest(folder: Path) -> str:
    """Return the digest of the training images in a source that is opened anew, as another command would."""
    return fingerprints.encoded_digest(at(folder).open("train"))


def test_a_second_command_reads_no_image_to_find_its_pixels(folder, read):
    first = cache.pixels(at(folder).open("train"), PP)
    assert read == {"0.png": 1, "2.png": 1, "4.png": 1}  # read once, to be digested and decoded
    second = cache.pixels(at(folder).open("train"), PP)
    assert sum(read.values()) == 3 and np.array_equal(first.rows(range(3)), second.rows(range(3)))
    pp = Preprocess((6, 6))
    assert cache.pixels(at(folder).open("train"), pp) is not None and sum(read.values()) == 6  # to be decoded


def test_digests_of_streamed_images_are_kept_too(folder, read):
    test = at(folder).open("test")
    list(eval_batches(test, PP, 2))
    fingerprints.fingerprints(test)
    assert read == {"1.png": 1, "3.png": 1, "5.png": 1}
    fingerprints.fingerprints(at(folder).open("test"))
    assert sum(read.values()) == 3


def test_a_changed_image_is_read_again_and_the_others_are_not(folder, read):
    before = digest(folder)
    file = folder / "train" / "a" / "2.png"
    size = file.stat().st_size
    read.clear()
    file.write_bytes(picture(200, "PNG", (4, 4, 3)))
    os.utime(file, (1e9 + 1, 1e9 + 1))
    changed = digest(folder)
    assert changed != before and read == {"2.png": 1} and size > 0
    file.write_bytes(file.read_bytes() + b"more")
    os.utime(file, (1e9 + 1, 1e9 + 1))  # the same time, another size
    assert digest(folder) not in (before, changed) and read == {"2.png": 2}
    # Another file in its place, of the same size and time.
    twin = folder / "twin"
    twin.write_bytes(bytes(file.stat().st_size))
    os.utime(twin, (1e9 + 1, 1e9 + 1))
    twin.rename(file)
    digest(folder)
    assert read == {"2.png": 3}


def test_a_file_that_was_written_a_moment_ago_is_not_trusted(folder, read):
    os.utime(folder / "train" / "a" / "0.png")
    digest(folder)
    digest(folder)
    assert read == {"0.png": 2, "2.png": 1, "4.png": 1}


def test_a_torn_or_foreign_record_is_none(folder, read):
    known = digest(folder)
    record = min((machine.cache() / "digests").iterdir())
    content = record.read_bytes()
    odd = content[16:-16]  # half a record too few, with its own digest
    turned = content[:20] + bytes([content[20] ^ 1]) + content[21:]  # another digest of the first image
    for wrong in (content[:-1], b"", b"not a record", bytes(len(content)), odd + blake(odd), turned):
        record.write_bytes(wrong)
        assert digest(folder) == known
    assert record.read_bytes() == content


def blake(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def test_digests_are_kept_by_folder_or_table_and_found_by_every_state_of_the_file(folder, monkeypatch):
    told: list[Path] = []
    plain = machine.identity
    monkeypatch.setattr(machine, "identity", lambda path, now: told.append(path) or plain(path, now))
    table, new = folder / "t.parquet", folder / "train" / "a" / "new.png"
    for file in (table, new):
        file.write_bytes(b"x")
    os.utime(table, (1e9, 1e9))
    alone = [folder / "train" / "a" / f"{i}.png" for i in (0, 2)] + [new, folder / "train" / "b" / "4.png"]
    files = Reader(bytes, file=lambda i: (alone[i], -1))
    rows = Reader(bytes, file=lambda i: (table, i))
    gone = Reader(bytes, file=lambda i: (folder / "gone.png", -1))
    images = [(70_000, rows, 0), (1, gone, 0), (2, files, 0), (3, Reader(bytes), 0), (300, rows, 7)]
    images += [(4, files, 3), (5, files, 1), (6, files, 2)]
    asked = {one.folder: one for one in kept_digests.look_up(images)}
    assert told.count(table) == 1  # all rows of a table are told by its one state
    assert {of.relative_to(folder).as_posix(): one.rows.tolist() for of, one in asked.items()} == {
        "t.parquet": [70_000, 300], "train/a": [2, 5, 6], "train/b": [4],
    }  # fmt: skip
    assert asked[alone[0].parent].settled.tolist() == [True, True, False] and asked[table].settled.all()
    digests = {of: np.frombuffer(os.urandom(16 * len(one.rows)), np.uint8).reshape(-1, 16) for of, one in asked.items()}

    def found(of: Path) -> dict[int, bytes]:
        return {row: bytes(value) for row, value in kept_digests.recalled(asked[of])}

    for of, one in asked.items():
        assert not found(of)
        kept_digests.keep(one, digests[of])
        settled = [i for i, yes in enumerate(one.settled) if yes]
        assert found(of) == {int(one.rows[i]): digests[of][i].tobytes() for i in settled}
        assert kept_digests._file(of).stat().st_size == 32 * len(settled) + 16
    (again,) = (one for one in kept_digests.look_up([(9, rows, 1), (8, rows, 7)]) if one.folder == table)
    assert [(row, bytes(value)) for row, value in kept_digests.recalled(again)] == [(8, digests[table][1].tobytes())]
    kept_digests.keep(again, digests[table])  # what is known already is not kept twice
    file = kept_digests._file(table)
    assert file.stat().st_size == 32 * 3 + 16 and {8, 9} == {row for row, _ in kept_digests.recalled(again)}
    file.chmod(0o640)
    kept_digests.keep(again, digests[table])
    assert file.stat().st_mode & 0o777 == 0o640  # nothing new: it is not written again
    (unknown,) = kept_digests.look_up([(i, rows, i) for i in range(100, 300)])
    assert not list(kept_digests.recalled(unknown))
    # They take room as all else does, push out what was used longer ago, and are used when they are looked up.
    os.utime(file, (10, 10))
    assert len(found(table)) == 2 and file.stat().st_mtime > 1e9
    laid(("pixels/old.npy", 100, 10))
    os.utime(kept_digests._file(alone[3].parent), (20, 20))
    monkeypatch.setenv(room.VARIABLE, str(room._taken(room.entries())))
    (more,) = kept_digests.look_up([(1, rows, 2)])
    kept_digests.keep(more, digests[table][:1])
    assert len(list(kept_digests.recalled(more))) == 1 and not (machine.cache() / "pixels" / "old.npy").exists()
    monkeypatch.setenv(room.VARIABLE, "0")
    (more,) = kept_digests.look_up([(1, rows, 3)])
    kept_digests.keep(more, digests[table][:1])
    assert not list(kept_digests.recalled(more))


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_images_in_a_table_are_known_again_by_the_table(kind, tmp_path, monkeypatch):
    images = [{"bytes": picture(40 * i, "PNG"), "path": None} for i in range(4)]
    made = pa.table({"image": images, "label": [0, 1, 0, 1]})
    file = tmp_path / "t" / f"train.{kind}"
    file.parent.mkdir()
    if kind == "parquet":
        pq.write_table(made, file, row_group_size=3)
    else:
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, made.schema) as writer:
            writer.write_table(made)
    os.utime(file, (1e9, 1e9))
    counted: list[bytes] = []
    plain = fingerprints.fingerprint
    monkeypatch.setattr(fingerprints, "fingerprint", lambda data: counted.append(data) or plain(data))
    first = digest(file.parent)
    n = len(counted)
    assert n and digest(file.parent) == first and len(counted) == n
    os.utime(file, (1e9 + 1, 1e9 + 1))
    assert digest(file.parent) == first and len(counted) == 2 * n
