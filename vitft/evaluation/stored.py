"""Runs compared by what they have stored: image by image, where their test images are the same. No torch."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path

from vitft.evaluation import predictions
from vitft.evaluation.intervals import paired
from vitft.results.files import PREDICTIONS
from vitft.results.folders import unit_folder
from vitft.results.schema import Comparison, RunResult

Named = tuple[str, RunResult, Path]
"""A run: how it is called, its result, its folder."""


def comparisons(runs: Sequence[Named]) -> tuple[list[Comparison], list[str]]:
    """Compare every two runs on the test images that both have answered, seed by seed.

    Returns:
        The comparisons, and a line for every two runs that cannot be compared, and why.

    Raises:
        DataDamaged: a file of predictions is (exit code 3).
    """
    found: list[Comparison] = []
    notes: list[str] = []
    for (a, first, one), (b, second, other) in combinations(runs, 2):
        if first.provenance.tested(first.task) != second.provenance.tested(second.task):
            notes.append(f"{a} and {b} were tested on different images: they are not compared in pairs.")
            continue
        files, others = dict(_files(first, one)), dict(_files(second, other))
        seeds = [seed for seed in files if seed in others and files[seed].exists() and others[seed].exists()]
        if not seeds:
            notes.append(f"{a} and {b} have no stored predictions of the same seed: they are not compared in pairs.")
        for seed in seeds:
            right, rights = predictions.load(files[seed]).correct, predictions.load(others[seed]).correct
            shown = seed if len(files) > 1 else None
            found.append(Comparison(a=a, b=b, seed=shown, **asdict(paired(right, rights))))
    return found, notes


def _files(result: RunResult, folder: Path) -> Iterator[tuple[int, Path]]:
    """Yield (seed, file of its predictions)."""
    if result.seeds is None or result.units is None:
        yield result.seed, folder / PREDICTIONS
        return
    for seed, unit in zip(result.seeds, result.units, strict=True):
        yield int(seed), unit_folder(folder, unit) / PREDICTIONS
