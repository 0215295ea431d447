"""Run folders on disk.

<run folder>/
  run.json                      what this run is: the settings that decide its numbers
  result.json                   the run's answer, written last
  units/<task>/data.json        names, sizes and times of the files it was made of
  units/<task>/seen-*           digests of the images that a choice was made on
  units/<unit id>/
    metrics.jsonl               one line an update: step, loss, lr, grad_norm; val_top1, val_loss, val_n where val
                                was looked at (--val-every)
    state.pt                    to go on after a kill; removed when the unit is finished
    weights.safetensors         network and head (`--save-weights`, and every single fine-tune)
    config.json                 beside weights: what timm needs to load the folder by itself
    head.safetensors            the head alone, where the network is not kept
    predictions.parquet         key, label, best five classes, their probabilities, names, of the final evaluation
    result.json                 the unit's answer; its presence is the truth
    lost.json                   of a unit of a grid: why its training came to nothing
"""

import json
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO

from vitft import machine
from vitft.errors import CheckpointError, RunFolderOccupied, UsageError, VitftError
from vitft.progress import Hooks
from vitft.results.files import (
    HEAD,
    PREDICTIONS,
    RESULT,
    RUN,
    SUITE,
    UPDATES,
    WEIGHTS,
    cannot_write,
    damaged,
    read_json,
    write_json,
)
from vitft.results.reading import load
from vitft.results.schema import SCHEMA_VERSION, Lost, UnitResult
from vitft.settings import Settings
from vitft.world import restarts

# What a run leaves at the top of its folder, besides run.json.
SHOWN = (WEIGHTS, HEAD, "config.json", PREDICTIONS)
"""A unit's files that its run folder shows too."""

_ANSWERS = (RESULT, SUITE, *SHOWN)


def runs_root() -> Path:
    """Return $VITFT_RUNS, or runs/ in the current folder."""
    return Path(os.environ.get("VITFT_RUNS") or "runs")


def default_folder(task: str, model: str, sha256: str, recipe: str, identity: Mapping[str, object]) -> Path:
    """Return where a run goes without --output: `<runs>/<task>/<model>-<sha8>/<recipe>-<hash8>`.

    Args:
        model: a short name of it.
        sha256: of its file, "" for one that is no file here.
        identity: what decides the run's numbers.
    """
    checkpoint = slug(model) + f"-{sha256[:8]}" * bool(sha256)
    return runs_root() / slug(task) / checkpoint / f"{slug(recipe)}-{machine.digest(identity)[:8]}"


def slug(text: str) -> str:
    """Return `text` as a file name: letters, digits, dot, dash and underscore."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "x"


def beside(output: Path, names: Sequence[str]) -> list[Path]:
    """Return where each of several models' files go below `--output`; `output` itself where there is one."""
    if len(names) == 1:
        return [output]
    return [output / f"{i}-{slug(Path(name).stem)}" for i, name in enumerate(names, 1)]


def claim(folder: Path, identity: Mapping[str, object], *, overwrite: bool, resume: bool) -> None:
    """Make a folder this run's own: new, or the same run's to go on with.

    Args:
        identity: what decides the numbers; stored as run.json and compared key by key.
        overwrite: throw away what another (or the same) run left.
        resume: go on with the same run's units; False = start them anew.

    Raises:
        RunFolderOccupied: other settings live here (exit code 2); nothing is touched.
    """
    wanted = json.loads(json.dumps({"schema_version": SCHEMA_VERSION, **identity}))
    known = _known(folder / RUN, overwrite)
    if known:
        known = _today(known)
    if known is None and folder.is_dir() and any(p for p in folder.iterdir() if p.name != ".lock"):
        raise RunFolderOccupied(
            f"Folder '{folder}' holds files that no run of vitft left.",
            "an empty or new folder, or one of the same run.",
            "Choose another with --output; --overwrite does not delete them either.",
        )
    if known is not None and known != wanted and not overwrite:
        keys = differing(known, wanted)
        raise RunFolderOccupied(
            f"Folder '{folder}' holds another run: {'; '.join(keys[:6])}{' ...' * (len(keys) > 6)}.",
            "the same settings (goes on), or another folder.",
            "Choose one with --output, or start anew here with --overwrite.",
        )
    if known is not None and (overwrite or not resume):
        shutil.rmtree(folder / "units", ignore_errors=True)
        for name in _ANSWERS:
            (folder / name).unlink(missing_ok=True)
    if known != wanted:
        write_json(folder / RUN, wanted)


