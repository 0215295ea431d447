"""Evaluate networks on a split: one pass over the images, every metric from the same logits."""

import time
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from vitft import device as devices
from vitft.catalog import tasks
from vitft.data import labels, official, portions
from vitft.data.split import Source, Split, path_of
from vitft.errors import CheckpointError, DataError, DataMissing, some
from vitft.evaluation import metrics, real
from vitft.evaluation.intervals import wilson
from vitft.evaluation.network import Network, computed, head_fits, order_assumed
from vitft.evaluation.predict import Predictions, predict
from vitft.images.batches import eval_batches
from vitft.images.cache import Keep
from vitft.images.fingerprints import encoded_digest
from vitft.models.memory import evaluation_batch
from vitft.progress import Hooks
from vitft.recipes import digest
from vitft.results.parts import Env, EvalProtocol, Metrics, Provenance, Timing
from vitft.results.schema import EvalResult

LISTED = 0.01
"""Missing names are listed when they are less than this share of the official images."""


@dataclass(frozen=True)
class Subject:
    """What is evaluated on.

    Attributes:
        split: the images, after `--limit`.
        real: their ReaL labels, where they were asked for.
        stamp: "" or "subset n".
        missing: official names that are not there, listed only when few are.
        absent: official images that are not there; None where the task has no official count.
        present: names of the classes that have an image, before `--limit`.
        path: where the data are; "" for what is inside vitft.
    """

    split: Split
    real: real.Subset | None
    stamp: str
    missing: tuple[str, ...]
    absent: int | None
    present: frozenset[str] = frozenset()
    path: str = ""

    @property
    def classes_without_test(self) -> tuple[str, ...]:
        """Names of the classes that have no image here."""
        return tuple(name for name in self.split.class_names if name not in self.present)


def subject(source: Source, *, with_real: bool, limit: int | None, complete: bool) -> Subject:
    """Open the split to evaluate on (`test`, else `val`) and check its labels before anything is computed.

    ImageNet validation images are told by their file names; their labels are compared with the ReaL sets.

    Raises:
        DataMissing: no such split, or `complete` and images are missing.
        DataError: the labels do not belong to the images; or `with_real` and they are not ImageNet's.
    """
    name = next((name for name in ("test", "val") if name in source.splits), None)
    if name is None:
        raise DataMissing(
            f"'{source.task}' has no split to evaluate on.",
            f"test or val; it has: {', '.join(source.splits) or 'none'}.",
        )
    split = source.open(name)
    matched = None
    if with_real or (split.num_classes == 1000 and real.is_validation(split.keys)):
        if split.num_classes != 1000:
            raise DataError(
                f"ReaL labels are of ImageNet's 1000 classes; '{source.task}' has {split.num_classes}.",
                action="Leave out --real.",
            )
        matched = real.match(split.keys, split.labels)
    absent, missing = _absent(source.task, split, matched)
    listed = missing if absent is not None and absent < LISTED * (len(split) + absent) else ()
    if complete and absent != 0:
        raise DataMissing(
            f"'{source.task}' is not complete: "
            + (
                f"{absent:,} images of '{name}' are missing." if absent else "it has no official count to hold against."
            ),
            fact=f"Missing: {some(listed, 20)}." if listed else "",
            action="Add them, or leave out --complete.",
        )
    present = frozenset(split.class_names) - set(labels.absent(split))
    counts = official.counts(source.task, name)
    stamp = f"subset {len(split)}" if absent else f"{len(split)} images" if counts and len(split) > max(counts) else ""
    if limit is not None and limit < len(split):
        split = portions.limit(split, limit, seed=0)
        stamp = f"subset {len(split)}"
        matched = real.match(split.keys, split.labels) if matched is not None else None
    return Subject(split, matched if with_real else None, stamp, tuple(listed), absent, present, path_of(source))


def _absent(task: str, split: Split, matched: real.Subset | None) -> tuple[int | None, tuple[str, ...]]:
    """Return (official images that are not there or None, their names where they can be told)."""
    if matched is not None:
        return len(matched.missing), matched.missing
    counts = official.counts(task, split.name)
    if not counts:
        return (0 if split.provenance.completeness == "declared" else None), ()
    return (0 if len(split) in counts else max(0, counts[0] - len(split)) or None), ()


