"""Learning-rate schedules as functions of the update's number."""

import math

from vitft.settings import Settings


def learning_rate(settings: Settings, step: int) -> float:
    """Return the learning rate of update `step`, counted from 0 to settings.steps - 1.

    The schedule runs over [warmup, steps]; warmup multiplies it by (step + 1) / warmup_steps, so the first update is
    not wasted on a rate of 0. (The released vision_transformer code multiplies by step / warmup: its first update
    changes nothing.)

    - cosine: half a cosine from 1 to 0 (vision_transformer, utils.create_learning_rate_schedule).
    - linear: a straight line from 1 to 0.
    - staircase: divided by 10 after each of `decay_steps`, so that update `boundary` is the last at the higher rate
      (`s < step` in BiT's bit_hyperrule.py and in the piecewise constant of the VTAB code).
    - constant: 1.
    """
    warmup = min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
    progress = max(0, step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    match settings.schedule:
        case "cosine":
            factor = 0.5 * (1.0 + math.cos(math.pi * progress))
        case "linear":
            factor = 1.0 - progress
        case "staircase":
            factor = 10.0 ** -sum(step > boundary for boundary in settings.decay_steps)
        case "constant":
            factor = 1.0
    return settings.lr * warmup * factor
