"""Randomness that does not depend on how the work is cut.

Every random number of an example is a function of (seed, step, position in the effective batch), drawn from Philox,
a counter-based generator: micro-batch, workers and interruptions change nothing.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_ORDER, _AUGMENT, _MIXUP = 1, 2, 3  # streams that must never share a number


def _generator(seed: int, stream: int, counter: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed & (2**64 - 1), stream], counter=[0, 0, 0, counter]))


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, n: int) -> NDArray[np.int64]:
    return _generator(seed, _ORDER, epoch).permutation(n)


def order(seed: int, n: int, step: int, batch_size: int) -> NDArray[np.int64]:
    """Return the (batch_size,) examples of a step: a new permutation each epoch, batches run across epochs.

    Args:
        n: examples in the training split.
        step: from 0.
    """
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    return np.array([_permutation(seed, int(p // n), n)[p % n] for p in positions], dtype=np.int64)


def uniforms(seed: int, step: int, batch_size: int, width: int) -> NDArray[np.float64]:
    """Return (batch_size, width) numbers in [0, 1) for the augmentation of a step, one row a position."""
    return _generator(seed, _AUGMENT, step).random((batch_size, width))


def mixup_weight(seed: int, step: int, alpha: float) -> float:
    """Return a step's mixup weight, drawn from Beta(alpha, alpha): one for the whole effective batch, as in BiT."""
    return float(_generator(seed, _MIXUP, step).beta(alpha, alpha))


def torch_seed(seed: int, step: int, micro: int) -> int:
    """Return a seed for what the network itself draws (drop path, dropout) in one micro-batch of a step."""
    return int(np.random.SeedSequence([seed & (2**63 - 1), step, micro]).generate_state(1, np.uint64)[0]) >> 1
