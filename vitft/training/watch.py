"""Evaluation of held-out images while a fit runs. Nothing of the fit depends on it."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from vitft.errors import Interrupted
from vitft.training.state import Metrics
from vitft.training.update import Fit, Stopped

KEY = "val_top1"
"""Which a line of metrics.jsonl has where there was a look after that update."""


@dataclass(frozen=True)
class Watch:
    """When held-out images are evaluated, and how.

    Attributes:
        every: updates between two evaluations; one more comes after the last update.
        measure: (step, micro-batch) -> what goes into that step's line, KEY among it. Raises Interrupted.
    """

    every: int
    measure: Callable[[int, int], dict[str, float]]

    def due(self, run: Fit) -> bool:
        """Tell whether an evaluation is due after the last update."""
        return run.step > 0 and (run.step % self.every == 0 or run.step == run.settings.steps)

    def look(self, run: Fit, micro_batch: int, metrics: Metrics) -> float:
        """Evaluate, unless that was done before a stop; return the seconds it took. Raises Stopped."""
        if KEY in metrics.last:
            return 0.0
        began = time.monotonic()
        try:
            with run.averaged():
                metrics.amend(self.measure(run.step, micro_batch))
        except Interrupted as error:
            raise Stopped(error.signum) from None
        return time.monotonic() - began
