"""Several processes: the same weights as one, each image once, going on with another number, one that dies."""

import os
import platform
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

from tests import processes
from tests.training.test_training import Net, drawn, groups, images, settings
from vitft import group as grouping
from vitft.errors import DataDamaged, DataError, Interrupted, PeerLost, UsageError
from vitft.evaluation.predict import predict
from vitft.group import ALONE, Group
from vitft.images.batches import eval_batches
from vitft.progress import Hooks
from vitft.protocol import alike
from vitft.settings import Preprocess
from vitft.training import fit
from vitft.training.fit import Compute
from vitft.world import World, world

APART = "TESTS_APART"
pytestmark = pytest.mark.skipif(APART not in os.environ, reason="runs in a fresh process: test_apart.py")
CPU = torch.device("cpu")
MANY: dict[str, Any] = {"steps": 50, "batch_size": 7, "lr": 0.05, "flip": True, "momentum": 0.9}
WAYS: dict[str, dict[str, Any]] = {
    "sgd": {**MANY, "mixup": 0.3, "clip_norm": 1.0, "weight_decay": 0.01, "ema": 0.9, "label_smoothing": 0.1},
    "adamw": {**MANY, "optimizer": "adamw", "lr": 0.002, "schedule": "cosine", "warmup_steps": 5, "crop": "random"},
    "small batch": {**MANY, "batch_size": 3, "clip_norm": 0.5},
    "linear": {**MANY, "method": "linear", "crop": "none"},
}


def vit() -> nn.Module:
    """Make a small ViT, the same each time. A bias of keys has no gradient: AdamW would step by its rounding."""
    torch.manual_seed(3)
    shape: dict[str, Any] = {"patch_size": 8, "embed_dim": 8, "depth": 2, "num_heads": 2, "qkv_bias": False}
    return timm.models.VisionTransformer(img_size=16, num_classes=3, **shape)


def trained(group: Group, folder: Path, keys: dict, make=Net, hooks: Hooks | None = None, **compute):
    """Fit a fresh network; return its weights and what the fit says of itself."""
    net, s = make(), settings(**keys)
    if s.method == "linear":
        net.body.requires_grad_(False)
    how = Compute(group=group, **{"micro_batch": 2, "state_seconds": 3600.0, **compute})
    data, trained_ = images(drawn(), s), groups(net, s.weight_decay)
    fitted = fit.fit(net, data, trained_, s, seed=1, folder=folder, compute=how, hooks=hooks)
    return {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}, fitted


def stopped(group: Group, folder: Path, at: int, **compute) -> None:
    """Fit until a signal comes to process 0 alone."""
    done: list[int] = []
    hooks = Hooks(step=lambda r: done.append(r.step), signal=lambda: 15 * (group.first and len(done) >= at))
    with pytest.raises(Interrupted) as caught:
        trained(group, folder, WAYS["sgd"], hooks=hooks, **compute)
    assert caught.value.exit_code == 143


def answers(group: Group) -> dict[tuple[int, int], np.ndarray]:
    """Ask a network about splits of 12 to 16 images in batches of 1 to 6."""
    net, found = Net(), {}
    nn.init.normal_(net.head.weight)
    for n in range(12, 17):
        split = drawn(n)
        for size in range(1, 7):
            batches = eval_batches(split, Preprocess((16, 16)), size, CPU, 1, group=group)
            found[n, size] = predict(net, batches, n, 3, precision="float32", group=group).logits
    return found


def troubles(group: Group, folder: Path) -> list[str]:
    """Return what each process says when one of them cannot go on."""
    said = []
    s = settings(**MANY)
    broken = drawn(broken=5)
    with pytest.raises(DataDamaged) as damaged:
        fit.fit(Net(), images(broken, s), groups(Net()), s, seed=1, folder=folder, compute=Compute(group=group))
    said.append(str(damaged.value))
    other = drawn(n=24 if group.first else 21)
    with pytest.raises(DataError) as unlike:
        fit.fit(Net(), images(other, s), groups(Net()), s, seed=1, folder=folder, compute=Compute(group=group))
    said.append(str(unlike.value))
    assert isinstance(group, grouping.Processes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grouping, "versions", lambda: {"torch": "2.6" if group.first else "2.7"})
        with pytest.raises(UsageError) as programs:
            group.know()
    said.append(str(programs.value))
    same, test = drawn(8), drawn(8)
    alike.hold_images(same, 3, group, Hooks())
    if not group.first:  # those of the second batch on
        test = replace(test, read=lambda i: same.read(i if i < 3 else 0))
    with pytest.raises(DataError) as images_unlike:
        alike.hold_images(test, 3, group, Hooks())
    said.append(str(images_unlike.value))
    real, notes = nn.Linear.forward, list[str]()

    def short(self, x):
        if not group.first and len(x) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(self, x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Linear, "forward", short)
        _, fitted = trained(group, folder / "short", {**MANY, "steps": 2}, hooks=Hooks(note=notes.append))
    said += [str(fitted.micro_batch), *(note for note in notes if "memory" in note)]

    def asked_twice():
        yield from ((torch.arange(4), torch.zeros(4, 3, 16, 16)), (torch.arange(4), torch.zeros(4, 3, 16, 16)))

    with pytest.raises(Exception, match="more than once") as twice:
        predict(Net(), asked_twice(), 4, 3, group=group)
    return [*said, str(twice.value)]


