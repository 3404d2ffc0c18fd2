"""Finds out what a pickle of torch describes without building it: nothing that it names is imported or run.

Python's unpickler is never used. `Machine` knows the few instructions that checkpoints need, and calls only the
functions of `_CALLS`, which are defined here. The values that trainers store beside the weights become `Other`.
"""

import pickletools
import re
from collections.abc import Callable
from io import BytesIO
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from lit_jax.utils.errors import WeightError

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
# Harmless things that trainers store beside the weights: options, counters, numbers of numpy, paths, types of torch.
_BESIDE = re.compile(
    r"argparse\.Namespace|types\.SimpleNamespace|collections\.(Counter|defaultdict|deque)|typing\.Any"
    r"|(builtins|__builtin__)\.(set|frozenset|dict|list|int|float|str|bool|complex|bytearray)|_codecs\.encode"
    r"|numpy\.(dtype|ndarray|_?core\.multiarray\.(scalar|_reconstruct))|datetime\.(datetime|timedelta)"
    r"|pathlib(\._local)?\.(Pure)?(Posix|Windows)?Path|torch\.(Size|device|u?int\d+|b?float\d+|bool)"
    r"|omegaconf\.\w+\.\w+|(pytorch_lightning|lightning|lightning_fabric)\.[\w.]*\.AttributeDict"
)


class Storage(NamedTuple):
    """A flat array in the file, of `size` elements."""

    dtype: np.dtype
    key: str
    size: int


class Tensor(NamedTuple):
    """A view of a storage; offset and strides count elements, as in torch."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Other(NamedTuple):
    """A value of a type that is not read."""

    name: str


class _Name(str):
    """A global that the pickle names. It has its own type, so that no text in the pickle can pass for one."""

    __slots__ = ()


class _Beside(_Name):
    """The name of something that is stored beside the weights."""

    __slots__ = ()


def _ordered_dict() -> dict[str, Any]:
    return {}


def _rebuild_tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, metadata: Any = None
) -> Tensor:
    numbers = (offset, *shape, *strides)
    if (
        type(storage) is not Storage
        or len(shape) != len(strides)
        or any(type(n) is not int or not 0 <= n < 1 << 48 for n in numbers)
        or metadata
    ):
        raise WeightError("its pickle describes a tensor that torch could not have written")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor: Any, grad: Any, hooks: Any) -> Any:
    return tensor


_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = frozenset(
    "BINUNICODE SHORT_BINUNICODE BININT BININT1 BININT2 LONG1 BINFLOAT BINBYTES SHORT_BINBYTES".split()
)
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_SET": list}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Machine:
    """Runs a pickle, with its stack and its memo, and collects the storages that it names."""

    def __init__(self) -> None:
        self.storages: dict[str, Storage] = {}
        self._stack: list[Any]
        self._marks: list[int]
        self._memo: dict[int, Any]

    def run(self, pickled: BytesIO) -> Any:
        """What the pickle at the current position describes; the next one begins where it ends. Raises WeightError."""
        self._stack, self._marks, self._memo = [], [], {}
        try:
            for step, (opcode, arg, _) in enumerate(pickletools.genops(pickled)):
                if opcode.name == "STOP":
                    return self._stack.pop()
                if step > MOST_STEPS or len(self._stack) + len(self._marks) > MOST_WAITING:
                    raise WeightError("its pickle has more instructions than a dict of tensors needs")
                self._step(opcode.name, arg)
        except (ValueError, TypeError, IndexError, KeyError, AttributeError, RecursionError) as error:
            if isinstance(error, WeightError):
                raise
            raise WeightError(f"its pickle is damaged: {type(error).__name__}: {error}") from error
        raise WeightError("its pickle ends too early")

    def _step(self, name: str, arg: Any) -> None:
        stack = self._stack
        if name in _LITERALS:
            stack.append(arg)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
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
        elif name == "SETITEM":
            self._set(self._top(2))
        elif name == "SETITEMS":
            self._set(self._since_mark())
        elif name == "APPEND":
            self._extend(self._top(1))
        elif name in ("APPENDS", "ADDITEMS"):
            self._extend(self._since_mark())
        elif name == "GLOBAL":
            stack.append(_named(arg.replace(" ", ".", 1)))
        elif name == "STACK_GLOBAL":
            module, attribute = self._top(2)
            stack.append(_named(f"{module:s}.{attribute:s}"))
        elif name == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        elif name in ("REDUCE", "NEWOBJ"):
            stack.append(_called(name, *self._top(2)))
        elif name == "BUILD":
            # Module versions, which torch stores with a state dict, or something that is not read.
            stack.pop()
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
        if type(target) is Other:
            return
        if type(target) is not dict:
            raise TypeError(f"items are set in a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Hashing a nested tuple can take forever, and large integers can be chosen to have the same hash.
            if type(key) is not str and not (type(key) is int and 0 <= key < 1 << 32):
                raise TypeError(f"a key is of type {type(key).__name__}")
            target[key] = value

    def _extend(self, items: tuple[Any, ...]) -> None:
        target = self._stack[-1]
        if type(target) is list:
            target.extend(items)
        elif type(target) is not Other:
            raise TypeError(f"items are appended to a {type(target).__name__}")

    def _storage(self, described: Any) -> Storage:
        match described:
            case ("storage", _Name() as kind, str() as key, _, int() as size, *rest) if (
                kind in _STORAGES
                and size >= 0
                and rest in ([], [None])  # The older format may have a view there.
            ):
                storage = Storage(_STORAGES[kind], str(key), size)
                if self.storages.setdefault(storage.key, storage) != storage:
                    raise WeightError(f"its pickle describes the storage {key[:80]!r} in two ways")
                return storage
        raise WeightError("its pickle points to something that is not a storage of tensors")


def _named(name: str) -> _Name:
    if name in _CALLS or name in _STORAGES:
        return _Name(name)
    if _BESIDE.fullmatch(name):
        return _Beside(name)
    raise WeightError(
        f"its pickle names {name[:80]!r}, which is not part of a tensor; it was refused, and not run; "
        "if it is a whole module, save its state_dict() instead"
    )


def _called(instruction: str, function: Any, arguments: Any) -> Any:
    if type(function) is _Beside:
        return Other(str(function))
    if type(function) is not _Name or function not in _CALLS or type(arguments) is not tuple:
        raise WeightError("its pickle calls something that is not a function")
    if instruction != "REDUCE":
        raise WeightError(
            f"its pickle has the instruction {instruction}, which a dict of tensors does not need"
        )
    return _CALLS[function](*arguments)
