"""A machine with a GPU, played: torch finds a card wherever the environment does not hide it, and nobody may touch it.

A folder that holds this as `sitecustomize.py`, on PYTHONPATH, plays it to every process that is started there.
"""

import os
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import PathFinder
from typing import Any


class _Torch(MetaPathFinder):
    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != "torch.cuda":
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Played(spec.loader)
        return spec


class _Played(Loader):
    def __init__(self, real: Any) -> None:
        self.real = real

    def create_module(self, spec: Any) -> Any:
        return self.real.create_module(spec)

    def exec_module(self, module: Any) -> None:
        self.real.exec_module(module)

        def count() -> int:
            return int(os.environ.get("CUDA_VISIBLE_DEVICES", "0") != "")

        def touched() -> None:
            with open(os.environ["FAKE_CARD_LOG"], "a") as log:  # noqa: PTH123
                log.write(f"{os.getpid()}\n")
            raise RuntimeError("CUDA was touched")

        module.is_available, module.device_count, module._lazy_init = (lambda: count() > 0), count, touched


sys.meta_path.insert(0, _Torch())
