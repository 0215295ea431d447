"""Units that train heads on one frozen network: features are computed once, and the heads trained as one.

Each of them has the result it would have alone: its own fit, its own evaluation, its own files.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vitft.evaluation.features import extract
from vitft.evaluation.predict import Batches
from vitft.images.batches import Images
from vitft.models.memory import Wish, planned
from vitft.models.methods import parameter_groups
from vitft.progress import Hooks
from vitft.protocol.units import Unit, alike
from vitft.protocol.warm import Features, Trained, Warm
from vitft.results.files import STATE, UPDATES, there
from vitft.results.folders import finished_unit, unit_folder
from vitft.settings import Settings
from vitft.training import heads, inputs, state
from vitft.training.fit import Compute, Fitted, fit
from vitft.training.schedule import learning_rate

_LARGEST = 1 << 30
"""Bytes of an evaluation's features that stay in memory between units."""


def fit_unit(
    unit: Unit,
    net: nn.Module,
    images: Images,
    settings: Settings,
    folder: Path,
    compute: Compute,
    hooks: Hooks,
    warm: Warm,
) -> Fitted:
    """Fit a unit, as one with those like it that are not finished, where that can be done. Raises as `fit`.

    A head that diverges is trained again by itself, and its own error is raised.

    Args:
        folder: the unit's folder in its run folder.
    """
    if folder not in warm.heads:
        run = folder.parents[2] if _trains_alone(compute, warm) else None
        warm.heads = _together(unit, net, images, settings, run, compute, hooks) if run else {}
    done = warm.heads.pop(folder, None)
    if done is None:
        groups = parameter_groups(net, settings)
        return fit(net, images, groups, settings, seed=unit.seed, folder=folder, compute=compute, hooks=hooks)
    linear, head = net.get_classifier(), done.head  # type: ignore[operator]
    with torch.no_grad():
        linear.weight.copy_(head.weight)
        linear.bias.copy_(head.bias)
    with state.Metrics(folder / UPDATES, keep=0) as metrics:
        for step, (loss, norm) in enumerate(zip(head.losses, head.norms, strict=True)):
            metrics.add({"step": step + 1, "loss": loss, "lr": learning_rate(settings, step), "grad_norm": norm})
    return Fitted(
        settings.steps, 0, head.losses[0], head.losses[-1], done.micro_batch, done.seconds,
        settings.steps * settings.batch_size, done.computed, 0.0, False,
        state.Saver(folder / STATE),
    )  # fmt: skip


def _trains_alone(compute: Compute, warm: Warm) -> bool:
    """Tell whether nothing but training is wanted of a fit, by this process alone."""
    return warm.alone and compute.group.size == 1 and compute.watch is None


def _together(
    unit: Unit, net: nn.Module, images: Images, settings: Settings, run: Path, compute: Compute, hooks: Hooks
) -> dict[Path, Trained]:
    """Train the heads of a unit and of those like it; empty where they are not to be trained as one."""
    linear = net.get_classifier()  # type: ignore[operator]
    left = [one for one in alike(unit) if finished_unit(run, one.id) is None]
    begun = any(there(unit_folder(run, one.id) / STATE) for one in left)
    if len(left) < 2 or begun or not isinstance(linear, nn.Linear) or linear.bias is None:
        return {}
    if not inputs.computes_once(net, settings):
        return {}
    if not heads.suitable(settings, len(left), linear.weight.numel()):
        return {}
    began = time.monotonic()
    micro_batch = planned(net, settings, images.device, compute.precision, Wish(compute.micro_batch)).micro_batch
    source = inputs.source(net, images, settings, compute.precision, micro_batch, hooks)
    assert isinstance(source, inputs.FeatureSource)

    def on_update(step: int) -> None:
        hooks.stop_if_asked()
        hooks.phase(f"train {len(left)} heads", step, settings.steps)

    each = [(settings.model_copy(update=_own(one)), one.seed) for one in left]
    trained = heads.train(linear, source, each, compute.precision, on_update)
    seconds = (time.monotonic() - began) / len(left)
    return {
        unit_folder(run, one.id): Trained(head, seconds, source.computed, micro_batch)
        for one, head in zip(left, trained, strict=True)
        if head.finite
    }


def _own(unit: Unit) -> dict[str, float]:
    return {"lr": unit.settings.lr, "weight_decay": unit.settings.weight_decay}


def evaluated(
    unit: Unit, net: nn.Module, batches: Batches, identity: tuple[object, ...], n: int, precision: str, warm: Warm
) -> tuple[nn.Module, Batches]:
    """Return the inputs of a unit's evaluation: the network and its images, or its head and their features.

    Features are computed once for all units that are like this one; in the same batches they give the same answers.

    Args:
        identity: what the features depend on, beside the network that is warm.
        n: images.
    """
    linear = net.get_classifier()  # type: ignore[operator]
    plain = warm.alone and warm.group.size == 1 and not unit.job.from_scratch
    same = unit.settings.method == "linear" and isinstance(linear, nn.Linear) and len(alike(unit)) > 1
    if not plain or not same or 4 * n * linear.in_features > _LARGEST:
        return net, batches
    key = (warm.key, warm.place, identity, precision)
    if warm.features is None or warm.features.key != key:
        warm.features = Features(key, *_features(net, batches, n, precision))
    features, rows = warm.features.values, warm.features.rows
    return inputs.FeatureClassifier(linear), [(indices, torch.from_numpy(features[indices])) for indices in rows]


def _features(
    net: nn.Module, batches: Batches, n: int, precision: str
) -> tuple[NDArray[np.float32], list[NDArray[np.int64]]]:
    """Return (n, D) features, and the rows of each batch."""
    rows: list[NDArray[np.int64]] = []

    def seen() -> Iterator[tuple[NDArray[np.int64], torch.Tensor]]:
        for indices, images in batches:
            rows.append(np.asarray(indices))
            yield rows[-1], images

    return extract(net, seen(), n, precision), rows
