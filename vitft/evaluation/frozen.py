"""Few-shot classification of a task: its data, a network's frozen features, a classifier, one result."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vitft import device as devices
from vitft.data import labels, official, portions
from vitft.data.split import Opened, Source, Split, path_of
from vitft.data.vtab_splits import val_is_train
from vitft.evaluation import features, fewshot, knn, ridge
from vitft.evaluation.network import Network, computed
from vitft.images.batches import eval_batches
from vitft.images.fingerprints import encoded_digest, fingerprints
from vitft.images.overlap import overlap
from vitft.models.memory import evaluation_batch
from vitft.progress import Hooks
from vitft.recipes import digest
from vitft.results.parts import Env, FewshotProtocol, Provenance
from vitft.results.schema import FewshotResult, FewshotRow
from vitft.settings import Classifier


@dataclass(frozen=True)
class Examples:
    """What is drawn from and what is answered.

    Attributes:
        pool: the examples to draw from.
        test: the evaluated split, after `--limit`, with the pool's classes; whole: before it.
        big_vision: the pool is big_vision's: the owner's whole train.
        path: where the data are; "" for what is inside vitft.
    """

    pool: Split
    test: Split
    whole: Split
    big_vision: bool
    path: str = ""

    @property
    def stands_in(self) -> bool:
        """Whether the pool is VTAB's 800, which never holds k examples of each class."""
        return self.pool.name == "train800"


def examples(source: Source, limit: int | None = None, *, big_vision: bool = False) -> Examples:
    """Open the pool and the evaluated split of a source.

    Raises:
        DataMissing: no split to draw from or to evaluate on.
        DataError: the evaluated split has a class that the pool does not have.
    """
    path, source = path_of(source), Opened(source)
    pool = source.open(fewshot.pool_name(source.splits))
    if big_vision and val_is_train(source):
        pool = portions.join([pool, source.open("val")], f"train{portions.JOINED}val")
    name = next((name for name in ("test", "val") if name in source.splits), "test")
    whole = labels.by_name(source.open(name), pool.class_names, f"'{pool.name}'")
    test = whole if limit is None else portions.limit(whole, limit, seed=0)
    return Examples(pool, test, whole, big_vision, path)


def run(
    network: Network,
    data: Examples,
    classifier: Classifier,
    per_class: Sequence[int],
    seeds: Sequence[int],
    *,
    batch_size: int = 0,
    workers: int = 2,
    hooks: Hooks | None = None,
) -> FewshotResult:
    """Compute the features that any draw needs, then fit and test every (per_class, seed)."""
    hooks = hooks or Hooks()
    pool, test = data.pool, data.test
    positions = fewshot.needed(pool.labels, pool.num_classes, per_class, seeds)
    chosen = pool if len(positions) == len(pool) else pool.select(positions)
    known, tested = (_features(network, split, batch_size, workers, hooks) for split in (chosen, test))
    rows = fewshot.score(
        classifier,
        known,
        pool.labels,
        (tested, test.labels),
        pool.num_classes,
        per_class,
        seeds,
        lambda done, total: hooks.phase(classifier, done, total),
    )
    seen = {pool.name: fingerprints(chosen, hooks)}
    return FewshotResult(
        task=pool.task,
        model=network.info.name,
        classifier=classifier,
        stamps=tuple(_stamps(rows, data)),
        rows=tuple(rows),
        protocol=_protocol(network, classifier, pool.name),
        provenance=Provenance(
            **asdict(test.provenance),
            split=test.name,
            split_digest=test.digest,
            images_digest=encoded_digest(test, hooks),
            train_split=pool.name,
            train_digest=pool.digest,
            overlap=overlap(test, seen, {}, hooks),
            classes_without_test=labels.absent(data.whole),
            checkpoint_sha256=network.info.sha256,
            path=data.path or None,
        ),
        settings=computed(network),
        checkpoint=network.info,
        preprocess=network.preprocess,
        num_classes=pool.num_classes,
        class_names=pool.class_names,
        env=Env.now(devices.name(network.device.type), torch.__version__),
    )


def _protocol(network: Network, classifier: Classifier, pool: str) -> FewshotProtocol:
    fixed: dict[str, float] = {"ridge": {"l2": ridge.L2}, "knn": {"temperature": knn.TEMPERATURE}}.get(classifier, {})
    what = {"classifier": classifier, **fixed, "pool": pool, **network.protocol}
    return FewshotProtocol.model_validate({"id": digest(what), **what})


def _features(network: Network, split: Split, batch_size: int, workers: int, hooks: Hooks) -> NDArray[np.float32]:
    """Return the features of a split, from the cache where they are there."""
    pp, n = network.preprocess, len(split)
    who = None
    if network.info.sha256:
        who = features.identity(network.info.sha256, network.made_of, pp, split, network.precision)

    def on_progress(done: int) -> None:
        hooks.phase(f"features {split.name}", done, n)

    def compute() -> NDArray[np.float32]:
        size = batch_size or evaluation_batch(network.net, network.device)
        batches = eval_batches(split, pp, size, network.device, workers, hooks)
        return features.extract(network.net, batches, n, network.precision, on_progress)

    return features.cached(who, n, compute)


def _stamps(rows: Sequence[FewshotRow], data: Examples) -> list[str]:
    """Return the stamps of a result, which a reader must know before comparing it, a line each."""
    pool, lines = data.pool, []
    if data.big_vision and not data.stands_in:
        owner = next(iter(official.counts(pool.task, "train")), 0)
        lines.append(f"examples are drawn from '{pool.name}' ({len(pool):,} images), {_of_owner(len(pool), owner)}")
    elif pool.name != "train":
        lines.append(f"examples are drawn from '{pool.name}' ({len(pool):,} images): there is no 'train' here")
    for per_class, short, fewest in dict.fromkeys(
        (r.per_class, r.short_classes, r.fewest) for r in rows if r.short_classes
    ):
        lines.append(
            f"{short} of {pool.num_classes} classes have fewer than {per_class} examples (the fewest {fewest})"
        )
    if len(data.test) < len(data.whole):
        lines.append(f"subset {len(data.test)} of the {len(data.whole):,} test images")
    return lines


def _of_owner(n: int, owner: int) -> str:
    if not owner:
        return "all that stands there"
    return "the owner's whole train" if n == owner else f"not the owner's whole train ({owner:,})"
