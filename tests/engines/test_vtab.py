"""`vitft vtab` and `vitft runs` from the command line: what is there, holes, exit codes, going on."""

import json
import os
import subprocess
import sys

import pytest
import torch

from tests import vtab_archive
from tests.command import exiting
from tests.forked_workers import forking
from vitft.engines import local, suite
from vitft.errors import Interrupted
from vitft.results.folders import collect
from vitft.suites.document import load as suite_of

pytestmark = pytest.mark.xdist_group("engine")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("vtab")
    vtab_archive.draw(root / "all")
    vtab_archive.checkpoint(root / "tiny.safetensors")
    (root / "tiny.toml").write_text(
        'title = "tiny"\nsource = "tests"\nsteps = 2\nbatch_size = 4\nlr = 0.01\nresolution = 32\n'
        "[for.dtd.sweep]\nlr = [0.1, 0.01]\n"
    )
    return root


@pytest.fixture
def vitft(tmp_path, monkeypatch, capsys, data):
    """Return a function that runs the command line here and returns (exit code, stdout, stderr)."""
    torch.set_num_threads(1)
    monkeypatch.setenv("VITFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VITFT_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("VITFT_DATA", raising=False)
    monkeypatch.setattr(local, "start_process", forking())

    return exiting(capsys)


@pytest.fixture
def small(data):
    """Return the options of a small run."""
    return ["--recipe", data / "tiny.toml", "--model", data / "tiny.safetensors", "--device", "cpu"]


def test_without_all_of_them_it_says_what_is_there_and_ends_with_3(vitft, data, small, tmp_path):
    (tmp_path / "some").mkdir()
    (tmp_path / "some/dtd").symlink_to(data / "all/dtd")
    (tmp_path / "some/svhn").symlink_to(data / "all/svhn")
    here = ["vtab", *small, "--data-dir", tmp_path / "some"]
    code, out, err = vitft(*here)
    assert (code, out) == (3, "")
    assert "2 of 19 tasks ready" in err
    assert "17 of 19 tasks have no data: caltech101, cifar100" in err
    assert str(tmp_path / "some") in err
    for task in suite_of("vtab").tasks:
        assert task in err
    assert not (tmp_path / "runs").exists()
    assert vitft(*here, "--tasks", "structured", "--allow-missing")[0] == 3
    assert vitft(*here, "--tasks", "dtd,dmlab")[0] == 3

    code, out, err = vitft(*here, "--allow-missing", "--format", "json", "-o", tmp_path / "run")
    assert code == 0
    table = json.loads(out)
    assert set(table["tasks"]) == {"dtd", "svhn"}
    assert table["missing"]["dmlab"] == "no data: downloadable"
    assert "mean_of_tasks" not in table
    assert table == {**json.loads((tmp_path / "run/suite.json").read_text()), "folder": str(tmp_path / "run")}


def test_the_whole_suite_to_a_table_and_again_at_once(vitft, data, small, tmp_path, monkeypatch):
    command = ["vtab", *small, "--data-dir", data / "all", "-o", tmp_path / "run"]
    # First one group, then the rest in the same folder: what is finished stays.
    code, out, _ = vitft(*command, "--tasks", "natural", "--format", "json")
    assert code == 0
    assert set(json.loads(out)["groups"]) == {"natural"}
    code, out, err = vitft(*command)
    assert code == 0
    assert out.startswith("VTAB-1k: top-1 in percent; recipe tiny, 32 px")
    assert "tasks   groups" in out
    # The nine units of the natural tasks (dtd has two to tune) are not run again.
    assert "[10/21] patch_camelyon" in err
    assert "[9/21]" not in err
    summary = json.loads((tmp_path / "run/suite.json").read_text())
    assert summary["complete"]
    assert len(summary["tasks"]) == 19
    assert summary["mean_of_groups"] == pytest.approx(sum(summary["groups"].values()) / 3)
    monkeypatch.setattr(local, "start_process", lambda log: pytest.fail("started a worker for nothing"))
    assert vitft(*command)[1] == out

    code, out, _ = vitft("runs", "status", tmp_path / "run", "--format", "json")
    status = json.loads(out)
    assert status["complete"]
    assert {unit["status"] for unit in status["units"]} == {"finished"}
    assert len(status["units"]) == 21
    code, out, _ = vitft("runs", "ls", tmp_path, "--format", "json")
    (run,) = json.loads(out)["runs"]
    assert run["task"] == "vtab"
    assert run["top1"] == summary["mean_of_tasks"]
    code, out, _ = vitft("runs", "clean", tmp_path / "run", "--weights", "--format", "json")
    assert code == 0
    assert all(name.startswith("logs/") for name in json.loads(out)["deleted"])
    assert len(collect(tmp_path / "run")) == 21
    assert vitft("runs", "status", tmp_path)[0] == 2

    code, _, err = vitft(*command, "--lr", "0.5")
    assert code == 2
    assert "lr: None there, 0.5 here" in err


def test_a_failed_task_is_a_hole_and_exit_code_6(vitft, small, tmp_path):
    vtab_archive.draw(tmp_path / "data", {"train800": 4, "val200": 2, "test": 2})
    broken = tmp_path / "data/eurosat/images/test/000001.jpg"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 3])
    command = ["vtab", *small, "--tasks", "specialized", "--data-dir", tmp_path / "data", "-o", tmp_path / "run"]
    code, out, err = vitft(*command)
    assert code == 6
    assert "1 of 4 tasks failed: eurosat" in err
    assert "000001.jpg" in err
    assert "—" in out
    assert "mean over a hole is not given" in out
    broken.write_bytes(whole)
    code, out, _ = vitft(*command, "--format", "json")
    assert code == 0
    assert "specialized" in json.loads(out)["groups"]


