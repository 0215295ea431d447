"""Turn logits and labels into counts. N images, K classes; ties go to the lower class, so a number never wavers."""

import numpy as np
from numpy.typing import NDArray

from vitft.errors import UsageError
from vitft.results.schema import ClassAccuracy

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


def rank(logits: Floats, labels: Ints) -> Ints:
    """Return (N,) how many classes stand before the label: 0 = answered rightly, below 5 = among the top five."""
    own = logits[np.arange(len(labels)), labels][:, None]
    lower = np.arange(logits.shape[1])[None, :] < labels[:, None]
    return np.asarray(((logits > own) | ((logits == own) & lower)).sum(axis=1), dtype=np.int64)


def top(logits: Floats, k: int) -> Ints:
    """Return (N, min(k, K)) class indices, best first."""
    return np.argsort(-logits, axis=1, kind="stable")[:, :k].astype(np.int64)


def top1(logits: Floats, labels: Ints) -> NDArray[np.bool_]:
    """Return (N,) whether the label has the highest logit."""
    return np.asarray(logits.argmax(axis=1) == labels)


def top5(logits: Floats, labels: Ints) -> NDArray[np.bool_]:
    """Return (N,) whether the label is among the five highest logits."""
    return np.asarray(rank(logits, labels) < 5)


def probabilities(logits: Floats) -> Floats:
    """Return (N, K) softmax of the logits."""
    shifted = np.exp((logits - logits.max(axis=1, keepdims=True)).astype(np.float64))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), dtype=np.float32)


def confusion(answers: Ints, labels: Ints, num_classes: int) -> Ints:
    """Return (K, K) counts: row = label, column = answer.

    Raises:
        UsageError: an answer or a label lies outside [0, K).
    """
    for what, values in (("label", labels), ("answer", answers)):
        outside = values[(values < 0) | (values >= num_classes)]
        if len(outside):
            raise UsageError(f"The {what} '{int(outside[0])}' is none of the {num_classes} classes.")
    cells = np.bincount(labels * num_classes + answers, minlength=num_classes * num_classes)
    return np.asarray(cells.reshape(num_classes, num_classes), dtype=np.int64)


def per_class(answers: Ints, labels: Ints, names: tuple[str, ...]) -> list[ClassAccuracy]:
    """Return the accuracy of each class, in label order."""
    counts = confusion(answers, labels, len(names))
    return [class_accuracy(name, int(counts[i, i]), int(counts[i].sum())) for i, name in enumerate(names)]


def class_accuracy(name: str, correct: int, n: int) -> ClassAccuracy:
    """Return how many of a class's n images were answered rightly, and which share; None without images."""
    return ClassAccuracy(class_name=name, correct=correct, n=n, accuracy=correct / n if n else None)
