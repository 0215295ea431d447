"""What a fit leaves on disk, at its edges: nothing in the file, a file cut anywhere, a line too many."""

import hashlib
import json

import pytest
import torch

from vitft.errors import DiskFull, OutOfMemory
from vitft.group import ALONE
from vitft.training import fit, saving, state


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
    from types import SimpleNamespace

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
    from vitft.progress import Hooks

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
    from tests.training.test_training import Net, drawn, groups, images, settings
    from vitft.group import Group

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
