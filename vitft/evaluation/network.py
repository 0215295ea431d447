"""A checkpoint made ready to answer: its network on a device, and its own way of preparing images."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitft import device as devices
from vitft.catalog import tasks
from vitft.catalog.stamps import MEAN_STD
from vitft.data import labels, lists
from vitft.data.split import Split
from vitft.errors import CheckpointError, DataError, UsageError
from vitft.evaluation import onnx_network, request
from vitft.evaluation.class_names import translated
from vitft.models import build as models
from vitft.models import loading
from vitft.models.checkpoint import Checkpoint
from vitft.models.declared import Declared
from vitft.models.methods import classifiers
from vitft.results.checkpoint import CheckpointInfo
from vitft.results.files import RESULT
from vitft.results.parts import Computed
from vitft.results.reading import load
from vitft.results.schema import RunResult
from vitft.settings import Preprocess, Settings, checked

_NORMALISE = {**MEAN_STD, "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))}


@dataclass(frozen=True)
class Network:
    """A network in evaluation mode.

    Attributes:
        net: on `device`.
        info: of the checkpoint, as built.
        class_names, descriptions: of the head's outputs; empty where the file does not know them.
        settings: the recipe keys of `request.SETTABLE`, decided.
        preprocess: how images become its inputs.
        precision: "float32" or "bf16".
    """

    net: nn.Module
    info: CheckpointInfo
    class_names: tuple[str, ...]
    settings: Settings
    preprocess: Preprocess
    device: torch.device
    precision: str
    descriptions: tuple[str, ...] = ()

    @property
    def made_of(self) -> dict[str, object]:
        """What was made of the checkpoint's tensors, for the identity of cached features."""
        arch = self.info.architecture
        return {
            "architecture": arch.name,
            "kwargs": dict(arch.kwargs),
            "part": self.info.part,
            "norm_eps": arch.norm_eps,
            "activation": arch.activation,
            "posembed_resize": self.settings.posembed_resize,
            "gelu": arch.gelu,
        }

    @property
    def protocol(self) -> dict[str, object]:
        """What must be equal for two evaluations to be comparable; the id of a protocol is its digest."""
        pp, s = self.preprocess, self.settings
        crop_pct = pp.crop_pct if pp.resize == "checkpoint" else None
        return {
            "resolution": list(pp.size),
            "resize": pp.resize,
            "crop_pct": crop_pct,
            "crop_mode": pp.crop_mode if pp.resize == "checkpoint" else None,
            **({"before": list(pp.before)} if pp.before and pp.resize == "checkpoint" else {}),
            "interpolation": pp.interpolation,
            "antialias": pp.antialias,
            "normalise": s.normalise,
            "posembed_resize": s.posembed_resize,
            "gelu": self.info.architecture.gelu,
        }