def everything(root: Path):
    """Return the work of one group: all that is compared below, in one start of processes."""

    def work(group: Group) -> dict:
        at = root / str(group.size)
        out: dict = {"ways": {name: trained(group, at / name, keys)[0] for name, keys in WAYS.items()}}
        keys = {**MANY, "weight_decay": 0.01, "ema": 0.9, "clip_norm": 1.0}
        out["vit"] = trained(group, at / "vit", keys, vit)[0]
        if hasattr(torch.cpu.current_stream(), "record_event"):
            out["fsdp"] = trained(group, at / "fsdp", keys, vit, parallel="fsdp")[0]
        if "fsdp" in out and group.size == 2:
            adam = WAYS["adamw"] | {"batch_size": 3, "crop": "none"}
            out["adam"] = trained(group, at / "adam", adam, vit)[0]
            stopped_at = Hooks(signal=iter([0] * 40 + [15] * 999).__next__)
            with pytest.raises(Interrupted):
                trained(group, at / "parts", adam, vit, hooks=stopped_at, parallel="fsdp")
            out["adam fsdp"], fitted = trained(group, at / "parts", adam, vit, parallel="fsdp")
            assert 0 < fitted.resumed_at < 50
        stopped(group, root / "to-one" if group.size == 2 else at / "stopped", 20)
        if group.size == 2:
            out["from one"], fitted = trained(group, root / "from-one", WAYS["sgd"])
            assert fitted.resumed_at == 20
        out["answers"] = answers(group)
        out["troubles"] = troubles(group, at)
        return out

    return work


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("processes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VITFT_CACHE", str(root / "cache"))
        stopped(ALONE, root / "from-one", 20)
        ways = {name: trained(ALONE, root / "1" / name, keys)[0] for name, keys in WAYS.items()}
        one = {"ways": ways, "answers": answers(ALONE)}
        one["vit"] = trained(ALONE, root / "vit", {**MANY, "weight_decay": 0.01, "ema": 0.9, "clip_norm": 1.0}, vit)[0]
        one["adam"] = trained(ALONE, root / "adam", WAYS["adamw"] | {"batch_size": 3, "crop": "none"}, vit)[0]
        several = {size: processes.run(size, everything(root), root / f"of-{size}") for size in (2, 4)}
        one["to one"], fitted = trained(ALONE, root / "to-one", WAYS["sgd"])
        assert fitted.resumed_at == 20
    return root, one, several


def close(a: dict, b: dict) -> bool:
    return all(torch.allclose(a[name].float(), b[name].float(), rtol=0, atol=1e-5) for name in b)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", WAYS)
def test_the_weights_are_those_of_one_process(ran, size, name):
    _, one, several = ran
    assert not close(one["ways"][name], Net().state_dict())  # it has learned something
    for member in several[size]:
        assert close(member["ways"][name], one["ways"][name])


@pytest.mark.parametrize("size", [2, 4])
def test_a_network_in_parts_learns_the_same(ran, size):
    _, one, several = ran
    for member in several[size]:
        assert close(member["vit"], one["vit"])
        if "fsdp" in member:
            assert close(member["fsdp"], member["vit"])
        if "fsdp" in member and size == 2:
            assert close(member["adam"], one["adam"])
            assert close(member["adam fsdp"], one["adam"])  # it went on from a state in between, too
    if "fsdp" not in several[size][0]:
        pytest.skip(f"torch {torch.__version__} has no FSDP on CPUs")


def test_going_on_with_another_number_of_processes(ran):
    _, one, several = ran
    assert close(one["to one"], one["ways"]["sgd"])
    assert close(several[2][1]["from one"], one["ways"]["sgd"])


