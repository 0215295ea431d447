"""Read PyTorch's pickled files with stand-ins for every object that is no tensor, so that nothing in them is run.

`torch.load(weights_only=True)` is as safe, but stops at the paths, configurations and other records that training
scripts leave beside the weights, and takes damaged bytes for weights; here the archive's checksums are compared.
"""

import _compat_pickle
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from vitft.errors import CheckpointUnsafe

_MAGIC = 0x1950A86A20F9469CFC6C  # how files of the form before torch 1.6 begin
_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
# Kinds of records whose pickles call their class. Calling a stand-in runs nothing; what is in neither of these lists
# is refused all the same, as no checkpoint needs it.
_RECORDS = ("argparse", "collections", "copyreg", "datetime", "decimal", "fractions", "numpy", "pathlib", "uuid")
_RECORD_NAMES = frozenset(
    [f"builtins.{name}" for name in ("bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int")]
    + [f"builtins.{name}" for name in ("list", "object", "range", "set", "slice", "str", "tuple")]
    + [f"torch.{name}" for name in ("Size", "device", "serialization._get_layout", "torch_version.TorchVersion")]
    + ["functools.partial", "types.SimpleNamespace"]
)


def read(path: Path) -> Any:
    """Return the file's content: containers, tensors on the CPU, and stand-ins for the rest.

    Raises:
        CheckpointUnsafe: it is a program or a whole network, or it asks to call what no record needs; named, not run.
        Exception: of many types; the file is damaged.
    """
    seen = _Seen()
    with path.open("rb") as file:
        data = _zipped(file, path, seen) if zipfile.is_zipfile(file) else _old(file, path.stat().st_size, seen)
    network = next((kind for kind, made in seen.made if made.is_network()), "")
    if seen.calls:
        raise refusal(path, network, seen.calls[0])
    return data


def containers(data: Any) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Yield every mapping in nested containers once, outer ones first, each with its place: keys with dots between."""
    met: set[int] = set()  # what a pickle describes may contain itself
    waiting = [("", data)]
    while waiting:
        place, value = waiting.pop(0)
        if id(value) in met or not isinstance(value, Mapping | list | tuple):
            continue
        met.add(id(value))
        if isinstance(value, Mapping):
            yield place, value
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        inner = ((key, one) for key, one in items if isinstance(one, Mapping | list | tuple))
        waiting += [(f"{place}.{key}" if place else str(key), one) for key, one in inner]


def network_in(data: Any) -> str:
    """Return the class of the first whole network among the containers, "" where there is none."""
    networks = (one for _, one in containers(data) if isinstance(one, _Inert) and one.is_network())
    return next((type(one).path for one in networks), "")


def refusal(path: Path, network: str, call: str = "") -> CheckpointUnsafe:
    """Return the error for a file that holds a network instead of its tensors, or asks to call a function."""
    what = f"holds a whole '{network}'" if network else f"would have to run '{call}' to be read"
    return CheckpointUnsafe(
        f"'{path}' {what}; it was blocked, not run.",
        "a file of tensors, plain containers and records.",
        "If you trust it, save its state_dict() where it was made: torch.save(model.state_dict(), ...).",
    )


@dataclass
class _Seen:
    """What one file asked for: calls of what no record needs, and the objects in it, in the order of their making."""

    calls: list[str] = field(default_factory=list)
    made: list[tuple[str, "_Inert"]] = field(default_factory=list)


class _Kind(type):
    """The type of stand-ins for classes and functions."""

    path = ""
    seen = _Seen()

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if cls.path not in _RECORD_NAMES and cls.path.split(".")[0] not in _RECORDS:
            cls.seen.calls.append(cls.path)
        return super().__call__(*args, **kwargs)


class _Inert(dict[Any, Any], metaclass=_Kind):
    """A stand-in for an object: it takes whatever a pickle does to one, and does nothing."""

    args: tuple[Any, ...]
    state: Any
    __hash__ = object.__hash__  # type: ignore[assignment]

    def __new__(cls, *args: Any, **_kwargs: Any) -> Self:
        made = super().__new__(cls)
        made.args, made.state = args, None
        cls.seen.made.append((cls.path, made))
        return made

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        """Keep nothing: dict's own would take the arguments for entries."""

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __call__(self, *_args: Any, **_kwargs: Any) -> Self:
        kind = type(self)
        kind.seen.calls.append(kind.path)  # a method or a partial, made by a call before
        return self

    def append(self, _item: Any) -> None:
        """Take an item of a list."""

    def extend(self, _items: Any) -> None:
        """Take items of a list."""

    def add(self, _item: Any) -> None:
        """Take an item of a set."""

    def is_network(self) -> bool:
        """Tell whether the object is a network of torch's, not merely its tensors."""
        return isinstance(self.state, Mapping) and {"_parameters", "_modules"} <= set(self.state)


class _Dtype(_Inert):
    """NumPy's dtype: letters like "f4", the byte order in its state."""

    def numpy(self) -> "np.dtype[Any]":
        """Return it where it is of plain numbers. Raises ValueError."""
        letters = str(self.args[0])
        if letters[:1] not in "fiub" or not letters[1:].isdecimal():
            raise ValueError(f"an array of type {letters}")
        swapped = isinstance(self.state, tuple) and self.state[1:2] == (">",)
        order: Literal[">", "<"] = ">" if swapped else "<"
        return np.dtype(letters).newbyteorder(order)


