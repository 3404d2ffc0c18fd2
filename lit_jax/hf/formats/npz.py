"""Arrays of NumPy's npz files, read one by one and without pickle."""

import math
import threading
import zipfile
import zlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.lib import format as npy

from lit_jax.utils.errors import WeightError, first_line
from lit_jax.utils.npy import read_header

_MOST_ARRAYS = 100_000
_DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, OSError, EOFError),
    *(ValueError, NotImplementedError, RuntimeError, MemoryError),
)
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class NpzFile:
    """One npz file; each array is read on access, by any thread. Its errors name the file."""

    def __init__(self, path: Path) -> None:
        """Raises WeightError for a damaged file, and for arrays of Python objects, which only a pickle can hold."""
        self._path = path
        # Threads that open members at once move each other's position in the file.
        self._reading = threading.Lock()
        try:
            self._zip = zipfile.ZipFile(path)
            members = [info for info in self._zip.infolist() if info.filename.endswith(".npy")]
            if len(members) > _MOST_ARRAYS or len({info.filename for info in members}) < len(members):
                raise ValueError(f"it names {len(members)} arrays, some of them twice, or more than are read")
            self._shapes = {info.filename.removesuffix(".npy"): self._header(info) for info in members}
        except _DAMAGED as error:
            raise WeightError(f"{path} cannot be read as npz: {first_line(error)}") from error

    def _header(self, info: zipfile.ZipInfo) -> tuple[int, ...]:
        """The shape of an array. Raises ValueError."""
        with self._zip.open(info) as file:
            version = npy.read_magic(file)  # type: ignore[no-untyped-call]
            if version not in _HEADERS:
                raise ValueError(f"{info.filename} has version {version} of npy")
            shape, _, dtype = read_header(file, _HEADERS[version])
            if dtype.hasobject:
                raise ValueError(f"{info.filename} holds Python objects (a pickle), which are not read")
            size = file.tell() + math.prod(shape) * dtype.itemsize
            if size != info.file_size:
                raise ValueError(f"{info.filename} has {info.file_size} bytes where its header wants {size}")
        return tuple(shape)

    def keys(self) -> list[str]:
        return list(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def get_tensor(self, name: str) -> np.ndarray:
        try:
            with self._reading, self._zip.open(f"{name}.npy") as file:
                array: Any = npy.read_array(file, allow_pickle=False)  # type: ignore[no-untyped-call]
        except _DAMAGED as error:
            raise WeightError(f"{self._path}: {name} cannot be read: {first_line(error)}") from error
        # bfloat16 has no name in npy, and is written as two untyped bytes.
        return array.view(ml_dtypes.bfloat16) if array.dtype == np.dtype("V2") else np.asarray(array)
