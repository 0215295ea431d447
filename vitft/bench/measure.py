"""Measure loops against each other: in turn, round by round, so that a machine whose speed drifts drifts for all."""

import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional as F

from vitft import device as devices
from vitft.bench.loops import Bare, Loop, Own, Timm
from vitft.bench.request import Other
from vitft.bench.subject import Subject, opened
from vitft.data.portions import JOINED
from vitft.data.split import Opened, Sized
from vitft.images.batches import Images
from vitft.models.flops import macs
from vitft.models.memory import evaluation_batch
from vitft.progress import Hooks
from vitft.protocol.jobs import Runtime
from vitft.protocol.units import Job
from vitft.results.bench import BenchResult, LoopPace, Pace, Products, Saving
from vitft.results.parts import Env
from vitft.training.fit import Compute
from vitft.training.state import interval

_SQUARE, _IMAGES = {"cpu": 1024}, 16
_LARGE = 8192


@dataclass(frozen=True)
class Plan:
    """How long to measure.

    Attributes:
        rounds: times that each loop has its turn.
        steps: updates a turn.
        images: to evaluate, a turn; 0 = no evaluation.
    """

    rounds: int = 5
    steps: int = 4
    images: int = 0


def measure(subject: Subject, model: str, against: Sequence[Other], plan: Plan, hooks: Hooks) -> BenchResult:
    """Measure vitft's loop beside the named others; one that cannot run here stays, with the reason."""
    own = Own(subject, hooks)
    warm = min(plan.images, evaluation_batch(own.net, subject.device))  # a whole batch, as it will be compiled for
    _warmed("vitft", own, warm)
    memory = _memory(subject.device)
    loops: dict[str, Loop] = {"vitft": own}
    failed: dict[str, str] = {}
    names: tuple[Literal["vitft"] | Other, ...] = ("vitft", *against)
    for name in against:
        try:
            loops[name] = _other(name, subject)
            _warmed(name, loops[name], warm)
        except Exception as error:  # whatever another loop dies of is a fact about it, and ends nothing
            failed[name] = f"{type(error).__name__}: {error}".split("\n")[0]
            loops.pop(name, None)
            devices.forget()
    s, n = subject, subject.settings.batch_size * plan.steps
    trained = _in_turn({name: loop.train for name, loop in loops.items()}, plan.steps, n, plan, "train", hooks)
    answered = {}
    if plan.images:
        turns = {name: loop.evaluate for name, loop in loops.items()}
        answered = _in_turn(turns, plan.images, plan.images, plan, "evaluate", hooks)
    per_image = macs(own.net, s.pp.size)
    held_up = statistics.median(own.saving)
    flops = 6 * per_image * trained["vitft"].images_per_s
    square = products(s.device, s.precision)
    return BenchResult(
        model=model,
        data=s.split.task,
        method=s.settings.method,
        optimizer=s.settings.optimizer,
        resolution=s.pp.size,
        batch_size=s.settings.batch_size,
        micro_batch=s.micro_batch,
        precision=s.precision,
        threads=torch.get_num_threads(),
        workers=s.workers,
        compiled=own.blocks.compiled and not own.blocks.eager(),
        eager_why=own.blocks.eager(),
        rounds=plan.rounds,
        steps=plan.steps,
        loops=tuple(
            LoopPace(name=name, train=trained.get(name), evaluate=answered.get(name), why=failed.get(name, ""))
            for name in names
        ),
        waiting=min(1.0, own.waited / own.trained),
        saving=Saving(seconds=held_up, share=held_up / interval(Compute.state_seconds, held_up)),
        decoded_per_s=_decoding(s),
        memory_bytes=memory,
        macs_per_image=per_image,
        products=Products(square=square, own_shapes=_of_block(own.net, s), train=flops, share=flops / square),
        env=Env.now(devices.name(s.device.type), torch.__version__),
    )


