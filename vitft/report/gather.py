"""All results below some folders, of any kind. No torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vitft.errors import CheckpointError, DataMissing, rebuilt
from vitft.report import in_suites, measured
from vitft.report.measured import Measured
from vitft.results.files import RESULT, RUN, SUITE, read_json
from vitft.results.reading import load, parse, parse_any
from vitft.results.schema import EvalResult, FewshotResult, RunResult, SuiteResult, UnitResult

_Result = UnitResult | EvalResult | FewshotResult

_SHOWN = 3
_DEPTH = 8
_LIST = "Run 'vitft runs ls' to list your runs."


@dataclass(frozen=True)
class Gathered:
    """What lies below some folders.

    Attributes:
        numbers: of all results, in the order of the folders.
        folders: how many runs, suites, evaluations and few-shot results they are from.
        unfinished: run folders that have no result yet.
    """

    numbers: tuple[Measured, ...]
    folders: int
    unfinished: tuple[Path, ...]


def gather(places: Sequence[Path]) -> Gathered:
    """Read every result at or below some folders; a folder that is named twice counts once.

    Raises:
        DataMissing: there is no such folder, or no result below one (exit code 3).
        CheckpointError: result files are damaged; all of them are named at once (exit code 4).
    """
    numbers: list[Measured] = []
    damaged: list[CheckpointError] = []
    unfinished: list[Path] = []
    every, empty = every_folder(places)
    for folder in every:
        own, wrong = _read(folder)
        numbers += own
        damaged += wrong
        if not own and not wrong:
            unfinished.append(folder)
    if damaged:
        raise _all_damaged(damaged)
    if empty or not numbers:
        raise no_results(empty or places, unfinished)
    return Gathered(tuple(in_suites.joined(numbers)), len(every) - len(unfinished), tuple(unfinished))


def every_folder(places: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return the folders of results at or below some folders, each once, and those of `places` that hold none.

    Raises:
        DataMissing: there is no such folder (exit code 3).
    """
    found: dict[Path, Path] = {}
    empty: list[Path] = []
    for place in places:
        if not place.is_dir():
            raise DataMissing(
                f"There is no folder '{place}'.",
                "folders with runs, suites, evaluations or few-shot results in them.",
                _LIST,
            )
        inside = list(folders(place))
        empty += [] if inside else [place]
        for folder in inside:
            found.setdefault(folder.resolve(), folder)
    return list(found.values()), empty


def no_results(places: Sequence[Path], unfinished: Sequence[Path], more: str = "") -> DataMissing:
    """Return the error for folders that hold no result; `more` is a further line."""
    where = ", ".join(f"'{place}'" for place in places)
    begun = f"; unfinished: '{unfinished[0]}'" if unfinished else ""
    legal = "folders of 'vitft finetune', 'sweep', 'vtab', 'suite', and of 'eval' and 'fewshot' with --output."
    return DataMissing(f"No results in {where}{begun}{more}.", legal, _LIST)


def folders(root: Path, depth: int = _DEPTH) -> Iterator[Path]:
    """Yield the folders of results at or below `root`, not looking inside of runs."""
    names = {path.name for path in root.iterdir()} if depth else set()
    if names & {RUN, RESULT, SUITE}:
        yield root
    if names & {RUN, "units"}:
        # A suite of several models may keep a run folder for each of them.
        names -= {"units", "logs", "shards"}
    for name in sorted(names):
        path = root / name
        if path.is_dir() and not path.is_symlink():
            yield from folders(path, depth - 1)


def _read(folder: Path) -> tuple[list[Measured], list[CheckpointError]]:
    """Return the numbers of one folder, or what is wrong with its files."""
    damaged: list[CheckpointError] = []
    units: list[tuple[_Result, Path]] = []
    for path in sorted((folder / "units").glob(f"**/{RESULT}")):
        try:
            units.append((parse_any(_json(path), f"'{path}'", UnitResult), path.parent))
        except CheckpointError as error:
            damaged.append(error)
    finals = any(not isinstance(unit, UnitResult) or unit.phase == "final" for unit, _ in units)
    try:
        return ([] if damaged else _numbers(folder, units) if finals else _top(folder)), damaged
    except CheckpointError as error:
        return [], [*damaged, error]


def _numbers(folder: Path, units: Sequence[tuple[_Result, Path]]) -> list[Measured]:
    out = [_at(one, place) for unit, place in units for one in measured.of_any(unit, place)]
    run = read_json(folder / RUN) or {}
    if run.get("kind") == "suite":
        return in_suites.placed(run, out)
    if run.get("kind") != "sweep":
        return out
    # Where all settings were tested, the others were tried for the one that was chosen, as on val.
    result = load(folder / RESULT, RunResult)
    if result is None:
        return []
    chosen = [folder / "units" / name for name in result.units or (result.unit or ".",)]
    return [replace(one, tuning=one.tuning or Path(one.file) not in chosen) for one in out]


def _top(folder: Path) -> list[Measured]:
    """Read result.json or suite.json of a folder without units, or of an evaluation."""
    result = folder / RESULT
    if result.is_file():
        return [_at(one, folder) for one in measured.of_any(parse_any(_json(result), f"'{result}'", RunResult), folder)]
    suite = folder / SUITE
    if suite.is_file():
        return [_at(one, folder) for one in measured.of_suite(parse(_json(suite), SuiteResult, f"'{suite}'"))]
    return []


def _at(one: Measured, place: Path) -> Measured:
    return replace(one, file=str(place))


def _json(path: Path) -> dict[str, object]:
    value = read_json(path)
    assert value is not None, path
    return value


def _all_damaged(errors: Sequence[CheckpointError]) -> CheckpointError:
    if len(errors) == 1:
        return errors[0]
    first = "; ".join(error.lines[0].removesuffix(".") for error in errors[:_SHOWN])
    more = f"; and {len(errors) - _SHOWN} more" if len(errors) > _SHOWN else ""
    what = f"{len(errors)} result files are damaged: {first}{more}."
    return rebuilt(CheckpointError, (what, *errors[0].lines[1:]))
