"""Several processes want the same pixels: one decodes, the others wait and say so."""

import errno
import fcntl
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.training.test_training import drawn
from vitft import machine
from vitft.data.split import Split
from vitft.errors import Interrupted
from vitft.images import cache
from vitft.progress import Hooks
from vitft.settings import Preprocess

PP = Preprocess((16, 16))


def counted(log: Path, slow: float = 0.0) -> Split:
    split = drawn(6)
    real = split.read

    def read(i: int) -> bytes:
        time.sleep(slow)
        with log.open("a") as file:
            file.write(f"{i}\n")
        return real(i)

    return replace(split, read=read)


def test_one_process_decodes_and_the_other_waits(tmp_path):
    # These images are in no file, so that their digests are kept nowhere: the second process reads them for theirs.
    pids = []
    for number in range(2):
        pid = os.fork()
        if pid == 0:
            notes: list[str] = []
            time.sleep(0.15 * number)
            array = cache.pixels(counted(tmp_path / "read", 0.1), PP, 1, Hooks(note=notes.append))
            np.save(tmp_path / f"{number}.npy", array.rows(range(6)))
            (tmp_path / f"{number}.txt").write_text("\n".join(notes))
            os._exit(0)
        pids.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0, 0]
    assert len((tmp_path / "read").read_text().split()) == 6 + 6  # digested and decoded at once; digested
    assert np.array_equal(*(np.load(tmp_path / f"{n}.npy") for n in range(2)))
    said = [(tmp_path / f"{n}.txt").read_text() for n in range(2)]
    assert sorted(said) == ["", "Another vitft decodes drawn train for this machine: waiting for its end."]
    assert not list((machine.cache() / "pixels").glob("*.lock"))


def test_who_waits_can_be_stopped(tmp_path):
    split = drawn(6)
    path = machine.cache() / "pixels" / f"{cache._turn(split, PP)}.lock"
    with machine.turn(path, lambda first: None), pytest.raises(Interrupted):
        cache.pixels(split, PP, 1, Hooks(signal=lambda: 15))


def test_a_file_system_without_locks_lets_everybody_in(tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with machine.turn(tmp_path / "lock", lambda first: pytest.fail("waited")), machine.turn(tmp_path / "lock", print):
        pass
    array = cache.pixels(drawn(6), PP, 1)
    assert array is not None and array.shape == (6, 16, 16, 3)
