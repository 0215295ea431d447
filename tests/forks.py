"""Runs tests in processes forked from this one, which has torch and the like imported, and knows which lines they run.

Only vitft and the tests are imported anew in each. What each test runs is measured once a test file, in `.mutate/`.
"""

import ast
import gc
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import json
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "vitft"
KEPT = ROOT / ".mutate"
APART = "tests/training/test_parallel.py"
"""Tests that no other may run before in the same process: see test_apart.py."""
_WARM = """
torch torch.nn.attention torchvision.transforms timm timm.models.vision_transformer numpy scipy.stats
datasets
sklearn.linear_model sklearn.metrics sklearn.datasets pydantic pydantic.main pydantic.types pydantic.dataclasses
pydantic.functional_validators pydantic.fields pydantic.type_adapter pydantic.root_model typer rich pyarrow.parquet
h5py cv2 PIL.Image safetensors.torch hypothesis.strategies hypothesis.extra.numpy _hypothesis_pytestplugin
huggingface_hub.hf_api
""".split()  # noqa: SIM905


@cache
def _words(line: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", line.split("|", 2)[2]))


@dataclass(frozen=True)
class Test:
    """What is known of a test.

    Attributes:
        seconds: under measurement, which slows it down.
        lines: "file|function|text of a line" of all it ran.
        shares: file -> share of these lines.
    """

    name: str
    seconds: float
    lines: frozenset[str]
    shares: dict[str, float]

    @cached_property
    def words(self) -> frozenset[str]:
        """All names in the lines it ran."""
        return frozenset(word for line in self.lines for word in _words(line))

    def cost(self, name: str) -> float:
        """Seconds by how much of the test is about a file: a short test of much else finds little there."""
        return self.seconds / (0.01 + self.shares.get(name, 0.0))


class Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives one module of vitft with other code."""

    def __init__(self, name: str, file: str, code: CodeType) -> None:
        self.name, self.file, self.code = name, file, code

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> Any:
        if fullname != self.name:
            return None
        spec = importlib.machinery.ModuleSpec(fullname, self, origin=self.file)
        spec.has_location = True
        if self.file.endswith("__init__.py"):
            spec.submodule_search_locations = [str(Path(self.file).parent)]
        return spec

    def exec_module(self, module: ModuleType) -> None:
        exec(self.code, module.__dict__)


def _forked(work: Callable[[], int], log: Path) -> int:
    """Start `work` in a process and a group of its own, its output in `log`; return the process's id."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        with suppress(OSError):
            os.setpgid(pid, pid)
        return pid
    code = 70
    try:
        os.setpgid(0, 0)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for fd in (1, 2):
            os.dup2(out, fd)
        code = work()
    finally:
        os._exit(code)


def run_tests(files: list[str], folder: Path, plugin: object, most: int = 1) -> int:
    """Run test files in this process, which is warm, without workers and without what earlier runs left."""
    import hypothesis

    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(folder / "hypothesis")
    hypothesis.settings.register_profile(
        "mutate", database=None, deadline=None, suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    )  # fmt: skip
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    if [name for name in files if not name.endswith(APART)] == []:
        os.environ["TESTS_APART"] = "1"
    options = ["-o", "addopts=", "-q", f"--maxfail={most}", "--tb=short", "-p", "no:cacheprovider",
               "-p", "_hypothesis_pytestplugin",
               "--hypothesis-profile=mutate", "--hypothesis-seed=0", f"--basetemp={folder / 'tests'}"]  # fmt: skip
    return int(pytest.main([*options, *files], plugins=[plugin]))


class Chosen:
    """Runs only the chosen tests, in their order, and writes down which fail."""

    def __init__(self, names: list[str], folder: Path) -> None:
        self.names, self.folder = {name: i for i, name in enumerate(names)}, folder

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((i for i in items if i.nodeid in self.names), key=lambda i: self.names[i.nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            with (self.folder / "failed").open("a") as file:
                file.write(report.nodeid + "\n")


def failed(folder: Path) -> list[str]:
    """Return the names that a `Chosen` wrote down."""
    return (folder / "failed").read_text().splitlines() if (folder / "failed").exists() else []


class _Measure:
    """Notes which lines of vitft each test runs; those of a shared fixture for every test that uses it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ran = folder, set[tuple[str, int]]()
        self.of_fixture: dict[int, set[tuple[str, int]]] = {}
        self.tests: dict[str, tuple[float, set[tuple[str, int]]]] = {}
        self.passed: set[str] = set()
        self.prefix = str(PACKAGE)
        leave = os._exit

        def dumping(code: int) -> None:  # a process forked by a test says what it ran, too
            (folder / f"{os.getpid()}.ran").write_text(json.dumps(sorted(self.ran)))
            leave(code)

        os._exit = dumping  # type: ignore[assignment]
        self.leave = leave

    def trace(self, frame: FrameType, event: str, arg: object) -> Any:
        if not frame.f_code.co_filename.startswith(self.prefix):
            return None
        self.ran.add((frame.f_code.co_filename, frame.f_lineno))
        return self.trace

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Iterator[None]:
        before, self.ran = self.ran, set()
        try:
            return (yield)
        finally:
            if request.scope != "function":
                self.of_fixture[id(fixturedef)] = self.ran
            self.ran = before | self.ran

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: Any, nextitem: Any) -> Iterator[None]:
        self.ran, began = set(), time.monotonic()
        threading.settrace(self.trace)
        sys.settrace(self.trace)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            ran = self.ran
            for file in self.folder.glob("*.ran"):
                ran |= {(name, line) for name, line in json.loads(file.read_text() or "[]")}
                file.unlink()
            for definitions in item._fixtureinfo.name2fixturedefs.values():
                for definition in definitions:
                    ran |= self.of_fixture.get(id(definition), set())
            self.tests[item.nodeid] = (time.monotonic() - began, ran)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.passed.add(report.nodeid)

    def save(self, file: Path, digest: str) -> None:
        keys = _Keys()
        tests = [
            {"name": name, "seconds": round(seconds, 3), "lines": sorted({k for at in ran if (k := keys(*at))})}
            for name, (seconds, ran) in self.tests.items()
            if name in self.passed
        ]
        file.write_text(json.dumps({"digest": digest, "tests": tests}))


def _functions(tree: ast.Module) -> dict[int, str]:
    """Return line -> qualified name of the innermost function around it; lines of no function are absent."""
    out: dict[int, str] = {}

    def visit(node: ast.AST, name: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = f"{name}.{child.name}".lstrip(".")
                if not isinstance(child, ast.ClassDef):
                    body = range(child.body[0].lineno, (child.end_lineno or child.lineno) + 1)
                    out.update(dict.fromkeys(body, inner))
                visit(child, inner)
            else:
                visit(child, name)

    visit(tree, "")
    return out


class _Keys:
    """Names a line of the package by its file, function and text, which stay while other lines come and go."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[list[str], dict[int, str]]] = {}

    def __call__(self, file: str, line: int) -> str:
        if file not in self.files:
            text = Path(file).read_text()
            self.files[file] = (text.splitlines(), _functions(ast.parse(text)))
        lines, names = self.files[file]
        return f"{Path(file).name}|{names[line]}|{lines[line - 1].strip()}" if line in names else ""


@dataclass
class Work:
    """What a forked process runs.

    Attributes:
        limit: seconds of its own computing, after which it ends by SIGXCPU; ten times as many by the clock, so that
            a busy machine stops nothing that a quiet one would not.
        then: told of the exit status (None for one that the clock stopped) and of its folder.
    """

    run: Callable[[Path], int]
    limit: float
    then: Callable[[int | None, Path], None]


def run_all(works: list[Work], jobs: int) -> None:
    """Run works in forked processes, `jobs` at once, each within its limits."""
    waiting, running = works[::-1], dict[int, tuple[Work, float, Path]]()
    while waiting or running:
        while waiting and len(running) < jobs:
            work = waiting.pop()
            folder = Path(tempfile.mkdtemp(prefix="mutate-"))

            def run(work: Work = work, folder: Path = folder) -> int:
                resource.setrlimit(resource.RLIMIT_CPU, (int(work.limit), int(work.limit) + 5))
                return work.run(folder)

            running[_forked(run, folder / "log")] = (work, time.monotonic() + 10 * work.limit, folder)
        time.sleep(0.02)
        for pid, (work, end, folder) in list(running.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            late = not done and time.monotonic() > end
            if not done and not late:
                continue
            with suppress(OSError):
                os.killpg(pid, signal.SIGKILL)
            if late:
                os.waitpid(pid, 0)
            work.then(None if late else os.waitstatus_to_exitcode(status), folder)
            shutil.rmtree(folder, ignore_errors=True)
            del running[pid]


def measured(jobs: int) -> list[Test]:
    """Return all tests that pass here, with what they run.

    Only test files are run for it that have changed, or that ran a line which vitft no longer has.
    """
    KEPT.mkdir(exist_ok=True)
    files, works = sorted((ROOT / "tests").glob("**/test_*.py")), []
    now = {(file.name, line.strip()) for file in PACKAGE.rglob("*.py") for line in file.read_text().splitlines()}
    for file in files:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        at = KEPT / (str(file.relative_to(ROOT)).replace("/", "+") + ".json")
        known: dict[str, Any] = json.loads(at.read_text()) if at.exists() else {"digest": ""}
        ran = {(line.split("|")[0], line.split("|", 2)[2]) for test in known.get("tests", ()) for line in test["lines"]}
        if known["digest"] == digest and ran <= now:
            continue

        def run(folder: Path, file: Path = file, at: Path = at, digest: str = digest) -> int:
            plugin = _Measure(folder)
            run_tests([str(file)], folder, plugin, most=100_000)
            plugin.save(at, digest)
            plugin.leave(0)  # does not return

        def told(status: int | None, folder: Path, file: Path = file) -> None:
            log = folder / "log"
            words = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
            print(f"measured {file.relative_to(ROOT)}: {words[-1] if words else status}", flush=True)

        works.append(Work(run, 1800, told))
    run_all(works, jobs)
    found = []
    for file in files:
        at = KEPT / (str(file.relative_to(ROOT)).replace("/", "+") + ".json")
        for test in json.loads(at.read_text())["tests"] if at.exists() else []:
            files_of = Counter(line.split("|")[0] for line in test["lines"])
            shares = {name: n / len(test["lines"]) for name, n in files_of.items()}
            found.append(Test(test["name"], test["seconds"], frozenset(test["lines"]), shares))
    return found


def warm() -> None:
    """Import what the tests import, so that a forked process need not."""
    for name in _WARM:
        with suppress(ImportError):
            importlib.import_module(name)


def freeze() -> None:
    """Let a fork walk and copy nothing of what was imported."""
    gc.collect()
    gc.freeze()
