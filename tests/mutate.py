"""Tell how many small faults in the code that decides numbers the tests notice.

    uv run python -m tests.mutate --sample 400        # a score, and what nobody noticed
    uv run python -m tests.mutate --ids 4046fba7      # one mutant, with the tests' words
    uv run python -m tests.mutate images/cache.py     # all mutants of a module

Each mutant runs in a process forked from this one, which has torch and the like imported: only vitft, with one node
changed, and the tests are imported anew. A mutant meets the tests that run its line, then the rest of their files,
the likeliest first, until one fails, all pass, or their time is used up. What each test runs is measured once a test
file and kept in `.mutate/`.
"""

import argparse
import ast
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

from tests.forks import (
    APART,
    KEPT,
    PACKAGE,
    ROOT,
    Chosen,
    Mutated,
    Test,
    Work,
    failed,
    freeze,
    measured,
    run_all,
    run_tests,
    warm,
)
from tests.mutants import Mutant, mutants

EQUIVALENT = ROOT / "tests" / "equivalent_mutants.txt"
DECIDING = (
    "protocol/*.py", "training/*.py", "evaluation/*.py", "images/*.py", "prepare/collections/*.py", "device.py",
    "products.py", "data/vtab_splits.py", "data/label_rules.py", "data/official.py", "data/official_splits.py",
    "data/portions.py", "prepare/own_split.py", "models/adapters.py", "models/architecture.py", "models/build.py",
    "models/flops.py", "models/library.py", "models/methods.py", "models/npz.py", "models/posembed.py",
    "models/processor.py", "models/renaming.py", "models/memory.py", "engines/check.py", "engines/inline.py",
    "report/curve.py", "report/lines.py", "report/marks.py", "report/measured.py", "report/suite.py",
    "report/summary.py", "recipes.py", "settings.py",
)  # fmt: skip
_FIRST, _CHEAP = 8, 4.0
NOTICED, SURVIVED, IN_TIME, STOPPED = "noticed", "survived", "survived within its time", "stopped by the clock"

Found = tuple[ast.Module, Mutant]
Told = Callable[[Mutant, dict[str, str], str], None]


def chosen(mutant: Mutant, tests: list[Test], source: str) -> list[Test]:
    """Return the tests that meet a mutant, then the others of their files; of each, the likeliest first."""
    lines, name = source.splitlines(), Path(mutant.file).name
    hits: set[str] = set()
    for line in mutant.lines:
        key = f"{name}|{mutant.function}|{lines[line - 1].strip()}"
        hits = {t.name for t in tests if key in t.lines}
        if hits:
            break
    if not mutant.lines:  # a table, or a default of a class: whoever runs a line that names it
        tables = _tables(source, mutant.line)
        hits = {t.name for t in tests if not t.words.isdisjoint(tables)}
    if not hits and len(mutant.lines) != 1:  # else whoever runs the function, or the module
        start = f"{name}|{mutant.function}|" if mutant.lines else f"{name}|"
        hits = {t.name for t in tests if any(k.startswith(start) for k in t.lines)}
    met = sorted((t for t in tests if t.name in hits), key=lambda t: t.cost(name))
    files = {t.name.split("::")[0] for t in met}
    about = name if not mutant.lines else None  # what a table says may be met by a default
    rest = [t for t in tests if t.name not in hits and (t.name.split("::")[0] in files or about in t.shares)]
    return met + sorted(rest, key=lambda t: t.cost(name))


