"""What timm needs to load a run's folder by itself: `config.json`, as `timm.create_model("local-dir:RUN")` reads it.

timm takes the one safetensors file of a folder whatever its name is, so the weights stand there once. Before its
version 1.0.27 it read such a file as a pickle and failed.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import timm
from torch import nn

from vitft.errors import CheckpointError
from vitft.models.meta import meta_network
from vitft.results.checkpoint import CheckpointInfo, side
from vitft.settings import Preprocess, larger

CONFIG = "config.json"

_IDLE = ("Dropout", "DropPath", "PatchDropout", "Identity")  # nothing to an evaluation


_GELUS = {"GELU": "gelu", "GELUTanh": "gelu_tanh"}
"""timm's own, which its factory takes where the activation is named."""


def config(net: nn.Module, info: CheckpointInfo, pp: Preprocess, class_names: Sequence[str]) -> dict[str, object]:
    """Return the content of config.json for a network and its evaluation's preprocessing.

    What timm's own transform does otherwise than the run is named at "vitft" / "differs", which timm does not read.

    Args:
        net: as trained; LoRA counts as merged, which `save_weights` does.
        info: of the built network.
        pp: of its evaluation.
        class_names: of the head's outputs, in order.

    Raises:
        CheckpointError: no arguments of timm's factory give this network; what is in the way is named.
    """
    args = _arguments(net, info)
    own = timm.get_pretrained_cfg(info.architecture.name)
    pixels, differs = _transform(pp)
    known = {key: getattr(own, key, None) for key in ("first_conv", "classifier", "fixed_input_size")}
    given = {key: value for key, value in known.items() if value is not None}
    return {
        "architecture": info.architecture.name,
        "num_classes": info.num_classes,
        "num_features": int(getattr(net, "num_features", 0)),
        "label_names": list(class_names),
        "model_args": args,
        "pretrained_cfg": {
            **given,
            "num_classes": info.num_classes,
            "input_size": [info.channels, *pp.size],
            "mean": list(pp.mean),
            "std": list(pp.std),
            **pixels,
        },
        "vitft": {"differs": differs},
    }


def _arguments(net: nn.Module, info: CheckpointInfo) -> dict[str, object]:
    """Return arguments with which timm's factory builds this very network. Raises CheckpointError."""
    wanted, why = _described(net), "timm refuses its arguments"
    for args in _candidates(info):
        try:
            plain = meta_network(info.architecture.name, **args, num_classes=info.num_classes)
        except (RuntimeError, ValueError, TypeError, AssertionError, AttributeError):
            continue
        found = _described(plain)
        if found == wanted:
            return args
        name = next(name for name in sorted({*wanted, *found}) if wanted.get(name) != found.get(name))
        why = f"'{name}' is {wanted.get(name, 'absent')} here, {found.get(name, 'absent')} there"
    raise CheckpointError(f"timm's factory cannot be told to build this {info.architecture.name}: {why}.")


def _candidates(info: CheckpointInfo) -> Iterator[dict[str, object]]:
    arch = info.architecture
    own = dict(arch.kwargs)
    size = {"img_size": list(info.resolution)}
    acts: list[dict[str, object]] = [{}]
    if arch.activation:
        acts.append({"act_layer": arch.activation})
    if arch.gelu == "tanh":
        acts.append({"act_layer": "gelu_tanh"})
    for sized in (size, {**size, "dynamic_img_size": False}, {}):
        for act in acts:
            yield {**own, **act, **sized}


def _described(net: nn.Module) -> dict[str, str]:
    """Return the facts by which networks of one timm function differ: shapes of tensors, epsilons, activations."""
    shapes = {name: tensor.shape for name, tensor in net.state_dict().items() if ".lora_" not in name}
    facts = {name: "x".join(map(str, shape)) for name, shape in shapes.items()}
    facts["dynamic_img_size"] = str(getattr(net, "dynamic_img_size", None))
    for name, module in net.named_modules():
        kind = type(module).__name__
        if isinstance(module, nn.GELU):
            facts[name] = "gelu_tanh" if module.approximate == "tanh" else "gelu"
        elif kind in _GELUS:
            facts[name] = _GELUS[kind]
        elif getattr(module, "eps", None) is not None:
            facts[name] = f"a norm with epsilon {module.eps:g}"
        elif not any(module.children()) and not any(True for _ in module.parameters()) and kind not in _IDLE:
            facts[name] = kind
    return facts


def _transform(pp: Preprocess) -> tuple[Mapping[str, object], list[str]]:
    """Return timm's words for an evaluation's pixels, and what its transform does otherwise."""
    differs: list[str] = []
    interpolation: str = pp.interpolation
    if interpolation == "area":
        interpolation = "box"
        differs.append("interpolation area: Pillow's box filter counts whole pixels, area their shares")
    elif not pp.antialias:
        differs.append(f"{interpolation} without antialiasing: Pillow always antialiases where it makes images smaller")
    mode, before = "center", pp.size
    if pp.resize == "squash":
        mode = "squash"
    elif pp.resize in ("resize-small", "squash-crop"):
        before = (larger(pp.size[0]), larger(pp.size[1]))
        if pp.resize == "squash-crop":
            mode = "squash"
        else:
            differs.append("resize-small rounds the longer side, timm cuts it off: a crop may lie a pixel aside")
    elif pp.before is None:
        return {"interpolation": interpolation, "crop_pct": pp.crop_pct, "crop_mode": pp.crop_mode}, differs
    else:
        mode, before = pp.crop_mode, pp.before
        if mode == "none":
            mode = "center"
            differs.append(f"images are not resized, only cropped to {side(pp.size)}; timm's transform resizes them")
    crop_pct = _crop_pct(pp.size, before)
    got = tuple(math.floor(s / crop_pct) for s in pp.size)
    if got != before:
        differs.append(f"resized to {side(before)} before the crop; one crop_pct gives timm {side((got[0], got[1]))}")
    elif mode == "squash" and any((b - s) % 2 for b, s in zip(before, pp.size, strict=True)):
        differs.append("the crop cannot lie in the middle: timm's may lie a pixel aside")
    return {"interpolation": interpolation, "crop_pct": crop_pct, "crop_mode": mode}, differs


def _crop_pct(size: tuple[int, int], before: tuple[int, int]) -> float:
    """Return the share that timm's floor(side / share) turns into `before`, where one does for both sides."""
    shares = [s / (b + half) for half in (0, 0.5, 0.25) for s, b in zip(size, before, strict=True)]
    fits = (p for p in shares if tuple(math.floor(s / p) for s in size) == before)
    return next(fits, shares[0])
