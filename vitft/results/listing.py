"""What lies below a runs folder: which runs, how far each is, what can be deleted."""

import fcntl
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from vitft.errors import CheckpointError, UsageError
from vitft.results.files import RESULT, RUN, STATE, SUITE, UPDATES, WEIGHTS, damaged, read_json
from vitft.results.folders import lock

_DEPTH = 4

TELLING = ("lr", "resolution", "method", "steps", "batch_size", "per_class", "limit", "from_scratch")
"""What may tell runs of one task and recipe apart."""


@dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
        kind: "finetune" or "suite"; "?" where the folder does not say.
        task: or the suite's name.
        units: finished ones.
        top1: in [0, 1], over all seeds or tasks; None while there is none.
        settings: those that may tell runs of one task apart, by their keys; a resolution as "384" or "384x512".
        seeds: of the run.
        ci95, n: of top1; None where there is none, or of a suite.
        damaged: which of its files is damaged, in one line.
        changed: date and time, to the minute.
    """

    kind: str
    task: str
    model: str
    recipe: str
    settings: dict[str, str]
    seeds: tuple[int, ...]
    units: int
    complete: bool
    top1: float | None
    ci95: tuple[float, float] | None
    n: int | None
    damaged: str
    changed: str
    folder: str


@dataclass(frozen=True)
class UnitState:
    """One unit of a run; `step` is the last update that its log tells of, None before the first."""

    unit: str
    status: Literal["finished", "begun, state saved", "begun"]
    step: int | None
    top1: float | None
    changed: str


def run_folders(root: Path, depth: int = _DEPTH) -> Iterator[Path]:
    """Yield run folders at most four levels down, not looking inside of them."""
    if (root / RUN).is_file():
        yield root
    elif depth:
        try:
            inner = sorted(p for p in root.iterdir() if p.is_dir() and not p.is_symlink())
        except OSError:
            return
        for path in inner:
            yield from run_folders(path, depth - 1)


def runs(root: Path) -> list[Run]:
    """Return the runs below a folder, the newest first; a damaged one says so and does not hide the others."""
    found = []
    for folder in run_folders(root):
        try:
            found.append(run(folder))
        except CheckpointError as error:
            found.append(_run(folder, {}, damaged=error.lines[0]))
    return sorted(found, key=lambda one: one.changed, reverse=True)


def run(folder: Path) -> Run:
    """Return a run's facts and its number.

    Raises:
        UsageError: it is no run folder (exit code 2). CheckpointError: one of its files is damaged (exit code 4).
    """
    refuse_other(folder)
    run = read_json(folder / RUN) or {}
    answer = folder / (SUITE if run.get("kind") == "suite" else RESULT)
    result = read_json(answer)
    if result is None:
        return _run(folder, run)
    if run.get("kind") == "suite":
        mean = result.get("mean_of_tasks")
        mean = float(mean) if isinstance(mean, int | float) else None
        return _run(folder, run, complete=bool(result.get("complete")), top1=mean)
    one = _run(folder, run, complete=True, top1=_top1(result, answer))
    metrics, settings = _part(result, "metrics"), dict(one.settings)
    # What a sweep chose, and what a word like "higher" came to.
    settings |= _settings(_part(result, "recipe_settings")) | _settings(_part(result, "protocol"))
    ci95, n = metrics.get("ci95"), metrics.get("n")
    pair = (float(ci95[0]), float(ci95[1])) if isinstance(ci95, list) and len(ci95) == 2 else None
    return replace(one, settings=settings, ci95=pair, n=n if isinstance(n, int) else None)


def refuse_other(folder: Path) -> None:
    """Raise UsageError where a folder is no run folder."""
    if not (folder / RUN).is_file():
        raise UsageError(
            f"'{folder}' is no run folder.",
            "a folder with a run.json.",
            "Run 'vitft runs ls' to list them.",
        )


def _run(
    folder: Path, run: dict[str, object], *, complete: bool = False, top1: float | None = None, damaged: str = ""
) -> Run:
    kind = str(run.get("kind", "?"))
    return Run(
        kind=kind,
        task=str(run.get("suite" if kind == "suite" else "name", "?")),
        model=str(run.get("model", "?")),
        recipe=str(run.get("recipe", "?")),
        settings=_settings(_part(run, "settings")) | _settings(run),
        seeds=tuple(seeds) if isinstance(seeds := run.get("seeds"), list) else (),
        units=sum(1 for _ in folder.glob(f"units/*/*/{RESULT}")),
        complete=complete,
        top1=top1,
        ci95=None,
        n=None,
        damaged=damaged,
        changed=_changed(folder),
        folder=str(folder),
    )


def _part(run: Mapping[str, object], key: str) -> dict[str, object]:
    found = run.get(key)
    return found if isinstance(found, dict) else {}


def _settings(values: Mapping[str, object]) -> dict[str, str]:
    return {key: _as_text(value) for key in TELLING if (value := values.get(key)) not in (None, False)}


def _as_text(value: object) -> str:
    if isinstance(value, list):
        return "x".join(dict.fromkeys(map(str, value)))
    return "yes" if value is True else f"{value:g}" if isinstance(value, float) else str(value)


def _top1(result: dict[str, object], file: Path) -> float:
    metrics = result.get("metrics")
    top1 = metrics.get("top1") if isinstance(metrics, dict) else None
    if not isinstance(top1, int | float):
        raise damaged(f"'{file}' is damaged: it says nothing of metrics.top1")
    return float(top1)


def units(folder: Path) -> list[UnitState]:
    """Return the units of a run that were begun. Raises CheckpointError where a result is damaged."""
    paths = (path for path in sorted((folder / "units").glob("*/*")) if path.is_dir())
    return [_unit(path, str(path.relative_to(folder / "units"))) for path in paths]


def _unit(path: Path, name: str) -> UnitState:
    result = read_json(path / RESULT)
    if result is not None:
        # Few-shot has a number for each number of examples, none of them the unit's.
        top1 = None if result.get("kind") == "fewshot" else _top1(result, path / RESULT)
        return UnitState(name, "finished", _last_step(path), top1, _changed(path))
    saved = (path / STATE).exists()
    return UnitState(name, "begun, state saved" if saved else "begun", _last_step(path), None, _changed(path))


def _last_step(unit: Path) -> int | None:
    file = unit / UPDATES
    try:
        with file.open("rb") as metrics:
            metrics.seek(max(0, file.stat().st_size - 4096))
            lines = metrics.read().splitlines()
        return int(json.loads(lines[-1])["step"])
    except (OSError, IndexError, ValueError, KeyError):
        # Nothing written yet, or the last line is being written.
        return None


def _changed(folder: Path) -> str:
    times = [p.stat().st_mtime for p in (folder, *folder.glob("*.json"), *folder.glob(UPDATES))]
    return datetime.fromtimestamp(max(times)).astimezone().isoformat(" ", "minutes")[:16]


def at_work(folder: Path) -> bool:
    """Tell whether a process holds the run folder, or any of its shards."""
    for place in (folder / ".lock", *folder.glob("shards/*/.lock")):
        # Read and shared, as a run may lie on a file system that cannot be written.
        try:
            with place.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # deleted just now, not ours to read, or a file system without locks
            continue
    return False


def clean(folder: Path, *, weights: bool, dry: bool = False) -> tuple[list[str], int]:
    """Delete saved states, logs and what a write left behind; networks too, where that is wanted.

    Args:
        dry: delete nothing, and return what would be.

    Returns:
        The files that are gone, as paths inside the folder, and the bytes that this freed.

    Raises:
        UsageError: no run folder, or a process is at work in it (exit code 2).
    """
    refuse_other(folder)
    freed, deleted = 0, []
    with lock(folder):
        names = [STATE, *([WEIGHTS, "config.json"] if weights else [])]
        victims = [path for name in names for where in (name, f"units/*/*/{name}") for path in folder.glob(where)]
        victims += [*folder.glob("logs/*"), *folder.glob("units/*/*/.*.tmp"), *folder.glob(".*.tmp")]
        # A network may stand in two places by a hard link; its room is freed once.
        seen: set[int] = set()
        for path in victims:
            stat = path.stat()
            freed += 0 if stat.st_ino in seen else stat.st_size
            seen.add(stat.st_ino)
            if not dry:
                path.unlink()
            deleted.append(str(path.relative_to(folder)))
    return deleted, freed
