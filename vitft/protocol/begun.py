"""What a unit begins with and keeps to its end: begun.json in its folder."""

import math
from pathlib import Path

import torch

from vitft import compiling
from vitft import device as devices
from vitft.errors import UsageError
from vitft.group import Group
from vitft.progress import Hooks
from vitft.protocol.jobs import Runtime
from vitft.protocol.units import Job, fits
from vitft.results.files import read_json, write_json
from vitft.results.parts import Computed
from vitft.results.reading import parse
from vitft.results.schema import to_json


def begin(folder: Path, runtime: Runtime, pixels: int, group: Group, hooks: Hooks) -> tuple[torch.device, Computed]:
    """Choose device, precision, threads, micro-batch and compilation; a unit that was begun keeps what it began with.

    But `--compile on` or `off` is heeded in any case: it may be the way past a compiler that fails. Linear layers on a
    CPU are computed as on this machine (see `products`).

    Args:
        folder: the unit's folder.
        pixels: of the images that the unit's job trains on (see `pixels`).

    Raises:
        UsageError: it was begun on another kind of device.
    """
    device = devices.pick(runtime.device, group.local_rank)
    file = folder / "begun.json"
    value = read_json(file) if group.first else None
    compiled = compiling.wanted(runtime.compile, device, pixels)
    if value is None:
        begun = Computed(
            device_kind=device.type,
            precision=devices.precision(runtime.precision, device),
            micro_batch=runtime.micro_batch,
            threads=devices.computing_threads(),
            compiled=compiled or None,
            **devices.kernels(device.type),
        )
        if group.first:
            write_json(file, to_json(begun))
        return device, begun
    begun = parse(value, Computed, f"'{file}'", f"Delete the folder '{folder}' and run the same command again.")
    if begun.device_kind != device.type:
        raise UsageError(
            f"This run was begun on {begun.device_kind} and cannot go on on {device.type}.",
            fact="A number comes from one kind of device.",
            action=f"Give --device {begun.device_kind}, or start anew with --overwrite.",
        )
    kept = begun.compiled if runtime.compile == "auto" else compiled or None
    now = begun.model_copy(update={"compiled": kept, "linear": devices.kernels(device.type).get("linear")})
    if now != begun:
        for before, after in zip(_words(begun), _words(now), strict=True):
            if before != after:
                hooks.note(f"Begun with {before}, gone on with {after}: it rounds otherwise from here on.")
        write_json(file, to_json(now))
    return device, now


def pixels(job: Job) -> int:
    """Return the pixels of all images that go through the network in a job's updates; none where it is frozen.

    A resolution that is left to the checkpoint counts as 224 px: the network is not open yet.
    """
    trained = [settings for settings, _ in fits(job) if not settings.fixed_views]
    return sum(
        s.steps * s.batch_size * math.prod((224, 224) if isinstance(s.resolution, str) else s.size) for s in trained
    )


def _words(computed: Computed) -> tuple[str, str]:
    blocks = "compiled blocks" if computed.compiled else "eager blocks"
    return blocks, f"linear layers by {computed.linear or 'torch itself'}"
