"""What a suite will cost, before anything runs: a rough rule, by parameters and patches. No torch."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitft.catalog.models import MODELS
from vitft.catalog.tasks import by_name
from vitft.engines.suite import Leg
from vitft.models import places
from vitft.protocol.units import Job, tune_units

# Patch and native size of a file that no alias names.
_PATCH, _NATIVE = 16, 224


@dataclass(frozen=True)
class Estimate:
    """A rough cost.

    Attributes:
        units: fits to run, tuning included.
        train_images: images through a training step.
        test_images: images of the evaluations.
        flops: floating-point operations of all of it, by the rule of `estimate`.
    """

    units: int
    train_images: int
    test_images: int
    flops: float


def estimate(leg: Leg, jobs: Sequence[Job]) -> Estimate:
    """Return a rough cost: a forward pass is parameters x patches multiply-accumulates, a training step three of them.

    The rule leaves the attention products out (a tenth at 224 px, a fifth at 384), counts frozen layers as trained,
    and takes official test counts (none for data of the user's own, nor for a dev split); a file that says nothing of
    its patches is taken for patches of 16.
    """
    units = train = test = 0
    flops = 0.0
    for job in jobs:
        tuning = len(tune_units(job))
        fits = tuning + len(job.seeds)
        images = job.settings.steps * job.settings.batch_size * fits
        sizes = _sizes(job.name)
        tested = len(job.seeds) * sizes.get("test", 0) + tuning * sizes.get(job.scheme.tune_val, 0)
        macs = _macs(leg.model, job.settings.resolution)
        units, train, test = units + fits, train + images, test + tested
        flops += 2 * macs * (3 * images + tested)
    return Estimate(units, train, test, flops)


def _sizes(task: str) -> dict[str, int]:
    entry = by_name(task)
    pieces = entry.splits.items() if entry else ()
    return {name: sum(piece.stop - piece.start for piece in of_split) for name, of_split in pieces}


def _macs(model: str, resolution: Any) -> float:
    alias = MODELS.get(model)
    file = Path(places.split(model)[0]) if alias is None else alias.file
    parameters, patch, native = 86e6, _PATCH, _NATIVE
    if alias and alias.params:
        parameters, patch, native = 1e6 * alias.params, alias.patch_size, alias.resolution
    elif file is not None and file.is_file():
        parameters = file.stat().st_size / 4
        patch, native = _recorded(file)
    if resolution in ("native", "higher"):
        resolution = native * (12 / 7 if resolution == "higher" else 1)
    height, width = resolution if isinstance(resolution, list | tuple) else (resolution, resolution)
    return float(parameters * (height / patch) * (width / patch))


def _recorded(file: Path) -> tuple[int, int]:
    """Return patch and native side from the record vitft leaves in its own weight files, else the usual ones."""
    try:
        with file.open("rb") as weights:
            head = json.loads(weights.read(int.from_bytes(weights.read(8), "little")))
        record = json.loads(head["__metadata__"]["vitft"])["model"]
        return record["patch"][0], record["native"][0]
    except (OSError, ValueError, KeyError, TypeError, MemoryError, OverflowError):
        return _PATCH, _NATIVE