def _today(known: Mapping[str, object]) -> dict[str, object]:
    """Return an earlier vitft's run.json in today's form: settings that are newer take their defaults."""
    out = {**known, "schema_version": SCHEMA_VERSION}
    settings = known.get("settings")
    if isinstance(settings, dict):
        out["settings"] = {**Settings().model_dump(mode="json"), **settings}
        out.setdefault("seen", {})
    return out


def _known(path: Path, overwrite: bool) -> dict[str, object] | None:
    """Read run.json; an empty one for a damaged one where the run starts anew."""
    try:
        known = read_json(path)
        if known is None or "kind" in known:
            return known
        raise damaged(f"'{path}' is damaged: it does not say what run this is")
    except CheckpointError as error:
        if overwrite:
            return {}
        anew = "Start anew here with --overwrite, or choose another folder with --output."
        raise damaged(error.lines[0].removesuffix("."), anew) from None


def differing(known: Mapping[str, object], wanted: Mapping[str, object], prefix: str = "") -> list[str]:
    """Return "key: there -> here" for every leaf that differs."""
    lines: list[str] = []
    for key in sorted({*known, *wanted}):
        a, b = known.get(key), wanted.get(key)
        if a == b:
            continue
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differing(a, b, f"{prefix}{key}.")
        else:
            lines.append(f"{prefix}{key}: {a} there, {b} here")
    return lines


CLAIM_S = 30.0
"""How long a shard waits for another to claim the folder, which takes a moment."""

LEASE_S = 120.0
"""How long the folder of a process that died with its machine is waited for: Linux's NFS servers let go of the locks of
a machine that they hear nothing of after 90 s."""

_LOOK_EVERY_S = 0.2


@contextmanager
def lock(
    folder: Path,
    *,
    shards: bool = True,
    wait: float = 0.0,
    on_shards: Callable[[str], None] | None = None,
    note: Callable[[str], None] | None = None,
    watched: Callable[[], AbstractContextManager[Hooks]] = lambda: nullcontext(Hooks()),
) -> Iterator[None]:
    """Hold a folder against a second vitft process; the kernel lets go of it when this one dies, however it dies.

    Args:
        shards: hold the places of all shards in it, too.
        wait: seconds to wait for the folder itself.
        on_shards: called once where shards are at work, whose end is then waited for; None = that is refused.
        note: called once where torchrun or Slurm has started this command again, which then waits `LEASE_S`, as the one
            before may have died with its machine; None = it does not.
        watched: opens what shows and stops long work; only where it waits.

    Raises:
        Interrupted: while it waited (exit code 130, 143 or 75).
        UsageError: the folder is a file, or another process works there (exit code 2).
    """
    if folder.is_file():
        raise UsageError(f"--output '{folder}' is a file.", "a new folder, or one of an earlier run.")
    again = LEASE_S if note is not None and restarts() else 0.0
    until, noted = time.monotonic() + max(wait, again), False
    hooks: Hooks | None = None
    with ExitStack() as waiting:
        while True:
            with ExitStack() as held:
                free, busy = _taken(folder, shards, held)
                if free and not busy:
                    if hooks is not None:
                        hooks.stop_if_asked()
                    waiting.close()
                    yield
                    return
            holder = _holder(folder / "shards" / busy[0] if free else folder)
            if free and on_shards is not None:
                # Let go of meanwhile, so that more shards can come.
                until = time.monotonic() + wait
                if not noted:
                    which = ", ".join(busy).replace("-of-", "/")
                    on_shards(f"Shard {which} at work in '{folder}': waiting for its end.")
                noted = True
            elif time.monotonic() >= until:
                raise UsageError(
                    f"Another vitft process is at work in '{folder}'{holder}.",
                    "one process a run folder, or several with --shard or below torchrun.",
                    "Wait for it, or choose another folder with --output.",
                )
            elif note is not None and again and not noted:
                note(f"Started again while '{folder}' is held{holder}: waiting {again:.0f} s, as it may have died.")
                noted = True
            hooks = hooks or waiting.enter_context(watched())
            hooks.stop_if_asked()
            time.sleep(_LOOK_EVERY_S)


