"""What processes tell each other through torch's store, with both ends in this process."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.processes import free_port
from vitft import group
from vitft.errors import PeerLost
from vitft.group import Processes
from vitft.world import World


def world(rank: int, port: int, agent: bool = False) -> World:
    return World(rank, 2, rank, "127.0.0.1", port, agent=agent)


@pytest.fixture
def two() -> Iterator[tuple[Processes, Processes]]:
    port = free_port()
    first = Processes(world(0, port))  # the store is its own
    yield first, Processes(world(1, port))
    first._over.set()


def order(n: int) -> Any:
    return {"unit": f"u{n}", "runtime": {}}


def test_orders_are_heard_one_by_one_and_the_end_is_answered(two, monkeypatch):
    first, second = two
    waited: list[int] = []
    monkeypatch.setattr(Processes, "_until_heard", lambda self: waited.append(self.rank))
    for n in range(3):
        first.tell(order(n))
    assert not waited  # for the end alone
    assert [second.heard(lambda: 0) for _ in range(3)] == [order(n) for n in range(3)]
    assert second.heard(lambda: 15) is None and not second._over.is_set()  # a signal, and nothing was told
    first.tell(None)
    assert waited == [0] and first._over.is_set()
    assert second.heard(lambda: 0) is None and second._over.is_set()
    assert first._store.check(["over/1"]) and not first._store.check(["over/0"])


def test_whose_store_it_is_waits_until_the_end_was_heard(two):
    first, second = two
    told = threading.Thread(target=first.tell, args=(None,))
    told.start()
    told.join(0.3)
    assert told.is_alive()
    assert second.heard(lambda: 0) is None
    told.join(5)
    assert not told.is_alive()


def test_below_an_agent_nobody_waits_for_the_end(two, monkeypatch):
    first, _ = two
    monkeypatch.setattr(first, "_world", world(0, 1, agent=True))
    monkeypatch.setattr(Processes, "_until_heard", lambda _: pytest.fail("the agent keeps the store"))
    first.tell(None)


def watched(one: Processes, monkeypatch: pytest.MonkeyPatch, seconds: float) -> list[str]:
    """Watch for a while; return what the process would end with."""
    said: list[str] = []

    def ended(error: PeerLost) -> None:
        said.append(error.lines[0])
        one._over.set()

    monkeypatch.setattr(group, "end_at_once", ended)
    watch = threading.Thread(target=one._watch)
    watch.start()
    watch.join(seconds)
    one._over.set()
    watch.join()
    return said


def test_a_process_that_falls_silent_is_told_by_its_number(two, monkeypatch):
    monkeypatch.setattr(group, "_BEAT_S", 0.02)
    monkeypatch.setattr(group, "_SILENT_S", 0.6)
    first, second = two
    beats = threading.Thread(target=second._beat, args=({}, threading.Event()))
    beats.start()
    assert watched(first, monkeypatch, 1.5) == []  # it beats
    second._over.set()
    beats.join()
    first._over.clear()
    began = time.monotonic()
    assert watched(first, monkeypatch, 20.0) == [
        "Another of the processes is gone; process 0 stops too (process 1 was not heard of for 1 s)."
    ]
    assert time.monotonic() - began < 15


def test_a_store_that_is_gone_ends_a_process(two, monkeypatch):
    monkeypatch.setattr(group, "_BEAT_S", 0.02)
    monkeypatch.setattr(group, "_STORE_S", 0.1)
    monkeypatch.setattr(group, "_store", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("gone")))
    assert watched(two[1], monkeypatch, 20.0) == [
        "Another of the processes is gone; process 1 stops too (the store is gone)."
    ]


def test_a_process_is_called_with_its_machine_once_that_is_known(two):
    first, _ = two
    assert first.who(1) == "process 1"
    first._hosts = ["node3", "node7"]
    assert first.who(1) == "process 1 on node7"


def test_what_another_process_was_lost_by_is_raised_as_it_is(two):
    """Nobody is asked: who would answer?"""
    lost = group.lost(1, "x")
    with pytest.raises(PeerLost) as caught:
        two[0].agree(lost)
    assert caught.value is lost


def test_tensors_are_summed_together_by_type_device_and_size(monkeypatch):
    monkeypatch.setattr(group, "_BUCKET", 10)
    kinds = {"f": (torch.float32, "cpu"), "i": (torch.int64, "cpu"), "m": (torch.int64, "meta")}
    sizes = [(4, "f"), (6, "f"), (1, "f"), (2, "i"), (3, "m"), (3, "m"), (30, "m"), (1, "i")]
    tensors = [torch.zeros(n, dtype=kinds[kind][0], device=kinds[kind][1]) for n, kind in sizes]
    found = [[t.numel() for t in bucket] for bucket in group._buckets(tensors)]
    assert found == [[4, 6], [1], [2], [3, 3], [30], [1]]
    assert list(group._buckets([])) == []


class Unsendable(Exception):
    def __init__(self, a: int, b: int) -> None:  # pickle gives one argument back
        super().__init__(f"{a} and {b}")


def test_an_error_that_cannot_be_sent_is_sent_in_words():
    problem = ValueError("x")
    assert group._sendable(problem) is problem and group._sendable(None) is None
    for one in (Unsendable(1, 2), type("Local", (Exception,), {})("y")):
        sent = group._sendable(one)
        assert type(sent) is RuntimeError and str(sent) == f"{type(one).__name__}: {one}"
