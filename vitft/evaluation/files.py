"""Answers for single image files of any format; broken ones are reported and left out."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vitft.data.sources.files import LEGAL, below
from vitft.errors import DataMissing, VitftError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitft.evaluation.network import Network


@dataclass(frozen=True)
class Answer:
    """One image's most probable classes, best first: (class index, name, probability)."""

    path: str
    top: tuple[tuple[int, str, float], ...]


def images(paths: Iterable[Path]) -> list[Path]:
    """Return the files to answer for: each file named, and what lies below each folder, sorted; none twice.

    Text and what systems leave among images are passed over; any other file is returned, to be reported as broken.

    Raises:
        DataMissing: nothing at a path, or a folder without images.
    """
    files: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            inside = _below(path)
            if not inside:
                raise DataMissing(f"Folder '{path}' holds no image.", LEGAL)
            files.update(dict.fromkeys(inside))
        elif path.exists():
            files[path] = None
        else:
            raise DataMissing(f"There is no image '{path}'.", "image files, or folders of them.")
    return list(files)


def answers(
    network: "Network",
    paths: list[Path],
    names: tuple[str, ...],
    *,
    top: int,
    batch_size: int,
    on_broken: Callable[[Path, VitftError], None],
    on_progress: Callable[[int], None] | None = None,
) -> Iterator[Answer]:
    """Yield an answer for each file that is an image, in order, batch by batch.

    Photographs are turned as their EXIF orientation says.

    Args:
        network: with a head.
        paths: files, images or not.
        names: of the network's outputs.
        top: classes to name for each image.
        batch_size: images a forward pass.
        on_broken: called with each file that does not decode; the others are answered.
        on_progress: called with the number of files done.
    """
    import numpy as np
    import torch

    from vitft.evaluation import metrics
    from vitft.evaluation.predict import predict
    from vitft.images.decode import decode
    from vitft.images.preprocess import deterministic, normalise

    for start in range(0, len(paths), batch_size):
        good: list[Path] = []
        pixels: list[NDArray[np.uint8]] = []
        for path in paths[start : start + batch_size]:
            try:
                pixels.append(deterministic(decode(read(path), str(path), exif=True), network.preprocess))
                good.append(path)
            except VitftError as error:
                on_broken(path, error)
        if good:
            batch = normalise(torch.from_numpy(np.stack(pixels)).to(network.device), network.preprocess)
            indices = np.arange(len(good))
            logits = predict(network.net, [(indices, batch)], len(good), len(names), precision=network.precision).logits
            chances = metrics.probabilities(logits)
            for path, best, own in zip(good, metrics.top(logits, top), chances, strict=True):
                yield Answer(str(path), tuple((int(c), names[c], float(own[c])) for c in best))
        if on_progress is not None:
            on_progress(min(start + batch_size, len(paths)))


def _below(folder: Path) -> list[Path]:
    found, others = below(folder)
    return [folder / name for name in sorted(found + others)]


def read(path: Path) -> bytes:
    """Return a file's bytes. Raises DataMissing where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataMissing(f"'{path}' cannot be read ({error.strerror}).") from None


def names_of(network: "Network") -> tuple[str, ...]:
    """Return a name for each output: the run's classes, ImageNet's where the head has as many, else "class 0", ..."""
    if network.descriptions:
        pairs = zip(network.class_names, network.descriptions, strict=True)
        return tuple(name if text in ("", name) else f"{name} ({text})" for name, text in pairs)
    if network.class_names:
        return network.class_names
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    count = network.info.num_classes
    subset = infer_imagenet_subset({"num_classes": count})
    if subset is None:
        return tuple(f"class {i}" for i in range(count))
    info = ImageNetInfo(subset)
    return tuple(info.index_to_description(i) for i in range(count))
