"""The processes that share the work of a unit, as torchrun starts them: who they are, and what they do together.

Process 0 is the command that the user typed: it alone reads the command line, prints and writes. The others wait for
what it tells them through torch's key-value store, and go through the same code with it: each computes its share.

A thing that may fail in one process stands in `together`: what is raised in one of them is raised in all.
No torch until the processes join.
"""

import pickle
import platform
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar

from vitft.errors import PeerLost, UsageError, end_at_once
from vitft.trees import with_tensors, without_tensors
from vitft.versions import difference, versions
from vitft.world import World

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

Parallel = Literal["auto", "ddp", "fsdp"]
"""Each process holds the network, or a part of it, or what fits the card."""

_BEAT_S = 2.0
_SILENT_S = 40.0
"""A process that has not been heard of for so long is lost."""

_STORE_S = 10.0
"""So long the store may be gone before this process ends: the connections tell most losses, and an end, in less."""

_JOIN_S = 600.0
_BUCKET = 16 << 20  # numbers that are summed at once: few messages, little memory beside the gradients


class Order(TypedDict):
    """What the waiting processes take part in: a unit as JSON, and the fields of its `Runtime`."""

    unit: str
    runtime: dict[str, Any]


class Group:
    """A process alone: it agrees with itself, and its share is all of it."""

    rank = 0
    size = 1
    local_rank: int | None = None
    joined = False

    @property
    def first(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0

    def share(self, n: int) -> range:
        """Return this process's part of 0..n-1; the parts differ by one at most, the first is never the smaller."""
        less, more = divmod(n, self.size)
        start = self.rank * less + min(self.rank, more)
        return range(start, start + less + (self.rank < more))

    def agree(self, problem: Exception | None = None, signum: int = 0, due: bool = False) -> tuple[int, bool]:
        """Return the largest signal number of all processes, and whether any is due; raise what any was stopped by."""
        if problem is not None:
            raise problem
        return signum, due

    @contextmanager
    def together(self) -> Iterator[None]:
        """Raise in every process what the block has raised in one; all of them must come here."""
        try:
            yield
        except Exception as error:
            self.agree(error)
            raise
        self.agree()

    def sum(self, tensors: Sequence["Tensor"]) -> None:
        """Put the sum over all processes in place of each tensor."""

    def from_first(self, value: T) -> T:
        """Return process 0's value."""
        return value

    def all(self, value: T) -> list[T]:
        """Return each process's value, in their order."""
        return [value]

    def unlike(self, value: object) -> str:
        """Return the first process that has another value than process 0, in words; "" where all have the same."""
        values = self.all(value)
        return next((self.who(rank) for rank, theirs in enumerate(values) if theirs != values[0]), "")

    def who(self, rank: int) -> str:
        """Return a process in words, e.g. "process 3 on node7"."""
        return f"process {rank}"

    def tell(self, message: Order | None) -> None:
        """Tell the waiting processes what comes next; None = that was all."""

    def join(self, device: str) -> None:
        """Meet the others for computing on a kind of device; once they have met, nothing happens.

        Raises:
            UsageError: another process runs another vitft, torch or timm.
        """


ALONE = Group()


class Processes(Group):
    """Several processes, on one machine or many, over torch.distributed (gloo; NCCL between cards)."""

    def __init__(self, world: World) -> None:
        self.rank, self.size, self.local_rank, self._world = world.rank, world.size, world.local_rank, world
        self._store, self._told = _store(world), 0
        self._over, self._hosts = threading.Event(), list[str]()

    # --- what comes next ---------------------------------------------------------------------------------------------

    def tell(self, message: Order | None) -> None:
        if message is None:
            self._over.set()
        self._store.set(f"told/{self._told}", pickle.dumps(message))
        self._told += 1
        if message is None and not self._world.agent:
            self._until_heard()  # the store goes with this process

    def heard(self, stop: Callable[[], int]) -> Order | None:
        """Wait for what process 0 tells; None where that is the end, or a signal came.

        Raises:
            PeerLost: process 0 is gone.
        """
        key = f"told/{self._told}"
        while True:
            with self._alive():
                if self._store.check([key]):
                    break
            if stop():
                return None
            time.sleep(0.05)
        message: Order | None = pickle.loads(self._store.get(key))
        self._told += 1
        if message is None:
            self._over.set()
            self._store.set(f"over/{self.rank}", b"1")
        return message

    def _until_heard(self) -> None:
        until, left = time.monotonic() + 10, list(range(1, self.size))
        while left and time.monotonic() < until:
            with suppress(RuntimeError):
                left = [rank for rank in left if not self._store.check([f"over/{rank}"])]
            time.sleep(0.05)

    def who(self, rank: int) -> str:
        # Before all have met, nobody knows where the others run.
        return f"process {rank} on {self._hosts[rank]}" if rank < len(self._hosts) else f"process {rank}"

    # --- together ----------------------------------------------------------------------------------------------------

    def join(self, device: str) -> None:
        if self.joined:
            return
        import torch
        import torch.distributed as dist
        from torch.distributed.distributed_c10d import PrefixStore

        cards = device != "cpu" and torch.cuda.is_available() and dist.is_nccl_available()
        if cards:
            torch.cuda.set_device(self._world.local_rank % torch.cuda.device_count())
        with self._alive():
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if cards else "gloo",
                store=PrefixStore("group", self._store),
                rank=self.rank,
                world_size=self.size,
                timeout=timedelta(seconds=_JOIN_S),
            )
        self.joined = True
        threading.Thread(target=self._watch, daemon=True).start()
        self.know()

    def know(self) -> None:
        """Learn where the others run. Raises UsageError in all processes where one runs another program."""
        met = self.all((platform.node(), versions()))
        self._hosts = [host for host, _ in met]
        for rank, (_, theirs) in enumerate(met):
            if other := difference(theirs, met[0][1]):
                raise UsageError(
                    f"Another program runs in {self.who(rank)} than in process 0: {other}.",
                    "the same vitft, torch and timm on all machines.",
                    "Look at PYTHONPATH and the environment there.",
                )

    def agree(self, problem: Exception | None = None, signum: int = 0, due: bool = False) -> tuple[int, bool]:
        import torch
        import torch.distributed as dist

        if isinstance(problem, PeerLost):
            raise problem
        flags = torch.tensor([problem is not None, signum, due], dtype=torch.int64)
        with self._alive():
            dist.all_reduce(flags, dist.ReduceOp.MAX)
        if flags[0]:
            problems = [one for one in self.all(_sendable(problem)) if one is not None]
            raise problem or problems[0]
        return int(flags[1]), bool(flags[2])

    def sum(self, tensors: Sequence["Tensor"]) -> None:
        import torch
        import torch.distributed as dist

        with self._alive(), torch.no_grad():
            for bucket in _buckets(tensors):
                if len(bucket) == 1 and bucket[0].is_contiguous():
                    dist.all_reduce(bucket[0])
                    continue
                flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
                dist.all_reduce(flat)
                for tensor, part in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
                    tensor.copy_(part.view_as(tensor))

    def from_first(self, value: T) -> T:
        import torch
        import torch.distributed as dist
        from torch import Tensor

        tensors: list[Tensor] = []
        plain = [without_tensors(value, tensors)]
        with self._alive():
            dist.broadcast_object_list(plain, 0, device=torch.device("cpu"))
            filled: T = with_tensors(plain[0], iter(tensors), self.first)
        return filled

    def all(self, value: T) -> list[T]:
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        with self._alive():
            dist.all_gather_object(values, value)
        return values

    # --- a process that is gone --------------------------------------------------------------------------------------

    @contextmanager
    def _alive(self) -> Iterator[None]:
        """Raise PeerLost where torch's connections report that another process is gone."""
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
                raise
            raise lost(self.rank, str(error).splitlines()[0][:160]) from error

    def _watch(self) -> None:
        """Listen to the others' beats: process 0 to all, they to it. The end of one ends this process.

        Computing may hang for ever in a message to a process that is gone; nothing but an exit ends that.
        """
        others = [rank for rank in range(self.size) if rank != self.rank and (self.first or rank == 0)]
        last = dict.fromkeys(others, (b"", time.monotonic()))
        gone = threading.Event()
        threading.Thread(target=self._beat, args=(last, gone), daemon=True).start()
        while not self._over.wait(_BEAT_S):
            silent = [rank for rank, (_, when) in last.items() if time.monotonic() - when > _SILENT_S]
            why = f"{self.who(silent[0])} was not heard of for {_SILENT_S:.0f} s" if silent else ""
            if gone.is_set() and not self._over.wait(_STORE_S):
                why = "the store is gone"
            if why and not self._over.is_set():
                end_at_once(lost(self.rank, why))

    def _beat(self, last: dict[int, tuple[bytes, float]], gone: threading.Event) -> None:
        """Beat, and note when each of the others did last, until the store goes with torchrun or with process 0.

        A thread of its own: where a cable is cut, a call of the store may not return.
        """
        try:
            store = _store(self._world, client=True)
            beat = 0
            while not self._over.wait(_BEAT_S):
                beat += 1
                store.set(f"beat/{self.rank}", str(beat))
                for rank in last:
                    now = store.get(f"beat/{rank}") if store.check([f"beat/{rank}"]) else b""
                    if now != last[rank][0]:
                        last[rank] = (now, time.monotonic())
        except (RuntimeError, UsageError):
            gone.set()


