"""A run with several seeds, evaluated: every seed's network, their mean, and comparisons seed by seed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from statistics import fmean

from vitft.evaluation.evaluate import Evaluation
from vitft.evaluation.intervals import clipped, paired, t_interval
from vitft.evaluation.metrics import class_accuracy
from vitft.models import places
from vitft.results.files import RESULT, WEIGHTS, read_json
from vitft.results.folders import unit_folder
from vitft.results.parts import Metrics
from vitft.results.schema import ClassAccuracy, Comparison, EvalResult

Seed = int | None


def members(model: str) -> tuple[dict[Seed, str], str]:
    """Return the networks of a model by their seeds, and what a reader must know of that choice.

    A run with several seeds whose weights are all kept has one each; anything else is one network, without a seed.

    Raises:
        CheckpointError: the run's result.json is damaged (exit code 4).
    """
    path = Path(places.split(model)[0]).expanduser()
    run = places.run_folder(path)
    if run is None:
        return {None: model}, ""
    result = read_json(run / RESULT) or {}
    seeds, units = result.get("seeds"), result.get("units")
    if result.get("kind") != "finetune" or not isinstance(seeds, dict) or not isinstance(units, list | tuple):
        return {None: model}, ""
    files = {int(seed): unit_folder(run, unit) / WEIGHTS for seed, unit in zip(seeds, units, strict=True)}
    if path.is_dir() and all(file.is_file() for file in files.values()):
        return {seed: str(file.parent) for seed, file in files.items()}, f"all {len(files)} seeds of the run"
    why = "the file that was named" if not path.is_dir() else "the weights of the others are not all here"
    return {None: model}, f"seed {next(iter(files))} alone of the run's seeds {', '.join(map(str, files))}: {why}"


def over_seeds(metrics: Sequence[Metrics]) -> Metrics:
    """Return the means over seeds, with Student's t interval; what one of them lacks has none."""
    tops = [m.top1 for m in metrics]
    fives = [m.top5 for m in metrics if m.top5 is not None]
    reals = [m.real_top1 for m in metrics if m.real_top1 is not None]
    whole = len(reals) == len(metrics)
    return Metrics(
        top1=fmean(tops),
        n=metrics[0].n,
        ci95=clipped(t_interval(tops)),
        ci95_of="the mean over seeds",
        top5=fmean(fives) if len(fives) == len(metrics) else None,
        real_top1=fmean(reals) if whole else None,
        real_ci95=clipped(t_interval(reals)) if whole else None,
        real_n=metrics[0].real_n if whole else None,
    )


def combined(results: Mapping[Seed, EvalResult]) -> EvalResult:
    """Return one result for all seeds: means over them, with Student's t interval; class counts are sums."""
    first = next(iter(results.values()))
    if len(results) == 1:
        return first
    changed: dict[str, object] = {
        "metrics": over_seeds([r.metrics for r in results.values()]),
        "seeds": {str(seed): r.metrics for seed, r in results.items()},
    }
    among = [r.among_present for r in results.values() if r.among_present is not None]
    changed["among_present"] = over_seeds(among) if len(among) == len(results) else None
    if first.per_class is not None:
        columns = zip(*(r.per_class or () for r in results.values()), strict=True)
        changed["per_class"] = tuple(_summed(rows) for rows in columns)
    if first.confusion is not None:
        tables = [r.confusion or () for r in results.values()]
        changed["confusion"] = tuple(
            tuple(sum(counts) for counts in zip(*rows, strict=True)) for rows in zip(*tables, strict=True)
        )
    return first.model_copy(update=changed)


def _summed(rows: Sequence[ClassAccuracy]) -> ClassAccuracy:
    return class_accuracy(rows[0].class_name, sum(row.correct for row in rows), sum(row.n for row in rows))


def comparisons(done: Sequence[tuple[str, Mapping[Seed, Evaluation]]]) -> list[Comparison]:
    """Compare every two models on the same images, seed by seed where both have them; else with each seed."""
    found = []
    for (a, ones), (b, others) in combinations(done, 2):
        both = [(seed, seed) for seed in ones if seed in others]
        pairs = both or [(x, y) for x in ones for y in others if x is None or y is None]
        for x, y in pairs:
            shown = x if x is not None else y
            found.append(Comparison(a=a, b=b, seed=shown, **asdict(paired(ones[x].correct, others[y].correct))))
    return found