def _tables(source: str, line: int) -> list[str]:
    """Return the names that the assignment around a line gives a value."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.lineno <= line <= (node.end_lineno or 0):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found += [target.id for target in targets if isinstance(target, ast.Name)]
    return found


def score(found: list[Found], tests: list[Test], args: argparse.Namespace) -> int:
    """Run mutants, print what nobody noticed and the score, and keep both; return how many were not noticed."""
    reasons, log, before = equivalent(), KEPT / "log.jsonl", KEPT / "noticed.jsonl"
    kept = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    with before.open("a") as file:
        file.writelines(json.dumps({"id": entry["id"], "by": entry["by"]}) + "\n" for entry in kept if entry["by"])
    likely = {entry["id"]: entry["by"] for entry in map(json.loads, before.read_text().splitlines())}
    if not args.go_on:
        kept = []
        log.unlink(missing_ok=True)
    done = {entry["id"]: entry for entry in kept if entry["outcome"] == NOTICED}
    asked = [(tree, m) for tree, m in found if m.id not in reasons]
    outcome = {m.id: done[m.id] for _, m in asked if m.id in done}
    seen = {entry["id"] for entry in kept}
    began = time.monotonic()

    def told(mutant: Mutant, entry: dict[str, str], words: str) -> None:
        outcome[mutant.id] = entry
        with log.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        if args.ids:
            print(words[-6000:])
        if entry["outcome"] != NOTICED or args.ids:
            at = f"{len(outcome)}/{len(asked)} {time.monotonic() - began:.0f} s"
            print(f"{at} {entry['outcome']}: {_line(mutant)} {entry['by']}", flush=True)

    rest = [(tree, m) for tree, m in asked if m.id not in outcome]
    rest.sort(key=lambda f: f[1].id in seen)  # what nobody noticed comes again last
    apart = [test for test in tests if test.name.startswith(APART)]
    others = [test for test in tests if test not in apart]
    tried: dict[str, set[str]] = {}
    # Most are noticed by a test or two: the others wait, for the rest of their tests.
    for some, budget in ((others, min(_CHEAP, args.budget)), (others, args.budget), (apart, args.budget)):
        works = []
        for tree, m in rest:
            met = tried.setdefault(m.id, set())
            if m.id not in outcome or (outcome[m.id]["outcome"] == IN_TIME and some is others):
                works.append(work(tree, m, some, budget, told, likely.get(m.id, ""), met))
            elif outcome[m.id]["outcome"] != NOTICED and some is apart and chosen(m, apart, _source(m)):
                works.append(work(tree, m, some, budget, told))
        run_all(works, args.jobs)
    broken = failing_anyway({entry["by"] for entry in outcome.values() if entry["by"]})
    for entry in outcome.values():
        if entry["by"] in broken:
            entry["outcome"] = f"noticed only by '{entry['by']}', which fails anyway"
    missed = [m for _, m in asked if outcome[m.id]["outcome"] != NOTICED]
    (KEPT / "survivors.txt").write_text("".join(_line(m) + "\n" for m in missed))
    n = len(asked)
    share = 100 * (n - len(missed)) / n if n else 100.0
    print(f"{date.today()}: {n - len(missed)} of {n} mutants noticed ({share:.1f} %), {len(found) - n} more "
          f"are equivalent; {time.monotonic() - began:.0f} s. Survivors: .mutate/survivors.txt")  # fmt: skip
    for name in broken:
        print(f"fails without a mutant: {name}")
    return len(missed)


def work(
    tree: ast.Module,
    mutant: Mutant,
    tests: list[Test],
    budget: float,
    told: Told,
    likely: str = "",
    tried: set[str] | None = None,
) -> Work:
    """Return what one mutant has to run, and who is told of its outcome; the test that noticed it before runs first.

    Args:
        tried: names of tests that have met it already; those of this work are added.
    """
    tried = set() if tried is None else tried
    all_of_them = chosen(mutant, tests, _source(mutant))
    all_of_them.sort(key=lambda test: test.name.split("::")[1:] != likely.split("::")[1:])  # its file may have moved
    met: list[str] = []
    spent = 0.0
    for test in all_of_them:
        if test.name not in tried and (not met or spent + test.seconds <= budget):
            met.append(test.name)
            spent += test.seconds
    tried.update(met)
    whole = tried >= {test.name for test in all_of_them}

    def run(folder: Path) -> int:
        mutant.apply()
        name = mutant.file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        file = str(ROOT / mutant.file)
        sys.meta_path.insert(0, Mutated(name, file, compile(tree, file, "exec")))
        # Importing all files of these tests takes longer than most mutants live: the likeliest come alone, first.
        for some in (met[: 1 if likely else _FIRST], met[1 if likely else _FIRST :]):
            status = run_tests(sorted({n.split("::")[0] for n in some}), folder, Chosen(some, folder)) if some else 0
            if status not in (0, 5):
                break
        return status

    def then(status: int | None, folder: Path) -> None:
        # 0 all passed, 5 none was there to run; a crash has no test that fails. What computes too long may be a loop
        # without end, or tests that are slow here: that is for people to tell.
        by = "".join(failed(folder)[:1])
        unnoticed = SURVIVED if whole else IN_TIME
        stopped = status is None or status == -signal.SIGXCPU
        outcome = STOPPED if stopped else unnoticed if status in (0, 5) else NOTICED
        words = (folder / "log").read_text(errors="replace") if (folder / "log").exists() else ""
        told(mutant, {"id": mutant.id, "outcome": NOTICED if by else outcome, "by": by, "status": str(status)}, words)

    return Work(run, 40 + 3 * spent, then)


def _source(mutant: Mutant) -> str:
    return (ROOT / mutant.file).read_text()


def failing_anyway(names: set[str]) -> list[str]:
    """Return those of these tests that fail without a mutant: what they noticed counts for nothing."""
    apart = {name for name in names if name.startswith(APART)}
    return [test for some in (names - apart, apart) if some for test in _failing(sorted(some))]


def _failing(names: list[str]) -> list[str]:
    found: list[str] = []

    def run(folder: Path) -> int:
        return run_tests(sorted({n.split("::")[0] for n in names}), folder, Chosen(names, folder), most=100_000)

    def then(status: int | None, folder: Path) -> None:
        found.extend(failed(folder) if status is not None else names)

    run_all([Work(run, 1800, then)], 1)
    return found


def _line(mutant: Mutant) -> str:
    return f"{mutant.id}  {mutant.file}:{mutant.line} {mutant.function}  {mutant.what}"


def equivalent() -> dict[str, str]:
    """Return id -> reason of the mutants that are listed as changing nothing a test should notice."""
    lines = EQUIVALENT.read_text().splitlines() if EQUIVALENT.exists() else []
    return {line.split()[0]: line for line in lines if line.strip() and not line.startswith("#")}


def main() -> int:
    args = _arguments()
    os.chdir(ROOT)
    # As tests/conftest.py: before torch is imported.
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}
    files = sorted({file for p in args.modules or DECIDING for file in PACKAGE.glob(p.removeprefix("vitft/"))})
    found: list[Found] = []
    for file in files:
        tree, of_file = mutants(str(file.relative_to(ROOT)), file.read_text())
        found += [(tree, m) for m in of_file]
    if args.ids or args.survivors:
        lines = (KEPT / "survivors.txt").read_text().splitlines() if args.survivors else []
        wanted = args.ids.split(",") if args.ids else [line.split()[0] for line in lines]
        found = [(tree, m) for tree, m in found if m.id in wanted]
    if args.sample:
        # By the id, so that a sample keeps its mutants while other code changes.
        found.sort(key=lambda f: random.Random(f"{args.seed}{f[1].id}").random())
        found = found[: args.sample]
    print(f"{len(found)} mutants of {len(files)} modules", flush=True)
    if args.list:
        print("\n".join(_line(m) for _, m in found))
        return 0
    warm()
    tests = measured(args.jobs)
    freeze()
    return 1 if score(found, tests, args) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("modules", nargs="*", help="files of vitft; without any, those that decide numbers")
    parser.add_argument("--sample", type=int, help="so many mutants, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ids", help="mutants by id, with commas, and the words of the tests")
    parser.add_argument("--survivors", action="store_true", help="those that nobody noticed in the last run")
    parser.add_argument("--go-on", action="store_true", help="count what the log has as noticed, run the others")
    parser.add_argument("--list", action="store_true", help="show the mutants, run none")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--budget", type=float, default=60, help="seconds of tests a mutant at most")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
