"""Tensors of a `torch.save` file, read without torch and without running the code that a pickle can name.

The file is a zip archive, or, before torch 1.6, a sequence of pickles with the bytes of the tensors after them. It
holds a state dict, or a training checkpoint with one in it.
"""

import logging
import os
import sys
import threading
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lit_jax.hf.formats.pickle_machine import Machine, Other, Tensor
from lit_jax.utils.errors import WeightError
from lit_jax.utils.log_once import log_once

log = logging.getLogger(__name__)

LARGEST_PICKLE = 8 << 20  # Bytes without the tensors; each tensor takes about 150.
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # The first two pickles of the older format.
_Keys = tuple[str | int, ...]  # Keys of nested dicts.
_DAMAGE = zipfile.BadZipFile, OSError, RuntimeError, ValueError, EOFError


class TorchFile:
    """The state dict in a file of `torch.save`; each tensor is read on access, by any thread."""

    def __init__(self, path: Path) -> None:
        """Raises WeightError for a damaged file, another layout, and unless it holds tensors by name exactly once."""
        self._path = path
        try:
            self._archive = _opened(path)
            place, self._tensors = _state_dict(self._archive.saved)
            for name, tensor in self._tensors.items():
                self._check(name, tensor)
        except WeightError as error:
            raise WeightError(f"{path}: {error}") from error
        except _DAMAGE as error:
            raise WeightError(f"{path} cannot be read as a torch file: {error}") from error
        if place:
            others = ", ".join(repr(name) for name in self._archive.saved if name != place[0]) or "nothing"
            sentence = f"{path}: the tensors of {_indexed(place)} are read, and not {others[:200]}"
            log_once(log, logging.INFO, sentence)
        self._last: tuple[str, bytes] = ("", b"")  # Many tensors can be views of one storage.

    def keys(self) -> list[str]:
        return list(self._tensors)

    def get_tensor(self, name: str) -> np.ndarray:
        """A read-only view of the bytes in the file. Raises WeightError if they are damaged."""
        (dtype, key, _), offset, shape, strides = self._tensors[name]
        size = dtype.itemsize
        last = self._last  # Other threads can replace it.
        if last[0] != key:
            try:
                last = self._last = key, self._archive.read(key)
            except (WeightError, *_DAMAGE) as error:
                raise WeightError(f"{self._path}: tensor {name} cannot be read: {error}") from error
        try:
            # numpy checks again that the view lies within the bytes.
            return np.ndarray(shape, dtype, last[1], offset * size, [step * size for step in strides])
        except (ValueError, TypeError, OverflowError) as error:
            raise WeightError(f"{self._path}: tensor {name} is damaged: {error}") from error

    def _check(self, name: str, tensor: Tensor) -> None:
        """Raises WeightError unless the tensor lies within its storage, and the storage within its file."""
        dtype, key, size = tensor.storage
        stored = self._archive.size(key)
        if stored is None:
            raise WeightError(f"tensor {name} should be in data/{key}, which does not exist")
        steps = zip(tensor.shape, tensor.strides, strict=True)
        end = tensor.offset + sum((n - 1) * step for n, step in steps) + 1 if all(tensor.shape) else 0
        if end > size or size * dtype.itemsize > stored:
            raise WeightError(
                f"tensor {name} of shape {tensor.shape} needs {max(end, size) * dtype.itemsize} bytes "
                f"where data/{key} has {min(stored, size * dtype.itemsize)}"
            )


