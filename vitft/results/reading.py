"""Result files read back, of this version and of the one before."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from vitft.errors import CheckpointError
from vitft.results.files import damaged, read_json
from vitft.results.schema import SCHEMA_VERSION, EvalResult, FewshotResult, UnitResult
from vitft.words import uncapitalised

T = TypeVar("T", bound=BaseModel)
F = TypeVar("F", bound=UnitResult)

# Fields of version 1 that an evaluation had and that say nothing of it.
_EMPTY = ("recipe", "method", "phase", "seed")


def load(path: Path, kind: type[T]) -> T | None:
    """Read a file that holds a `kind`; None where there is no such file.

    Raises:
        CheckpointError: it is damaged (the fields are named), or of a later vitft (exit code 4).
    """
    value = read_json(path)
    return None if value is None else parse(value, kind, f"'{path}'")


def parse(value: Mapping[str, object], kind: type[T], where: str, action: str | None = None) -> T:
    """Turn a JSON object into a `kind`.

    Args:
        where: names its place in an error, e.g. "'runs/x/result.json'".
        action: what to do about a damaged one.

    Raises:
        CheckpointError: see `load`.
    """
    version = value.get("schema_version", SCHEMA_VERSION)
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise CheckpointError(
            f"{where} is of a later vitft (schema_version {version}).",
            f"schema_version up to {SCHEMA_VERSION}.",
            "Update vitft.",
        )
    try:
        return kind.model_validate(upgrade(value))
    except ValidationError as error:
        message = f"{where} is damaged: {faults_in(error)}"
    raise damaged(message, action) if action else damaged(message)


def parse_any(value: Mapping[str, object], where: str, fit: type[F]) -> F | EvalResult | FewshotResult:
    """Turn a JSON object into a result of its kind; a fine-tune's into `fit`, UnitResult or RunResult. As `parse`."""
    if value.get("kind") == "eval":
        return parse(value, EvalResult, where)
    return parse(value, FewshotResult, where) if value.get("kind") == "fewshot" else parse(value, fit, where)


def faults_in(error: ValidationError) -> str:
    """Return what is wrong with a JSON object, with the names of its fields."""
    errors = error.errors(include_url=False)
    absent = [".".join(map(str, e["loc"])) for e in errors if e["type"] == "missing"]
    if absent:
        return f"it says nothing of {', '.join(absent)}"
    wrong = [f"{'.'.join(map(str, e['loc']))} is {e['input']!r}, {uncapitalised(e['msg'])}" for e in errors]
    return "; ".join(wrong[:4]) + "; ..." * (len(wrong) > 4)


def upgrade(value: Mapping[str, object]) -> dict[str, object]:
    """Return a result of schema version 1 as one of version 2; anything else as it is.

    Version 1 wrote resolutions as "384" or "224x320", and nulls for what an evaluation does not have.
    """
    out, protocol, seeds = dict(value), value.get("protocol"), value.get("seeds")
    if out.get("schema_version") != 1 or not isinstance(protocol, dict):
        return out
    out["schema_version"] = SCHEMA_VERSION
    out["protocol"] = _sized(protocol)
    if out.get("kind") == "suite":
        sizes, tasks = out.get("resolutions", {}), out.get("tasks", {})
        out["resolutions"] = {t: _size(size) for t, size in sizes.items()} if isinstance(sizes, dict) else sizes
        out["tasks"] = {t: _sized(entry) for t, entry in tasks.items()} if isinstance(tasks, dict) else tasks
    if out.get("kind") == "eval":
        out = {key: inner for key, inner in out.items() if key not in _EMPTY}
    if isinstance(seeds, dict) and out.get("kind") != "suite":
        out["seeds"] = {str(seed): metrics for seed, metrics in seeds.items()}
    return out


def _sized(part: object) -> object:
    if not isinstance(part, dict) or "resolution" not in part:
        return part
    return {**part, "resolution": _size(part["resolution"])}


def _size(value: object) -> object:
    if not isinstance(value, str):
        return value
    sides = [int(side) if side.isdecimal() else side for side in value.split("x")]
    return sides * 2 if len(sides) == 1 else sides
