"""What a unit begins with and keeps to its end: begun.json in its folder."""

from pathlib import Path

import torch

from vitft import compiling
from vitft import device as devices
from vitft.errors import UsageError
from vitft.group import Group
from vitft.progress import Hooks
from vitft.protocol.jobs import Runtime
from vitft.results.files import read_json, write_json
from vitft.results.parts import Computed
from vitft.results.reading import parse
from vitft.results.schema import to_json


def begin(folder: Path, runtime: Runtime, group: Group, hooks: Hooks) -> tuple[torch.device, Computed]:
    """Choose device, precision, threads, micro-batch and compilation; a unit that was begun keeps what it began with.

    But `--compile on` or `off` is heeded in any case: it may be the way past a compiler that fails.

    Args:
        folder: the unit's folder.

    Raises:
        UsageError: it was begun on another kind of device.
    """
    device = devices.pick(runtime.device, group.local_rank)
    file = folder / "begun.json"
    value = read_json(file) if group.first else None
    compiled = compiling.wanted(runtime.compile, device)
    if value is None:
        begun = Computed(
            device_kind=device.type,
            precision=devices.precision(runtime.precision, device),
            micro_batch=runtime.micro_batch,
            threads=torch.get_num_threads(),
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
    before = bool(begun.compiled)
    if runtime.compile != "auto" and before != compiled:
        hooks.note(f"Begun with {_WORDS[before]}, gone on with {_WORDS[compiled]}: it rounds otherwise from here on.")
        begun = begun.model_copy(update={"compiled": compiled or None})
        write_json(file, to_json(begun))
    return device, begun


_WORDS = {True: "compiled blocks", False: "eager blocks"}
