"""The row groups of parquet files: their footers, and a few of them in memory."""

import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lit_jax.data.sources.files import Files, reason
from lit_jax.utils.errors import DataError, first_line
from lit_jax.utils.file_signatures import looks_like

_CACHE = 128 << 20  # Bytes of row groups that stay in memory; two stay even if they are larger.
# What damaged files raise.
FAILURES = (pa.ArrowException, OSError, ValueError, ArithmeticError, LookupError, TypeError)

_Key = tuple[int, tuple[str, ...]]  # A row group, and some of its columns.


class RowGroups:
    """The row groups of `paths`, numbered over all files; `ends` is the row after each of them, int64 [groups].

    Threads may share it. Raises `DataError` for a file that is no parquet file.
    """

    kind, unit = "parquet", "row group"  # What a file and a part of it are called.

    def __init__(self, spec: str, files: Files, paths: Sequence[str]):
        self.spec = spec
        self.paths = list(paths)
        self._files = files
        with ThreadPoolExecutor(16) as pool:
            footers = list(pool.map(self._rows_of, self.paths))
        self.schemas = [schema for _, schema in footers]
        self.ends = np.cumsum(np.concatenate([rows for rows, _ in footers]))
        self.rows_of_file = np.array([rows.sum() for rows, _ in footers], np.int64)
        self._file_of = np.repeat(np.arange(len(footers)), [len(rows) for rows, _ in footers])
        self._group_of = np.concatenate([np.arange(len(rows)) for rows, _ in footers])
        self._lock = threading.Lock()
        self._groups: dict[_Key, Future[pa.Table]] = {}
        self._bytes: dict[_Key, int] = {}  # The sizes of the groups in memory, in the order of reading.

    def __len__(self) -> int:
        """The number of rows."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def locate(self, row: int) -> tuple[int, int]:
        """The row group of a row, and its place in it."""
        group = int(np.searchsorted(self.ends, row, side="right"))
        return group, row - (int(self.ends[group - 1]) if group else 0)

    def place(self, row: int) -> str:
        """`row 3 of train-00001.parquet`, counted from 0."""
        ends = np.cumsum(self.rows_of_file)
        file = int(np.searchsorted(ends, row, side="right"))
        return (
            f"row {row - int(ends[file] - self.rows_of_file[file])} of {os.path.basename(self.paths[file])}"
        )

    def table(self, group: int, columns: tuple[str, ...]) -> pa.Table:
        """The `columns` of a row group, as far as its file has them.

        The first thread that asks for it reads it, and the others wait. Raises `DataError`.
        """
        key = (group, columns)
        with self._lock:
            future = self._groups.get(key)
            if first := future is None:
                future = self._groups[key] = Future()
        if first:
            try:
                table = self._read(group, columns)
                future.set_result(table)
                with self._lock:
                    self._bytes[key] = table.nbytes
                    alike = {k: size for k, size in self._bytes.items() if k[1] == columns}
                    while len(alike) > 2 and sum(alike.values()) > _CACHE:
                        oldest = next(iter(alike))
                        del alike[oldest], self._bytes[oldest], self._groups[oldest]
            except BaseException as e:
                with self._lock:
                    self._groups.pop(key, None)
                future.set_exception(e)
        try:
            return future.result()
        except FAILURES as e:
            name = os.path.basename(self.paths[self._file_of[group]])
            raise DataError(
                f"{self.unit} {self._group_of[group]} of {name} cannot be read: {reason(e)}"
            ) from e

    def column(self, file: int, name: str, field: str = "") -> pa.ChunkedArray | None:
        """A column, or a field of a column of structs, of all rows of a file; None if it cannot be read whole."""
        try:
            with self._open(self.paths[file]) as opened:
                table = opened.read(columns=[f"{name}.{field}" if field else name])
            if name not in table.column_names or table.num_rows != self.rows_of_file[file]:
                return None
            return pc.struct_field(table[name], field) if field else table[name]
        except FAILURES:
            return None

    def _read(self, group: int, columns: tuple[str, ...]) -> pa.Table:
        file = self._file_of[group]
        known = [name for name in columns if name in self.schemas[file].names]
        with self._open(self.paths[file]) as opened:
            table = opened.read_row_group(int(self._group_of[group]), columns=known)
        rows = int(self.ends[group] - (self.ends[group - 1] if group else 0))
        if known and table.num_rows != rows:
            raise DataError(f"it has {table.num_rows} rows, and the end of the file says {rows}")
        return table

    def _open(self, path: str) -> pq.ParquetFile:
        if self._files.local:
            return pq.ParquetFile(path, memory_map=True)
        return pq.ParquetFile(self._files.fs.open(path, "rb"), pre_buffer=True)

    def _rows_of(self, path: str) -> tuple[np.ndarray, pa.Schema]:
        """The number of rows of each group, and the schema. Raises `DataError` with the reason."""
        try:
            return self._footer(path)
        except FAILURES as e:
            try:
                with self._files.fs.open(path, "rb") as file:
                    head = file.read(512)
                    file.seek(max(0, self._files.fs.size(path) - 8))
                    why = self._why(head, file.read(8), e)
            except (OSError, ValueError) as unread:
                why = reason(unread)
            raise DataError(
                f"{self.spec}: {os.path.basename(path)} cannot be read as {self.kind}: {why}"
            ) from e

    def _footer(self, path: str) -> tuple[np.ndarray, pa.Schema]:
        with self._open(path) as file:
            # Never row_group(i).column(j): pyarrow ends the process if the footer is damaged there.
            meta = file.metadata
            rows = np.array([meta.row_group(i).num_rows for i in range(meta.num_row_groups)], np.int64)
            if (rows < 0).any() or rows.sum() != meta.num_rows:
                raise DataError("the numbers of its rows contradict one another")
            return rows, file.schema_arrow

    def _why(self, head: bytes, tail: bytes, error: Exception) -> str:
        """What is wrong with a file whose footer cannot be read, and the remedy, judged by its ends."""
        if head[:4] == b"PAR1" and not tail.endswith(b"PAR1"):
            return "it begins as a parquet file and does not end as one, so it is cut off; fetch it again"
        if head[:4] == b"PAR1":
            return f"{first_line(error)}; write it anew, or fetch it again if it was damaged on the way"
        return looks_like(head) or "it does not begin as a parquet file does; want parquet files"
