"""`vitft runs`: what has been run, how far a run is, and making room."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from vitft.cli import after, console
from vitft.cli.options import FormatOption

app = typer.Typer(help="Runs: list, status, clean, mistakes, schema.", no_args_is_help=True, rich_markup_mode=None)

_Dir = Annotated[Path, typer.Argument(metavar="DIR", help="A run folder, as 'vitft runs ls' prints it.")]


@app.command("ls")
def ls(
    root: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="Where to look; default $VITFT_RUNS.")] = None,
    format: FormatOption = "text",
) -> None:
    """List the runs below the runs folder, the newest first."""
    from rich.table import Table

    from vitft.errors import UsageError
    from vitft.results.folders import runs_root

    where = root or runs_root()
    if root is not None and not root.is_dir():
        raise UsageError(f"There is no folder '{root}'.", "Legal: a folder with runs in it, or none for $VITFT_RUNS.")
    runs = sorted((_listed(folder) for folder in _folders(where)), key=lambda run: run["changed"], reverse=True)
    table = Table("task", "model", "recipe", "units", "top-1", "changed", "folder", box=None, pad_edge=False)
    for run in runs:
        top1 = f"{100 * run['top1']:.1f}" if run["top1"] is not None else "-"
        state = " (damaged)" if run["damaged"] else "" if run["complete"] else " (unfinished)"
        name = run["task"] + state
        table.add_row(name, run["model"], run["recipe"], str(run["units"]), top1, run["changed"], run["folder"])
    told = console.uncut(table) if runs else f"No runs in '{where}'."
    console.emit({"root": str(where), "runs": runs}, told, format)
    for run in runs:
        if run["damaged"]:
            console.note(f"note: {run['damaged']}")


@app.command("status")
def status(folder: _Dir, format: FormatOption = "text") -> None:
    """Say what of a run is finished, and how far the rest is."""
    from rich.table import Table

    _known(folder)
    units = [_unit(folder, path) for path in sorted((folder / "units").glob("*/*")) if path.is_dir()]
    table = Table("unit", "status", "step", "top-1", "changed", box=None, pad_edge=False)
    for unit in units:
        top1 = f"{100 * unit['top1']:.1f}" if unit["top1"] is not None else "-"
        table.add_row(unit["unit"], unit["status"], str(unit["step"] or "-"), top1, unit["changed"])
    payload = {**_run(folder), "at_work": _at_work(folder), "units": units}
    told = console.uncut(table) if units else f"Nothing has been begun in '{folder}'."
    console.emit(payload, told, format)
    if format == "text":
        busy = "a vitft process is at work on it" if payload["at_work"] else "nobody is at work on it"
        done = "finished" if payload["complete"] else "unfinished"
        console.note(f"{payload['task']} with {payload['model']}, recipe {payload['recipe']}: {done}; {busy}.")


@app.command("clean")
def clean(
    folder: _Dir,
    weights: Annotated[bool, typer.Option("--weights", help="Delete fine-tuned networks too.")] = False,
    format: FormatOption = "text",
) -> None:
    """Delete what results do not need. Saved states of unfinished units, logs, and, on request, weights.

    Results, metrics and predictions stay. A unit whose state is deleted starts from its beginning.
    """
    from vitft.results.files import WEIGHTS
    from vitft.results.folders import lock

    _known(folder)
    freed, deleted = 0, []
    with lock(folder):
        names = ["state.pt", *([WEIGHTS, "config.json"] if weights else [])]
        victims = [path for name in names for where in (name, f"units/*/*/{name}") for path in folder.glob(where)]
        victims += [*folder.glob("logs/*"), *folder.glob("units/*/*/.*.tmp"), *folder.glob(".*.tmp")]
        # A network may stand in two places by a hard link; its room is freed once.
        seen: set[int] = set()
        for path in victims:
            stat = path.stat()
            freed += 0 if stat.st_ino in seen else stat.st_size
            seen.add(stat.st_ino)
            path.unlink()
            deleted.append(str(path.relative_to(folder)))
    payload = {"folder": str(folder), "deleted": deleted, "bytes": freed}
    console.emit(payload, f"{folder}: {len(deleted)} files deleted, {freed / 1e6:.1f} MB freed.", format)


@app.command("schema")
def schema() -> None:
    """Print the JSON Schema of all result files. A file is one of its 'anyOf'."""
    from vitft.results.schema import json_schema

    console.emit(json_schema(), "", "json")


app.command("mistakes")(after.mistakes)


def _folders(root: Path) -> Iterator[Path]:
    """Yield run folders at most four levels down, not looking inside of them."""

    def walk(folder: Path, depth: int) -> Iterator[Path]:
        if (folder / "run.json").is_file():
            yield folder
        elif depth:
            try:
                inner = sorted(p for p in folder.iterdir() if p.is_dir() and not p.is_symlink())
            except OSError:
                return
            for path in inner:
                yield from walk(path, depth - 1)

    yield from walk(root, 4)


def _known(folder: Path) -> None:
    from vitft.errors import UsageError

    if not (folder / "run.json").is_file():
        raise UsageError(
            f"'{folder}' is no run folder.",
            "Legal: a folder with a run.json.",
            "Run 'vitft runs ls' to list them.",
        )


def _listed(folder: Path) -> dict[str, Any]:
    """Return a run's line; one that is damaged says so and does not hide the others."""
    from vitft.errors import CheckpointError

    try:
        return _run(folder)
    except CheckpointError as error:
        return _line(folder, {}) | {"damaged": error.lines[0]}