def measure_briefly(job: Job, data: Sized, runtime: Runtime, hooks: Hooks) -> BenchResult:
    """Measure vitft's own loop on a job's network and a few of its training images; random ones where those are absent.

    Raises as `subject.opened`.
    """
    split = None
    if isinstance(data, Opened):
        whole = data.open(job.scheme.final_train.split(JOINED)[0])
        split = whole.select(np.arange(min(len(whole), 4 * job.settings.batch_size)))
    subject = opened(job.model, job.settings, split, runtime, hooks)
    return measure(subject, job.model, (), Plan(_SHORT, _SHORT, _ANSWERED), hooks)


_SHORT, _ANSWERED = 3, 64


def products(device: torch.device, precision: str, shapes: Sequence[tuple[int, int, int, int]] = ()) -> float:
    """Return the floating-point operations a second of linear layers as vitft has them, by default a large square one.

    Args:
        shapes: (B, T, D, K) of each product of tokens (B, T, D) and weights (K, D).
    """
    side = _SQUARE.get(device.type, _LARGE)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    pairs = [
        (torch.randn(b, t, d, device=device, dtype=dtype), torch.randn(k, d, device=device, dtype=dtype))
        for b, t, d, k in shapes or [(_IMAGES, side // _IMAGES, side, side)]
    ]
    flops = sum(2.0 * x.numel() * len(weight) for x, weight in pairs)

    def once(times: int) -> float:
        began = time.perf_counter()
        with torch.inference_mode(), devices.forward_in(device, precision):
            for _ in range(times):
                for x, weight in pairs:
                    F.linear(x, weight)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    once(2)
    times = max(2, round(0.2 / max(1e-6, once(1))))
    return flops * times / min(once(times) for _ in range(3))


def _of_block(net: Any, subject: Subject) -> float | None:
    """Return the rate of the products of one block at the micro-batch: qkv, the output, the two layers of the MLP."""
    if not hasattr(net, "blocks") or not hasattr(net, "embed_dim"):
        return None
    d, hidden = net.embed_dim, net.blocks[0].mlp.fc1.out_features
    rows = subject.micro_batch, net.patch_embed.num_patches + net.num_prefix_tokens
    layers = [(d, 3 * d), (d, d), (d, hidden), (hidden, d)]
    return products(subject.device, subject.precision, [(*rows, *layer) for layer in layers])


def _other(name: Other, subject: Subject) -> Loop:
    return Timm(subject) if name == "timm" else Bare(subject, compiled=name == "compiled")


def _warmed(name: str, loop: Loop, images: int) -> None:
    _taken(name, loop.train, 2)
    if images:
        _taken(name, loop.evaluate, images)


def _taken(name: str, turn: Callable[[int], float], amount: int) -> float:
    """Take a turn: what a batch leaves in memory is kept for vitft's next one; the others have it torch's way."""
    devices.keep_freed_memory(name == "vitft")
    return turn(amount)


def _in_turn(
    turns: Mapping[str, Callable[[int], float]], amount: int, images: int, plan: Plan, what: str, hooks: Hooks
) -> dict[str, Pace]:
    rates: dict[str, list[float]] = {name: [] for name in turns}
    for done in range(plan.rounds):
        for name, turn in turns.items():
            hooks.stop_if_asked()
            rates[name].append(images / _taken(name, turn, amount))
        hooks.phase(what, done + 1, plan.rounds)
    own = rates["vitft"]
    return {name: _pace(found, [] if name == "vitft" else [a / b for a, b in zip(own, found, strict=True)])
            for name, found in rates.items()}  # fmt: skip


def _pace(rates: list[float], ratios: list[float]) -> Pace:
    return Pace(
        images_per_s=statistics.median(rates),
        span=(min(rates), max(rates)),
        ratio=statistics.median(ratios) if ratios else None,
        ratio_span=(min(ratios), max(ratios)) if ratios else None,
    )


_DECODED = 64
"""Images that are decoded to time it."""


def _decoding(s: Subject) -> float:
    """Return how many images all workers read, decode and resize in a second."""
    rows = np.unique(np.linspace(0, len(s.split) - 1, min(_DECODED, len(s.split))).round().astype(np.int64))
    images = Images(s.split, s.pp, torch.device("cpu"), s.workers, keep="never")
    next(images.batches([rows[:1]]))
    began = time.perf_counter()
    next(images.batches([rows]))
    return len(rows) / (time.perf_counter() - began)


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