def open_network(
    model: str | Checkpoint,
    fixed: Mapping[str, object],
    *,
    crop_pct: float | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> Network:
    """Build a checkpoint with its own head and choose its preprocessing.

    Unless fixed, that is the checkpoint's own: native resolution, shorter side / crop fraction, centre crop, its
    interpolation, mean and std; for a fine-tuned run what the run was evaluated with.

    Args:
        model: opened with its weights, or a name as for `models.loading.load`.
        fixed: recipe keys the user has set, of `request.SETTABLE`.
        crop_pct: crop fraction in (0, 1] instead of the checkpoint's.
        device: see `device.pick`.
        precision: "float32", "bf16" or "auto": bf16 on CUDA, float32 elsewhere.

    Raises:
        UsageError: a key that means nothing here, a bad value, or no such device.
        CheckpointError: see `models.loading.load`.
    """
    request.check(fixed, crop_pct)
    if isinstance(model, str) and (file := onnx_network.file_of(model)) is not None:
        return _of_onnx(file, fixed, crop_pct, device)
    where = devices.pick(device)
    opened = model if isinstance(model, Checkpoint) else loading.load(model, declared=Declared.within(fixed))
    settings = settings_for(opened.info, fixed)
    built = models.build(opened, None, settings)
    built.net.to(where).eval()
    pp = preprocess(settings, built.info, own_preprocess(built.info))
    if crop_pct is not None:
        pp = replace(pp, crop_pct=crop_pct, before=None, crop_mode="center" if pp.crop_mode == "none" else pp.crop_mode)
    precision = devices.precision(precision, where)
    return Network(built.net, built.info, built.class_names, settings, pp, where, precision, built.descriptions)


def _of_onnx(file: Path, fixed: Mapping[str, Any], crop_pct: float | None, device: str) -> Network:
    """Open an ONNX file: everything that could be chosen is baked in."""
    chosen = [*fixed, *(["crop_pct"] if crop_pct is not None else []), *(["device"] if device not in _ONNX else [])]
    if chosen:
        raise UsageError(
            f"'{file}' has {', '.join(chosen)} baked in.",
            "an ONNX file as it is, on the CPU.",
            "Ask the run that it was exported from.",
        )
    net, record = onnx_network.read(file)
    settings = Settings(resolution="native", resize=record.preprocess.resize)
    settings = settings.at(record.checkpoint.resolution, record.checkpoint.patch)
    where = torch.device("cpu")
    return Network(net, record.checkpoint, record.class_names, settings, record.preprocess, where, "float32")


_ONNX = ("auto", "cpu")


def settings_for(info: CheckpointInfo, fixed: Mapping[str, object]) -> Settings:
    """Return an evaluation's settings: what is fixed, else the checkpoint's (or the run's) own. Raises UsageError."""
    own = own_preprocess(info)
    values: dict[str, object] = {"resolution": "native", "resize": "checkpoint"}
    if own is not None:
        values |= {"resize": own.resize, "interpolation": own.interpolation, "antialias": own.antialias}
    values |= dict(fixed)
    if "interpolation" not in values:
        # The paper's squash and big_vision's resize-small are bilinear; a checkpoint's own resize is as it says.
        bilinear = values["resize"] != "checkpoint" or info.interpolation == "bilinear"
        values["interpolation"] = "bilinear" if bilinear else "bicubic"
    return checked(values).at(info.native, info.patch)


def own_preprocess(info: CheckpointInfo) -> Preprocess | None:
    """Return how a run's evaluation prepared its images; None for any other checkpoint."""
    if info.kind != "run" or not info.path:
        return None
    result = load(Path(info.path).parent / RESULT, RunResult)
    return result.preprocess if result is not None else None


def preprocess(settings: Settings, info: CheckpointInfo, own: Preprocess | None = None) -> Preprocess:
    """Return the preprocessing of an evaluation.

    Args:
        settings: with the resolution in pixels.
        info: of the checkpoint.
        own: of the run that the checkpoint is; its mean, std and crop stand in for the checkpoint's.
    """
    says = own or info
    mean, std = says.mean, says.std
    if settings.normalise != "checkpoint":
        mean, std = _NORMALISE[settings.normalise]
    return Preprocess(
        size=settings.size,
        resize=settings.resize,
        interpolation=settings.interpolation,
        antialias=settings.antialias,
        mean=mean,
        std=std,
        crop_pct=says.crop_pct,
        crop_mode=says.crop_mode,
        before=info.before,
    )


def head_fits(network: Network | Checkpoint, split: Split) -> Split:
    """Check that the head answers in the split's classes; return the split with labels that are the head's outputs.

    Classes are matched by name where the head knows its own (that of a run): the split may have them in another order,
    and lack some. Otherwise by position: a class called by a number is that output, others stand in their order.

    Raises:
        CheckpointError: no head, another number of classes, or a class that the head does not have (exit code 4).
        DataError: classes are called by numbers that are no positions.
    """
    info, names = network.info, network.class_names
    outputs, wanted = info.num_classes, split.num_classes
    action = f"Fine-tune it first: vitft finetune {split.task} --model {info.name}."
    if not outputs:
        raise CheckpointError(
            f"'{info.name}' has no head: it gives features, not classes.",
            f"a checkpoint with a head of {wanted} classes.",
            action,
        )
    refuse_zero_head(network, action)
    names = translated(names, split.class_names)
    if names:
        try:
            return labels.by_name(split, names, f"'{info.name}'")
        except DataError as error:
            if outputs == wanted:
                at = next(i for i, (a, b) in enumerate(zip(names, split.class_names, strict=True)) if a != b)
                own = f"Class {at} of '{info.name}' is '{names[at]}', of '{split.task}' '{split.class_names[at]}'."
            else:
                own = error.lines[0]
            raise CheckpointError(own, "the classes of the head, or some of them, by their names.", action) from None
    if outputs != wanted:
        kind = " (an ImageNet-21k head)" if outputs in (21841, 21842, 21843) else ""
        raise CheckpointError(
            f"The head of '{info.name}' has {outputs} classes{kind}; '{split.task}' has {wanted}.",
            f"a checkpoint with a head of {wanted} classes.",
            action,
        )
    return labels.by_number(split, outputs, f"'{info.name}'")


def order_assumed(network: Network, split: Split) -> tuple[str, ...]:
    """Return what is assumed of the order of a head's outputs; nothing where it or the task says that order.

    Args:
        network: whose head fits.
        split: as `head_fits` gives it.
    """
    known, names = tasks.canonical(split.task), split.class_names
    if network.class_names or names == (labels.class_names(known) if known else lists.names("imagenet")):
        return ()
    return ("classes in the order of their numbers" if labels.numbers(names) else "classes in the data's order",)


def refuse_zero_head(network: Network | Checkpoint, action: str = "Fine-tune it first: vitft finetune.") -> None:
    """Refuse a head that cannot tell any two classes apart: weights of zero, all biases alike.

    Raises:
        CheckpointError: it is one (exit code 4).
    """
    if isinstance(network, Checkpoint):
        names = ("head", "head.fc", "head_dist")
        parts = [
            [network.state[f"{n}.{part}"] for part in ("weight", "bias") if f"{n}.{part}" in network.state]
            for n in names
        ]
    else:
        heads = classifiers(network.net)
        last = [[m for m in head.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1:] for head in heads]
        parts = [[*m.parameters()] for modules in last for m in modules]
    parts = [part for part in parts if part]
    if parts and all(not weight.any() and all((bias == bias[0]).all() for bias in biases) for weight, *biases in parts):
        raise CheckpointError(
            f"'{network.info.name}' answers nothing yet: its head is all zeros: fine-tune it first.",
            "a head that was trained.",
            action,
        )


def computed(network: Network) -> Computed:
    """Return the fields of a result on how the network computes."""
    return Computed(
        device_kind=network.device.type,
        precision="bf16" if network.precision == "bf16" else "float32",
        threads=torch.get_num_threads(),
        **devices.kernels(network.device.type),
    )