def test_shards_share_a_folder(vitft, data, small, tmp_path, monkeypatch):
    command = ["vtab", *small, "--tasks", "specialized", "--data-dir", data / "all", "-o", tmp_path / "run"]
    code, out, err = vitft(*command, "--shard", "1/2", "--format", "json")
    assert code == 0
    assert set(json.loads(out)["tasks"]) == {"patch_camelyon", "resisc45"}
    assert "Note: resisc45: classes" in err and "WARNING" not in err
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "9999")
    code, out, err = vitft(*command, "--shard", "2/2", "--format", "json")
    assert len(json.loads(out)["tasks"]) == 4
    assert "Note: eurosat: classes" in err and "Note: resisc45" not in err
    assert "WARNING: this task is bound to" in err and "srun --cpus-per-task=9999" in err
    assert vitft(*command, "--shard", "3/2")[0] == 2
    assert vitft(*command, "--shard", "1/2", "--overwrite")[0] == 2
    assert vitft(*command, "--shard", "1/2", "--resume", "never")[0] == 2


def test_shards_that_claim_at_once_wait_for_each_other_and_the_whole_command_for_them(
    vitft, data, small, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    command = ["vtab", *small, "--tasks", "dmlab,svhn", "--data-dir", data / "all", "-o", run]

    def holding(place, seconds):
        place.mkdir(parents=True, exist_ok=True)
        code = (
            "import fcntl, sys, time\nf = open(sys.argv[1], 'a')\nfcntl.flock(f, fcntl.LOCK_EX)\n"
            "print('held', flush=True)\ntime.sleep(float(sys.argv[2]))\n"
        )
        words = [sys.executable, "-c", code, str(place / ".lock"), str(seconds)]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "held\n"
        return process

    with holding(run, 2):  # another shard's claim
        code, _, err = vitft(*command, "--shard", "1/2")
    assert code == 0 and "yet to do: dmlab" in " ".join(err.split())
    monkeypatch.setattr("vitft.engines.suite_run.CLAIM_S", 0.3)
    with holding(run / "shards" / "2-of-2", 60) as other:
        assert vitft(*command, "--overwrite")[0] == 2
        assert vitft(*command, "--shard", "2/2")[0] == 2  # its place is taken
        assert vitft(*command, "--shard", "1/2")[0] == 0
        other.kill()
    with holding(run / "shards" / "2-of-2", 2):
        code, out, err = vitft(*command, "--format", "json")
    assert code == 0 and "Shard 2/2 at work" in " ".join(err.split())
    assert set(json.loads(out)["tasks"]) == {"dmlab", "svhn"}
    with holding(run, 60) as other:  # a whole command at work
        code, _, err = vitft(*command, "--shard", "1/2")
        assert code == 2 and "Another vitft process" in err
        other.kill()


def test_a_dry_run_is_of_the_shard_and_looks_at_the_devices(vitft, data, small, tmp_path):
    command = ["vtab", *small, "--data-dir", data / "all", "--tasks", "dmlab,svhn,dtd", "--dry-run"]
    code, out, _ = vitft(*command, "--shard", "2/2", "--format", "json")
    assert code == 0 and len(json.loads(out)["plan"]) == 1 and json.loads(out)["shard"] == "2/2"
    assert "Plan of shard 1/2" in vitft(*command, "--shard", "1/2")[1]
    assert vitft(*command, "--devices", "cpu,cuda:77")[0] == 2


def test_the_table_in_every_format_and_nothing_for_a_dry_run(vitft, data, small, tmp_path):
    command = ["vtab", *small, "--data-dir", data / "all", "--tasks", "dmlab,svhn", "-o", tmp_path / "run"]
    code, out, _ = vitft(*command, "--dry-run")
    assert code == 0 and f"It would go to {tmp_path / 'run'}" in out and not (tmp_path / "run").exists()
    for wrong, code in (("--model", 4), ("--device", 2), ("--data-dir", 3)):
        assert vitft(*command, "--dry-run", wrong, "nope.npz")[0] == code
    assert vitft(*command, "--devices", ",,")[0] == 2
    code, markdown, _ = vitft(*command, "--format", "markdown")
    assert code == 0 and "| tiny, fine-tuned |" in markdown
    for kind, holds in (("csv", "model,svhn,"), ("latex", "\\begin{tabular}"), ("text", "tiny, fine-tuned")):
        code, out, err = vitft(*command, "--format", kind)
        assert code == 0 and holds in out and "Finished before" in err


def test_a_signal_before_the_first_update_leaves_the_folder_free(vitft, data, small, tmp_path, monkeypatch):
    command = ["vtab", *small, "--data-dir", data / "all", "--tasks", "dmlab", "-o", tmp_path / "run"]

    def interrupted(log):
        log.parent.mkdir(parents=True)
        log.touch()
        raise Interrupted(15, "Interrupted; the state is saved.")

    with monkeypatch.context() as patch:
        patch.setattr(local, "start_process", interrupted)
        assert vitft(*command)[0] == 143
    assert not (tmp_path / "run").exists()
    assert vitft(*command)[0] == 0


def test_a_task_without_val200_is_missing_not_fatal(vitft, small, tmp_path):
    vtab_archive.draw(tmp_path / "data", {"train800": 4, "val200": 2, "test": 2})
    (tmp_path / "data/dmlab/val200.txt").unlink()
    command = ["vtab", *small, "--data-dir", tmp_path / "data", "--tasks", "dmlab,svhn", "-o", tmp_path / "run"]
    assert vitft(*command)[0] == 3
    code, out, _ = vitft(*command, "--allow-missing", "--format", "json")
    assert code == 0 and set(json.loads(out)["tasks"]) == {"svhn"}


def test_shards_hold_every_task_once():
    tasks = suite_of("vtab").tasks
    for n in (1, 2, 4, 19, 30):
        found = [task for i in range(1, n + 1) for task in suite.shard(tasks, f"{i}/{n}")]
        assert sorted(found) == sorted(tasks)


def test_a_dry_run_tells_plan_and_cost_and_runs_nothing(vitft, data, small, tmp_path):
    code, out, _ = vitft("vtab", *small, "--data-dir", data / "all", "--seeds", "0,1", "--dry-run", "--format", "json")
    assert code == 0
    payload = json.loads(out)
    assert [entry["task"] for entry in payload["plan"]] == list(suite_of("vtab").tasks)
    # Two seeds of 19 tasks and two points of dtd's sweep, 2 steps of 4 images each.
    assert payload["estimate"]["units"] == 2 * 19 + 2
    assert payload["estimate"]["train_images"] == 40 * 2 * 4
    assert payload["estimate"]["test_images"] == 2 * 19 * 5 + 2 * 4  # what the drawn archive holds
    assert payload["plan"][0]["splits"]["final_train"] == "train800val200"
    assert not (tmp_path / "runs").exists()
    full = ["vtab", *small, "--data-dir", data / "all", "--shots", "full", "--dry-run", "--format", "json"]
    payload = json.loads(vitft(*full)[1])
    assert not any(row["usable"] for row in payload["data"])  # the community's folders hold no full training sets
    assert payload["plan"] == []
    text = vitft("vtab", "--suite", "mini", "--dry-run")[1]
    assert "6 of 6 tasks ready" in text
    assert "57,600 images to train on, 3,797 to evaluate" in text


def test_the_sides_before_a_crop_are_those_of_the_published_pairs():
    from vitft import recipes
    from vitft.settings import Preprocess, larger

    assert {side: larger(side) for side in (128, 224, 384, 448)} == {128: 160, 224: 256, 384: 448, 448: 512}
    assert all(side < larger(side) <= 1.4 * side for side in range(7, 1000))
    for side in (224, 384):
        s = recipes.load("vtab-vit").resolve("caltech101", {"resolution": side})
        assert Preprocess(s.size, crop=s.crop, crop_from=s.crop_from).enlarged == (larger(side),) * 2


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--tasks", "dtdd"], 2, "Did you mean 'dtd'"),
        (["--tasks", ","], 2, "names no task"),
        (["--recipe", "vtab-vitt"], 2, "vtab-vit"),
        (["--suite", "mini", "--shots", "full"], 2, "1,000 training examples"),
        (["--suite", "mini", "--seeds", "0,0"], 2, "Seeds '0,0'"),
        (["--suite", "mini", "--set", "stepz=3"], 2, "steps"),
        (["--suite", "mini", "--model", "vit-b17"], 2, "vit-b16"),
        (["--suite", "mini", "--device", "cuda:99", "-o", "there"], 2, "cuda:99"),
    ],
)
def test_errors_have_their_code_and_are_short(vitft, args, code, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, out, err = vitft("vtab", *args)
    assert (found, out) == (code, "")
    said = err[err.index("error: ") :]
    assert words in said
    assert len(said.strip().splitlines()) <= 3
    assert not any(tmp_path.glob("there"))
    assert not any(tmp_path.glob("runs/*"))


def test_the_suite_mini_through_a_real_worker(tmp_path):
    """One task of `mini`, from a command of its own process to a table, its worker a process of its own too."""
    command = ["vtab", "--suite", "mini", "--tasks", "digits", "--steps", "3", "-b", "8"]
    command += ["--device", "cpu", "--format", "json", "-o"]
    env = os.environ | {"VITFT_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", "from vitft.cli.app import main; main()", *command, str(tmp_path / "run")],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    table = json.loads(done.stdout)
    assert table["tasks"]["mini-digits"]["n"] == 797
    assert table["suite"] == "mini"
    assert table["missing"]["mini-count"] == "not run"
    assert (tmp_path / "run/logs/worker-0.log").exists()
