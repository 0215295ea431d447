"""A network as one ONNX file: positions baked in at its resolution, the batch its only open axis."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from vitft.errors import NotInstalled, VitftError
from vitft.evaluation import onnx_network
from vitft.evaluation.network import Network
from vitft.evaluation.onnx_network import FILE, INPUT, KEY, OUTPUT, Record
from vitft.results.files import write_atomic
from vitft.words import cause

_TOLERANCE = 1e-4
_BATCHES = (1, 3)
_LARGEST = (2 << 30) - (1 << 20)  # bytes of a protobuf
_OPSET = 17


def available() -> None:
    """Refuse to begin where the file could not be written or checked. Raises UsageError."""
    missing = [name for name in ("onnx", "onnxruntime", *["onnxscript"] * _by_graph()) if find_spec(name) is None]
    if missing:
        raise NotInstalled(f"ONNX export needs {' and '.join(missing)}, not installed here.", "onnx", " ".join(missing))


def write(network: Network, folder: Path, images: Tensor, expected: Tensor) -> tuple[tuple[str, ...], float]:
    """Write model.onnx and check it with onnxruntime at batches of 1 and 3.

    Torch has two ways into ONNX. That by torch.export is the one kept up, but before torch 2.9 it loses the open batch
    axis; that by tracing is old, and newer versions lose some layers in it. The one that fits this torch is tried
    first, the other where it fails or answers otherwise.

    Args:
        images: (3, 3, H, W).
        expected: the network's own logits of them, (3, K).

    Returns:
        Names of files, and the largest difference of logits (see `exported.logit_difference`).

    Raises:
        VitftError: neither way gives a file that answers as the network does.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in network.net.state_dict().values())
    if size > _LARGEST:
        raise VitftError(
            f"The network has {size / 2**30:.1f} GiB of weights; one ONNX file holds at most 2 GiB.",
            "a smaller network.",
            "Export it with --to timm.",
        )
    record = Record(network.info, network.preprocess, network.class_names)
    failed = []
    for way in (_graph, _traced) if _by_graph() else (_traced, _graph):
        try:
            with _quiet():
                data = _stamped(way(network.net, images), record)
            write_atomic(folder / FILE, data)
            difference = _difference(folder / FILE, images, expected)
        except VitftError:
            raise
        except Exception as error:  # torch's exporters raise anything
            failed.append(f"{type(error).__name__}: {cause(error, 80)}")
            continue
        if difference <= _TOLERANCE:
            return (FILE,), difference
        failed.append(f"logits {difference:.1e} apart")
    (folder / FILE).unlink(missing_ok=True)
    raise VitftError(
        f"torch cannot write this network as ONNX ({'; '.join(failed)}).",
        "a network whose ONNX file answers as it does, to 1e-4.",
        "Try a newer torch, or export it with --to timm.",
    )


def _by_graph() -> bool:
    return tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) >= (2, 9)


def _graph(net: nn.Module, images: Tensor) -> bytes:
    """Export by torch.export."""
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        net, (images[:2],), input_names=[INPUT], output_names=[OUTPUT], dynamo=True, dynamic_shapes=({0: batch},),
        verbose=False,
    )  # fmt: skip
    assert program is not None
    data: bytes = program.model_proto.SerializeToString()
    return data


def _traced(net: nn.Module, images: Tensor) -> bytes:
    """Export by tracing."""
    out = io.BytesIO()
    open_axis = {0: "batch"}
    torch.onnx.export(
        net, (images[:2],), cast(Any, out), input_names=[INPUT], output_names=[OUTPUT], dynamo=False,
        opset_version=_OPSET, dynamic_axes={INPUT: open_axis, OUTPUT: open_axis},
    )  # fmt: skip
    return out.getvalue()


def _stamped(data: bytes, record: Record) -> bytes:
    """Put into the file what is needed to prepare images for it, and no word of the machine that wrote it."""
    import onnx

    model = onnx.load_model_from_string(data)
    for node in model.graph.node:  # torch.export leaves the lines of code, with their paths
        node.ClearField("doc_string")
        del node.metadata_props[:]
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        value.ClearField("doc_string")
        if hasattr(value, "metadata_props"):
            del value.metadata_props[:]
    del model.graph.metadata_props[:], model.metadata_props[:]
    onnx.helper.set_model_props(model, {KEY: record.to_json()})
    out: bytes = model.SerializeToString(deterministic=True)
    return out


def _difference(file: Path, images: Tensor, expected: Tensor) -> float:
    """Return the largest difference of logits at batches of 1 and 3; infinite where an axis but the batch is open."""
    session = onnx_network.start(file)
    shapes = [tensor.shape[1:] for tensor in (*session.get_inputs(), *session.get_outputs())]
    if not all(isinstance(side, int) for shape in shapes for side in shape):
        return float("inf")
    scale = max(1.0, float(expected.abs().max()))
    worst = 0.0
    for n in _BATCHES:
        logits = session.run([OUTPUT], {INPUT: images[:n].numpy()})[0]
        worst = max(worst, float(np.abs(logits - expected[:n].numpy()).max()) / scale)
    return worst


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what torch's exporters say of their own workings from the user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    restore: list[Callable[[], None]] = []
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(logging.ERROR)
        restore.append(lambda logger=logger, level=level: logger.setLevel(level))  # type: ignore[misc]
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for undo in restore:
            undo()
