"""Fixtures every test may use. Nothing here needs a network."""

import os
from pathlib import Path

# Two test processes on two cores: threads of torch beyond that only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real images and weights; the tests that need it skip where it is absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs ../shared (real images and a real checkpoint), which is not here")
    return SHARED
