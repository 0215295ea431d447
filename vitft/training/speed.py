"""How fast a device trains: one transformer block, forwards and backwards, measured in about a second."""

import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import torch
from timm.models.vision_transformer import Block

from vitft import device as devices
from vitft.results.bench import BenchResult
from vitft.words import rate

_SECONDS = 0.5
_TOKENS = 256
"""At most so many tokens an image: a long sequence would take a slow machine too long, and is hardly faster."""

_BATCH_TOKENS = {"cpu": 3200}
_MOST_TOKENS = 32768
"""Tokens a pass: as `device.training_batch` has it on a CPU, elsewhere enough to keep the device busy."""


@dataclass(frozen=True)
class Speed:
    """Floating-point operations a second, on which kind of device, and how that is known.

    Attributes:
        flops_per_s: in training.
        forward_per_s: in evaluation; 0 = as in training.
        decoded_per_s: images decoded a second; 0 = not known, and in no estimate.
    """

    flops_per_s: float
    device: str
    how: str
    forward_per_s: float = 0.0
    decoded_per_s: float = 0.0


def assumed(flops_per_s: float, device: str) -> Speed:
    """Return a speed that is assumed, not measured, and says so."""
    return Speed(flops_per_s, device, f"assumed: {rate(flops_per_s)}")


def profiled(profile: BenchResult, how: str) -> Speed:
    """Return the speed that `vitft bench` has measured, of training and of evaluation, for networks like its own."""
    own = next(loop for loop in profile.loops if loop.name == "vitft")
    forward = 2 * profile.macs_per_image * own.evaluate.images_per_s if own.evaluate else 0.0
    size = "x".join(map(str, profile.resolution))
    source = f"{how} of {profile.model} at {size}: {rate(profile.products.train)}"
    return Speed(profile.products.train, profile.env.device, source, forward, profile.decoded_per_s or 0.0)


def measured(width: int, tokens: int, device: torch.device, precision: str) -> Speed:
    """Time a block of this width on random tokens; its multiply-accumulates are 12 N D^2 + 2 N^2 D an image.

    A whole network is within about a quarter of it: what else it does (patches, head, optimiser) is little.
    """
    tokens = min(tokens, _TOKENS)
    images = max(1, _BATCH_TOKENS.get(device.type, _MOST_TOKENS) // tokens)
    flops = 6.0 * images * (12 * tokens * width**2 + 2 * tokens**2 * width)
    with torch.random.fork_rng(devices=[]):
        block = Block(width, max(1, width // 64), qkv_bias=True).to(device).train()
        x = torch.randn(images, tokens, width, device=device)
    _pass(block, x, precision)
    passes, began = 0, time.perf_counter()
    while passes == 0 or time.perf_counter() - began < _SECONDS:
        _pass(block, x, precision)
        passes += 1
    speed = flops * passes / (time.perf_counter() - began)
    return Speed(speed, device.type, f"a block of its width, measured now: {rate(speed)}")


def measured_apart(width: int, tokens: int, device: torch.device, precision: str) -> Speed:
    """Return `measured` from a process of its own, so that this one holds no memory of the device."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measured, width, tokens, device, precision).result()


def _pass(block: torch.nn.Module, x: torch.Tensor, precision: str) -> None:
    with devices.forward_in(x.device, precision):
        loss = block(x).float().mean()
    loss.backward()
    block.zero_grad(set_to_none=True)
    loss.item()  # waits for the device
