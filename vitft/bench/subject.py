"""What is measured: one network, one set of images, one way to train."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from vitft import compiling, machine
from vitft import device as devices
from vitft.data.split import Provenance, Split
from vitft.evaluation.network import preprocess
from vitft.models import build as models
from vitft.models.checkpoint import Checkpoint, remarks
from vitft.models.memory import Wish, planned
from vitft.models.methods import apply
from vitft.progress import Hooks
from vitft.protocol.jobs import Runtime
from vitft.settings import Preprocess, Settings

CLASSES = 10


@dataclass(frozen=True)
class Subject:
    """One network and its images; every loop builds its own network from it, with the same weights.

    Attributes:
        checkpoint: opened, with its weights, unless they are drawn (`from_scratch`).
        settings: with the resolution in pixels.
        split: the images that are trained on and evaluated.
        pp: how they are prepared for an evaluation.
        precision: "float32" or "bf16".
        micro_batch: images a forward pass in training.
        workers: threads, or processes of timm's loader, that decode.
        compiled: whether vitft's own blocks are compiled.
    """

    checkpoint: Checkpoint
    settings: Settings
    split: Split
    pp: Preprocess
    device: torch.device
    precision: str
    micro_batch: int
    workers: int
    compiled: bool
    from_scratch: bool = False

    @property
    def augmented(self) -> Preprocess:
        return self.pp.augmented(self.settings)

    def network(self) -> nn.Module:
        """Build the network on its device, with the method's parameters left to learn."""
        classes, drawn = self.split.num_classes, self.from_scratch
        net = models.build(self.checkpoint, classes, self.settings, from_scratch=drawn).net.to(self.device)
        apply(net, self.settings, seed=0)
        return net

    def wait(self) -> None:
        """Return when the device has done all that was asked of it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def ready(self, images: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield one normalised batch (B, 3, H, W), B a micro-batch, with labels (B,) until there were `images`."""
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(self.micro_batch, 3, *self.pp.size, generator=generator).to(self.device)
        y = torch.randint(0, self.split.num_classes, (self.micro_batch,), generator=generator).to(self.device)
        for done in range(0, images, self.micro_batch):
            n = min(self.micro_batch, images - done)
            yield x[:n], y[:n]


def drawn(n: int, side: int) -> Split:
    """Return `n` random JPEG images of side x side pixels: smooth ones, which compress about as photographs do."""
    rng = np.random.default_rng(0)
    files = []
    for _ in range(n):
        coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        stream = BytesIO()
        Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
        files.append(stream.getvalue())
    return Split(
        "drawn",
        "train",
        tuple(str(k) for k in range(CLASSES)),
        [f"{i:05}" for i in range(n)],
        np.arange(n, dtype=np.int64) % CLASSES,
        files.__getitem__,
        Provenance("drawn", False, "random images", "partial"),
    )


def opened(
    model: str,
    settings: Settings,
    split: Split | None,
    runtime: Runtime,
    hooks: Hooks,
    *,
    from_scratch: bool = False,
) -> Subject:
    """Open a model and decide what is measured, as a fine-tune would.

    Args:
        split: whose images; None draws as many as four batches hold, in the network's own size.
        from_scratch: draw the weights, on which no speed depends.

    Raises:
        UnknownName, UsageError: exit code 2. CheckpointError: exit code 4.
    """
    checkpoint = models.opening(model, settings, from_scratch=from_scratch)
    settings = settings.at(checkpoint.info.native, checkpoint.info.patch)
    for note in remarks(checkpoint.info):
        hooks.note(note)
    device = devices.pick(runtime.device)
    if split is None:
        split = drawn(4 * settings.batch_size, max(settings.size))
    subject = Subject(
        checkpoint,
        settings,
        split,
        preprocess(settings, checkpoint.info),
        device,
        devices.precision(runtime.precision, device),
        runtime.micro_batch,
        runtime.workers or machine.cores(),
        compiling.wanted(runtime.compile, device),
        from_scratch,
    )
    if runtime.micro_batch:
        return subject
    net = subject.network()
    return replace(subject, micro_batch=planned(net, settings, device, subject.precision, Wish()).micro_batch)