def _taken(folder: Path, shards: bool, held: ExitStack) -> tuple[bool, list[str]]:
    """Lock a folder and its shards as long as `held` is open; return whether it was free, and which shards were not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held.callback(_remove_empty, folder)
        own = held.enter_context((folder / ".lock").open("a"))
        places = sorted(folder.glob("shards/*/.lock")) if shards else []
        files = [held.enter_context(path.open("a")) for path in places]
    except OSError as error:
        raise cannot_write(folder, error) from None
    free = machine.locked(own)
    busy = [path.parent.name for path, file in zip(places, files, strict=True) if not machine.locked(file)]
    if free and not busy:
        _sign(own)
    return free, busy


def _remove_empty(folder: Path) -> None:
    """Remove a folder whose lock was deleted while it was held: NFS keeps a file in it until the lock is closed."""
    with suppress(OSError):
        folder.rmdir()


def _sign(file: IO[str]) -> None:
    """Write into a lock who holds it, for those who find it taken, perhaps on another machine."""
    with suppress(OSError):
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        os.fsync(file.fileno())


def _holder(folder: Path) -> str:
    """Return who holds a lock, in brackets; "" where it does not say so."""
    with suppress(OSError, UnicodeDecodeError):
        text = (folder / ".lock").read_text()
        return f" ({text})" if re.fullmatch(r"process \d+ on \S+", text) else ""
    return ""


@contextmanager
def nothing_left_behind(folder: Path) -> Iterator[None]:
    """Remove what a run that failed before its first update has written: a mistyped name leaves no folder."""
    fresh = not (folder / RUN).exists()
    try:
        yield
    except VitftError:
        if fresh and not any(folder.rglob(UPDATES)) and not any(folder.rglob(RESULT)):
            for name in ("units", "logs"):
                shutil.rmtree(folder / name, ignore_errors=True)
            for path in (folder / RUN, folder / ".lock"):
                path.unlink(missing_ok=True)
            ours = [folder, *(p for p in folder.parents if p == runs_root() or runs_root() in p.parents)]
            for path in ours:
                if path.is_dir() and not any(path.iterdir()):
                    path.rmdir()
        raise


SEEN = "seen-"
"""How the names of the files begin that keep what a task was tuned on."""


def task_folder(folder: Path, task: str) -> Path:
    """Return where the units of a task live, and what they share."""
    return folder / "units" / slug(task)


def unit_folder(folder: Path, unit_id: str) -> Path:
    """Return where a unit of a run lives."""
    return folder / "units" / unit_id


def finished_unit(folder: Path, unit_id: str) -> UnitResult | None:
    """Return a unit's result, or None while it is not finished. Raises CheckpointError: it is damaged."""
    return load(unit_folder(folder, unit_id) / RESULT, UnitResult)


LOST = "lost.json"
"""A unit's file that says why it has no result and will have none."""


def lost_unit(folder: Path, unit_id: str) -> Lost | None:
    """Return why a unit came to nothing, or None where it did not. Raises CheckpointError: it is damaged."""
    return load(unit_folder(folder, unit_id) / LOST, Lost)


def collect(folder: Path) -> dict[Path, UnitResult]:
    """Return the folders of all finished units below a run folder, sorted by unit id, and their results.

    Raises:
        CheckpointError: one of them is damaged (exit code 4).
    """
    files = sorted((folder / "units").glob(f"**/{RESULT}"))
    results = {path.parent: load(path, UnitResult) for path in files}
    return {place: result for place, result in results.items() if result is not None}
