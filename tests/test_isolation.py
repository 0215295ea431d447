"""The tests themselves: what this machine has and says does not reach them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a machine with a card (see `fake_card`), and with a user's own settings."""
    (tmp_path / "site").mkdir()
    shutil.copy(Path(__file__).parent / "fake_card.py", tmp_path / "site" / "sitecustomize.py")
    hidden = ("CUDA_VISIBLE_DEVICES", "TESTS_", "PYTEST_", "HIP_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    path = [str(tmp_path / "site"), str(ROOT), *env.get("PYTHONPATH", "").split(os.pathsep)]
    env |= {"PYTHONPATH": os.pathsep.join(filter(None, path)), "FAKE_CARD_LOG": str(tmp_path / "touched")}
    own = {
        name: str(tmp_path / "own") for name in ("VITFT_CACHE", "VITFT_RUNS", "VITFT_DATA", "HF_HOME", "HF_HUB_CACHE")
    }
    return env | own | {"VITFT_SOMETHING": "else", "HF_ENDPOINT": "http://127.0.0.1:9"}


def test_on_a_machine_with_a_card_no_test_touches_it(machine: dict[str, str], tmp_path: Path) -> None:
    """Tests that fork, and one that starts a process, where torch finds a card unless it is hidden from it."""
    # The card is there to be found: without the tests' own hiding vitft takes it, and would touch it.
    take = "from vitft import device; device.pick('auto')"
    done = subprocess.run(
        [sys.executable, "-c", take], env=machine, cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode and (tmp_path / "touched").exists(), done.stderr
    (tmp_path / "touched").unlink()

    chosen = [
        "tests/engines/test_engine.py::test_a_unit_that_kills_its_workers_is_given_up_and_the_others_go_on",
        "tests/protocol/test_protocol.py::test_killed_anywhere_and_started_again_it_ends_the_same[5]",
        "tests/test_isolation.py::test_nothing_of_this_machine_reaches_a_test",
    ]
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", *chosen]
    done = subprocess.run(command, env=machine, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert not (tmp_path / "touched").exists()
    assert not (tmp_path / "own").exists()


def test_nothing_of_this_machine_reaches_a_test() -> None:
    import torch

    from vitft import device, hub, machine
    from vitft.results.folders import runs_root

    assert not torch.cuda.is_available() and device.pick("auto").type == "cpu"
    code = "import torch; assert not torch.cuda.is_available() and torch.cuda.device_count() == 0"
    subprocess.run([sys.executable, "-c", code], check=True)
    ours = {name for name in os.environ if name.startswith(("VITFT_", "HF_"))}
    assert ours == {"VITFT_CACHE", "VITFT_RUNS", "VITFT_DATA", "HF_HOME", "HF_HUB_OFFLINE"}
    for place in (machine.cache(), runs_root(), machine.data(), *hub.caches()):
        assert not place.exists() and place.is_relative_to(Path(os.environ["VITFT_CACHE"]).parent)


def test_a_fork_after_cuda_began_is_an_error(suite: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-c", ROOT / "pyproject.toml", "--rootdir", suite, suite],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "forks after CUDA was initialised" in done.stdout, done.stdout


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Write a test that forks after CUDA was initialised, under the conftest of this suite."""
    shutil.copy(Path(__file__).parent / "conftest.py", tmp_path / "conftest.py")
    (tmp_path / "test_forks.py").write_text(
        "import os, sys, types\n\n\n"
        "def test_forks(monkeypatch):\n"
        "    cuda = types.SimpleNamespace(is_initialized=lambda: True)\n"
        "    monkeypatch.setitem(sys.modules, 'torch', types.SimpleNamespace(cuda=cuda))\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        os._exit(0)\n"
        "    os.waitpid(pid, 0)\n"
    )
    return tmp_path
