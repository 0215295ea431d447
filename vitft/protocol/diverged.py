"""Recognise a fit that diverged though every loss stayed finite. No torch."""

import json
import math
from pathlib import Path
from statistics import fmean

LAST = 10
"""Updates over whose losses the mean is taken; half of them where a fit has fewer than twice as many."""

FACTOR = 2.0
"""A zero head starts at ln K, whatever the label smoothing or mixup; twice that is far above any guess."""


def warning(metrics: Path, num_classes: int) -> str:
    """Return a line where the mean of the last losses lies far above ln K, else "".

    Args:
        metrics: metrics.jsonl of the unit, one line an update.
        num_classes: K.
    """
    losses = [json.loads(line)["loss"] for line in metrics.read_text().splitlines() if line.strip()]
    last = losses[-max(1, min(LAST, len(losses) // 2)) :]
    guess = math.log(num_classes)
    if not last or fmean(last) <= FACTOR * guess:
        return ""
    return (
        f"diverged: the loss of the last {len(last)} updates is {fmean(last):,.4g} on average, far above the "
        f"{guess:.3g} (ln {num_classes}) of a guess; try a smaller --lr"
    )