def lost(rank: int, why: str) -> PeerLost:
    """Return the error for another process that is gone."""
    return PeerLost(
        f"Another of the processes is gone; process {rank} stops too ({why}).",
        fact="The state that was saved last is whole.",
        action="Run the same command again to go on from here, with as many processes as you like.",
    )


def _store(world: World, client: bool = False) -> Any:
    from torch._C._distributed_c10d import TCPStore
    from torch.distributed.distributed_c10d import PrefixStore

    hosts = world.rank == 0 and not world.agent and not client
    try:
        # Not counting who comes: a process may be asked nothing at all.
        store = TCPStore(world.address, world.port, None, hosts, timedelta(seconds=_JOIN_S), False)
    except RuntimeError as error:
        raise UsageError(
            f"No store at {world.address}:{world.port} ({str(error).splitlines()[0][:100]}).",
            "MASTER_ADDR and MASTER_PORT of process 0, reachable from here and free.",
        ) from None
    return PrefixStore(f"vitft/{world.attempt}", store)


def _buckets(tensors: Sequence["Tensor"]) -> Iterator[list["Tensor"]]:
    """Yield tensors of one type and one device, at most `_BUCKET` numbers at once, in their order."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        last = bucket[-1] if bucket else tensor
        full = sum(t.numel() for t in bucket) + tensor.numel() > _BUCKET
        if bucket and (full or tensor.dtype != last.dtype or tensor.device != last.device):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def _sendable(problem: Exception | None) -> Exception | None:
    try:
        pickle.loads(pickle.dumps(problem))
    except Exception:
        return RuntimeError(f"{type(problem).__name__}: {problem}")
    return problem
