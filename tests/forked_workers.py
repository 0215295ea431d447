"""Workers forked from the test process, which has torch imported already: a kill test starts dozens of them."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from vitft.engines import local, worker


@dataclass
class Forked:
    """A worker forked from this process; what the supervisor needs of a process."""

    pid: int
    stdin: IO[str] | None
    stdout: IO[str] | None
    code: int | None = None

    def poll(self) -> int | None:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def wait(self, timeout: float | None = None) -> int:
        while self.poll() is None:
            time.sleep(0.005)
        assert self.code is not None
        return self.code

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


def forking(in_child: Callable[[], None] = lambda: None) -> local.Launch:
    """Return a launcher that forks; `in_child` runs first in each worker."""

    def launch(log: Path) -> Forked:
        (in_r, in_w), (out_r, out_w) = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                # Another worker's pipe held open here would hide its end from the supervisor.
                for fd in range(3, 256):
                    if fd not in (in_r, out_w):
                        try:
                            os.close(fd)
                        except OSError:
                            continue
                in_child()
                worker.serve(os.fdopen(in_r), os.fdopen(out_w, "w"))
            finally:
                os._exit(0)
        os.close(in_r)
        os.close(out_w)
        log.parent.mkdir(parents=True, exist_ok=True)
        with (log.parent / "pids").open("a") as file:
            file.write(f"{pid}\n")
        return Forked(pid, os.fdopen(in_w, "w"), os.fdopen(out_r))

    return launch
