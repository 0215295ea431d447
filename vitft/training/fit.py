"""Fit a network to a split: optimiser, accumulation, clipping, averaging, and going on after an interruption."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from vitft.errors import NonFiniteLoss, OutOfMemory
from vitft.images.batches import Images
from vitft.images.cache import encoded_digest
from vitft.images.preprocess import UNIFORMS
from vitft.progress import Hooks, StepReport
from vitft.settings import Settings
from vitft.training import inputs, randomness, state
from vitft.training.schedule import learning_rate


@dataclass(frozen=True)
class Fitted:
    """What a fit did.

    Attributes:
        steps: updates done, all in all.
        resumed_at: the update it went on from, 0 for a run in one piece.
        first_loss, last_loss: mean loss over the effective batch; ln K first, as the head is zero.
        micro_batch: images a forward pass, after any halving.
        seconds, images: of this process only.
        computed: images of which the features were computed once; 0 where each update sends images through.
    """

    steps: int
    resumed_at: int
    first_loss: float
    last_loss: float
    micro_batch: int
    seconds: float
    images: int
    computed: int


def fit(
    net: nn.Module,
    images: Images,
    groups: list[dict[str, Any]],
    settings: Settings,
    *,
    seed: int,
    folder: Path,
    precision: str = "float32",
    micro_batch: int = 0,
    hooks: Hooks | None = None,
    state_seconds: float = 60.0,
) -> Fitted:
    """Train `net` in place for settings.steps updates; it holds the averaged weights afterwards where `ema` is on.

    Args:
        images: the training split; its labels are those of its split.
        groups: parameter groups, each with "params", "lr_scale" and "weight_decay" (see `models.methods`).
        folder: where metrics.jsonl and state.pt live; a state found there is gone on from.
        precision: "float32" or "bf16" (autocast; the weights stay float32).
        micro_batch: images a forward pass; 0 = by device. The gradient is that of the effective batch in any case.
        state_seconds: least time between two saved states.

    Raises:
        NonFiniteLoss: with the step, the lr and the last finite loss.
        OutOfMemory: a single image does not fit.
        Interrupted: a signal came; the state was saved first.
        DiskFull: a state or a metric could not be written.
    """
    hooks = hooks or Hooks()
    device = images.device
    labels = torch.from_numpy(images.split.labels).to(device)
    micro_batch = min(settings.batch_size, micro_batch or _micro_batch(net, device))
    parameters = [p for g in groups for p in g["params"]]
    optimizer = _optimizer(groups, settings)
    average = [p.detach().clone() for p in parameters] if settings.ema else []
    buffers = _buffers(net)
    folder.mkdir(parents=True, exist_ok=True)

    start, first_loss, last_loss = 0, math.nan, math.nan
    saved = state.load(folder / "state.pt")
    if saved is None and (folder / "state.pt").exists():
        hooks.note("The saved state is damaged; this unit starts from its beginning.")
    identity = f"{images.split.digest} {encoded_digest(images.split, hooks)}"
    if saved is not None and saved["split"] != identity:
        hooks.note("The training images have changed since the state was saved; this unit starts from its beginning.")
        saved = None
    if saved is not None:
        start, first_loss, last_loss = saved["step"], saved["first_loss"], saved["last_loss"]
        micro_batch = saved["micro_batch"]
        _restore(saved, parameters, optimizer, average, buffers)
        hooks.note(f"Going on from step {start} of {settings.steps}.")
    metrics = state.Metrics(folder / "metrics.jsonl", keep=start)

    source = inputs.source(net, images, settings, precision, micro_batch, hooks)
    network = source.network
    # Features are cheap: all of a batch at once. What the state keeps is the micro-batch they were computed with.
    whole = settings.batch_size if isinstance(source, inputs.FeatureSource) else 0
    began, seen, last_save, save_cost = time.monotonic(), 0, time.monotonic(), 0.0

    def save(step: int) -> None:
        metrics.flush()
        state.save(
            folder / "state.pt",
            {
                "step": step,
                "split": identity,
                "first_loss": first_loss,
                "last_loss": last_loss,
                "micro_batch": micro_batch,
                "parameters": [p.detach().cpu() for p in parameters],
                "optimizer": optimizer.state_dict(),
                "average": [a.cpu() for a in average],
                "buffers": [b.cpu() for b in buffers],
            },
        )

    step = start
    try:
        while step < settings.steps:
            lr = learning_rate(settings, step)
            began_step = time.monotonic()
            before = [b.clone() for b in buffers]
            try:
                loss = _gradients(network, source, labels, settings, seed, step, whole or micro_batch, precision, hooks)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                micro_batch = _halved(micro_batch, hooks)
                optimizer.zero_grad(set_to_none=True)
                _copy(before, buffers)
                continue
            norm = float(nn.utils.clip_grad_norm_(parameters, settings.clip_norm or math.inf))
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise NonFiniteLoss(
                    f"The loss is {loss} (gradient norm {norm}) at step {step + 1} of {settings.steps}, lr {lr:.3g}.",
                    f"The last finite loss was {last_loss:.4f}." if math.isfinite(last_loss) else "",
                    f"Try a smaller --lr (now {settings.lr:g}), more warmup_steps, or --precision float32.",
                )
            _update(optimizer, settings, lr)
            for a, p in zip(average, parameters, strict=bool(average)):
                a.lerp_(p.detach(), 1 - settings.ema)
            step += 1
            first_loss = loss if step == 1 else first_loss
            last_loss = loss
            seen += settings.batch_size
            metrics.add({"step": step, "loss": loss, "lr": lr, "grad_norm": norm})
            speed = 1.0 / max(1e-9, time.monotonic() - began_step)
            hooks.step(StepReport(step, settings.steps, loss, lr, norm, speed * settings.batch_size, speed))
            # Saving takes at most a twentieth of the time, however large the network; 0 = after each update.
            due = max(state_seconds, 20 * save_cost) if state_seconds else 0.0
            if time.monotonic() - last_save >= due and step < settings.steps:
                last_save = time.monotonic()
                save(step)
                save_cost = time.monotonic() - last_save
            if hooks.signal():
                break
        if step > start or start == 0:
            save(step)
    except _Stopped:
        optimizer.zero_grad(set_to_none=True)
        _copy(before, buffers)
        save(step)
    finally:
        metrics.close()
    hooks.stop_if_asked()
    if average:
        _copy(average, parameters)
    return Fitted(step, start, first_loss, last_loss, micro_batch, time.monotonic() - began, seen, source.computed)


class _Stopped(Exception):
    """A signal came between two micro-batches; the weights are those of the last whole update."""


def _gradients(
    network: nn.Module,
    source: inputs.Source,
    labels: Tensor,
    settings: Settings,
    seed: int,
    step: int,
    micro_batch: int,
    precision: str,
    hooks: Hooks,
) -> float:
    """Accumulate the gradient of the mean loss over the effective batch; return that loss."""
    n, batch = len(labels), settings.batch_size
    indices = randomness.order(seed, n, step, batch)
    rows = randomness.uniforms(seed, step, batch, UNIFORMS)
    parts = [slice(a, min(a + micro_batch, batch)) for a in range(0, batch, micro_batch)]
    # Mixup pairs position p with batch - 1 - p: a pairing that no micro-batch boundary can change.
    weight = randomness.mixup_weight(seed, step, settings.mixup) if settings.mixup else 1.0
    partner = np.arange(batch)[::-1]
    inputs = source.batches([indices[p] for p in parts], [rows[p] for p in parts])
    others: Iterator[Tensor] = iter(())
    if settings.mixup:
        others = source.batches([indices[partner[p]] for p in parts], [rows[partner[p]] for p in parts])
    total = 0.0
    for micro, (part, x) in enumerate(zip(parts, inputs, strict=True)):
        if hooks.signal():
            raise _Stopped
        targets = _targets(labels[_index(indices[part], labels)], source.num_classes, settings)
        if settings.mixup:
            x = weight * x + (1 - weight) * next(others)
            other = _targets(labels[_index(indices[partner[part]], labels)], source.num_classes, settings)
            targets = weight * targets + (1 - weight) * other
        if settings.drop_path:
            torch.manual_seed(randomness.torch_seed(seed, step, micro))
        with autocast(x.device, precision):
            logits = network(x)
        loss = F.cross_entropy(logits.float(), targets, reduction="sum") / batch
        loss.backward()
        total += float(loss.detach())
    return total


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Return bf16 autocast, or nothing for float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


def _index(indices: NDArray[np.int64], labels: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(indices)).to(labels.device)


def _targets(labels: Tensor, num_classes: int, settings: Settings) -> Tensor:
    onehot = F.one_hot(labels, num_classes).float()
    if settings.label_smoothing:
        onehot = onehot * (1 - settings.label_smoothing) + settings.label_smoothing / num_classes
    return onehot


def _micro_batch(net: nn.Module, device: torch.device) -> int:
    """Return images a forward pass: on a CPU about 3,200 tokens, elsewhere plenty (it halves when memory is short).

    Measured on two CPU cores with Ti/16 at 224 px (197 tokens): 8 to 16 images are fastest, 64 a fifth slower.
    """
    if device.type != "cpu":
        return 512
    patches = getattr(getattr(net, "patch_embed", None), "num_patches", None)
    return max(4, 3200 // patches) if patches else 16


def _optimizer(groups: list[dict[str, Any]], settings: Settings) -> torch.optim.Optimizer:
    groups = [dict(g) for g in groups]
    if settings.optimizer == "sgd":
        # Decay is applied by _update, decoupled from the gradient, so that it means the same for both optimisers.
        return torch.optim.SGD([{**g, "weight_decay": 0.0, "decay": g["weight_decay"]} for g in groups],
                               lr=settings.lr, momentum=settings.momentum)  # fmt: skip
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(settings.momentum, 0.999))


def _update(optimizer: torch.optim.Optimizer, settings: Settings, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
        if settings.optimizer == "sgd" and group["decay"]:
            with torch.no_grad():
                for p in group["params"]:
                    p.mul_(1 - group["lr"] * group["decay"])
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _restore(
    saved: dict[str, Any],
    parameters: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    average: list[Tensor],
    buffers: list[Tensor],
) -> None:
    _copy(saved["parameters"], parameters)
    _copy(saved["average"], average)
    _copy(saved["buffers"], buffers)
    optimizer.load_state_dict(saved["optimizer"])


def _buffers(net: nn.Module) -> list[Tensor]:
    """Return what a forward pass in training changes: the running statistics of batch normalisation."""
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    return [buffer for norm in norms for buffer in norm.buffers()]


def _copy(values: Sequence[Tensor], into: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for target, value in zip(into, values, strict=True):
            target.copy_(value)


def _out_of_memory(error: BaseException) -> bool:
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in said or "ALLOC_FAILED" in said


def _halved(micro_batch: int, hooks: Hooks) -> int:
    if micro_batch == 1:
        raise OutOfMemory(
            "Out of memory with a single image at a time.",
            "Memory grows with the resolution, the network and, for AdamW and EMA, the optimiser's state.",
            "Try a smaller -r, --method lora or linear, or --precision bf16.",
        )
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    hooks.note(f"Out of memory at micro-batch {micro_batch}; going on with {micro_batch // 2}, same effective batch.")
    return micro_batch // 2
