"""Frozen features, computed once: a file for each (checkpoint, resolution, preprocessing, data) digest.

A cache file is a safetensors file with one (N, D) float32 tensor and, in its header, what it was made from and the
sha256 of its bytes. Anything that changes one of them makes another file; a damaged file is made anew.
"""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from vitft import machine
from vitft.data.split import Split
from vitft.errors import DiskFull
from vitft.evaluation.predict import Batches, gather
from vitft.images import fingerprints, room
from vitft.results.files import write_atomic
from vitft.settings import Preprocess

_VERSION = 1  # raise it when the same identity would give other features


@dataclass(frozen=True)
class Identity:
    """Everything the features depend on.

    Attributes:
        checkpoint: sha256 of the file the weights came from.
        network: what was made of it, JSON-able: timm name, position-embedding resize, GELU.
        preprocess: all fields of the `Preprocess`, resolution among them.
        split: digest over keys and labels, in order.
        images: sha256 over the encoded images, in order, and whether their EXIF orientation counts.
        precision: "float32" or "bf16".
    """

    checkpoint: str
    network: dict[str, object]
    preprocess: dict[str, object]
    split: str
    images: str
    precision: str

    @property
    def digest(self) -> str:
        """Return 32 hexadecimal digits that change with any field."""
        return machine.digest({"version": _VERSION, **asdict(self)})[:32]


def identity(checkpoint: str, network: dict[str, object], pp: Preprocess, split: Split, precision: str) -> Identity:
    """Return the identity of a split's features. It reads every encoded image once, so a changed file is seen."""
    images = f"{fingerprints.encoded_digest(split)}{'+exif' if split.exif else ''}"
    return Identity(checkpoint, network, json.loads(json.dumps(asdict(pp))), split.digest, images, precision)


def extract(
    net: nn.Module,
    batches: Batches,
    n: int,
    precision: str,
    on_progress: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Return (n, D) features before the head, every image exactly once.

    Raises VitftError as `predict.predict` does.
    """

    return gather(net, partial(before_head, net), batches, n, "features", precision, on_progress)


def before_head(net: Any, images: Tensor) -> Tensor:
    """Return a network's features (B, D) of images (B, 3, H, W): the input of its classifier."""
    features: Tensor = net.forward_head(net.forward_features(images), pre_logits=True)
    return features.flatten(1)


def path(who: Identity) -> Path:
    """Return where the features of that identity lie: `$VITFT_CACHE/features/<digest>.safetensors`."""
    return machine.cache() / "features" / f"{who.digest}.safetensors"


def cached(who: Identity | None, n: int, compute: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the features from their file, or compute them and leave the file behind.

    A damaged file (cut short, flipped bits, another shape) is made anew. A cache that cannot be written is no
    failure: the features are there.

    Args:
        who: what they are made from; None when there is no checkpoint file to name them by, and nothing is kept.
        n: images.
        compute: gives the (n, D) features.
    """
    if who is None:
        return compute()
    found = _load(path(who), n)
    if found is not None:
        return found
    features = np.ascontiguousarray(compute(), dtype=np.float32)
    from safetensors.numpy import save

    header = {"sha256": _sha256(features), "identity": json.dumps(asdict(who), sort_keys=True)}
    data = save({"features": features}, metadata=header)
    with suppress(DiskFull, OSError), room.turn():
        if room.make(len(data)):
            write_atomic(path(who), data)
    return features


def _load(file: Path, n: int) -> NDArray[np.float32] | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            features: NDArray[np.float32] = opened.get_tensor("features")
            wanted = (opened.metadata() or {}).get("sha256")
    except (OSError, SafetensorError, ValueError):
        return None
    room.touch(file)
    whole = features.dtype == np.float32 and features.ndim == 2 and len(features) == n and _sha256(features) == wanted
    return features if whole else None


def _sha256(features: NDArray[np.float32]) -> str:
    return hashlib.sha256(f"{features.shape}".encode() + np.ascontiguousarray(features).tobytes()).hexdigest()
