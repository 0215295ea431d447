"""Commands that a shell script calls `vitft`, forked from the test process, which has torch imported already."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.forked_workers import forking
from vitft.engines import local

# Hands its words, folder, variables and streams over, and waits for the exit code.
_CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as there:
    there.connect({address!r})
    said = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(there, [len(said).to_bytes(4, "big")], [0, 1, 2])
    there.sendall(said)
    sys.exit(int(there.makefile().readline() or 137))
"""


class Commands:
    """The program `vitft` in a folder, for the scripts that `run` runs.

    Args:
        folder: gets the program.
        changed: from the words it is given to those of the command line.
    """

    def __init__(self, folder: Path, changed: Callable[[Sequence[str]], Sequence[str]]) -> None:
        self._changed, self._folder = changed, folder
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(folder / "vitft.socket"))
        self._socket.listen()
        self._socket.settimeout(0.02)
        program = folder / "vitft"
        program.write_text(_CLIENT.format(python=sys.executable, address=str(folder / "vitft.socket")))
        program.chmod(0o755)

    def run(self, script: str, cwd: Path, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """Run a script of bash to its end; whatever it calls `vitft` is forked from here."""
        children: list[int] = []
        out, err = self._folder / "out", self._folder / "err"
        with out.open("w") as stdout, err.open("w") as stderr:
            shell = subprocess.Popen(["bash", "-c", script], env=environ, cwd=cwd, stdout=stdout, stderr=stderr)
            while shell.poll() is None:
                try:
                    there, _ = self._socket.accept()
                except TimeoutError:
                    continue
                children.append(self._forked(there))
                there.close()
        for child in children:
            os.waitpid(child, 0)
        return subprocess.CompletedProcess(script, shell.returncode, out.read_text(), err.read_text())

    def _forked(self, there: socket.socket) -> int:
        child = os.fork()
        if child:
            return child
        code: object = 1
        try:
            code = self._command(there)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            there.sendall(f"{code}\n".encode())
            os._exit(0)

    def _command(self, there: socket.socket) -> object:
        from vitft.cli.app import app

        there.setblocking(True)
        length, streams, _, _ = socket.recv_fds(there, 4, 3)
        text = there.makefile("rb").read(int.from_bytes(length, "big"))
        words, folder, environ = json.loads(text)
        for fd, own in enumerate(streams):
            os.dup2(own, fd)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environ)
        pytest.MonkeyPatch().setattr(local, "start_process", forking())
        try:
            app(list(self._changed(words)))
        except SystemExit as end:
            return end.code or 0
        return 0
