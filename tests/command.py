"""The command line as tests run it, in this very process."""

from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from vitft.cli.app import app


def invoked(*args: object, **how: Any) -> Result:
    """Run `vitft ARGS...`, however it ends."""
    return CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False, **how)


def vitft(*args: object, code: int = 0) -> Result:
    """Run `vitft ARGS...`, which must end with this exit code."""
    done = invoked(*args)
    assert done.exit_code == code, f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


def exiting(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs `vitft ARGS...` as a process would, and returns (exit code, stdout, stderr)."""

    def run(*args: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            app([str(arg) for arg in args])
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return run
