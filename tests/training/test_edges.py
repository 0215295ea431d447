"""What a fit leaves on disk, at its edges: nothing in the file, a file cut anywhere, a line too many."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.layouts import refused
from tests.training.test_training import Net, drawn, groups, images, settings
from vitft.errors import DiskFull, OutOfMemory, UsageError
from vitft.evaluation import predict
from vitft.group import ALONE, Group
from vitft.models.memory import Plan
from vitft.progress import Hooks
from vitft.settings import Settings
from vitft.training import fit, parallel, saving, state
from vitft.training.update import Fit


def stored(payload: bytes) -> bytes:
    return payload + hashlib.sha256(payload).digest() + b"vitft-state-2\n"


def test_a_state_is_read_whole_or_not_at_all(tmp_path):
    path = tmp_path / "state.pt"
    assert state.load(path) is None and state.load(tmp_path) is None
    saver = state.Saver(path)
    saver.save({"step": 3, "weights": torch.arange(5)})
    saver.wait()
    whole = path.read_bytes()
    got = state.load(path)
    assert got is not None and got["step"] == 3 and got["weights"].tolist() == [0, 1, 2, 3, 4]
    payload = whole[: -(32 + len(b"vitft-state-2\n"))]
    assert whole == stored(payload)
    ends = (0, 1, 13, 14, 32, 45, 46, 47, len(whole) // 2, len(whole) - 1)
    for damaged in (*(whole[:n] for n in ends), stored(b""), whole + b"\n", stored(payload).replace(b"-2\n", b"-1\n")):
        path.write_bytes(damaged)
        assert state.load(path) is None, len(damaged)
    torch.save([1, 2], tmp_path / "list")
    path.write_bytes(stored((tmp_path / "list").read_bytes()))
    assert state.load(path) is None  # of something else


class _Runs:
    """What asks, unpickled, for a call."""

    def __reduce__(self):
        return print, ("run",)


def test_a_state_runs_nothing_that_is_in_it(tmp_path, capsys):
    torch.save({"step": 1, "x": _Runs()}, tmp_path / "plain")
    path = tmp_path / "state.pt"
    path.write_bytes(stored((tmp_path / "plain").read_bytes()))
    with pytest.raises(Exception, match="print"):
        state.load(path)
    assert capsys.readouterr().out == ""


def test_the_blocks_that_lie_in_parts_are_a_vits_or_a_resnets_stages():
    from torch import nn

    from vitft.models import methods

    layers = [nn.Linear(1, 1), nn.Linear(1, 1)]
    for name in ("blocks", "stages"):
        assert methods.blocks_of(SimpleNamespace(**{name: nn.Sequential(*layers)})) == layers  # type: ignore[arg-type]
    both = SimpleNamespace(blocks=nn.Sequential(layers[0]), stages=nn.Sequential(layers[1]))
    assert methods.blocks_of(both) == layers[:1]  # type: ignore[arg-type]
    assert methods.blocks_of(nn.Linear(1, 1)) == []


def test_what_is_saved_is_a_copy_and_busy_until_it_is_on_disk(tmp_path):
    saver = state.Saver(tmp_path / "state.pt")
    assert not saver.busy
    saver.wait()  # nothing to wait for
    nested = {"a": [torch.zeros(2), {"b": torch.ones(3)}], "n": 1, "none": None}
    copied = state._copied(nested)
    nested["a"][0].fill_(7)  # type: ignore[index]
    nested["a"][1]["b"].fill_(7)  # type: ignore[index]
    assert copied["a"][0].tolist() == [0, 0] and copied["a"][1]["b"].tolist() == [1, 1, 1]
    assert (copied["n"], copied["none"]) == (1, None)


@pytest.mark.parametrize(("keep", "left"), [(0, []), (1, [1]), (3, [1, 2, 3]), (9, [1, 2, 3, 4])])
def test_metrics_keep_the_lines_of_the_updates_that_are_kept(tmp_path, keep, left):
    path = tmp_path / "deep" / "metrics.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps({"step": n}) + "\n" for n in (1, 2, 3, 4)))
    with state.Metrics(path, keep) as metrics:
        assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == left
        metrics.add({"step": 5.0})
        metrics.flush()
        assert path.read_text().splitlines()[-1] == '{"step": 5.0}'
        metrics.add({"step": 6.0})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [*left, 5, 6]


def test_a_state_is_due_when_its_time_has_passed_and_its_own_cost_is_small(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(saving.time, "monotonic", lambda: now[0])
    states = saving.States(tmp_path / "state.pt", "split", ALONE, 60.0, _last=now[0])
    times = [(0, False), (59.9, False), (60, True), (5000, True)]
    assert [(later, due) for later, _ in times for now[0] in [1000.0 + later] for due in [states.due()]] == times
    states._cost = 10.0  # a twentieth of the time at most: one every 200 seconds
    now[0] = 1199.0
    assert not states.due()
    now[0] = 1200.0
    assert states.due()
    always = saving.States(tmp_path / "state.pt", "split", ALONE, 0.0, _last=now[0], _cost=10.0)
    assert always.due()
    monkeypatch.setattr(state.Saver, "busy", True)
    assert always.due() and not states.due()  # the last one is still being written
    assert fit.Compute().state_seconds == 60.0 and fit.Compute().micro_batch == 0


def test_what_torch_says_of_a_stream_that_takes_no_more_is_the_disks_own_error(tmp_path, monkeypatch):
    for cause, says in (
        (OSError(28, "No space left on device"), "full"), (None, "unexpected pos"), (ValueError("x"), "unexpected pos"),
    ):  # fmt: skip

        def broken(value: object, stream: object, cause: Exception | None = cause) -> None:
            raise RuntimeError("unexpected pos 64 vs 0\nand more") from cause

        monkeypatch.setattr(state.torch, "save", broken)
        saver = state.Saver(tmp_path / "state.pt")
        saver.save({})
        with pytest.raises(DiskFull, match=says) as caught:
            saver.wait()
        assert "and more" not in str(caught.value)
        saver.wait()  # it is told once


def test_memory_that_runs_out_halves_a_micro_batch_and_other_errors_are_raised():
    notes: list[str] = []
    hooks = Hooks(note=notes.append)
    short = torch.OutOfMemoryError("CUDA out of memory.")
    assert [fit._halved(n, short, hooks) for n in (2, 5, 64)] == [1, 2, 32]
    assert notes[1] == "Out of memory at micro-batch 5; going on with 2, same effective batch."
    with pytest.raises(OutOfMemory, match="single image"):
        fit._halved(1, short, hooks)
    other = RuntimeError("shapes cannot be multiplied")
    for n in (1, 8):
        with pytest.raises(RuntimeError) as caught:
            fit._halved(n, other, hooks)
        assert caught.value is other


def test_a_process_that_is_not_the_first_writes_nothing(tmp_path):
    class Second(Group):
        rank = 1

        def share(self, n: int) -> range:
            return range(n)

    s = settings(steps=2)
    for group, names in ((Group(), {"metrics.jsonl", "state.pt"}), (Second(), set())):
        folder, net = tmp_path / str(group.rank), Net()
        folder.mkdir()
        compute = fit.Compute(group=group, micro_batch=4, state_seconds=0.0)
        fitted = fit.fit(net, images(drawn(), s), groups(net), s, seed=1, folder=folder, compute=compute)
        fitted.state.wait()
        assert {file.name for file in folder.iterdir()} == names and fitted.steps == 2


# --- several processes, played by one --------------------------------------------------------------------------------


class Played(Group):
    """A process of several, whose others add what stands in `others`, one list a sum, and send what `first` holds."""

    def __init__(self, rank: int, size: int, others: list[list[Any]] | None = None, first: Any = None) -> None:
        self.rank, self.size, self.others, self.given = rank, size, others or [], first
        self.summed: list[list[list[float]]] = []

    def sum(self, tensors: Sequence[torch.Tensor]) -> None:
        self.summed.append([tensor.tolist() for tensor in tensors])
        for tensor, other in zip(tensors, self.others.pop(0), strict=True):
            tensor += torch.as_tensor(other)

    def all(self, value: Any) -> list[Any]:
        others = self.others.pop(0)
        return [*others[: self.rank], value, *others[self.rank :]]

    def from_first(self, value: Any) -> Any:
        return self.given


def test_weights_lie_in_parts_where_that_is_asked_for_or_a_card_is_too_small(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1, 1000))
    monkeypatch.setattr(torch.cpu, "current_stream", lambda: SimpleNamespace(record_event=None))
    cpu, card = torch.device("cpu"), torch.device("cuda")

    def chosen(mode: str, device: torch.device = card, size: int = 2, fixed: int = 601, **keys: Any) -> bool:
        return parallel.choose(mode, Plan(1, False, fixed, 0, 0), Settings(**keys), device, Played(0, size))

    assert chosen("auto") and not chosen("auto", fixed=600) and not chosen("auto", cpu) and not chosen("auto", size=1)
    assert not chosen("ddp") and not chosen("auto", method="linear") and not chosen("fsdp", method="linear")
    assert chosen("fsdp", fixed=1) and chosen("fsdp", cpu, fixed=1)
    for device in (cpu, card):
        with pytest.raises(UsageError, match="shares a network between processes"):
            chosen("fsdp", device, size=1)
    monkeypatch.setattr(torch.cpu, "current_stream", object)
    assert chosen("fsdp")
    with pytest.raises(UsageError, match="has no FSDP on CPUs"):
        chosen("fsdp", cpu)
    assert (parallel.micro_batch(5), parallel.micro_batch(0)) == (5, parallel._MICRO)


@pytest.mark.parametrize(
    ("rank", "size", "in_parts", "expected"),
    [
        (0, 2, False, [(0, 2), (2, 4)]), (1, 2, False, [(4, 6), (6, 7)]), (1, 2, True, [(4, 6), (6, 7)]),
        (0, 3, False, [(0, 3), (3, 4)]), (1, 3, False, [(4, 7)]), (0, 3, True, [(0, 3), (3, 4)]),
        (1, 3, True, [(4, 7), (7, 8)]), (1, 4, True, [(4, 7)]), (0, 9, True, [(0, 4)]),
    ],
)  # fmt: skip
def test_each_process_has_its_part_of_a_batch_and_as_many_passes_as_the_others(rank, size, in_parts, expected):
    """Seven images in two processes: four and three."""
    made: Any = SimpleNamespace(settings=Settings(batch_size=7), group=Played(rank, 2), in_parts=in_parts)
    assert [(part.start, part.stop) for part in Fit._parts(made, size)] == expected


def test_gradients_are_summed_of_what_any_process_knows_and_statistics_are_the_first_ones():
    def made(group: Group, batch_size: int = 8, in_parts: bool = False, buffers: bool = True) -> Any:
        parameters = [torch.zeros(2, requires_grad=True) for _ in range(3)]
        parameters[0].grad = torch.tensor([1.0, 2.0])
        held = [torch.tensor([5.0])] if buffers else []
        return SimpleNamespace(
            group=group,
            parameters=parameters,
            buffers=held,
            in_parts=in_parts,
            settings=Settings(batch_size=batch_size),
        )

    def grads(of: Any) -> list[list[float] | None]:
        return [None if p.grad is None else p.grad.tolist() for p in of.parameters]

    total = torch.tensor(0.5)
    alone = made(Played(0, 1))
    Fit._sum(alone, total)
    assert grads(alone) == [[1, 2], None, None] and total == 0.5 and not alone.group.summed
    usual = made(Played(1, 2, [[[10.0, 20.0]], [0.25]], [torch.tensor([7.0])]))
    Fit._sum(usual, total)
    assert grads(usual) == [[11, 22], None, None] and total == 0.75 and usual.buffers[0].tolist() == [7]
    # Fewer images than processes: who has none learns from the others which parameters have a gradient.
    few = made(Played(1, 9, [[[0, 1, 0]], [[10.0, 20.0], [3.0, 4.0]], [0.25]]), 8, buffers=False)
    Fit._sum(few, total)
    assert grads(few) == [[11, 22], [3, 4], None] and total == 1.0 and few.group.summed[0] == [[1, 0, 0]]
    as_many = made(Played(1, 8, [[[10.0, 20.0]], [0.25]]), 8, buffers=False)
    Fit._sum(as_many, total)
    assert grads(as_many) == [[11, 22], None, None] and as_many.buffers == []
    parts = made(Played(0, 2, [[0.25]]), in_parts=True, buffers=False)
    Fit._sum(parts, total)
    assert grads(parts) == [[1, 2], None, None] and total == 1.5


def test_answers_of_all_processes_stand_in_their_rows():
    own, others = np.zeros((4, 3), np.float32), np.zeros((4, 3), np.float32)
    own[:2], others[2:] = 1.5, 2.5
    for out in (own.copy(), None):
        came = np.array([1, 1, 0, 0]) if out is not None else np.zeros(4, np.int64)
        theirs = np.array([0, 0, 1, 1])
        found = predict._joined(out, came, Played(0, 2, [[3], [others, theirs]]))
        assert found is not None and found.dtype == np.float32
        assert np.array_equal(found, others + (0 if out is None else own))
        assert came.tolist() == ([1, 1, 1, 1] if out is not None else [0, 0, 1, 1])
    assert predict._joined(None, np.zeros(4, np.int64), Played(0, 2, [[None]])) is None
    assert predict._joined(own, np.zeros(4, np.int64), ALONE) is own


def test_a_state_amid_a_run_is_the_first_processs_and_of_all_where_weights_lie_in_parts(tmp_path):
    class Agreeing(Played):
        def agree(self, problem: Exception | None = None, signum: int = 0, due: bool = False) -> tuple[int, bool]:
            return 0, self.given or due

    always, never = 0.0, 1e9
    for rank, seconds, in_parts, of_first, step, wanted in (
        (0, always, False, False, 3, True), (0, never, False, True, 3, False), (1, always, False, True, 3, False),
        (0, always, True, False, 3, True), (1, always, True, False, 3, False), (1, never, True, True, 3, True),
        (0, always, False, False, 4, True), (0, always, False, False, 5, False), (1, never, True, True, 5, False),
    ):  # fmt: skip
        states = saving.States(tmp_path / "state.pt", "split", Agreeing(rank, 2, first=of_first), seconds)
        run: Any = SimpleNamespace(step=step, in_parts=in_parts, settings=Settings(steps=5))
        assert states.wanted(run) is wanted, (rank, seconds, in_parts, of_first, step)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_fit_goes_on_from_the_first_processs_state_and_saves_only_what_is_new(tmp_path, rank):
    loaded: list[Any] = []
    notes: list[str] = []
    found = {"split": "of 0", "step": 3, "micro_batch": 7}
    run: Any = SimpleNamespace(step=0, settings=Settings(steps=5), in_parts=False, state=lambda: {"step": run.step})

    def load(saved: Any) -> None:
        loaded.append(saved)
        run.step = saved["step"]

    run.load = load
    for given, micro_batch, steps in ((None, 4, [0, 1]), (found, 7, [4, 5])):
        run.step = 0
        if rank:
            (tmp_path / "state.pt").write_bytes(b"half")  # none of its business
        states = saving.States(tmp_path / "state.pt", "own", Played(rank, 2, first=given), 60.0)
        assert states.go_on(run, 4, Hooks(note=notes.append)) == micro_batch
        assert loaded == [found] * (given is not None) and states.resumed_at == run.step == (3 if given else 0)
        assert notes == ["Going on from step 3 of 5."] * (given is not None)
        if given:  # nothing was done: its state is there
            states.last(run, 9, None)  # type: ignore[arg-type]
            assert state.load(tmp_path / "state.pt") is None
        for step in steps:
            run.step = step
            flushed: list[bool] = []
            metrics: Any = SimpleNamespace(flush=lambda saver=states.saver, to=flushed: to.append(saver.busy))
            states.last(run, 9, metrics)
            assert flushed == [False] * (rank == 0)  # its lines are there before it
            states.saver.wait()
            left = {"step": step, "split": "own", "micro_batch": 9}
            assert state.load(tmp_path / "state.pt") == (left if rank == 0 else None)
        (tmp_path / "state.pt").unlink(missing_ok=True)


def test_processes_that_see_other_images_are_named(monkeypatch):
    monkeypatch.setattr(saving, "encoded_digest", lambda split, hooks: f"bytes of {len(split)}")
    split = drawn(4)
    own = f"{split.digest} bytes of 4"
    for rank, others, unlike in ((0, [own, own], 0), (0, [own, "a"], 2), (0, ["a", "a"], 1), (1, ["a", "a"], 1)):
        group = Played(rank, 3, [list(others)])
        group.together = nullcontext  # type: ignore[method-assign]
        data: Any = SimpleNamespace(split=split)
        if not unlike:
            assert saving.same_images(data, group, Hooks()) == own
            continue
        refused(
            lambda data=data, group=group: saving.same_images(data, group, Hooks()),
            f"Other training images are seen by process {unlike} than by process 0.",
            "the same data on all machines.",
            "Compare what --data-dir holds there.",
        )
