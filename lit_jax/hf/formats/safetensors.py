"""Weight files of safetensors: written, and mapped into memory, where each tensor is a view of the map."""

import math
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from lit_jax.utils import strict_json
from lit_jax.utils.atomic import share
from lit_jax.utils.errors import WeightError

_LARGEST_HEADER = 100_000_000  # Bytes, as in safetensors itself.
_MOST_TENSORS = 100_000  # The most tensors in a file.
_KEPT = 1 << 26  # Bytes of a mapped file that stay in memory after they were read.
_DTYPES = {  # By safetensors' own names.
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}


def write(tensors: Mapping[str, np.ndarray], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Writes a file that others may read as they may read every new file of its folder."""
    from safetensors.numpy import save_file

    # safetensors writes the bytes in their order in memory, so a transposed view would be written wrongly.
    save_file(
        {name: np.asarray(array, order="C") for name, array in tensors.items()}, path, metadata=metadata
    )
    share(path)  # safetensors makes it readable only for its owner.


class SafetensorsFile:
    """One safetensors file. Its tensors are read-only views of the mapped file, and its errors name the file."""

    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        self._path = path
        header = _header(path)
        try:
            # This checks the header. The map below reads the bytes: it copies nothing and can drop pages that were
            # read.
            file = safe_open(path, framework="numpy", backend="pread")
        except (SafetensorError, OSError) as error:
            raise WeightError(f"{path} cannot be read as safetensors: {error}") from error
        self.metadata: dict[str, str] = file.metadata() or {}
        names = file.offset_keys()  # In the order of their bytes, which the format stores without gaps.
        if len(names) > _MOST_TENSORS:
            raise WeightError(f"{path} names {len(names)} tensors; at most {_MOST_TENSORS} are read")
        with path.open("rb") as opened:
            self._map = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        start = 8 + int.from_bytes(self._map[:8], "little")
        self._where: dict[str, tuple[int, np.dtype, tuple[int, ...]]] = {}
        for name in names:
            kind, shape = header[name]["dtype"], tuple(header[name]["shape"])
            if (dtype := _DTYPES.get(kind)) is None:
                wanted = ", ".join(_DTYPES)
                raise WeightError(
                    f"{path}: tensor {name} cannot be read: it is of type {kind}, and not one of {wanted}"
                )
            self._where[name] = start, dtype, shape
            start += math.prod(shape) * dtype.itemsize
        self._seen = 0  # Bytes read since the pages were last dropped.

    def keys(self) -> list[str]:
        return list(self._where)

    def get_tensor(self, name: str) -> np.ndarray:
        start, dtype, shape = self._where[name]
        count = math.prod(shape)
        self._seen += count * dtype.itemsize
        if self._seen > _KEPT:
            # Otherwise a model would be in memory twice. A dropped page is read again on access.
            self._seen = 0
            self._map.madvise(mmap.MADV_DONTNEED)
        return np.frombuffer(self._map, dtype, count, start).reshape(shape)


def _header(path: Path) -> Any:
    """The JSON of a file's header, None if it is cut off; safetensors checks what it says.

    Raises WeightError for one that readers may understand differently: if a key occurs twice, safetensors takes one.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        text = file.read(size) if size <= _LARGEST_HEADER else b""
    if len(text) < max(size, 1):
        return None
    try:
        return strict_json.parse(text)
    except ValueError as error:
        raise WeightError(f"{path} cannot be read as safetensors: its header is wrong: {error}") from error
