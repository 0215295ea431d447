"""What only a card can show. Each command is a process of its own: the tests' own process never touches CUDA."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import vtab_archive

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
MAIN = "from vitft.cli.app import main; main()"
# A state after every step, where a run would save one a minute.
SAVING = (
    "from functools import partial; from vitft.protocol import jobs; "
    "jobs.Runtime = partial(jobs.Runtime, state_seconds=0.0); "
)
# The network of 512 images needs several times as much, of 32 images less.
SHORT = (
    "import torch; whole = torch.cuda.get_device_properties(0).total_memory; "
    "torch.cuda.set_per_process_memory_fraction(600e6 / whole); "
)

Vitft = Callable[..., Any]


@pytest.fixture
def command(card: dict[str, str], tmp_path: Path) -> Vitft:
    """Return a function that starts vitft on the card."""

    def start(*args: object, before: str = "") -> subprocess.Popen[str]:
        words = [sys.executable, "-c", before + MAIN, *map(str, args), "--device", DEVICE, "--format", "json"]
        return subprocess.Popen(words, env=card, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    return start


@pytest.fixture
def vitft(command: Vitft) -> Vitft:
    """Return a function that runs vitft on the card to its end and returns (its JSON, what it said)."""

    def run(*args: object, before: str = "") -> tuple[dict[str, Any], str]:
        process = command(*args, before=before)
        out, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
        return json.loads(out), said

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Draw three classes that a colour tells apart."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 10)):
        for label, name in enumerate(("ant", "bee", "cat")):
            (tmp_path / "insects" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 120, (32, 32, 3))
                pixels[..., label] += 130
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "insects" / split / name / f"{i}.png")
    return tmp_path / "insects"


def fit(folder: Path, out: Path, *args: object) -> list[object]:
    base = ["finetune", folder, "-m", "timm:test_vit", "--from-scratch", "-r", 32, "--lr", 0.02, "-o", out]
    return [*base, "--steps", 20, "-b", 12, *args]


def left(run: Path) -> dict[str, Any]:
    """Return what must be equal, bit for bit."""
    [weights], [result] = run.glob("units/*/*/weights.safetensors"), run.glob("units/*/*/result.json")
    told = json.loads(result.read_text())
    return {"weights": weights.read_bytes(), "loss": told["loss"], "metrics": told["metrics"]}


def unit(run: Path) -> dict[str, Any]:
    [result] = run.glob("units/*/*/result.json")
    return dict(json.loads(result.read_text()))


def test_autocast_is_the_default_on_a_card_and_near_float32(vitft: Vitft, folder: Path, tmp_path: Path) -> None:
    for name, flags in (("auto", ()), ("float32", ("--precision", "float32"))):
        vitft(*fit(folder, tmp_path / name, *flags))
    reduced, full = unit(tmp_path / "auto"), unit(tmp_path / "float32")
    assert (reduced["settings"]["precision"], reduced["settings"]["device_kind"]) == ("bf16", DEVICE)
    assert (full["settings"]["precision"], full["settings"]["device_kind"]) == ("float32", DEVICE)
    for found in (reduced, full):  # the head begins at zero
        assert found["loss"]["first"] == pytest.approx(math.log(3), rel=1e-3)
    assert 0 < abs(reduced["loss"]["last"] - full["loss"]["last"]) < 0.1
    assert reduced["metrics"]["n"] == 30

    # What the card answers in float32, the CPU answers too.
    weights = next((tmp_path / "float32").glob("units/*/*/weights.safetensors"))
    card, _ = vitft("eval", weights, folder, "--precision", "float32")
    assert card["settings"]["device_kind"] == DEVICE
    from typer.testing import CliRunner

    from vitft.cli.app import app

    plain = CliRunner().invoke(app, ["eval", str(weights), str(folder), "--device", "cpu", "--format", "json"])
    assert abs(card["metrics"]["correct"] - json.loads(plain.stdout)["metrics"]["correct"]) <= 1


def test_the_micro_batch_halves_and_the_batch_stays(vitft: Vitft, folder: Path, tmp_path: Path) -> None:
    args = ("-r", 160, "-b", 512, "--steps", 2, "--precision", "float32")
    _, said = vitft(*fit(folder, tmp_path / "short", *args, "--micro-batch", 512), before=SHORT)
    assert "Out of memory at micro-batch 512" in said
    vitft(*fit(folder, tmp_path / "given", *args, "--micro-batch", 32))
    short, given = unit(tmp_path / "short"), unit(tmp_path / "given")
    assert short["settings"]["micro_batch"] in (16, 32, 64, 128, 256)
    assert short["recipe_settings"]["batch_size"] == 512
    for when in ("first", "last"):
        assert short["loss"][when] == pytest.approx(given["loss"][when], rel=1e-2)


def test_deterministic_runs_are_equal_bit_for_bit(vitft: Vitft, folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        vitft(*fit(folder, tmp_path / name, "--deterministic"))
    assert left(tmp_path / "a") == left(tmp_path / "b")


def test_killed_and_started_again_it_ends_the_same(command: Vitft, vitft: Vitft, folder: Path, tmp_path: Path) -> None:
    args = ("--deterministic", "--steps", 300)
    vitft(*fit(folder, tmp_path / "whole", *args))
    process = command(*fit(folder, tmp_path / "killed", *args), before=SAVING)
    until = time.monotonic() + 200
    while not list((tmp_path / "killed").glob("units/*/*/state.pt")):
        assert process.poll() is None and time.monotonic() < until, "no state was saved"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not list((tmp_path / "killed").glob("units/*/*/result.json"))
    vitft(*fit(folder, tmp_path / "killed", *args))
    assert left(tmp_path / "killed") == left(tmp_path / "whole")


# Each of these is a card's part of the speed; `on_a_card.sh` runs them with the measurements.

COUNTED = (
    "import atexit, sys; from vitft.compiling import COMPILER as c; "
    "atexit.register(lambda: print(f'compiler: {c.graphs} {c.calls} {c.failed}', file=sys.stderr)); "
)


def counted(said: str) -> list[int]:
    """Return the graphs that were compiled, calls of them, and graphs that could not be."""
    [line] = [line for line in said.splitlines() if line.startswith("compiler: ")]
    return [int(word) for word in line.split()[1:]]


@pytest.mark.parametrize("method", ["full", "lora", "bias", "linear"])
def test_blocks_are_compiled_and_agree_with_eager_ones(vitft: Vitft, folder: Path, tmp_path: Path, method: str) -> None:
    """Within bf16's noise: losses to 0.02, answers of 30 images but for two."""
    args = ("--method", method, "--steps", 10)
    _, said = vitft(*fit(folder, tmp_path / "compiled", *args, "--compile", "on"), before=COUNTED)
    graphs, calls, failed = counted(said)
    assert 1 <= graphs <= 4 and calls >= 2 and failed == 0, said
    _, said = vitft(*fit(folder, tmp_path / "eager", *args), before=COUNTED)  # too short for it to pay
    assert counted(said)[:2] == [0, 0]
    one, other = unit(tmp_path / "compiled"), unit(tmp_path / "eager")
    assert one["settings"]["compiled"] is True and "compiled" not in other["settings"]
    assert one["settings"]["attention"] == "flash, efficient, math" and one["settings"]["tf32"] is False
    assert one["loss"]["last"] == pytest.approx(other["loss"]["last"], abs=0.02)
    assert abs(one["metrics"]["correct"] - other["metrics"]["correct"]) <= 2


