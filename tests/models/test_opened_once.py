"""A command opens each checkpoint once and digests its file once; a second unit of a warm process does neither."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from timm import create_model

from tests.cli.test_cli import images, vitft
from vitft import machine, recipes
from vitft.models import loading
from vitft.protocol.jobs import Runtime, make
from vitft.protocol.run import run_unit
from vitft.protocol.units import final_units
from vitft.protocol.warm import Warm

EVAL = ("-r", 32, "--device", "cpu")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    return spied(monkeypatch, loading, "load_path")


@pytest.fixture
def digested(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    return spied(monkeypatch, machine, "sha256")


def spied(monkeypatch: pytest.MonkeyPatch, where: object, name: str) -> Counter[str]:
    """Count the calls of a function by the name of the file they are about."""
    counted: Counter[str] = Counter()
    real = getattr(where, name)

    def spy(path: Path, *args: object) -> object:
        counted[path.name] += 1
        return real(path, *args)

    monkeypatch.setattr(where, name, spy)
    return counted


def weights(file: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    state = create_model("test_vit", num_classes=3).state_dict()
    save_file(state, file)
    return file


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("verb", ["eval", "fewshot", "finetune"])
def test_one_command_opens_and_digests_a_checkpoint_once(tmp_path, opened, digested, verb, suffix):
    data, file = images(tmp_path / "d"), weights(tmp_path / "w.safetensors")
    if suffix == "pth":
        torch.save(create_model("test_vit", num_classes=3).state_dict(), tmp_path / "w.pth")
        file = tmp_path / "w.pth"
    args = {
        "eval": ("eval", file, data, *EVAL),
        "fewshot": ("fewshot", data, "-m", file, "--per-class", "1", *EVAL),
        "finetune": ("finetune", data, "-m", file, "--steps", 1, "-b", 4, "--seeds", "0,1", "--method", "lora", *EVAL),
    }[verb]
    found = vitft(*args)
    assert found.exit_code == 0, found.stderr
    assert opened == {file.name: 1} and digested[file.name] == 1


def test_two_networks_on_one_split_are_opened_once_each(tmp_path, opened, digested):
    data = images(tmp_path / "d")
    files = [weights(tmp_path / f"{i}.safetensors", i) for i in range(2)]
    found = vitft("eval", *files, data, *EVAL)
    assert found.exit_code == 0, found.stderr
    assert opened == {"0.safetensors": 1, "1.safetensors": 1} == digested


@pytest.mark.parametrize("keys", [{}, {"method": "lora"}])
def test_a_second_unit_of_a_warm_process_opens_nothing(tmp_path, opened, digested, keys):
    data, file, warm = images(tmp_path / "d"), weights(tmp_path / "w.safetensors"), Warm()
    recipe = recipes.parse({"steps": 1, "batch_size": 4, "resolution": 32, **keys}, "r")
    job, _ = make(str(data), model=str(file), recipe=recipe, overrides={}, seeds=(0, 1))
    for unit in final_units(job, []):
        run_unit(unit, tmp_path / "run", Runtime(device="cpu"), warm=warm)
    assert opened == digested == {"w.safetensors": 1}


def test_a_file_that_changed_is_digested_anew(tmp_path):
    file = tmp_path / "w"
    file.write_bytes(b"one")
    first = machine.sha256_once(file)
    file.write_bytes(b"longer")
    assert machine.sha256_once(file) == machine.sha256(file) != first
