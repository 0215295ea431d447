"""The loops that are measured: vitft's own, bare ones on ready tensors, and timm's way to the same work."""

import math
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from vitft import device as devices
from vitft.bench.subject import Subject
from vitft.compiling import Blocks, usual
from vitft.data.split import Split
from vitft.errors import VitftError
from vitft.evaluation.predict import predict
from vitft.images.batches import EvalBatches, Images
from vitft.models.memory import evaluation_batch
from vitft.models.methods import parameter_groups
from vitft.progress import Hooks, StepReport
from vitft.training.fit import Compute, fit


class Loop(Protocol):
    """One way to train and evaluate a subject."""

    name: str

    def train(self, steps: int) -> float:
        """Make `steps` updates of the effective batch and return the seconds they took, the device's work included."""
        ...

    def evaluate(self, images: int) -> float:
        """Evaluate so many images and return the seconds that took."""
        ...


class Own:
    """vitft's own loop and its own evaluation, as a run has them.

    Attributes:
        net: what is trained; `blocks`: its own, compiled or not.
        waited: seconds that the host waited for a batch of an update: its crop, flip and normalisation are in it.
        trained: seconds of all updates that were timed.
        saving: seconds that a state held the updates up, of each fit.
    """

    name = "vitft"

    def __init__(self, subject: Subject, hooks: Hooks) -> None:
        self._subject, self._hooks = subject, hooks
        self.net = subject.network()
        self.blocks = Blocks(self.net, subject.compiled)
        self._images = _Timed(subject, hooks)
        self._tested = Images(subject.split, subject.pp, subject.device, subject.workers, hooks)
        self.waited = self.trained = 0.0
        self.saving: list[float] = []

    def train(self, steps: int) -> float:
        s, seconds = self._subject, list[float]()
        waits = len(self._images.waits)

        def stepped(report: StepReport) -> None:
            if not report.part:
                seconds.append(1 / report.steps_per_s)

        settings = s.settings.model_copy(update={"steps": steps + 1, "warmup_steps": 0, "decay_steps": ()})
        with tempfile.TemporaryDirectory() as folder:
            fitted = fit(
                self.net,
                self._images,
                parameter_groups(self.net, settings),
                settings,
                seed=0,
                folder=Path(folder),
                compute=Compute(s.precision, s.micro_batch, state_seconds=math.inf, blocks=self.blocks),
                hooks=Hooks(step=stepped, signal=self._hooks.signal),
            )
            with fitted.state:
                self.saving.append(fitted.saving)
        # The first update is left out: it makes the optimiser's state.
        self.waited += sum(self._images.waits[waits + 1 :])
        took = sum(seconds[1:])
        self.trained += took
        return took

    def evaluate(self, images: int) -> float:
        s, n = self._subject, len(self._tested)
        size = evaluation_batch(self.net, s.device)
        rows = [np.arange(a, min(a + size, images)) for a in range(0, images, size)]
        images_of = self._tested.batches([r % n for r in rows])
        batches = EvalBatches(size, zip(map(torch.from_numpy, rows), images_of, strict=True))
        began = time.perf_counter()
        predict(self.net, batches, images, s.split.num_classes, precision=s.precision)
        return time.perf_counter() - began


class Bare:
    """The fewest lines that train the same network: one ready batch again and again, nothing read, said or saved.

    Args:
        compiled: each block is compiled, as vitft's own are, and on a card the optimiser fused.
    """

    def __init__(self, subject: Subject, *, compiled: bool = False) -> None:
        self.name = "compiled" if compiled else "bare"
        self._subject = subject
        self._net: Any = subject.network()
        self._blocks: Blocks | None = None
        if compiled:
            self._blocks = Blocks(self._net, True)
            if self._blocks.why:
                raise VitftError(f"Nothing to compile: {self._blocks.why}.")
        self._optimizer = _optimizer(self._net, subject, fused=compiled and subject.device.type == "cuda")

    def train(self, steps: int) -> float:
        s = self._subject
        updates = (s.ready(s.settings.batch_size) for _ in range(steps))
        seconds = _trained(self._net, self._optimizer, s, updates, s.micro_batch)
        if self._blocks is not None and (why := self._blocks.eager()):
            raise VitftError(f"Nothing was compiled: {why}.")
        return seconds

    def evaluate(self, images: int) -> float:
        s, size = self._subject, evaluation_batch(self._net, self._subject.device)
        self._net.eval()
        x = torch.randn(size, 3, *s.pp.size, device=s.device)
        s.wait()
        began = time.perf_counter()
        with torch.inference_mode(), devices.autocast(s.device, s.precision):
            for a in range(0, images, size):
                part = x[: images - a]
                with usual(len(part), size if self._blocks is not None else 0):
                    self._net(part).float().cpu()
        return time.perf_counter() - began


