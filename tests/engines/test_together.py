"""torchrun around the command line: one process killed, all started again, and the numbers are those of one process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import allclose

from tests.processes import free_port
from vitft.cli.app import app

pytestmark = pytest.mark.xdist_group("engine")
SMALL = ["finetune", "digits", "--limit", "48", "-b", "8", "-r", "32", "--set", "crop=none", "--device", "cpu"]
SMALL += ["--set", "optimizer=sgd", "--lr", "0.01"]  # AdamW steps by rounding where a gradient is 0: keys' biases


def torchrun(*words: object, restarts: int = 0) -> subprocess.Popen:
    options = ["--nproc-per-node", "2", "--master-port", str(free_port()), "--max-restarts", str(restarts)]
    command = [sys.executable, "-m", "torch.distributed.run", *options, "-m", "vitft", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def process(rank: int, port: int) -> int | None:
    """Return the id of a process of torchrun, by its environment."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environ = (folder / "environ").read_bytes()
        except OSError:
            continue
        if all(f"\0{word}\0".encode() in environ for word in (f"RANK={rank}", f"MASTER_PORT={port}")):
            return int(folder.name)
    return None


def alone(*words: object) -> None:
    with pytest.raises(SystemExit) as caught:
        app([str(word) for word in words])
    assert not caught.value.code


def test_one_process_killed_all_start_again_and_end_as_one_process_does(tmp_path):
    run = ["--steps", 60, "-o"]
    group = torchrun(*SMALL, *run, tmp_path / "two", restarts=1)
    port = int(group.args[group.args.index("--master-port") + 1])
    lines: list[str] = []
    began = time.monotonic()
    while not list((tmp_path / "two").glob("units/*/*/metrics.jsonl")):  # there from before the first step
        assert group.poll() is None and time.monotonic() - began < 200
        time.sleep(0.01)
    victim = process(1, port)
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    killed = time.monotonic()
    for line in group.stderr:
        lines.append(line)
        if "state is saved" in line or "Another of the processes is gone" in line:
            break
    assert time.monotonic() - killed < 60
    out, rest = group.communicate(timeout=300)
    said = "".join(lines) + rest
    assert group.returncode == 0, said
    assert "Going on from step" in rest
    assert out.count("digits: top-1 in percent") == 1  # one process talks
    assert said.count("digits: final, seed 0") == 2  # once before, once after
    alone(*SMALL, *run, tmp_path / "one")
    one, two = (load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two"))
    assert all(allclose(two[name], one[name], rtol=0, atol=1e-5) for name in one)
    assert len((tmp_path / "two").glob("units/*/*/metrics.jsonl").__next__().read_text().splitlines()) == 60


def test_a_mistake_is_told_once(tmp_path):
    group = torchrun("finetune", "digitz", "-o", tmp_path / "run")
    out, err = group.communicate(timeout=120)
    assert group.returncode and not out
    assert err.count("Unknown task 'digitz'") == 1
    assert not (tmp_path / "run").exists()
