"""A network in an ONNX file of `vitft export`: run by onnxruntime, its images prepared as the file says."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from vitft import machine
from vitft.device import computing_threads
from vitft.errors import CheckpointError, NotInstalled
from vitft.results.checkpoint import CheckpointInfo
from vitft.settings import Preprocess

KEY = "vitft"
"""Of the record in the file's metadata."""

FILE = "model.onnx"
INPUT, OUTPUT = "images", "logits"


@dataclass(frozen=True)
class Record:
    """What an ONNX file says of itself: enough to prepare images for it and to name its answers."""

    checkpoint: CheckpointInfo
    preprocess: Preprocess
    class_names: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return the record as `read` takes it, without the path of the original weights."""
        info = replace(self.checkpoint, path="", name=PurePath(self.checkpoint.name).name)
        value = {"checkpoint": info.to_dict(), "preprocess": asdict(self.preprocess)}
        return json.dumps(value | {"class_names": list(self.class_names)})


_RECORD = TypeAdapter(Record)


class _Session(Protocol):
    """What is used of onnxruntime's, which has no types."""

    def run(self, outputs: list[str], inputs: Mapping[str, NDArray[np.float32]]) -> list[NDArray[np.float32]]: ...


class OnnxNetwork(nn.Module):
    """An ONNX file that answers like a network: images (B, 3, H, W) -> logits (B, K), on the CPU."""

    def __init__(self, session: _Session) -> None:
        super().__init__()
        self.session = session

    def forward(self, images: Tensor) -> Tensor:
        return torch.from_numpy(self.session.run([OUTPUT], {INPUT: images.float().cpu().numpy()})[0])

    def get_classifier(self) -> nn.Module:
        """Return a head without weights: they are inside the file."""
        return nn.Identity()


def file_of(model: str) -> Path | None:
    """Return the ONNX file that a model's name is, or the folder of an export holds; None where it is none."""
    path = Path(model).expanduser()
    if (path / FILE).is_file():
        return path / FILE
    return path if path.suffix == ".onnx" and path.is_file() else None


def available() -> None:
    """Refuse to begin where an ONNX file cannot be run. Raises UsageError."""
    if find_spec("onnxruntime") is None:
        raise NotInstalled("ONNX files are run by onnxruntime, which is not installed.", "onnx", "onnxruntime")


def read(path: Path) -> tuple[OnnxNetwork, Record]:
    """Open an ONNX file that `vitft export` wrote.

    Raises:
        UsageError: onnxruntime is not installed. CheckpointError: damaged, or of another program.
    """
    available()
    session = start(path)
    text = session.get_modelmeta().custom_metadata_map.get(KEY)
    if text is None:
        raise CheckpointError(
            f"'{path}' does not say how its images are prepared.",
            "a file that 'vitft export --to onnx' wrote.",
            "Export the run anew.",
        )
    try:
        record = _RECORD.validate_json(text)
    except ValidationError as error:
        raise CheckpointError(
            f"The record in '{path}' is not one this vitft understands ({error.error_count()} fields are wrong).",
            "a file of this or an earlier version.",
        ) from None
    info = replace(record.checkpoint, kind="onnx", path=str(path), sha256=machine.sha256_once(path), notes=())
    return OnnxNetwork(session), replace(record, checkpoint=info)


def start(path: Path) -> Any:
    """Return onnxruntime's session of a file, on the CPU. Raises CheckpointError where it is damaged."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = computing_threads()
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds of error have no common type
        raise CheckpointError(
            f"'{path}' cannot be run: {' '.join(str(error).split())[:160]}.",
            "a whole ONNX file.",
            "Copy it again, or export the run anew.",
        ) from None
