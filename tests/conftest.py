"""What every test runs in: no card, no network, no folder and no setting of this machine."""

import itertools
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

# What hides a card does so only before torch is imported, and in every process that a test starts; `card` shows it
# again to the processes of tests marked `gpu`, also below a worker of pytest, which sees what pytest has set.
_CARDS = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
_OF_USER = ("VITFT_", "SLURM_", "HF_", "HUGGINGFACE_", "HUGGING_FACE_", "XDG_CACHE_HOME", "TORCH_HOME")
for _name in _CARDS:
    os.environ.setdefault(f"TESTS_{_name}", os.environ.get(_name, "all"))
    os.environ[_name] = ""
for _name in [name for name in os.environ if name.startswith(_OF_USER)]:
    del os.environ[_name]
# Two test processes on two cores: threads of torch beyond that only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402

SHARED = Path(__file__).resolve().parents[2] / "shared"

_PLACES = {"VITFT_CACHE": "cache", "VITFT_RUNS": "runs", "VITFT_DATA": "data", "HF_HOME": "hf"}
_ROOT = tempfile.TemporaryDirectory(prefix="vitft-tests-")
_NUMBERS = itertools.count(1)


def _alone(environment: pytest.MonkeyPatch) -> None:
    """Set every folder that vitft or a client of the hub would take by itself to a new one, and forbid the network."""
    own = Path(_ROOT.name) / str(next(_NUMBERS))
    for name in [name for name in os.environ if name.startswith(_OF_USER)]:
        environment.delenv(name)
    for name, folder in _PLACES.items():
        environment.setenv(name, str(own / folder))
    environment.setenv("HF_HUB_OFFLINE", "1")


# For the fixtures of a whole module or session, which run before those of a test.
_alone(pytest.MonkeyPatch())


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test folders of its own; what one test leaves in a cache is not there for the next."""
    _alone(monkeypatch)


@pytest.fixture
def onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have large linear layers computed by oneDNN, whatever the processor."""
    monkeypatch.setattr("vitft.products.by_onednn", lambda: True)


def _forked_with_cuda() -> None:
    torch = sys.modules.get("torch")
    assert torch is None or not torch.cuda.is_initialized(), "a test forks after CUDA was initialised"


# An error here is an "unraisable" one, which pyproject.toml makes the test's own.
os.register_at_fork(before=_forked_with_cuda)


def _threads_anew() -> None:
    """Make torch's pool of threads anew in a forked process, before two of its threads do so at once and one fails."""
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "set_num_threads"):
        torch.set_num_threads(torch.get_num_threads())


os.register_at_fork(after_in_child=_threads_anew)


@pytest.fixture(scope="session")
def _card() -> dict[str, str]:
    import ctypes
    import subprocess

    shown = {name: os.environ[f"TESTS_{name}"] for name in _CARDS}
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        pytest.skip("needs a card: there is no CUDA driver here")
    env = {name: value for name, value in os.environ.items() if name not in _CARDS}
    env |= {name: value for name, value in shown.items() if value != "all"}
    probe = [sys.executable, "-c", "import sys, torch; sys.exit(not torch.cuda.is_available())"]
    if subprocess.run(probe, env=env, check=False, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("needs a card: torch finds none here")
    return {name: value for name, value in shown.items() if value != "all"}


@pytest.fixture
def card(_card: dict[str, str]) -> dict[str, str]:
    """Return the environment of a process that may use the card; this process never does."""
    return {name: value for name, value in os.environ.items() if name not in _CARDS} | _card


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real images and weights; the tests that need it skip where it is absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs ../shared (real images and a real checkpoint), which is not here")
    return SHARED


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Draw data and a checkpoint (`reference.draw`), with one cache: it must not give the pixels of other settings."""
    from tests import reference

    root = reference.draw(tmp_path_factory.mktemp("place"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VITFT_CACHE", str(root / "cache"))
        patch.setattr(os, "fsync", lambda _: None)  # hundreds of small runs, none of which must outlive a power cut
        yield root