class _Zip:
    """A file of torch >= 1.6."""

    def __init__(self, path: Path) -> None:
        # Threads that open members at once move each other's position in the file.
        self._reading = threading.Lock()
        self._zip = zipfile.ZipFile(path)
        roots = [name.removesuffix("data.pkl") for name in self._zip.NameToInfo if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise WeightError("it is a zip archive, but not one that torch.save wrote")
        self._root = roots[0]
        if f"{self._root}constants.pkl" in self._zip.NameToInfo:
            raise WeightError(
                "it is a program of TorchScript, which is not read; save its weights alone: "
                "torch.save(torch.jit.load(IN).state_dict(), OUT)"
            )
        pickled = self._member("data.pkl", LARGEST_PICKLE)
        if f"{self._root}byteorder" in self._zip.NameToInfo:
            order = self._member("byteorder", 16)
            if order != sys.byteorder.encode():
                raise WeightError(f"its byte order is {order!r}; only {sys.byteorder} endian is read")
        self.saved = Machine().run(BytesIO(pickled))

    def size(self, key: str) -> int | None:
        """The bytes of a storage, None if there is none with that key."""
        info = self._zip.NameToInfo.get(f"{self._root}data/{key}")
        return None if info is None else info.file_size

    def read(self, key: str) -> bytes:
        """Raises WeightError and any of `_DAMAGE`, as `_Legacy.read` does."""
        return self._member(f"data/{key}")

    def _member(self, name: str, largest: int | None = None) -> bytes:
        info = self._zip.NameToInfo.get(name := f"{self._root}{name}")
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


class _Place(NamedTuple):
    start: int
    size: int  # Both in bytes.


class _Legacy:
    """A file of torch before 1.6: five pickles, and for each storage its number of elements and its bytes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            pickled = BytesIO(file.read(LARGEST_PICKLE))
            machine = Machine()
            magic, protocol, system = (machine.run(pickled) for _ in range(3))
            if (magic, protocol) != (_MAGIC, _PROTOCOL) or type(system) is not dict:
                raise WeightError("its first pickles are not those that torch.save writes")
            if system.get("little_endian") is not (sys.byteorder == "little"):
                raise WeightError(
                    f"its byte order is not that of this machine, which is {sys.byteorder} endian"
                )
            self.saved, keys = machine.run(pickled), machine.run(pickled)
            self._places: dict[str, _Place] = {}
            start, end = pickled.tell(), os.fstat(file.fileno()).st_size
            for key in keys if type(keys) is list else ():
                storage = machine.storages.get(key) if type(key) is str else None
                if storage is None or key in self._places:
                    raise WeightError("it lists bytes of a storage that it does not describe")
                file.seek(start)
                size = storage.size * storage.dtype.itemsize
                start += 8 + size
                if int.from_bytes(file.read(8), "little") != storage.size or start > end:
                    raise WeightError(f"the bytes of its storage {key[:80]!r} are not all there")
                self._places[key] = _Place(start - size, size)

    def size(self, key: str) -> int | None:
        place = self._places.get(key)
        return None if place is None else place.size

    def read(self, key: str) -> bytes:
        start, size = self._places[key]
        with self._path.open("rb") as file:
            file.seek(start)
            data = file.read(size)
        if len(data) != size:
            raise WeightError(f"it has {len(data)} of {size} bytes of its storage")
        return data


def _opened(path: Path) -> "_Zip | _Legacy":
    with path.open("rb") as file:
        begins = file.read(32)
    # A pickle of the magic number.
    if begins.startswith(b"\x80") and _MAGIC.to_bytes(10, "little") in begins:
        return _Legacy(path)
    if not zipfile.is_zipfile(path):
        raise WeightError(
            "it is damaged, or not a file of torch.save; save it again, preferably as safetensors"
        )
    return _Zip(path)


def _state_dict(saved: Any) -> tuple[_Keys, dict[str, Tensor]]:
    """Where the tensors by name are in what was saved, () if they are all of it, and these tensors.

    Raises WeightError if there are none, or several.
    """
    if type(saved) is not dict:
        raise WeightError(f"it holds one {_kind(saved)} where tensors by name are wanted")
    if not saved or _is_state_dict(saved):
        return (), saved
    inner = _below({(): saved})
    found = {keys: value for keys, value in inner.items() if _is_state_dict(value)}
    found = found or {keys: value for keys, value in _below(inner).items() if _is_state_dict(value)}
    if len(found) > 1:
        names = [_indexed(keys) for keys in found]
        raise WeightError(
            f"it holds tensors by name {len(names)} times, at {' and '.join(names)[:200]}; save those of the model "
            f"alone: torch.save(torch.load(IN){names[0][:80]}, OUT)"
        )
    if not found:
        wrong = ((name, value) for name, value in saved.items() if not _is_state_dict({name: value}))
        name, value = next(wrong)
        raise WeightError(
            f"its {name!r} is of type {_kind(value)} where a tensor by name is wanted; save the "
            "state dict of the model alone"
        )
    return next(iter(found.items()))


def _below(level: dict[_Keys, Any]) -> dict[_Keys, Any]:
    """The dicts in the dicts of a level, by the keys that lead there: each once, however often it is referenced."""
    once: dict[int, tuple[_Keys, Any]] = {}
    for keys, outer in level.items():
        for key, value in outer.items():
            if type(value) is dict:
                once.setdefault(id(value), ((*keys, key), value))
    return dict(once.values())


def _indexed(keys: _Keys) -> str:
    return "".join(f"[{key!r}]" for key in keys)


def _is_state_dict(value: Any) -> bool:
    return (
        type(value) is dict
        and bool(value)
        and all(type(name) is str and type(tensor) is Tensor for name, tensor in value.items())
    )


def _kind(value: Any) -> str:
    return value.name if isinstance(value, Other) else type(value).__name__
