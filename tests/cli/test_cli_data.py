"""`vitft data` as a user runs it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vitft.catalog import tasks
from vitft.cli.app import app
from vitft.data.find import built_in

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def vitft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs `vitft data ...` in this process and gives (exit code, stdout, stderr)."""
    monkeypatch.setenv("VITFT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("VITFT_CACHE", str(tmp_path / "cache"))

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            app(["data", *words])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def test_the_command_starts_without_torch(tmp_path: Path) -> None:
    code = "import sys; sys.argv = ['vitft', 'data', 'splits', 'svhn', '--split', 'val200']\n"
    code += "try:\n from vitft.cli.app import main; main()\nfinally:\n sys.exit(9 if 'torch' in sys.modules else 0)"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, timeout=60)
    assert (done.returncode, done.stdout.split()[:2], len(done.stdout.split())) == (0, ["21145", "64736"], 200)


def test_splits_prints_json_alone_with_the_golden_digest(vitft: Run) -> None:
    code, out, _ = vitft("splits", "CIFAR-100", "--split", "train800", "--format", "json")
    found: dict[str, Any] = json.loads(out)
    assert code == 0
    assert (found["task"], found["split"], found["keys"][:3]) == ("cifar100", "train800", ["16399", "1680", "47917"])
    assert found["sha256"].startswith("5b25ee0661c3bc4a")
    assert found["reference"] is True


@pytest.mark.parametrize("task", ["digits", "mini-shapes"])
def test_the_splits_of_what_is_built_in_need_no_files(vitft: Run, task: str) -> None:
    code, out, _ = vitft("splits", task, "--split", "test", "--format", "json")
    found: dict[str, Any] = json.loads(out)
    assert code == 0
    assert len(found["keys"]) == len(set(found["keys"])) == built_in(tasks.get(task)).open("test").labels.size


def test_prepare_verify_and_ls_of_a_sample(shared: Path, tmp_path: Path, vitft: Run) -> None:
    source = str(shared / "data" / "raw-format-samples" / "cifar100")
    code, _, err = vitft("prepare", "cifar100", "--source", source, "--complete")
    assert code == 3
    assert len([line for line in err.splitlines() if not line.startswith("  ")]) <= 3
    assert "--complete" in err
    code, out, err = vitft("prepare", "cifar100", "--source", source, "--format", "json")
    manifest = json.loads(out)
    assert code == 0
    assert manifest["completeness"] == "partial"
    assert "partial" in err
    folder = Path(manifest["path"])
    assert folder == tmp_path / "data" / "cifar100"
    code, out, _ = vitft("verify", "cifar100", "--format", "json")
    assert code == 0
    assert json.loads(out)["ok"] is True
    code, out, _ = vitft("ls", "--format", "json")
    rows = {row["task"]: row for row in json.loads(out)["tasks"]}
    assert code == 0
    assert rows["cifar100"]["status"] == "ready"
    assert rows["resisc45"]["status"] == "manual"
    assert len(rows) >= 21
    (folder / "test.parquet").write_bytes(b"PAR1")
    code, out, err = vitft("verify", "cifar100", "--format", "json")
    assert code == 3
    assert json.loads(out)["ok"] is False
    assert "test.parquet" in err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("prepare", "dtdd"), 2, "Did you mean 'dtd'"),
        (("prepare", "imagenet"), 2, "cannot be prepared"),
        (("prepare", "dtd", "--source", "/no/such/folder"), 3, "'/no/such/folder'"),
        (("splits", "dtd", "--split", "val200"), 3, "--source DIR"),
        (("splits", "dtd", "--split", "vall"), 2, "val200"),
        (("prepare", "resisc45"), 3, "NWPU-RESISC45.rar"),
    ],
)
def test_what_goes_wrong_is_said_in_three_lines(words: tuple[str, ...], code: int, said: str, vitft: Run) -> None:
    found, out, err = vitft(*words)
    assert (found, out) == (code, "")
    assert said in err
    assert len([line for line in err.splitlines() if not line.startswith("  ")]) <= 3