class Timm:
    """timm's way: its loader with worker processes that decode and augment each image anew, whole batches, autocast."""

    name = "timm"

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._net: Any = subject.network()
        self._optimizer = _optimizer(self._net, subject, fused=False)
        self._train = self._forever(subject.settings.batch_size)

    def train(self, steps: int) -> float:
        return _trained(self._net, self._optimizer, self._subject, ([next(self._train)] for _ in range(steps)))

    def evaluate(self, images: int) -> float:
        s, done = self._subject, 0
        loader = self._loader(evaluation_batch(self._net, s.device), training=False)
        self._net.eval()
        began = time.perf_counter()
        with torch.inference_mode(), devices.autocast(s.device, s.precision):
            while done < images:
                for x, _ in loader:
                    self._net(x.to(s.device)).float().cpu()
                    done += len(x)
                    if done >= images:
                        break
        return (time.perf_counter() - began) * images / done

    def _forever(self, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        loader = self._loader(batch, training=True)
        while True:
            for x, y in loader:
                yield x.to(self._subject.device), y.to(self._subject.device)

    def _loader(self, batch: int, *, training: bool) -> Any:
        from timm.data.loader import create_loader

        s = self._subject
        pictures: Any = _Pictures(s.split)
        return create_loader(
            pictures,
            input_size=(3, *s.pp.size),
            batch_size=batch,
            is_training=training,
            use_prefetcher=s.device.type == "cuda",
            color_jitter=0.0,
            interpolation=s.pp.interpolation,
            mean=s.pp.mean,
            std=s.pp.std,
            num_workers=s.workers,
            crop_pct=1.0,
            device=s.device,
        )


class _Timed(Images):
    """Images of a split, with a count of the seconds spent waiting for their batches.

    Attributes:
        waits: of each call of `batches`: an update's, or one for all updates where features are computed once.
    """

    def __init__(self, subject: Subject, hooks: Hooks) -> None:
        super().__init__(subject.split, subject.augmented, subject.device, subject.workers, hooks)
        self.waits: list[float] = []

    def batches(
        self, index_batches: Sequence[NDArray[np.int64]], uniforms: Sequence[NDArray[np.float64]] | None = None
    ) -> Iterator[Tensor]:
        source, call = super().batches(index_batches, uniforms), len(self.waits)
        self.waits.append(0.0)
        while True:
            began = time.perf_counter()
            batch = next(source, None)
            self.waits[call] += time.perf_counter() - began
            if batch is None:
                return
            yield batch


class _Pictures(torch.utils.data.Dataset[tuple[Any, int]]):
    """A split as timm's loader wants it: Pillow images through the transform that the loader sets."""

    def __init__(self, split: Split) -> None:
        self._split = split
        self.transform: Any = None

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        image = Image.open(BytesIO(self._split.read(i))).convert("RGB")
        return self.transform(image), int(self._split.labels[i])


def _optimizer(net: nn.Module, subject: Subject, *, fused: bool) -> torch.optim.Optimizer:
    parameters = [p for p in net.parameters() if p.requires_grad]
    lr, momentum = subject.settings.lr, subject.settings.momentum
    if subject.settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=lr, momentum=momentum, fused=fused)
    return torch.optim.AdamW(parameters, lr=lr, betas=(momentum, 0.999), fused=fused)


def _trained(
    net: Any,
    optimizer: torch.optim.Optimizer,
    s: Subject,
    updates: Iterable[Iterable[tuple[Tensor, Tensor]]],
    size: int = 0,
) -> float:
    """Make updates, each of one micro-batch or several, and return the seconds they took.

    Args:
        size: see `usual`.
    """
    net.train(s.settings.method != "linear")
    s.wait()
    began = time.perf_counter()
    for batches in updates:
        for x, y in batches:
            with usual(len(x), size):
                _backward(net, x, y, s)
        _update(net, optimizer, s)
    s.wait()
    return time.perf_counter() - began


def _backward(net: nn.Module, x: Tensor, y: Tensor, subject: Subject) -> None:
    with devices.autocast(subject.device, subject.precision):
        logits = net(x)
    (F.cross_entropy(logits.float(), y, reduction="sum") / subject.settings.batch_size).backward()


def _update(net: nn.Module, optimizer: torch.optim.Optimizer, subject: Subject) -> None:
    nn.utils.clip_grad_norm_(net.parameters(), subject.settings.clip_norm or math.inf)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