class _Array(_Inert):
    """A NumPy array: made by two functions of NumPy, with its numbers in the state or in the arguments."""

    def tensor(self) -> Tensor | None:
        """Return its numbers, None where they are none."""
        shape, dtype, fortran, data = (None,) * 4
        if isinstance(self.state, tuple) and len(self.state) >= 4:
            shape, dtype, fortran, data = self.state[-4:]
        elif len(self.args) == 4:
            data, dtype, shape, order = self.args
            fortran = order == "F"
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray):
            return None
        try:
            array = np.frombuffer(data, dtype.numpy()).reshape(shape, order="F" if fortran else "C")
        except ValueError:
            return None
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C", copy=True))


class _Call:
    """A function of this file that a pickle may call, and nothing else: no attribute of it can be reached."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)


def _view(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return storage.as_strided(tuple(size), tuple(stride), offset)  # refuses what lies outside


def _typed_view(
    storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], _grad: Any, _hooks: Any, dtype: Any
) -> Tensor:
    return _view(storage.view(dtype), offset, size, stride)


def _itself(data: Any, *_: Any) -> Any:
    return data.tensor() if isinstance(data, _Array) else data


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _view,
    "torch._utils._rebuild_tensor_v2": _view,
    "torch._utils._rebuild_tensor_v3": lambda *args: _typed_view(*args[:7]),
    "torch._utils._rebuild_parameter": _itself,
    "torch._utils._rebuild_parameter_with_state": _itself,
    "torch._utils._rebuild_device_tensor_from_numpy": _itself,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _itself,
    "torch.nn.parameter.Parameter": _itself,
    "_codecs.encode": lambda text, _code="latin1": text.encode("latin1"),  # how protocol 2 writes bytes
    "torch._tensor._rebuild_from_type_v2": lambda function, _kind, args, _state: function(*args),
}


class _Unpickler(pickle.Unpickler):
    """A reader whose every global name is a stand-in, but for torch's few ways to describe a tensor."""

    def __init__(self, file: IO[bytes], seen: _Seen, storage: Callable[..., Tensor] | None = None) -> None:
        super().__init__(file, encoding="latin1")
        self._seen, self._storage = seen, storage
        self._kinds: dict[str, object] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _compat_pickle.NAME_MAPPING:  # Python 2's names, which protocol 2 writes
            module, name = _compat_pickle.NAME_MAPPING[(module, name)]
        path = f"{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{name}"
        if path == "collections.OrderedDict":
            return OrderedDict
        if path in _FUNCTIONS:
            return _Call(_FUNCTIONS[path])
        if module in ("torch", "torch.storage", "torch.cuda") and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch" and isinstance(vars(torch).get(name), torch.dtype):
            return vars(torch)[name]
        if path not in self._kinds:
            array = path.startswith("numpy.") and name in ("_reconstruct", "_frombuffer")
            base = _Array if array else _Dtype if path == "numpy.dtype" else _Inert
            self._kinds[path] = _Kind(name, (base,), {"path": path, "seen": self._seen})
        return self._kinds[path]

    def persistent_load(self, pid: Any) -> Any:
        kind, *rest = pid
        if kind == "module":
            return rest[0]  # a network's class, with its source, which is not looked at
        if kind == "storage" and self._storage is not None:
            return self._storage(*rest)
        raise pickle.UnpicklingError(f"a reference of kind {kind!r}")


def _zipped(file: IO[bytes], path: Path, seen: _Seen) -> Any:
    with zipfile.ZipFile(file) as archive:
        names = set(archive.namelist())
        main = next((name for name in sorted(names) if name.split("/")[-1] == "data.pkl"), "")
        root = main.removesuffix("data.pkl")
        if f"{root}constants.pkl" in names:
            raise CheckpointUnsafe(
                f"'{path}' is a TorchScript program, which runs when loaded; it was not run.",
                "a state_dict.",
                "Save its state_dict as .safetensors where it was made.",
            )
        if not main:
            raise ValueError("it is a zip archive without PyTorch's data.pkl")
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("it was saved on a big-endian machine")
        storages: dict[str, Tensor] = {}

        def storage(dtype: torch.dtype, key: str, _location: Any, _count: int) -> Tensor:
            if key not in storages:
                info = archive.getinfo(f"{root}data/{key}")
                with archive.open(info) as record:
                    storages[key] = _numbers(bytearray(record.read()), torch.uint8)
            return storages[key].view(dtype)

        with archive.open(main) as record:
            return _Unpickler(record, seen, storage).load()


def _old(file: IO[bytes], size: int, seen: _Seen) -> Any:
    """Read the form before torch 1.6: pickles one after another, then the raw storages."""
    file.seek(0)
    first = _Unpickler(file, seen).load()
    if first != _MAGIC:
        return first  # a plain pickle
    for _ in ("version", "machine"):
        _Unpickler(file, seen).load()
    storages: dict[str, tuple[bytearray, torch.dtype]] = {}

    def storage(dtype: torch.dtype, key: str, _location: Any, count: int, view: Any = None) -> Tensor:
        wanted = count * dtype.itemsize
        if wanted > size:
            raise ValueError(f"it is cut short: a tensor of {wanted:,} bytes in a file of {size:,}")
        data, _ = storages.setdefault(key, (bytearray(wanted), dtype))
        numbers = _numbers(data, dtype)
        return numbers if view is None else numbers[view[1] : view[1] + view[2]]

    data = _Unpickler(file, seen, storage).load()
    for key in _Unpickler(file, seen).load():
        room, dtype = storages[key]
        count = int.from_bytes(file.read(8), "little")
        if count * dtype.itemsize != len(room) or file.readinto(room) != len(room):  # type: ignore[attr-defined]
            raise ValueError("it is cut short")
    return data


def _numbers(data: bytearray, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)


def tensors(items: Mapping[Any, Any]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that lie directly in a container, NumPy's arrays too."""
    for name, value in items.items():
        made = value.tensor() if isinstance(value, _Array) else value
        if isinstance(made, Tensor):
            yield str(name), made