def _run(folder: Path) -> dict[str, Any]:
    """Return what a run is and what it found. Raises CheckpointError where one of its files is damaged."""
    from vitft.results.files import read_json

    run = read_json(folder / "run.json") or {}
    answer = folder / ("suite.json" if run.get("kind") == "suite" else "result.json")
    result = read_json(answer)
    if result is None:
        return _line(folder, run)
    if run.get("kind") == "suite":
        return _line(folder, run) | {"complete": bool(result.get("complete")), "top1": result.get("mean_of_tasks")}
    return _line(folder, run) | {"complete": True, "top1": _top1(result, answer)}


def _line(folder: Path, run: dict[str, Any]) -> dict[str, Any]:
    kind = str(run.get("kind", "?"))
    return {
        "kind": kind,
        "task": str(run.get("suite" if kind == "suite" else "name", "?")),
        "model": str(run.get("model", "?")),
        "recipe": str(run.get("recipe", "?")),
        "units": sum(1 for _ in folder.glob("units/*/*/result.json")),
        "complete": False,
        "top1": None,
        "damaged": "",
        "changed": _changed(folder),
        "folder": str(folder),
    }


def _top1(result: dict[str, Any], file: Path) -> float:
    from vitft.results.files import damaged

    try:
        return float(result["metrics"]["top1"])
    except (KeyError, TypeError, ValueError):
        raise damaged(f"'{file}' is damaged: it says nothing of metrics.top1") from None


def _unit(folder: Path, path: Path) -> dict[str, Any]:
    from vitft.results.files import read_json

    result = read_json(path / "result.json")
    step = _last_step(path / "metrics.jsonl")
    state = "finished" if result is not None else "begun, state saved" if (path / "state.pt").exists() else "begun"
    return {
        "unit": str(path.relative_to(folder / "units")),
        "status": state,
        "step": step,
        "top1": None if result is None else _top1(result, path / "result.json"),
        "changed": _changed(path),
    }


def _last_step(file: Path) -> int | None:
    try:
        with file.open("rb") as metrics:
            metrics.seek(max(0, file.stat().st_size - 4096))
            lines = metrics.read().splitlines()
        return int(json.loads(lines[-1])["step"])
    except (OSError, IndexError, ValueError, KeyError):
        # Nothing written yet, or the last line is being written.
        return None


def _changed(folder: Path) -> str:
    from datetime import datetime

    times = [p.stat().st_mtime for p in (folder, *folder.glob("*.json"), *folder.glob("metrics.jsonl"))]
    return datetime.fromtimestamp(max(times)).astimezone().isoformat(" ", "minutes")[:16]


def _at_work(folder: Path) -> bool:
    """Tell whether a process holds the run folder, or any of its shards."""
    import fcntl

    for lock in (folder / ".lock", *folder.glob("shards/*/.lock")):
        # Read and shared, as a run may lie on a file system that cannot be written.
        with suppress(FileNotFoundError, PermissionError), lock.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    return False
