"""The record batches of Arrow files, mapped into memory."""

import os
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lit_jax.data.sources.files import Files
from lit_jax.data.sources.parquet_groups import FAILURES, RowGroups
from lit_jax.utils.errors import DataError, first_line
from lit_jax.utils.file_signatures import looks_like

_FILE, _STREAM = b"ARROW1", b"\xff\xff\xff\xff"  # How the two forms of Arrow files begin.
_END, _OLD_END = _STREAM + b"\0" * 4, b"\0" * 4  # How a stream ends; before Arrow 0.15 it began with no mark.
_DECOMPRESSED = 128 << 20  # The most bytes that one file may need beside the mapping.


class RecordBatches(RowGroups):
    """The record batches of the Arrow files `paths` (streams, as `datasets` writes them, or files with a footer).

    What is read of a batch is checked first, since an offset that leads out of it would end the process. Raises
    `DataError` for a file that is no Arrow file, is cut off, or holds more compressed data than memory should.
    """

    kind, unit = "arrow", "record batch"

    def __init__(self, spec: str, files: Files, paths: Sequence[str]):
        if not files.local:
            raise DataError(
                f"{spec}: Arrow files are read on this machine; copy them here, or give them as parquet"
            )
        self._batches: dict[str, list[pa.RecordBatch]] = {}
        # Batches, and those of their columns that have been checked.
        self._valid: set[tuple[int, tuple[str, ...]]] = set()
        super().__init__(spec, files, paths)

    def column(self, file: int, name: str, field: str = "") -> pa.ChunkedArray | None:
        try:
            parts = [_checked(batch, [name]).column(0) for batch in self._batches[self.paths[file]]]
            if field:
                parts = [pc.struct_field(part, field) for part in parts]
            return pa.chunked_array(parts)
        except FAILURES:
            return None

    def _read(self, group: int, columns: tuple[str, ...]) -> pa.Table:
        file = self._file_of[group]
        known = [name for name in columns if name in self.schemas[file].names]
        batch = self._batches[self.paths[file]][int(self._group_of[group])]
        part = batch.select(known) if (group, columns) in self._valid else _checked(batch, known)
        self._valid.add((group, columns))
        return pa.Table.from_batches([part])

    def _footer(self, path: str) -> tuple[np.ndarray, pa.Schema]:
        with pa.memory_map(path) as source:
            mapped = source.read_buffer()
            source.seek(0)
            is_file = source.read(len(_FILE)) == _FILE
            source.seek(0)
            reader = (pa.ipc.open_file if is_file else pa.ipc.open_stream)(source)
            copied = 0
            batches = self._batches[path] = []
            for batch in _in_file(reader) if is_file else reader:
                batch.validate()
                batches.append(batch)
                copied += _copied(batch, mapped)
                if copied > _DECOMPRESSED:
                    raise DataError(
                        f"it is compressed and takes more than {_DECOMPRESSED >> 20} MiB of memory; write it without "
                        "compression, or as parquet"
                    )
            if not is_file and (more := os.path.getsize(path) - source.tell()):
                raise DataError(f"{more} bytes follow its end; fetch or write it again")
            if not is_file and not _ended(source):
                raise DataError(
                    "it does not end as an Arrow stream does, so it is cut off; fetch or write it again"
                )
            return np.array([batch.num_rows for batch in batches], np.int64), reader.schema

    def _why(self, head: bytes, tail: bytes, error: Exception) -> str:
        if isinstance(error, DataError):
            return str(error)
        if head.startswith(_FILE) and not tail.endswith(_FILE):
            return "it begins as an Arrow file and does not end as one, so it is cut off; fetch or write it again"
        if head.startswith((_FILE, _STREAM)):
            return f"{first_line(error)}; fetch or write it again"
        return looks_like(head) or "it does not begin as an Arrow file does; want Arrow files"


def _in_file(reader: pa.RecordBatchFileReader) -> Iterator[pa.RecordBatch]:
    for number in range(reader.num_record_batches):
        yield reader.get_batch(number)


def _copied(batch: pa.RecordBatch, mapped: pa.Buffer) -> int:
    """The bytes of a batch that do not lie in the mapping, since they had to be decompressed."""
    start, end = mapped.address, mapped.address + mapped.size
    buffers = (buffer for column in batch.columns for buffer in column.buffers() if buffer is not None)
    return sum(buffer.size for buffer in buffers if not start <= buffer.address < end)


def _ended(source: pa.MemoryMappedFile) -> bool:
    source.seek(0)
    end = _END if source.read(len(_STREAM)) == _STREAM else _OLD_END
    source.seek(max(0, source.size() - len(end)))
    return bool(source.read(len(end)) == end)


def _checked(batch: pa.RecordBatch, columns: Sequence[str]) -> pa.RecordBatch:
    """Some columns of a batch. Raises `pa.ArrowInvalid` for one whose offsets or texts are damaged."""
    part = batch.select(list(columns))
    part.validate(full=True)
    return part