@dataclass(frozen=True)
class Evaluation:
    """One network on one subject."""

    network: Network
    subject: Subject
    predictions: Predictions
    seconds: float

    @property
    def correct(self) -> NDArray[np.bool_]:
        """(N,) whether each image was answered rightly."""
        return metrics.top1(self.predictions.logits, self.subject.split.labels)

    @property
    def metrics(self) -> Metrics:
        """Counts and shares, as they stand in result.json."""
        n, correct = len(self.subject.split), int(self.correct.sum())
        among = None
        if self.subject.split.num_classes > 5:
            among = int(metrics.top5(self.predictions.logits, self.subject.split.labels).sum())
        found = Metrics(
            top1=correct / n,
            correct=correct,
            n=n,
            ci95=wilson(correct, n),
            top5=among / n if among is not None else None,
            top5_correct=among,
        )
        return real.judged(found, self.subject.real, self.predictions.answers)

    @property
    def among_present(self) -> Metrics | None:
        """Metrics of the best answers among the classes that have images; None where those are all classes, or one.

        So are ImageNet-A, -R and their likes counted in papers: 200 of the head's 1,000 classes.
        """
        split, logits = self.subject.split, self.predictions.logits
        absent = [label for label, name in enumerate(split.class_names) if name not in self.subject.present]
        if not absent or len(absent) > split.num_classes - 2:
            return None
        allowed = logits.copy()
        allowed[:, absent] = -np.inf
        n, correct = len(split), int(metrics.top1(allowed, split.labels).sum())
        return Metrics(top1=correct / n, correct=correct, n=n, ci95=wilson(correct, n))


def evaluate(
    network: Network,
    subject: Subject,
    *,
    batch_size: int = 0,
    workers: int = 2,
    hooks: Hooks | None = None,
    keep: Keep = "no",
) -> Evaluation:
    """Run the network over every image once.

    Args:
        network: with the head to be judged.
        subject: see `subject`.
        batch_size: images a forward pass; 0 = by device. It does not change which images are counted.
        workers: threads that decode.
        hooks: called with the progress.
        keep: what becomes of the decoded pixels, see `images.cache`.

    Raises:
        CheckpointError: the head does not answer in the task's classes (exit code 4).
        DataDamaged: an image does not decode; VitftError as `predict.predict`.
    """
    hooks = hooks or Hooks()
    split = head_fits(network, subject.split)
    if subject.real is not None and split.class_names != subject.split.class_names:
        raise CheckpointError(
            f"The classes of '{network.info.name}' stand in another order than ImageNet's.",
            "ImageNet's own order, by which ReaL labels are numbered.",
            "Leave out --real.",
        )
    subject = replace(subject, split=split)
    assumed = (*network.info.assumed, *order_assumed(network, split))
    network = replace(network, info=replace(network.info, assumed=assumed))
    size = batch_size or evaluation_batch(network.net, network.device)
    began = time.monotonic()

    def on_progress(done: int) -> None:
        hooks.stop_if_asked()
        hooks.phase(f"evaluate {split.task} {split.name}", done, len(split))

    batches = eval_batches(split, network.preprocess, size, network.device, workers, hooks, keep=keep)
    answers = predict(
        network.net, batches, len(split), split.num_classes, precision=network.precision, on_progress=on_progress
    )
    return Evaluation(network, subject, answers, time.monotonic() - began)


def result(done: Evaluation, *, per_class: bool = False, with_confusion: bool = False) -> EvalResult:
    """Return the evaluation as it stands in result.json."""
    split, network = done.subject.split, done.network
    answers, stamp = done.predictions.answers, split.provenance
    counts = metrics.confusion(answers, split.labels, split.num_classes) if with_confusion else None
    return EvalResult(
        task=split.task,
        model=network.info.name,
        metrics=done.metrics,
        among_present=done.among_present,
        stamp=done.subject.stamp,
        missing=done.subject.missing,
        protocol=EvalProtocol.model_validate({"id": digest(network.protocol), **network.protocol}),
        provenance=Provenance(
            **{**asdict(stamp), "completeness": "partial" if done.subject.stamp else stamp.completeness},
            split=split.name,
            split_digest=split.digest,
            images_digest=encoded_digest(split),
            classes_without_test=done.subject.classes_without_test,
            checkpoint_sha256=network.info.sha256,
            path=done.subject.path or None,
        ),
        settings=computed(network),
        checkpoint=network.info,
        preprocess=network.preprocess,
        num_classes=split.num_classes,
        class_names=split.class_names,
        timing=Timing(
            evaluate_s=round(done.seconds, 3),
            images_per_s=round(len(split) / done.seconds, 2) if done.seconds else None,
        ),
        env=Env.now(devices.name(network.device.type), torch.__version__),
        per_class=tuple(metrics.per_class(answers, split.labels, split.class_names)) if per_class else None,
        confusion=None if counts is None else tuple(map(tuple, counts.tolist())),
    )


def title(subject: Subject) -> str:
    """Name what was evaluated on; a part of a test set never goes by the name of the whole."""
    split = subject.split
    if not subject.stamp:
        return f"{split.task}, {split.name}, {len(split):,} images"
    name = "ImageNet accuracy" if is_imagenet(split) else f"the accuracy on {split.task}"
    return f"{split.task}, {subject.stamp}: not {name}"


def is_imagenet(split: Split) -> bool:
    """Tell whether a split is ImageNet's, or a part of it."""
    return tasks.canonical(split.task) == "imagenet" or (split.num_classes == 1000 and real.is_validation(split.keys))