TWICE = """
import sys, time
from pathlib import Path
from vitft import recipes
from vitft.compiling import COMPILER
from vitft.engines.inline import run_job
from vitft.progress import Hooks
from vitft.protocol.jobs import Runtime, make
from vitft.protocol.warm import Warm
warm, found = Warm(), []
for n, data in enumerate(sys.argv[1:3]):
    keys = {"resolution": 32, "batch_size": 12, "steps": 5, "lr": 0.02}
    job, source = make(data, model="vit-mini", recipe=recipes.load("quick"), overrides=keys)
    began, first = time.monotonic(), []
    hooks = Hooks(step=lambda report: first or first.append(time.monotonic() - began))
    warm.source = None
    run_job(job, source, Path(sys.argv[3]) / str(n), Runtime(device="cuda", compile="on"), hooks, warm)
    found.append((COMPILER.graphs, COMPILER.failed))
    print(f"first update told after {first[0]:.2f} s", file=sys.stderr)
print(found)
assert found[0] == found[1] and found[0][0] >= 1 and found[0][1] == 0
"""


def test_a_second_task_of_a_warm_worker_compiles_nothing(card: dict[str, str], folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "two"
    for split in ("train", "test"):
        for name in ("ant", "bee"):
            (other / split).mkdir(parents=True, exist_ok=True)
            (other / split / f"{name}s").symlink_to(folder / split / name)
    words = [sys.executable, "-c", TWICE, str(folder), str(other), str(tmp_path / "runs")]
    done = subprocess.run(words, env=card, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_one_process_below_torchrun_ends_as_a_plain_run(
    card: dict[str, str], vitft: Vitft, folder: Path, tmp_path: Path
) -> None:
    vitft(*fit(folder, tmp_path / "plain", "--deterministic"))
    words = [
        "--standalone",
        "--nproc-per-node",
        "1",
        "-m",
        "vitft",
        *fit(folder, tmp_path / "torchrun"),
        "--deterministic",
    ]
    command = [sys.executable, "-m", "torch.distributed.run", *map(str, words), "--device", DEVICE]
    done = subprocess.run(command, env=card, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert left(tmp_path / "torchrun") == left(tmp_path / "plain")


def test_a_loss_that_is_no_number_is_told_with_its_step(command: Vitft, folder: Path, tmp_path: Path) -> None:
    """Read two updates later, it is the step's own all the same."""
    process = command(*fit(folder, tmp_path / "run", "--lr", "1e38", "--set", "clip_norm=0"))
    _, said = process.communicate(timeout=300)
    assert process.returncode == 1 and "of 20, lr" in said and "at step" in said, said
    step = int(said.split("at step ")[1].split()[0])
    lines = next((tmp_path / "run").glob("units/*/*/metrics.jsonl")).read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, step)) and step <= 4


PEAK = """
import sys, torch
from vitft.bench.loops import Own
from vitft.bench.subject import opened
from vitft import recipes
from vitft.models.memory import Wish, planned
from vitft.progress import Hooks
from vitft.protocol.jobs import Runtime
model, side, images, optimizer = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
s = recipes.load("vit-paper").resolve("cifar10", {"resolution": side, "batch_size": images, "optimizer": optimizer})
subject = opened(model, s, None, Runtime("cuda", micro_batch=images, compile="off"), Hooks(), from_scratch=True)
own = Own(subject, Hooks())
plan = planned(own.net, subject.settings, subject.device, subject.precision, Wish(images))
torch.cuda.reset_peak_memory_stats()
own.train(2)
print(torch.cuda.max_memory_allocated() / plan.memory)
"""


@pytest.mark.parametrize(
    ("model", "side", "images", "optimizer"),
    [("vit_base_patch16_224", 224, 64, "adamw"), ("vit_large_patch16_224", 384, 32, "sgd")],
)
def test_the_peak_of_a_fit_is_the_rules(
    card: dict[str, str], model: str, side: int, images: int, optimizer: str
) -> None:
    words = [sys.executable, "-c", PEAK, f"timm:{model}", str(side), str(images), optimizer]
    done = subprocess.run(words, env=card, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_h14_at_518_pixels_makes_an_update_without_a_failed_attempt(
    vitft: Vitft, folder: Path, tmp_path: Path, optimizer: str
) -> None:
    """What is told before the start is what is done. Needs a card of 80 GB."""
    args = ("-r", 518, "-b", 24, "--steps", 1, "--set", f"optimizer={optimizer}", "--no-save-weights")
    words = ["finetune", folder, "-m", "timm:vit_huge_patch14_224", "--from-scratch", "-o", tmp_path / "run", *args]
    _, said = vitft(*words)
    assert "Out of memory" not in said, said
    micro = unit(tmp_path / "run")["settings"]["micro_batch"]
    assert f"in micro-batches of {micro}: fits" in said and micro >= 8, said


def test_two_workers_share_a_card(vitft: Vitft, tmp_path: Path) -> None:
    weights = vtab_archive.checkpoint(tmp_path / "tiny.safetensors")
    args = ("vtab", "--suite", "mini", "--tasks", "mini-count,mini-shapes", "-m", weights, "-r", 32)
    two = "0,0" if DEVICE == "cuda" else f"{DEVICE},{DEVICE}"
    table, _ = vitft(*args, "--steps", 30, "-b", 8, "--devices", two, "-o", tmp_path / "run")
    assert {"mini-count", "mini-shapes"} <= set(table["tasks"])
    assert len(list((tmp_path / "run" / "logs").glob("worker-*.log"))) == 2
    found = [json.loads(path.read_text()) for path in (tmp_path / "run").glob("units/*/final-*/result.json")]
    assert len(found) == 2 and {result["settings"]["device_kind"] for result in found} == {DEVICE}
