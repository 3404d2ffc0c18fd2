"""A file of cached rows while it is written, chunk by chunk, so that a run that is killed loses at most one chunk.

The rows are in NAME.part, as in the finished file (`cached_rows`). NAME.log.part has a line for each chunk: the number
of records and rows after it, their width, the sha256 of its rows, and the numbers that belong to them.
"""

import contextlib
import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from lit_jax.train.cached_rows import DTYPES, dtype_of, seal
from lit_jax.utils import strict_json
from lit_jax.utils.errors import ConfigError

try:
    import fcntl
except ImportError:  # Windows has no fcntl, so two runs that fill one cache write two drafts there.
    fcntl = None  # type: ignore[assignment]

_LARGEST_HALF = float(np.finfo(np.float16).max)


def tidy(final: Path) -> None:
    """Removes the log of a draft whose process was killed after the rows had got their final name."""
    if not final.with_suffix(".part").exists():
        _log_of(final.with_suffix(".part")).unlink(missing_ok=True)


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.stem}.log.part")


class Draft:
    """The rows so far, of `records` records. Another process that writes the same file has its own draft.

    `about` has, by name, the numbers that came with each chunk. `dtype` is a name in `cached_rows.DTYPES`.
    """

    def __init__(self, final: Path, dtype: str = "float32") -> None:
        self._final, self._name = final, dtype
        self._dtype = dtype_of(dtype)
        self.records = self.rows = 0
        self.about: dict[str, list[np.ndarray]] = {}
        self._width: int | None = None
        path = final.with_suffix(".part")
        self._file = self._opened(path)
        if self._file is None:
            path = final.with_suffix(f".{os.getpid()}.part")
            self._file = path.open("w+b")
        self._path, self._log_path = path, _log_of(path)
        self._log = self._log_path.open("a+b")
        self._read_back()

    @staticmethod
    def _opened(path: Path) -> Any:
        """The shared draft, which can already hold rows; None if another process has it."""
        if fcntl is None:
            return None
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return None
        return file

    def append(self, rows: Float[np.ndarray, "M D"], records: int, **about: list[int]) -> None:
        """Adds a chunk: the rows of the next `records` records.

        Raises OSError if the disk is full, and ConfigError for a number that is too large for float16.
        """
        rows = np.ascontiguousarray(rows, np.float32)
        if self._name == "float16" and (largest := np.nanmax(np.abs(rows), initial=0)) > _LARGEST_HALF:
            raise ConfigError(
                f"a feature of {largest:g} does not fit cache_dtype='float16', whose largest number is "
                f"{_LARGEST_HALF:g}; set it to 'bfloat16' or 'float32'"
            )
        data = rows.astype(self._dtype).view(np.uint8).data
        if self._width is None:
            self._width = rows.shape[1]
            self._file.write(self._header())
        self._file.write(data)
        self._file.flush()
        self.rows, self.records = self.rows + len(rows), self.records + records
        for name, values in about.items():
            self.about.setdefault(name, []).append(np.array(values, np.int64))
        entry = {"records": self.records, "rows": self.rows, "width": self._width, "sum": _sum(data)}
        self._log.write(json.dumps(entry | about).encode() + b"\n")
        self._log.flush()

    def finish(self) -> None:
        """Appends the checksums to the rows and gives the file its final name."""
        self._file.seek(0)
        self._file.write(self._header())
        self._file.flush()
        seal(self._path)
        self._path.replace(self._final)

    def close(self) -> None:
        """Closes the files, and removes them unless another start can continue from them."""
        self._log.close()
        if not self._path.exists() or not self.records or self._path.name != f"{self._final.stem}.part":
            self._log_path.unlink(missing_ok=True)
            self._path.unlink(missing_ok=True)
        self._file.close()

    def __enter__(self) -> "Draft":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _header(self) -> bytes:
        """The header of the .npy file, with room for any number of rows."""
        header = io.BytesIO()
        shape = {"descr": DTYPES[self._name], "fortran_order": False, "shape": (self.rows, self._width)}
        np.lib.format.write_array_header_1_0(header, shape)
        return header.getvalue()

    def _read_back(self) -> None:
        """Reads the complete chunks from an earlier start, and cuts off what follows them."""
        end, lines = 0, 0  # The number of valid bytes in the two files.
        self._log.seek(0)
        with contextlib.suppress(ValueError, KeyError, TypeError):
            for line in self._log:
                entry = strict_json.parse(line)
                width, count = int(entry["width"]), int(entry["rows"]) - self.rows
                if not end:
                    self._width = width
                    end = len(self._header())
                    self._file.seek(end)
                size = self._dtype.itemsize * count * width
                data = self._file.read(size)
                if len(data) != size or _sum(data) != entry["sum"] or line[-1:] != b"\n":
                    break
                end, lines = end + len(data), lines + len(line)
                self.rows, self.records = self.rows + count, int(entry["records"])
                for name in entry.keys() - {"records", "rows", "width", "sum"}:
                    self.about.setdefault(name, []).append(np.array(entry[name], np.int64))
        if not self.records:
            self._width, end = None, 0
        self._file.truncate(end)
        self._file.seek(end)
        self._log.truncate(lines)


def _sum(data: Any) -> str:
    return hashlib.sha256(data).hexdigest()
