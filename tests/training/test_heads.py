"""Heads that are trained as one, held against each head by itself in NumPy; and when they are."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.reference import rate
from vitft.settings import Settings
from vitft.training import heads, randomness
from vitft.training.heads import TrainedHead, suitable, train
from vitft.training.inputs import FeatureSource

K, D, N = 5, 3, 13
SGD = {"steps": 4, "batch_size": 7, "warmup_steps": 2, "momentum": 0.8, "lr": 0.5, "clip_norm": 0.0}
ADAMW = {**SGD, "optimizer": "adamw", "lr": 0.01}
CASES: dict[str, dict[str, Any]] = {
    "sgd": {**SGD, "weight_decay": 0.3, "ema": 0.7},
    "sgd, clipped": {**SGD, "clip_norm": 0.65},
    "sgd, clipped at little": {**SGD, "clip_norm": 1e-4, "label_smoothing": 0.999, "schedule": "constant"},
    "adamw": {**ADAMW, "weight_decay": 0.9, "label_smoothing": 0.2, "clip_norm": 0.2},
    "adamw, averaged": {**ADAMW, "ema": 0.5, "schedule": "staircase", "decay_steps": (2,)},
    "adamw, hardly any gradient": {**ADAMW, "label_smoothing": 0.999},
}
Numbers = np.ndarray


@dataclass
class Asked:
    """What a head is to learn from, on its own: features (2, N, D), labels (N,)."""

    features: Numbers
    labels: Numbers
    scale: float


def asked(name: str) -> Asked:
    rng = np.random.default_rng(3)
    scale = 1e-5 if "hardly" in name else 0.02 if "little" in name else 1.0
    return Asked(scale * rng.normal(size=(2, N, D)), rng.integers(0, K, N), scale)


def alone(s: Settings, seed: int, weight: Numbers, bias: Numbers, of: Asked) -> tuple[list[Numbers], Numbers, Numbers]:
    """Return weight and bias, the losses and the gradients' norms of one head."""
    values, first, second = [weight, bias], [0.0, 0.0], [0.0, 0.0]
    average, losses, norms = list(values), [], []
    for t in range(s.steps):
        chosen = randomness.order(seed, N, t, s.batch_size)
        mirrored = randomness.uniforms(seed, t, s.batch_size, 24)[:, 0] < 0.5
        x = of.features[mirrored.astype(int), chosen]
        y = (1 - s.label_smoothing) * np.eye(K)[of.labels[chosen]] + s.label_smoothing / K
        logits = x @ values[0].T + values[1]
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        losses.append(-(y * log_p).sum() / s.batch_size)
        error = (np.exp(log_p) - y) / s.batch_size
        gradients = [error.T @ x, error.sum(0)]
        norms.append(np.sqrt(sum((g**2).sum() for g in gradients)))
        share = min(1.0, s.clip_norm / (norms[-1] + 1e-6)) if s.clip_norm else 1.0
        lr = rate(s, t)
        for i, g in enumerate(gradients):
            g = g * share
            before = values[i] * (1 - lr * s.weight_decay) if i == 0 else values[i]
            if s.optimizer == "sgd":
                first[i] = s.momentum * first[i] + g
                values[i] = before - lr * first[i]
            else:
                first[i] = s.momentum * first[i] + (1 - s.momentum) * g
                second[i] = 0.999 * second[i] + 0.001 * g**2
                mean, square = first[i] / (1 - s.momentum ** (t + 1)), second[i] / (1 - 0.999 ** (t + 1))
                values[i] = before - lr * mean / (np.sqrt(square) + 1e-8)
            average[i] = s.ema * average[i] + (1 - s.ema) * values[i]
    return average if s.ema else values, np.array(losses), np.array(norms)


def started(of: Asked) -> tuple[nn.Linear, FeatureSource]:
    torch.manual_seed(0)
    start, labels = nn.Linear(D, K).double(), torch.from_numpy(of.labels)
    if of.scale != 1:  # so that hardly a gradient is left
        nn.init.zeros_(start.weight)
        nn.init.zeros_(start.bias)
    return start, FeatureSource(nn.Identity(), K, labels, 0, torch.from_numpy(of.features))


@pytest.mark.parametrize("name", CASES)
def test_each_of_many_heads_is_that_of_its_own_training(name):
    of = asked(name)
    start, source = started(of)
    whole = Settings(**CASES[name])
    rows = [(0.5, 0.0, 7), (1.0, 1.0, 2), (0.25, 0.5, 7), (2.0, 0.1, 0)]
    each = [
        (whole.model_copy(update={"lr": whole.lr * lr, "weight_decay": whole.weight_decay * decay}), seed)
        for lr, decay, seed in rows
    ]
    told: list[int] = []
    weight, bias = (p.detach().numpy().copy() for p in (start.weight, start.bias))
    found = train(start, source, each, "float32", told.append)
    assert told == list(range(whole.steps)) and len(found) == len(each)
    assert all(np.array_equal(a, b.detach().numpy()) for a, b in ((weight, start.weight), (bias, start.bias)))
    for head, (settings, seed) in zip(found, each, strict=True):
        values, losses, norms = alone(settings, seed, weight, bias, of)
        for got, expected, was in ((head.weight, values[0], weight), (head.bias, values[1], bias)):
            moved, far = got.detach().numpy() - was, np.abs(expected - was).max()
            # Targets and logits are float32: next to nothing is left of a gradient of next to nothing.
            np.testing.assert_allclose(moved, expected - was, atol=(2e-5 if of.scale == 1 else 4e-4) * far, rtol=0)
        np.testing.assert_allclose(head.losses, losses, rtol=1e-6)
        np.testing.assert_allclose(head.norms, norms, rtol=2e-5 if of.scale == 1 else 4e-4)
        assert head.finite


def test_in_bf16_the_loss_is_float32_of_logits_that_are_not():
    of = asked("plain")
    start, source = started(of)
    start, source.features = start.float(), source.features.float()
    (head,) = train(start, source, [(Settings(**{**SGD, "steps": 1}), 7)], "bf16", lambda step: None)
    chosen = randomness.order(7, N, 0, 7)
    view = (randomness.uniforms(7, 0, 7, 24)[:, 0] < 0.5).astype(int)
    x, y = source.features[view, chosen].bfloat16(), torch.from_numpy(of.labels[chosen])
    logits = torch.addmm(start.bias.detach().bfloat16(), x, start.weight.detach().bfloat16().T)
    assert head.losses == pytest.approx([float(nn.functional.cross_entropy(logits.float(), y))], rel=1e-4)
    assert head.weight.dtype == torch.float32


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_head_is_finite_where_every_number_of_it_is(bad):
    weight, numbers = torch.zeros(2, 3), [1.0, 2.0]
    assert TrainedHead(weight, torch.zeros(2), numbers, numbers).finite
    broken = weight.clone()
    broken[1, 0] = bad
    assert not TrainedHead(broken, torch.zeros(2), numbers, numbers).finite
    assert not TrainedHead(weight, torch.zeros(2), [1.0, bad], numbers).finite
    assert not TrainedHead(weight, torch.zeros(2), numbers, [bad, 1.0]).finite


def test_heads_are_trained_as_one_up_to_two_million_million_operations():
    """Six an example and a weight: two forward, four backward."""
    for steps, batch, n in ((1, 1, 1), (10, 1, 1), (1, 10, 1), (1, 1, 10)):
        of = Settings(steps=steps, batch_size=batch)
        size = 2 * 10**12 // (6 * steps * batch * n)
        assert suitable(of, n, size) and not suitable(of, n, size + 1)
    assert heads._MOST == 2e12
