"""`--val-every`: val beside the training of a unit, where it has one that it does not train on."""

from collections.abc import Callable

import torch
from torch.nn import functional as F

from vitft.data.split import Split
from vitft.evaluation.predict import Predictions
from vitft.protocol import stamp as stamping
from vitft.protocol.guard import Guard
from vitft.training.watch import KEY, Watch


def val(guard: Guard, train: Split, dev: Split | None) -> Split | None:
    """Return what can be looked at beside the training: val, or dev while tuning; None where there is neither."""
    found = dev if dev is not None else guard.watch()
    return None if found is None else stamping.classes(train, found)[0]


def watch(split: Split, every: int, answers: Callable[[int], Predictions], note: Callable[[str], None]) -> Watch:
    """Return what looks at a split after every so many updates, and tells its accuracy and mean loss.

    Args:
        answers: micro-batch -> what the network says of every image; raises Interrupted where a signal came.
    """

    def measure(step: int, micro_batch: int) -> dict[str, float]:
        found = answers(micro_batch)
        top1 = float((found.answers == split.labels).mean())
        loss = F.cross_entropy(torch.from_numpy(found.logits).double(), torch.from_numpy(split.labels))
        note(f"step {step}: {100 * top1:.1f} on {split.name} (n {len(split):,})")
        return {KEY: top1, "val_loss": float(loss), "val_n": len(split)}

    return Watch(every, measure)
