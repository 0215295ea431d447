"""What `vitft doctor` says of the queue, the cards and the engines around a run."""

import importlib.metadata

import pytest
import torch

from vitft import machine
from vitft.engines import surroundings

JOB = {"SLURM_JOB_ID": "7", "SLURM_TASKS_PER_NODE": "1,8(x2)", "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}
STEP = {**JOB, "SLURM_STEP_ID": "0", "SLURM_NODEID": "2"}


def test_tasks_of_a_slurm_job_that_see_the_same_cards_are_warned_of():
    assert surroundings.slurm({}) == ""
    said = surroundings.slurm(STEP)
    assert said.startswith("job 7, tasks on a node 8, ")
    assert "CUDA_VISIBLE_DEVICES 0,1,2,3,4,5,6,7; WARNING: each of the tasks" in said
    assert "same 8 cards and takes the first" in said and "--gpus-per-task=1" in said
    fine = [
        surroundings.slurm({**STEP, "CUDA_VISIBLE_DEVICES": "3"}),  # narrowed
        surroundings.slurm({**STEP, "SLURM_NODEID": "0"}),  # one torchrun a node
        surroundings.slurm({**STEP, "LOCAL_RANK": "2"}),  # below torchrun each takes its own
        surroundings.slurm(JOB),  # the script, which has all cards of its node whatever srun gives a task
    ]
    assert all("WARNING" not in line and line.startswith("job 7") for line in fine)
    assert "'srun vitft doctor'" in fine[3] and "srun" not in fine[0]
    asked = {device: len(surroundings.slurm_faults(STEP, device)) for device in ("auto", "cuda", "cuda:3", "cpu")}
    assert asked == {"auto": 1, "cuda": 1, "cuda:3": 0, "cpu": 0}


def test_a_slurm_task_that_is_bound_to_fewer_cores_than_were_asked_for_is_warned_of(monkeypatch):
    monkeypatch.setattr(machine, "bound", lambda: 1)
    asked = {**STEP, "CUDA_VISIBLE_DEVICES": "3", "SLURM_CPUS_PER_TASK": "8"}
    said = surroundings.slurm(asked)
    assert said.startswith("job 7, tasks on a node 8, cores 1 of ")
    assert "WARNING: this task is bound to 1 of the 8 cores" in said and said.endswith("Give srun --cpus-per-task=8")
    assert "WARNING" not in surroundings.slurm({**asked, "SLURM_CPUS_PER_TASK": "1"})


def test_engines_and_interconnect_are_told(monkeypatch):
    def none(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", none)
    assert "pip install 'vitft[ray]'" in surroundings.engines()["engine ray"]
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.60.0")
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert surroundings.engines()["engine ray"] == "2.60.0, cluster head:6379 (RAY_ADDRESS)"
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "x")
    monkeypatch.setenv("MASTER_PORT", "1")
    assert surroundings.engines()["torchrun"] == "process 1 of 2"
    assert surroundings.interconnect() == "gloo over TCP, between processes on CPUs"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    monkeypatch.setattr(torch.cuda.nccl, "version", lambda: (2, 21, 5))
    monkeypatch.setattr(torch.cuda, "can_device_access_peer", lambda a, b: {a, b} != {0, 2})
    said = surroundings.interconnect()
    assert said == "NCCL 2.21.5 between cards (cards 2-0 only through the host), gloo over TCP"

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert surroundings.interconnect() == "NCCL 2.21.5 between cards (one card), gloo over TCP"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert surroundings.interconnect() == "NCCL 2.21.5 between cards (all peers), gloo over TCP"


@pytest.mark.parametrize(
    ("own", "there", "triton", "said"),
    [
        ("mine", {"mine", "g++", "clang++"}, "3.6.0", "mine for CPUs, triton 3.6.0 for cards"),
        ("mine", {"g++", "clang++"}, "3.6.0", "g++ for CPUs, triton 3.6.0 for cards"),
        ("", {"clang++"}, "", "clang++ for CPUs, none for cards"),
        ("", set(), "", "none for CPUs, none for cards"),
    ],
)
def test_compilers_and_what_they_keep_are_told(monkeypatch, tmp_path, own, there, triton, said):
    def version(name: str) -> str:
        if not triton:
            raise importlib.metadata.PackageNotFoundError(name)
        return triton

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(surroundings.shutil, "which", lambda name: name if name in there else None)
    monkeypatch.setenv("CXX", own)
    kept = tmp_path / "kept"
    monkeypatch.setattr("vitft.compiling.folder", lambda: kept)
    assert surroundings.compilers() == f"{said}; kept in {kept} (0 MiB)"
    (kept / "aa").mkdir(parents=True)
    (kept / "aa" / "code.so").write_bytes(bytes(3 << 20))
    (kept / "code.py").write_bytes(bytes(4 << 20))
    assert surroundings.compilers() == f"{said}; kept in {kept} (7 MiB)"


def test_what_would_be_used_is_what_a_run_takes():
    assert surroundings.would_use().startswith("cpu, float32, ")
