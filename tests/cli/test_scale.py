"""What the README says of many cards and machines is run, small and on CPUs: torchrun, Ray, a Slurm script."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests import vtab_archive
from tests.forked_commands import Commands
from tests.forked_workers import forking
from tests.layouts import image_folders
from tests.processes import free_port
from vitft.cli.app import app
from vitft.engines import local

pytestmark = pytest.mark.xdist_group("engine")
SECTION = (
    (Path(__file__).parents[2] / "README.md").read_text().split("## Many cards, many machines\n")[1].split("\n## ")[0]
)
TORCHRUN, RAY, SLURM, SRUN, ESTIMATE = (
    block.strip() for block in re.findall(r"^```\w*\n(.*?)^```", SECTION, re.S | re.M)
)
TASKS = "svhn,dtd,eurosat"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("scale")
    vtab_archive.draw(root / "data")
    vtab_archive.checkpoint(root / "tiny.safetensors")
    text = 'title = "tiny"\nsource = "tests"\nsteps = 2\nbatch_size = 4\nlr = 0.01\nresolution = 32\n'
    (root / "tiny.toml").write_text(text)
    for name in ("bin", "srun-bin"):
        (root / name).mkdir()
    # Slurm's own words: a task after the other, the highest exit code at the end (of one that was killed, too); a job
    # that is queued again.
    srun = "#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\nworst=${KILLED:-0}\n"
    srun += 'for i in $(seq 0 $((SLURM_NTASKS-1))); do SLURM_PROCID=$i "$@"; c=$?; '
    srun += "[ $c -gt $worst ] && worst=$c; done; exit $worst\n"
    scontrol = f'#!/bin/bash\n[ $1 = show ] && echo localhost || echo "$@" >> {root}/requeued\n'
    for name, script in (("srun", srun), ("scontrol", scontrol)):
        (root / "bin" / name).write_text(script)
        (root / "bin" / name).chmod(0o755)
    return root


def placed(text: str, place: Path, run: Path) -> str:
    """Return what the README shows with this machine's folders in it."""
    return (
        text.replace("/data/vtab-1k", str(place / "data"))
        .replace("vit-b16", str(place / "tiny.safetensors"))
        .replace("/scratch/b16", str(run))
    )


@pytest.fixture(scope="module")
def shell(place):
    """Run a script of bash in a folder, with variables; the program `vitft` takes the small suite."""
    own = ["--recipe", str(place / "tiny.toml"), "--device", "cpu", "--tasks", TASKS]
    commands = Commands(place / "bin", lambda words: [words[0], *own, *words[1:]])
    path = f"{place / 'bin'}:{os.environ['PATH']}"
    return lambda script, cwd, **variables: commands.run(script, cwd, {**os.environ, "PATH": path, **variables})


@pytest.fixture(scope="module")
def whole(place):
    """Run the suite whole, in this process and by workers forked from it."""
    words = ["vtab", "--recipe", place / "tiny.toml", "--device", "cpu", "--tasks", TASKS, "-o", place / "whole"]
    words += ["--data-dir", place / "data", "-m", place / "tiny.safetensors"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "start_process", forking())
        with pytest.raises(SystemExit) as caught:
            app([str(word) for word in words])
    assert not caught.value.code
    return json.loads((place / "whole/suite.json").read_text())


def test_the_slurm_script_three_shards_are_the_whole_and_what_is_stopped_is_queued_again(place, whole, shell, tmp_path):
    script = placed(SLURM, place, tmp_path / "run")
    slurm = {"SLURM_NTASKS": "3", "SLURM_JOB_ID": "17"}
    over = script.replace("--max-time 3h50m", "--max-time 0s").replace("13800", "0")
    assert over.count("--max-time 0s") == 1 and "13800" not in over
    for killed, times in (("0", 1), ("137", 2)):  # a shard that was killed hides from srun that another is to go on
        stopped = shell(over, tmp_path, **{**slurm, "SLURM_NTASKS": "1", "KILLED": killed})
        assert (place / "requeued").read_text() == "requeue 17\n" * times, stopped.stderr
        assert stopped.stderr.count("Stopped to be queued again") == times
        assert not (tmp_path / "b16.tex").exists() or not (tmp_path / "b16.tex").read_text()
    done = shell(script, tmp_path, **slurm)
    assert done.returncode == 0, done.stderr
    assert [f"Shard {i}/3 is done" in done.stderr for i in (1, 2)] == [True, True]
    assert "Finished before" in done.stderr  # the last line, which prints the table
    assert "tabular" in (tmp_path / "b16.tex").read_text()
    assert json.loads((tmp_path / "run/suite.json").read_text())["tasks"] == whole["tasks"]


def test_one_run_that_srun_starts_is_queued_again(place, tmp_path):
    changed = {"imagenet": "digits", "vit-h14": "vit-mini", "vit-paper": "quick", "/scratch/h14": "run"}
    small = ["--limit", "24", "--steps", "1", "-b", "4", "-r", "32", "--device", "cpu"]
    commands = Commands(place / "srun-bin", lambda words: [*(changed.get(word, word) for word in words), *small])
    slurm = {"SLURM_NTASKS": "1", "SLURM_JOB_ID": "18", "SLURM_LOCALID": "0", "SLURM_JOB_NODELIST": "n[1-4]"}
    path = f"{place / 'srun-bin'}:{place / 'bin'}:{os.environ['PATH']}"
    over = commands.run(SRUN.replace("3h50m", "0s"), tmp_path, {**os.environ, **slurm, "PATH": path})
    assert "Stopped to be queued again" in over.stderr
    assert (place / "requeued").read_text().endswith("requeue 18\n")


def test_the_ray_line(place, whole, shell, tmp_path):
    if importlib.util.find_spec("ray") is None:
        pytest.skip("needs the extra 'ray', which is not installed")
    line = placed(RAY, place, tmp_path / "run").replace("RAY_ADDRESS=head:6379 ", "")
    assert line != placed(RAY, place, tmp_path / "run")
    done = shell(line, tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run/suite.json").read_text())["tasks"] == whole["tasks"]


def test_the_torchrun_line(tmp_path):
    words = shlex.split(TORCHRUN)
    assert words[:2] == ["torchrun", "--nproc-per-node"]
    changed = {"8": "2", "imagenet": "digits", "vit-h14": "vit-mini", "vit-paper": "quick", "/scratch/h14": "run"}
    small = ["--limit", "24", "--steps", "2", "-b", "4", "-r", "32", "--device", "cpu"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--master-port", str(free_port())]
    command = [*launcher, *[changed.get(word, word) for word in words[1:]], *small]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["timing"]["processes"] == 2 and result["metrics"]["n"] == 24


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("vtab", [f"{19 * 2500 * 512:,}", "387,904", "200 TFLOP/s"]),  # updates x images, official test splits
        ("finetune", [f"{300 * 64:,}", "measured now"]),
        ("suite", ["150 units: tasks 3, models 10, seeds 5"]),
    ],
)
def test_the_estimates(place, whole, capsys, monkeypatch, verb, words):
    (line,) = (line for line in ESTIMATE.splitlines() if line.startswith(f"vitft estimate {verb} "))
    if verb == "finetune":
        image_folders(place / "photos")
        line = line.replace("./my.npz", "vit-b16")
    monkeypatch.chdir(place)
    with pytest.raises(SystemExit) as caught:
        app(shlex.split(placed(line, place, place / "whole"), comments=True)[1:])
    assert not caught.value.code
    said = " ".join(capsys.readouterr().out.split())
    assert all(word in said for word in words), said
