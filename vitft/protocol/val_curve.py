"""`--val-every`: accuracy on val while a unit trains, where it has a val that it does not train on."""

from collections.abc import Callable

import torch
from torch.nn import functional as F

from vitft.data.split import Split
from vitft.evaluation.predict import Predictions
from vitft.protocol import stamp as stamping
from vitft.protocol.guard import Guard
from vitft.training.watch import KEY, Watch


def val(guard: Guard, train: Split, dev: Split | None) -> Split | None:
    """Return the split to evaluate while training: val, or dev while tuning; None where there is neither."""
    split = dev if dev is not None else guard.watch()
    return None if split is None else stamping.classes(train, split)[0]


def watch(split: Split, every: int, answers: Callable[[int], Predictions], note: Callable[[str], None]) -> Watch:
    """Return a watch that measures accuracy and mean loss on a split every so many updates.

    Args:
        answers: micro-batch -> the network's predictions for every image; raises Interrupted where a signal came.
    """

    def measure(step: int, micro_batch: int) -> dict[str, float]:
        predictions = answers(micro_batch)
        top1 = float((predictions.answers == split.labels).mean())
        loss = F.cross_entropy(torch.from_numpy(predictions.logits).double(), torch.from_numpy(split.labels))
        note(f"step {step}: {100 * top1:.1f} on {split.name} (n {len(split):,})")
        return {KEY: top1, "val_loss": float(loss), "val_n": len(split)}

    return Watch(every, measure)
