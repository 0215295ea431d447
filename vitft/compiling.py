"""Blocks of a network compiled in place by torch: one compilation serves all that are alike, the rest stays eager.

A forward pass of another size than the usual one, the last of an update or of a split, runs eagerly: it would be
compiled for its own size. No torch until something is compiled.
"""

import os
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vitft import machine

if TYPE_CHECKING:
    import torch
    from torch import nn

Compile = Literal["auto", "on", "off"]

BACKEND = "inductor"
_KINDS = 64  # of graphs that one block may have been compiled to; torch's 8 are a few methods and resolutions


_WORTH = 3e9
"""Pixels of training images from which on compiled blocks save what compiling takes, some ten seconds: 60,000 images
of 224 px, of which an H200 trains B/16 in 26 s eagerly and in 21 s compiled; L/16 at 384 px 66 s and 55 s."""


def wanted(mode: Compile, device: "torch.device", pixels: float = _WORTH) -> bool:
    """Tell whether blocks are to be compiled: "auto" where it pays, on CUDA.

    Args:
        pixels: of the images that will go through the network in training.
    """
    return mode == "on" or (mode == "auto" and device.type == "cuda" and pixels >= _WORTH)


class _Compiler:
    """torch's compiler, counting: graphs that it compiled and calls of them, graphs that it could not compile and calls
    of them, and forward passes that were let by.

    A graph that cannot be compiled runs as it is, and why is kept: torch would go on eagerly without a word, or stop.
    """

    def __init__(self) -> None:
        self.graphs = self.calls = self.failed = self.plain = self.let_by = 0
        self.why = ""

    def __call__(self, graph: Any, inputs: list[Any], **how: Any) -> Callable[..., Any]:
        from torch._dynamo.backends.registry import lookup_backend

        try:
            compiled: Callable[..., Any] = lookup_backend(BACKEND)(graph, inputs, **how)
        except Exception as error:  # of any of the compilers below it
            self.failed, self.why = self.failed + 1, _reason(error)

            def plainly(*args: Any) -> Any:
                self.plain += 1
                return graph(*args)

            return plainly
        self.graphs += 1

        def run(*args: Any) -> Any:
            self.calls += 1
            return compiled(*args)

        return run


COMPILER = _Compiler()
"""One a process: torch finds what was compiled before by the compiler that compiled it."""


@dataclass
class Blocks:
    """The blocks of a network, to be compiled or not.

    Attributes:
        compiled: whether they are to be.
        why: why they cannot be; "" = nothing is known against it.
    """

    net: "nn.Module"
    compiled: bool
    why: str = ""

    def __post_init__(self) -> None:
        self._calls, self._plain, self._let_by = COMPILER.calls, COMPILER.plain, COMPILER.let_by
        blocks = list(self._blocks())
        for block in blocks:
            block._compiled_call_impl = None  # the way back of `compile`, which has none of its own
        if self.compiled and not blocks:
            self.why = "the network has no blocks that are alike"
        if self.compiled and not self.why:
            _prepare()
            for block in blocks:
                block.compile(backend=COMPILER, dynamic=False)

    def _blocks(self) -> "list[nn.Module]":
        return [*getattr(self.net, "blocks", ())]

    def give_up(self, why: str) -> None:
        """Run eagerly from now on."""
        for block in self._blocks():
            block._compiled_call_impl = None
        self.why = why

    def eager(self) -> str:
        """Return why blocks that were to be compiled run eagerly; "" where compiled code has run since."""
        if not self.compiled or self.why:
            return self.why
        if COMPILER.plain > self._plain:
            self.why = COMPILER.why
        elif COMPILER.calls == self._calls:
            small = COMPILER.let_by > self._let_by
            self.why = (
                "no forward pass is as large as one to be compiled" if small else "torch captured nothing of them"
            )
        return self.why


def _reason(error: Exception) -> str:
    """Return the most informative line of a compiler's error."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[0][:160].rstrip('.')}" if lines else type(cause).__name__


def _prepare() -> None:
    """Keep compiled code between processes, and of more kinds of block than torch does by itself."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    if os.environ.get(_FOLDER) in (None, default_cache_dir()):  # torch sets its own, below /tmp, as it is imported
        os.environ[_FOLDER] = str(folder())
    import torch._dynamo.config as config

    # float32 is asked for, and stamped.
    warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")
    config.cache_size_limit = max(config.cache_size_limit, _KINDS)


_FOLDER = "TORCHINDUCTOR_CACHE_DIR"


def folder() -> Path:
    """Return where compiled code lies between processes; that for one kind of processor may not run on another."""
    return machine.cache() / "compiled" / machine.digest(machine.processor())[:8]


def usual(images: int, size: int) -> AbstractContextManager[Any]:
    """Run a forward pass of so many images as it was compiled, or eagerly where that was for another size.

    Args:
        size: for which it was, or is to be, compiled; 0 = for any.
    """
    if size in (0, images):
        return nullcontext()
    import torch

    COMPILER.let_by += 1
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance
