"""Tensors of a `torch.save` file, read without torch and without running the code that a pickle can name.

Python's unpickler is never used: `_Machine` knows the few instructions that a dict of tensors needs, and calls only
the three functions of `_CALLS`, which are defined here.
"""

import pickletools
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from lit_jax.utils.errors import WeightError

LARGEST_PICKLE = 8 << 20  # Bytes without the tensors; each tensor takes about 150.
MOST_STEPS = 1_000_000  # Instructions; each tensor takes about 40.
MOST_WAITING = 100_000  # Values on the stack; torch puts 1,000 tensors at a time into a dict.
_STORAGES = {
    "torch.FloatStorage": np.dtype(np.float32),
    "torch.DoubleStorage": np.dtype(np.float64),
    "torch.HalfStorage": np.dtype(np.float16),
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.LongStorage": np.dtype(np.int64),
    "torch.IntStorage": np.dtype(np.int32),
    "torch.ShortStorage": np.dtype(np.int16),
    "torch.CharStorage": np.dtype(np.int8),
    "torch.ByteStorage": np.dtype(np.uint8),
    "torch.BoolStorage": np.dtype(np.bool_),
}


class _Name(str):
    """A global that the pickle names. It has its own type, so that no text in the pickle can pass for one."""

    __slots__ = ()


class _Storage(NamedTuple):
    """A flat array in the archive: `data/<key>`, of `size` elements."""

    dtype: np.dtype
    key: str
    size: int


class _Tensor(NamedTuple):
    """A view of a storage; offset and strides count elements, as in torch."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class TorchFile:
    """The state dict in a zip file of torch >= 1.6; each tensor is read on access, by any thread."""

    def __init__(self, path: Path) -> None:
        """Raises WeightError for a damaged file, another layout, and any content but tensors by name."""
        self._path = path
        self._reading = threading.Lock()  # Two that open members at once move each other's place in the file.
        if not zipfile.is_zipfile(path):
            raise WeightError(
                f"{path} is damaged, or in the format of torch before 1.6, which is not read; "
                "save it again with a newer torch, preferably as safetensors"
            )
        try:
            self._zip = zipfile.ZipFile(path)
            self._root = self._find_root()
            pickled = self._read(f"{self._root}data.pkl", LARGEST_PICKLE)
            if f"{self._root}byteorder" in self._zip.NameToInfo:
                order = self._read(f"{self._root}byteorder", 16)
                if order != sys.byteorder.encode():
                    raise WeightError(f"its byte order is {order!r}; only {sys.byteorder} endian is read")
            self._tensors = _state_dict(pickled)
            for name, tensor in self._tensors.items():
                self._check(name, tensor)
        except WeightError as error:
            raise WeightError(f"{path}: {error}") from error
        except (zipfile.BadZipFile, OSError, RuntimeError, ValueError, EOFError) as error:
            raise WeightError(f"{path} cannot be read as a torch file: {error}") from error
        self._last: tuple[str, bytes] = ("", b"")  # Many tensors may be views of one storage.

    def keys(self) -> list[str]:
        return list(self._tensors)

    def get_tensor(self, name: str) -> np.ndarray:
        """A read-only view of the bytes in the file. Raises WeightError if they are damaged."""
        (dtype, key, _), offset, shape, strides = self._tensors[name]
        size = dtype.itemsize
        last = self._last  # Other threads may replace it.
        if last[0] != key:
            try:
                last = self._last = key, self._read(f"{self._root}data/{key}")
            except (WeightError, zipfile.BadZipFile, OSError, RuntimeError, ValueError, EOFError) as error:
                raise WeightError(f"{self._path}: tensor {name} cannot be read: {error}") from error
        try:
            # numpy checks again that the view lies within the bytes.
            return np.ndarray(shape, dtype, last[1], offset * size, [step * size for step in strides])
        except (ValueError, TypeError, OverflowError) as error:
            raise WeightError(f"{self._path}: tensor {name} is damaged: {error}") from error

    def _find_root(self) -> str:
        roots = [name.removesuffix("data.pkl") for name in self._zip.NameToInfo if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise WeightError("it is a zip archive, but not one that torch.save wrote")
        return roots[0]

    def _read(self, name: str, largest: int | None = None) -> bytes:
        info = self._zip.NameToInfo.get(name)
        if info is None:
            raise WeightError(f"it has no {name}")
        if info.compress_type != zipfile.ZIP_STORED:  # torch compresses nothing; a zip bomb does.
            raise WeightError(f"its {name} is compressed, which torch.save never does")
        if largest is not None and info.file_size > largest:
            raise WeightError(f"its {name} has {info.file_size} bytes; more than {largest} are not read")
        with self._reading:
            data = self._zip.read(info)
        if len(data) != info.file_size:
            raise WeightError(f"its {name} has {len(data)} of {info.file_size} bytes")
        return data

    def _check(self, name: str, tensor: _Tensor) -> None:
        """Raises WeightError unless the tensor lies within its storage, and the storage within its file."""
        dtype, key, size = tensor.storage
        info = self._zip.NameToInfo.get(f"{self._root}data/{key}")
        if info is None:
            raise WeightError(f"tensor {name} should be in data/{key}, which does not exist")
        steps = zip(tensor.shape, tensor.strides, strict=True)
        end = tensor.offset + sum((n - 1) * step for n, step in steps) + 1 if all(tensor.shape) else 0
        if end > size or size * dtype.itemsize > info.file_size:
            raise WeightError(
                f"tensor {name} of shape {tensor.shape} needs {max(end, size) * dtype.itemsize} bytes "
                f"where data/{key} has {min(info.file_size, size * dtype.itemsize)}"
            )


def _state_dict(pickled: bytes) -> dict[str, _Tensor]:
    """The tensors that the pickle describes. Raises WeightError for any other content."""
    try:
        tensors = _Machine().run(pickled)
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, RecursionError) as error:
        if isinstance(error, WeightError):
            raise
        raise WeightError(f"its pickle is damaged: {type(error).__name__}: {error}") from error
    if type(tensors) is not dict:
        raise WeightError(f"it holds one {type(tensors).__name__} where tensors by name are wanted")
    for name, value in tensors.items():
        if type(value) is not _Tensor:
            raise WeightError(
                f"its {name!r} is of type {type(value).__name__} where a tensor is wanted; "
                "save the state dict of the model alone"
            )
    return tensors


def _ordered_dict() -> dict[str, Any]:
    return {}


def _rebuild_tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, metadata: Any = None
) -> _Tensor:
    numbers = (offset, *shape, *strides)
    if (
        type(storage) is not _Storage
        or len(shape) != len(strides)
        or any(type(n) is not int or not 0 <= n < 1 << 48 for n in numbers)
        or metadata
    ):
        raise WeightError("its pickle describes a tensor that torch could not have written")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor: Any, grad: Any, hooks: Any) -> Any:
    return tensor


_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = frozenset("BINUNICODE SHORT_BINUNICODE BININT BININT1 BININT2 LONG1 BINFLOAT".split())
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    """The stack and the memo of one pickle."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self, pickled: bytes) -> Any:
        for step, (opcode, arg, _) in enumerate(pickletools.genops(pickled)):
            if opcode.name == "STOP":
                return self._stack.pop()
            if step > MOST_STEPS or len(self._stack) + len(self._marks) > MOST_WAITING:
                raise WeightError("its pickle has more instructions than a dict of tensors needs")
            self._step(opcode.name, arg)
        raise WeightError("its pickle ends too early")

    def _step(self, name: str, arg: Any) -> None:
        stack = self._stack
        if name in _LITERALS:
            stack.append(arg)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[arg] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[arg])
        elif name == "MARK":
            self._marks.append(len(stack))
        elif name == "TUPLE":
            stack.append(self._since_mark())
        elif name in _TUPLES:
            stack.append(self._top(_TUPLES[name]))
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "SETITEM":
            self._set(self._top(2))
        elif name == "SETITEMS":
            self._set(self._since_mark())
        elif name == "GLOBAL":
            stack.append(_named(arg.replace(" ", ".", 1)))
        elif name == "STACK_GLOBAL":
            module, attribute = self._top(2)
            stack.append(_named(f"{module:s}.{attribute:s}"))
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop()))
        elif name == "REDUCE":
            function, arguments = self._top(2)
            if type(function) is not _Name or function not in _CALLS or type(arguments) is not tuple:
                raise WeightError("its pickle calls something that is not a function")
            stack.append(_CALLS[function](*arguments))
        elif name == "BUILD":
            stack.pop()  # The versions of the modules, which torch stores with a state dict.
        elif name not in ("PROTO", "FRAME"):
            raise WeightError(f"its pickle has the instruction {name}, which a dict of tensors does not need")

    def _top(self, count: int) -> tuple[Any, ...]:
        if len(self._stack) < count:
            raise IndexError("the stack is empty")
        items = tuple(self._stack[-count:])
        del self._stack[-count:]
        return items

    def _since_mark(self) -> tuple[Any, ...]:
        mark = self._marks.pop()
        items = tuple(self._stack[mark:])
        del self._stack[mark:]
        return items

    def _set(self, items: tuple[Any, ...]) -> None:
        target = self._stack[-1]
        if type(target) is not dict:
            raise TypeError(f"items are set in a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is not str:  # Hashing a nested tuple may take forever.
                raise TypeError(f"a key is of type {type(key).__name__}")
            target[key] = value


def _named(name: str) -> _Name:
    if name not in _CALLS and name not in _STORAGES:
        raise WeightError(
            f"its pickle names {name[:80]!r}, which is not part of a tensor; it was refused, and not run"
        )
    return _Name(name)


def _storage(described: Any) -> _Storage:
    match described:
        case ("storage", _Name() as kind, str() as key, _, int() as size) if kind in _STORAGES and size >= 0:
            return _Storage(_STORAGES[kind], str(key), size)
    raise WeightError("its pickle points to something that is not a storage of tensors")
