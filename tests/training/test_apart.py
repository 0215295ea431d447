"""The tests of several processes, forked from a fresh one: what other tests left of torch's threads breaks gloo."""

import os
import subprocess
import sys
from pathlib import Path

from tests.training import test_parallel


def test_several_processes_in_a_fresh_one():
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    env[test_parallel.APART] = "1"
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", str(test_parallel.__file__)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "[100%]" in done.stdout and "sssss" not in done.stdout, "they ran, and were not skipped"
