"""The file of a cache: rows of floats as .npy, followed by checksums of its blocks, which other readers ignore.

These are the sha256 of each block of rows, the sha256 of the header and those checksums, and MARK. A block is checked
when it is first read, and a file of moderate size is checked as a whole when it is opened. Old files have no checksums.
"""

import hashlib
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from lit_jax.utils import npy
from lit_jax.utils.cores import cores
from lit_jax.utils.errors import CheckpointError, first_line

log = logging.getLogger(__name__)

MARK = b"lit_jax1"
BLOCK = 1 << 16  # Bytes of a block; a block has at least one row.
MODERATE = 1 << 28  # The largest file, in bytes, that is checked as a whole.
_SUM = 32  # Bytes of a sha256.
# Name in a config -> name in .npy. NumPy has no name for bfloat16, and writes it as two bytes.
DTYPES = {"float32": "<f4", "float16": "<f2", "bfloat16": "<V2"}


def dtype_of(name: str) -> np.dtype:
    """The dtype with this name in DTYPES."""
    return np.dtype(getattr(ml_dtypes, name, name))


def seal(path: Path) -> None:
    """Appends the checksums to the rows in `path`."""
    rows = npy.load(path, mmap_mode="r")
    sums = b"".join(_sum(rows, block) for block in range(_blocks(rows.shape, rows.itemsize)))
    with path.open("r+b") as file:
        head = file.read(rows.offset)
        file.seek(0, os.SEEK_END)
        file.write(sums + hashlib.sha256(head + sums).digest() + MARK)


class CachedRows(np.memmap):
    """The rows of a file, read-only; `rows[...]` checks each block when it is first read.

    It raises CheckpointError for a damaged block and renames the file, so that the next start computes it again.
    """

    _sums: np.ndarray | None = None  # uint8 [blocks, _SUM]; None for a part of the rows and for an old file.
    _seen: np.ndarray  # bool [blocks]

    def __getitem__(self, which: Any) -> Any:
        if self._sums is not None and not self._seen.all():
            simple = isinstance(which, int | np.integer | slice)
            rows = np.atleast_1d(np.arange(len(self))[which if simple else slice(None)])
            try:
                for block in np.unique(rows // _per_block(self.shape, self.itemsize)):
                    self._compare(int(block))
            except CheckpointError as error:
                path = Path(str(self.filename))
                with suppress(OSError):
                    path.rename(path.with_suffix(f"{path.suffix}.damaged"))
                raise CheckpointError(
                    f"{error}; it is set aside: start again, and it is computed again"
                ) from error
        return self.view(np.ndarray)[which]

    def _compare(self, block: int) -> None:
        assert self._sums is not None
        if self._seen[block]:
            return
        if _sum(self.view(np.ndarray), block) != self._sums[block].tobytes():
            raise CheckpointError(f"{self.filename} is damaged ({_named(self, block)})")
        self._seen[block] = True

    def compare_all(self) -> None:
        """Checks all blocks. Raises CheckpointError."""
        if self._sums is not None:
            with ThreadPoolExecutor(min(8, cores())) as pool:
                list(pool.map(self._compare, range(len(self._sums))))


def open_rows(path: Path, count: int) -> CachedRows:
    """The `count` rows in `path`. Raises CheckpointError with the reason if the file is damaged."""
    try:
        with path.open("rb") as file:
            if (version := np.lib.format.read_magic(file)) != (1, 0):
                raise ValueError(f"it is of version {version}")
            shape, fortran, dtype = npy.read_header(file)
            offset, size = file.tell(), dtype.itemsize
            tail = os.path.getsize(path) - offset - size * count * shape[-1]
            known = next((dtype_of(name) for name, kind in DTYPES.items() if dtype == np.dtype(kind)), None)
            if len(shape) != 2 or shape[0] != count or fortran or known is None or tail < 0:
                raise ValueError(f"it holds {dtype} {list(shape)}, or a part of it; wanted {count} rows")
            sums = _read_sums(file, offset, shape, size) if tail else None
    except Exception as error:  # NumPy raises a dozen kinds of errors for a damaged header.
        raise CheckpointError(f"{path} is damaged ({first_line(error)})") from error
    rows: Any = np.memmap.__new__(CachedRows, path, known, "r", offset, shape)
    if sums is None:
        log.info("%s is of an older version, without sums: it cannot be checked", path)
    else:
        rows._sums, rows._seen = sums, np.zeros(len(sums), bool)
    return rows


def _read_sums(file: Any, offset: int, shape: tuple[int, ...], itemsize: int) -> np.ndarray:
    file.seek(0)
    head = file.read(offset)
    file.seek(offset + itemsize * shape[0] * shape[1])
    size = _SUM * _blocks(shape, itemsize)
    tail = file.read(size + _SUM + len(MARK) + 1)
    sums = tail[:size]
    if tail[size:] != hashlib.sha256(head + sums).digest() + MARK:
        raise ValueError("its sums are cut off or damaged")
    return np.frombuffer(sums, np.uint8).reshape(-1, _SUM)


def _per_block(shape: tuple[int, ...], itemsize: int) -> int:
    return max(1, BLOCK // (itemsize * max(shape[1], 1)))


def _blocks(shape: tuple[int, ...], itemsize: int) -> int:
    return -(-shape[0] // _per_block(shape, itemsize))


def _sum(rows: np.ndarray, block: int) -> bytes:
    size = _per_block(rows.shape, rows.itemsize)
    part = np.ascontiguousarray(rows[block * size : (block + 1) * size])
    return hashlib.sha256(part.view(np.uint8).data).digest()


def _named(rows: np.ndarray, block: int) -> str:
    size = _per_block(rows.shape, rows.itemsize)
    last = min((block + 1) * size, len(rows)) - 1
    return f"rows {block * size} to {last} have another sha256 than was written"
