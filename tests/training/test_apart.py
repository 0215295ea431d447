"""Tests that run in a fresh process each.

What other tests leave of torch's threads breaks gloo in forked processes; torch's compiler leaves threads of autograd's
with which the forked processes of other tests cannot train.
"""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.training import test_compiled, test_parallel


@pytest.mark.parametrize("module", [test_parallel, test_compiled])
def test_in_a_fresh_process(module: ModuleType) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    env[test_parallel.APART] = "1"
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", str(module.__file__)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "[100%]" in done.stdout and "sssss" not in done.stdout, "they ran, and were not skipped"