@pytest.mark.parametrize("size", [2, 4])
def test_each_image_is_answered_once_and_in_its_place(ran, size):
    _, one, several = ran
    assert len(one["answers"]) == 30
    for member in several[size]:
        for key, logits in one["answers"].items():
            assert np.array_equal(member["answers"][key], logits), key


@pytest.mark.parametrize("size", [2, 4])
def test_what_stops_one_stops_all_with_the_same_words(ran, size):
    _, _, several = ran
    said = [member["troubles"] for member in several[size]]
    assert all(words == said[0] for words in said)
    damaged, unlike, programs, other_test, micro_batch, note, twice = said[0]
    assert "image5" in damaged
    where = f"process 1 on {platform.node()}"
    assert f"Other training images are seen by {where} than by process 0" in unlike
    assert f"runs in {where} than in process 0: torch 2.7, not 2.6" in programs
    assert f"Other images of 'train' are seen by {where} than by process 0" in other_test
    assert (micro_batch, note.split(";")[0]) == ("1", "Out of memory at micro-batch 2")
    assert "came more than once: 0, 1, 2, 3" in twice


def test_one_process_writes(ran):
    root, _, _ = ran
    lines = (root / "4" / "sgd" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 50


def test_a_process_that_dies_ends_the_others_and_a_restart_goes_on(tmp_path):
    def dying(victim: int):
        def work(group: Group):
            def step(report):
                if report.step == 4 and group.rank == victim:
                    os.kill(os.getpid(), signal.SIGKILL)

            with pytest.raises(PeerLost) as caught:
                trained(group, tmp_path / str(victim), {**MANY, "steps": 8}, hooks=Hooks(step=step))
            (tmp_path / f"said-{victim}").write_text(str(caught.value))
            os._exit(3)

        return work

    for victim in (0, 1):
        began = time.monotonic()
        pids = processes.start(2, dying(victim), tmp_path / f"group-{victim}")
        codes = processes.finish(pids, 60)
        assert codes[victim] == -signal.SIGKILL
        assert codes[1 - victim] in (1, 3), (tmp_path / f"group-{victim}" / f"{1 - victim}.txt").read_text()
        assert time.monotonic() - began < 60
        said = [path for path in (tmp_path / f"said-{victim}",) if path.exists()]
        told = said[0].read_text() if said else (tmp_path / f"group-{victim}" / f"{1 - victim}.err").read_text()
        assert "Another of the processes is gone" in told
        assert "Run the same command again" in told
    whole, _ = trained(ALONE, tmp_path / "whole", {**MANY, "steps": 8})
    again, fitted = trained(ALONE, tmp_path / "1", {**MANY, "steps": 8})
    assert fitted.resumed_at == 4  # process 0 lived, and saved what was done
    assert close(again, whole)


def test_a_process_that_hangs_is_told_by_its_silence(tmp_path, monkeypatch):
    """Process 0 holds the store: without it a call of that does not return, as where a cable is cut."""
    monkeypatch.setattr(grouping, "_SILENT_S", 2.0)
    monkeypatch.setattr(grouping, "_BEAT_S", 0.1)

    def hanging(victim: int):
        def work(group: Group):
            time.sleep(0.5)
            if group.rank == victim:
                os.kill(os.getpid(), signal.SIGSTOP)
            group.agree()

        return work

    groups = [processes.start(2, hanging(victim), tmp_path / str(victim)) for victim in (0, 1)]
    for victim, pids in enumerate(groups):
        codes = processes.finish([pids[1 - victim]], 60)
        os.kill(pids[victim], signal.SIGKILL)
        processes.finish([pids[victim]], 10)
        assert codes == [1]
        said = (tmp_path / str(victim) / f"{1 - victim}.err").read_text()
        assert f"process {victim} on {platform.node()} was not heard of for 2 s" in said


def test_what_torchrun_sets_is_read_whole_or_refused(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert world() == World()
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert world() == World()
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(UsageError, match=r"MASTER_ADDR=\(not set\)"):
        world()
    monkeypatch.setenv("MASTER_ADDR", "node7")
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert world() == World(3, 4, 1, "node7", 29500)
    monkeypatch.setenv("RANK", "4")
    with pytest.raises(UsageError, match="RANK=4"):
        world()


def test_fsdp_wants_several_processes(tmp_path):
    with pytest.raises(UsageError, match="this is one"):
        trained(ALONE, tmp_path, MANY, parallel="fsdp")
