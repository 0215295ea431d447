"""Where torch computes: what each word means on this machine and on ones that are played."""

import itertools
import platform
import resource
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.layouts import refused
from vitft import device, machine
from vitft.errors import UsageError
from vitft.evaluation import onnx_network

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_what_goes_to_a_card_and_comes_from_it_travels_beside_what_it_computes(monkeypatch):
    """A card that is played: each step of the way is written down, in turn."""
    did: list[Any] = []

    def tensor(name: str, kind: str) -> Any:
        def to(device: torch.device, **how: bool) -> str:
            did.append((name, "to", device.type, how))
            return f"{name} there"

        return SimpleNamespace(
            device=torch.device(kind), is_cuda=kind == "cuda", shape=(2, 3), dtype=torch.int64, to=to,
            pin_memory=lambda: tensor(f"pinned {name}", kind),
            copy_=lambda other, **how: did.append((name, "takes", other.dtype, how)) or tensor(f"copied {name}", "cpu"),
        )  # fmt: skip

    for kind, where in (("cpu", CPU), ("cuda", CUDA), ("cuda", CPU)):
        assert device.moved(tensor("x", kind), where) == "x there"
    assert device.moved(tensor("x", "cpu"), CUDA) == "pinned x there"
    plain: dict[str, bool] = {}
    beside = {"non_blocking": True}
    assert did == [*(("x", "to", kind, plain) for kind in ("cpu", "cuda", "cpu")), ("pinned x", "to", "cuda", beside)]
    del did[:]

    def empty(shape: Any, **how: Any) -> Any:
        did.append(("empty", shape, how))
        return tensor("host", "cpu")

    event = SimpleNamespace(
        record=lambda stream: did.append(stream), synchronize=lambda: did.append("waited"), elapsed_time=lambda _: 0.0
    )
    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing: event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda of: f"stream of {of.type}")
    late = device.Late[str](CUDA)
    sent = [
        ("empty", (2, 3), {"dtype": torch.int64, "pin_memory": True}),
        ("host", "takes", torch.int64, beside),
        "stream of cuda",
    ]
    for n, told in enumerate(([], [], ["0"], ["1"])):
        late.put(str(n), tensor("y", "cuda"))
        arrived = [(what, there.device.type) for what, there in late.arrived()]
        assert arrived == [(what, "cpu") for what in told] and did == [*sent, *["waited"] * len(told)]
        del did[:]
    assert [what for what, _ in late.arrived(all=True)] == ["2", "3"] and did == ["waited"] * 2
    assert not list(late.arrived(all=True))


@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_seconds_are_those_of_the_device_whenever_it_is_asked(monkeypatch, kind):
    """Five updates of 5 s; a state is saved before the fourth, and the fifth waits 2 s for its images."""
    host, card = [0.0], [0.0]

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: Any) -> None:
            self.at = card[0] = max(card[0], host[0])  # the card comes to it after all that was queued before

        def elapsed_time(self, end: "Event") -> float:
            return 1000 * (end.at - self.at)

        def synchronize(self) -> None:
            host[0] = max(host[0], self.at)

    def computed(seconds: float) -> None:
        card[0] = max(card[0], host[0]) + seconds
        host[0] += 1.0 if kind == "cuda" else seconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda of: None)
    monkeypatch.setattr(device.time, "perf_counter", lambda: host[0])
    late, found = device.Late[int](torch.device(kind)), []
    late.behind = 2
    late.begin()
    for n in range(5):
        if n == 3:
            host[0] = card[0] = max(host[0], card[0]) + 100.0
            late.begin()
        if n == 4:
            host[0] = max(host[0], card[0]) + 2.0
        computed(5.0)
        late.put(n, torch.ones(1))
        found += [(which, late.seconds) for which, _ in late.arrived()]
    host[0] += 100.0
    found += [(which, late.seconds) for which, _ in late.arrived(all=True)]
    assert found == [(0, 5.0), (1, 5.0), (2, 5.0), (3, 5.0), (4, 7.0)]


def test_the_kernels_that_results_name_are_those_that_vitft_chooses(monkeypatch):
    for chosen in (True, False):
        monkeypatch.setattr(device.products, "by_onednn", lambda chosen=chosen: chosen)
        found = [device.kernels(kind) for kind in ("cuda", "cpu", "mps")]
        assert found == [
            {"attention": "flash, efficient, math", "tf32": False}, {"linear": "oneDNN"} if chosen else {}, {},
        ]  # fmt: skip
        for kind, asked, again in itertools.product(("cpu", "meta"), ("auto", "float32", "bf16"), (False, True)):
            where = torch.device(kind)
            if kind == "meta" and asked == "bf16":
                continue  # torch has no autocast there
            way = type(device.forward_in(where, asked, again=again)).__name__
            plain = "autocast" if asked == "bf16" else "nullcontext"
            assert way == ("ByOneDnn" if chosen and kind == "cpu" and asked != "bf16" and not again else plain)


