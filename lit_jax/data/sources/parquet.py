"""`parquet:`: files with a picture and its captions in each row, as on the Hugging Face Hub."""

import hashlib
import json
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lit_jax.data.sources.base import CAPTIONS, IDS, Record, edges, texts_of
from lit_jax.data.sources.files import Files, reason
from lit_jax.utils.errors import DataError

_IMAGES = ("image", "img", "picture", "jpg", "png", "webp", "pixel_values")
_CACHE = 128 << 20  # Bytes of row groups that stay in memory; two groups stay even if they are larger.


class ParquetSource:
    """The rows of parquet files, with the files sorted by path.

    The picture is a column of bytes or of `{"bytes": ..., "path": ...}`. The captions (a text, a list of texts or of
    `{"text": ...}`) are the column `caption`, else the first one with a usual name, else the only column of text. The
    id is the first of `id`, `key` and similar columns, else the path of the picture, else the number of the row. A
    `label` is used if it is a whole number, with the class names that `datasets` wrote into the file.

    Parquet is read in row groups, a few of which stay in memory. Raises `DataError`.
    """

    description: str | None = None
    license: str | None = None

    def __init__(self, where: str, caption: str | None = None):
        self.spec = f"parquet:{where}"
        self._files = Files(self.spec, where)
        self._paths = list(self._files.glob(".parquet"))
        self._arguments = (where, caption)
        with ThreadPoolExecutor(16) as pool:
            footers = list(pool.map(self._footer, self._paths))
        schema = footers[0][1]
        for path, (_, other) in zip(self._paths, footers, strict=True):
            if other.names != schema.names:
                raise DataError(
                    f"{self.spec}: {os.path.basename(path)} has other columns than {os.path.basename(self._paths[0])}"
                )
        rows = np.concatenate([rows for rows, _ in footers])
        self._ends = np.cumsum(rows)  # Of each row group, over all files.
        self._file_of = np.repeat(np.arange(len(footers)), [len(rows) for rows, _ in footers])
        self._group_of = np.concatenate([np.arange(len(rows)) for rows, _ in footers])
        if not rows.sum():
            raise DataError(f"{self.spec}: its {len(footers)} files have no rows")
        self._image, self._in_struct = self._image_column(schema)
        self._caption = self._caption_column(schema, caption)
        self._id = next((name for name in IDS if name in schema.names and name != self._image), None)
        label = schema.field("label").type if "label" in schema.names else None
        self._labelled = label is not None and pa.types.is_integer(label)
        self.class_names = _class_names(schema) if self._labelled else None
        wanted = [self._image, self._caption, self._id, "label" if self._labelled else None]
        self._columns = [name for name in wanted if name is not None]
        self._lock = threading.Lock()
        self._groups: dict[int, Future[pa.Table]] = {}
        self._bytes: dict[int, int] = {}  # Of the groups that are read, in that order.

    def __reduce__(self) -> tuple[Any, ...]:
        return ParquetSource, self._arguments

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        group = int(np.searchsorted(self._ends, index, side="right"))
        table = self._table(group)
        row = index - (int(self._ends[group - 1]) if group else 0)
        picture = table[self._image][row].as_py()
        path = picture.get("path") if self._in_struct and picture else None
        data = picture.get("bytes") if self._in_struct and picture else picture
        if data is None:
            raise DataError(
                f"column {self._image!r} holds no bytes" + (f", only the path {path!r}" if path else "")
            )
        captions = texts_of(table[self._caption][row].as_py(), self._caption) if self._caption else []
        named = table[self._id][row].as_py() if self._id else path
        record = Record(image=data, captions=captions, id=str(index if named is None else named))
        if self._labelled and (label := table["label"][row].as_py()) is not None and label >= 0:
            record["label"] = label
        return record

    def fingerprint(self) -> str:
        """The sha256 of the names, the sizes and both ends of the files, whose end holds the place of each row."""
        digest = hashlib.sha256(repr((self._columns, self.class_names)).encode())
        for path in self._paths:
            size = self._files.fs.size(path)
            edges(digest, os.path.basename(path), size, partial(self._files.read, path))
        return digest.hexdigest()

    def _open(self, path: str) -> pq.ParquetFile:
        if self._files.local:
            return pq.ParquetFile(path, memory_map=True)
        return pq.ParquetFile(self._files.fs.open(path, "rb"), pre_buffer=True)

    def _footer(self, path: str) -> tuple[np.ndarray, pa.Schema]:
        """The number of rows of each group, and the schema."""
        try:
            with self._open(path) as file:
                rows = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
                return np.array(rows, np.int64), file.schema_arrow
        except (pa.ArrowException, OSError) as e:
            raise DataError(
                f"{self.spec}: {os.path.basename(path)} cannot be read as parquet: {reason(e)}; fetch it again"
            ) from e

    def _table(self, group: int) -> pa.Table:
        """A row group; the first thread that asks for it reads it, and others wait for that."""
        with self._lock:
            future = self._groups.get(group)
            if first := future is None:
                future = self._groups[group] = Future()
        if first:
            try:
                with self._open(self._paths[self._file_of[group]]) as file:
                    table = file.read_row_group(int(self._group_of[group]), columns=self._columns)
                future.set_result(table)
                with self._lock:
                    self._bytes[group] = table.nbytes
                    while len(self._bytes) > 2 and sum(self._bytes.values()) > _CACHE:
                        oldest = next(iter(self._bytes))
                        del self._bytes[oldest], self._groups[oldest]
            except BaseException as e:
                with self._lock:
                    self._groups.pop(group, None)
                future.set_exception(e)
        try:
            return future.result()
        except (pa.ArrowException, OSError) as e:
            name = os.path.basename(self._paths[self._file_of[group]])
            raise DataError(f"row group {self._group_of[group]} of {name} cannot be read: {reason(e)}") from e

    def _image_column(self, schema: pa.Schema) -> tuple[str, bool]:
        """The column of pictures, and whether it is a struct that contains their bytes."""
        names = [field.name for field in schema if _holds_pictures(field.type)]
        chosen = next((name for name in _IMAGES if name in names), names[0] if len(names) == 1 else None)
        if chosen is None:
            raise DataError(
                f"{self.spec}: {len(names)} columns of bytes among {', '.join(schema.names)}; want one, or 'image'"
            )
        return chosen, pa.types.is_struct(schema.field(chosen).type)

    def _caption_column(self, schema: pa.Schema, given: str | None) -> str | None:
        names = [
            name for name in schema.names if name != self._image and _holds_text(schema.field(name).type)
        ]
        if given is not None:
            if given not in names:
                raise DataError(
                    f"{self.spec}: no column of text {given!r}; there are {', '.join(names) or 'none'}"
                )
            return given
        if chosen := next((name for name in CAPTIONS if name in names), None):
            return chosen
        others = [name for name in names if name not in IDS]
        if len(others) == 1:
            return others[0]
        if "label" in schema.names or not others:  # A classification set, or pictures alone.
            return None
        raise DataError(
            f"{self.spec}: which of the columns {', '.join(schema.names)} holds the captions? Name it as the caption"
        )


def _holds_pictures(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_pictures(kind.field("bytes").type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _holds_text(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _holds_text(kind.value_type)
    if pa.types.is_struct(kind):
        return any(kind.get_field_index(key) >= 0 for key in ("text", "raw"))
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _class_names(schema: pa.Schema) -> tuple[str, ...] | None:
    """The class names that `datasets` wrote into the schema, or None."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(features["label"]["names"])
    except (KeyError, TypeError, ValueError):
        return None
