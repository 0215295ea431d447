"""Export a run: its network in the files of timm, of the transformers library's timm wrapper, or as ONNX."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors.torch import save
from torch import Tensor, nn

from vitft.errors import VitftError
from vitft.evaluation.network import Network, open_network
from vitft.export import request, to_onnx
from vitft.export.card import card
from vitft.models import places, timm_folder
from vitft.progress import Hooks
from vitft.results.files import write_atomic, write_json

To = Literal["timm", "hf-folder", "onnx"]

TOLERANCE = {"timm": 1e-5, "hf-folder": 1e-5, "onnx": 1e-4}
"""How far an exported file's logits may lie from the run's, over the largest of them where that is above 1."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        files: by name, the card last.
        difference: the largest between the run's logits and those of the files alone, see TOLERANCE.
        differs: what the other program does otherwise with images, in words.
    """

    folder: Path
    to: To
    files: tuple[str, ...]
    difference: float
    differs: tuple[str, ...]
    card: str


def export(run: Path, to: To, folder: Path, hooks: Hooks, *, overwrite: bool = False) -> Exported:
    """Write a run's network and its card into a folder, and check what was written against the run.

    Raises:
        UsageError: the folder holds other files, or what ONNX needs is not installed (exit code 2).
        CheckpointError: no run, one without weights, or a network that timm's factory cannot be told to build.
        VitftError: the files answer otherwise than the run.
    """
    result = request.finished(run)
    request.free(folder, overwrite)
    if to == "onnx":
        to_onnx.available()
    network = open_network(str(run), {}, device="cpu", precision="float32")
    images = probe(network)
    with torch.inference_mode():
        wanted = network.net(images)
    if to == "onnx":
        hooks.note("tracing the network into ONNX and checking it with onnxruntime")
        differs: tuple[str, ...] = ()
        written, difference = to_onnx.write(network, folder, images, wanted)
    else:
        written, differs = _timm(network, folder, to)
        difference = logit_difference(_by_timm(folder, images), wanted)
        if difference > TOLERANCE[to]:
            raise VitftError(
                f"timm's network answers otherwise than the run: logits {difference:.1e} apart.",
                f"up to {TOLERANCE[to]:g}.",
                f"Nothing in '{folder}' should be used.",
            )
    text = card(result, to, tuple(differs), difference)
    write_atomic(folder / "README.md", text.encode())
    return Exported(folder, to, (*written, "README.md"), difference, tuple(differs), text)


def probe(network: Network) -> Tensor:
    """Return three images that are always the same, (3, 3, H, W), of normal numbers."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 3, *network.info.resolution, generator=generator)


def logit_difference(logits: Tensor, expected: Tensor) -> float:
    """Return the largest difference of logits, over the largest of them where that is above 1."""
    return float((logits - expected).abs().max() / max(1.0, float(expected.abs().max())))


def _timm(network: Network, folder: Path, to: To) -> tuple[tuple[str, ...], tuple[str, ...]]:
    config = timm_folder.config(network.net, network.info, network.preprocess, network.class_names)
    differs = tuple(cast(dict[str, list[str]], config.pop("vitft"))["differs"])
    if to == "hf-folder":
        config |= {"model_type": "timm_wrapper", "architectures": ["TimmWrapperForImageClassification"]}
    state = {name: tensor.detach().contiguous() for name, tensor in network.net.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    # The transformers library asks the file which framework it is of.
    write_atomic(folder / "model.safetensors", save(state, metadata={"format": "pt"}))
    write_json(folder / timm_folder.CONFIG, config)
    return ("model.safetensors", timm_folder.CONFIG), differs


def _by_timm(folder: Path, images: Tensor) -> Tensor:
    """Return the logits that timm computes from the files alone."""
    import timm
    from timm.models import load_checkpoint

    config: dict[str, Any] = places.read_json(folder / timm_folder.CONFIG)
    net: nn.Module = timm.create_model(
        config["architecture"], num_classes=config["num_classes"], **config.get("model_args", {})
    )
    load_checkpoint(net, str(folder / "model.safetensors"))
    with torch.inference_mode():
        answers: Tensor = net.eval()(images)
    return answers