@pytest.mark.parametrize(
    ("asked", "where", "expected"),
    [("auto", CPU, "float32"), ("auto", CUDA, "bf16"), ("bf16", CPU, "bf16"), ("bf16", CUDA, "bf16"),
     ("float32", CPU, "float32"), ("float32", CUDA, "float32")],
)  # fmt: skip
def test_a_precision_is_what_was_asked_for_or_the_devices_own(asked, where, expected):
    assert device.precision(asked, where) == expected


def test_bf16_is_what_products_are_computed_in_and_float32_what_they_are_without():
    a = torch.randn(4, 4)
    for asked, kind in (("bf16", torch.bfloat16), ("float32", torch.float32), ("auto", torch.float32)):
        with device.autocast(CPU, asked):
            assert (a @ a).dtype == kind and a.dtype == torch.float32


def test_a_device_that_is_not_here_is_refused(monkeypatch):
    assert device.pick("auto") == device.pick("cpu") == CPU
    for name in ("cuda", "no such", "mps:7"):
        refused(lambda n=name: device.pick(n), f"Device '{name}' is not here", "auto, cpu.", kind=UsageError)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("auto", "cuda:99"):
        refused(lambda n=name: device.pick(n), "auto, cpu, cuda.", kind=UsageError)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    assert (device.name("cuda"), device.name("cpu"), device.name("mps")) == ("a card", "cpu", "mps")


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("can't allocate memory"), False),
        (OSError("ALLOC_FAILED"), False),
    ],
)
def test_memory_that_ran_out_is_told_from_other_errors(error, short):
    assert device.out_of_memory(error) is short


def test_each_of_several_processes_has_a_card_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [device._card("cuda", rank) for rank in (0, 1)] == ["cuda:0", "cuda:1"]
    refused(lambda: device._card("cuda", 2), "Process 2", "there are 2", "--nproc-per-node 2", kind=UsageError)
    for name in ("cuda:0", "cuda:1"):
        refused(lambda n=name: device._card(n, 0), f"'{name}' is one card", kind=UsageError)
    refused(lambda: device.pick("cuda", 1), "Device 'cuda:1' is not here", kind=UsageError)
    refused(lambda: device.pick("cuda:1", 0), "is one card", kind=UsageError)
    assert device.pick("auto", 1) == device.pick("cpu", 1) == CPU
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert device._card("cuda", 5) == "cuda:5"  # not here, which is said of any device in the same words


@pytest.mark.parametrize("here", [True, False])
def test_memory_is_given_back_to_a_card_that_is_there(monkeypatch, here):
    given: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: here)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: given.append(1))
    device.forget()
    assert given == [1] * here


def test_what_the_c_library_is_told_fits_its_int(monkeypatch):
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(device, "_C_SET", lambda key, value: told.append((key, value)) or value <= 32 << 20)
    device.keep_freed_memory()
    trim, block = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
    # 32 MiB are what glibc before 2.35 takes at most: it refuses more, and is asked again.
    assert told == [(block, 64 << 20), (block, 32 << 20), (trim, 2**31 - 1)]
    told.clear()
    device.keep_freed_memory(False)
    assert told == [(block, 32 << 20), (trim, 64 << 20)]
    monkeypatch.setattr(device, "_C_SET", None)
    device.keep_freed_memory()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told what to keep")
def test_what_a_batch_leaves_is_kept_for_the_next_and_given_back_when_asked():
    """160 MiB in layers of 16 are more than glibc keeps by itself: each page would be cleared and mapped anew."""

    def mapped() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        layers = [torch.ones(4 << 20) for _ in range(10)]
        del layers
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    device.keep_freed_memory(False)
    device.forget()
    anew = mapped()
    assert device.pick("cpu") == CPU
    # a block may be cut by what else is allocated meanwhile, and another then be new
    assert 4 * min(mapped() for _ in range(4)) < anew
    device.forget()
    assert 4 * mapped() > anew


def test_every_verb_computes_on_the_cores_of_a_slurm_task(monkeypatch):
    """Where nothing binds a task, torch takes all cores of the node."""
    threads: list[int] = [64]
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads[-1])
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setattr(machine, "bound", lambda: 64)
    device.pick("cpu")
    assert threads == [64]
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    device.pick("cpu")
    assert threads == [64, 3]
    device.pick("cpu")
    assert threads == [64, 3]


def test_onnx_computes_on_the_cores_of_a_slurm_task(monkeypatch, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra 'onnx', which is not installed")
    told: list[int] = []
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda path, options, **_: told.append(options.intra_op_num_threads)
    )
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(machine, "bound", lambda: 64)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    onnx_network.start(tmp_path / "network.onnx")
    assert told == [3]
