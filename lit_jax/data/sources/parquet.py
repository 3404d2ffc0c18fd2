"""`parquet:`: files with pictures and their captions in rows, as on the Hugging Face Hub."""

import hashlib
import os
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from lit_jax.data.sources.base import Record, counted, edges
from lit_jax.data.sources.files import Files, Found, stamp
from lit_jax.data.sources.folder_rows import check_label
from lit_jax.data.sources.parquet_columns import choose, picture_of, texts_in
from lit_jax.data.sources.parquet_groups import RowGroups
from lit_jax.data.sources.parquet_rows import arrange
from lit_jax.data.sources.record_index import build, open_index
from lit_jax.data.sources.split_names import remarks_on_splits
from lit_jax.utils.errors import DataError, first_line

_RULES = 2  # Version of the rules by which rows are joined; an index made by other rules is made again.
_INDEXED = 100_000  # The index of at least this many rows is stored; a smaller one is made within a second.


class ParquetSource:
    """The rows of parquet files, with the files sorted by path.

    The picture is a column of bytes or of `{"bytes": ..., "path": ...}`. The captions (a text, a list of texts or of
    `{"text": ...}`) are the column `caption`, else the first one with a usual name, else columns such as `caption_0`,
    `caption_1` ..., else the only column of text. The id is the first of `id`, `key` and similar columns, else the path
    of the picture, else the number of the row. The label is the column `label` or, in a set without captions,
    `labels` or the only one that `datasets` has marked as classes, if it holds whole numbers; the names of the classes
    are those that `datasets` wrote.

    Rows of one picture, recognised by a column of ids or by the path of the picture, form one record with all of their
    captions; its id is that id or path. Records keep the order of their first rows, unless rows of one picture stand
    apart: then they are sorted by id or path. Rows that img2dataset failed to fetch are left out, with a remark.

    Parquet is read in row groups, a few of which stay in memory. Raises `DataError`.
    """

    description: str | None = None
    license: str | None = None
    kind, Groups = "parquet", RowGroups

    def __init__(self, where: str, caption: str | None = None):
        self.spec = f"{self.kind}:{where}"
        self._arguments = (where, caption)
        self._files = Files(self.spec, where, several=True)
        infos = self._list()
        self._groups = self.Groups(self.spec, self._files, list(infos))
        if not len(self._groups):
            raise DataError(f"{self.spec}: {counted(len(infos), 'file has', 'files have')} no rows")
        names = _distinct(list(infos))
        self._chosen = choose(self.spec, dict(zip(names, self._groups.schemas, strict=True)), caption)
        self.class_names = self._chosen.class_names
        make = partial(arrange, self._groups, self._chosen)
        if len(self._groups) < _INDEXED or not (self._chosen.keys or self._chosen.status):
            self._index = build(make)
        else:
            folder = os.path.dirname(next(iter(infos)))
            place = self._files.root if "::" not in where else where
            name = f"{self.kind} {place} {' '.join(self._chosen.captions) or None}"
            self._index = open_index(self._files, folder, name, [_RULES, *stamp(infos)], make)
        self.remarks: tuple[str, ...] = (
            *remarks_on_splits(infos),
            *self._chosen.remarks,
            *self._index.about["remarks"],
        )
        # The column, and its field, by which rows are joined; None if they are not.
        self._by: tuple[str, str] | None = self._index.about["by"] and tuple(self._index.about["by"])
        # Where the rows of each record start in the index; None if each row is a record.
        self._starts: np.ndarray | None = None
        if self._by is not None or self._index.about["left_out"]:
            self._starts = np.append(np.flatnonzero(self._index["first"]), len(self._index))
        read = self._chosen.read
        self._columns = tuple(dict.fromkeys([*read, self._by[0]] if self._by else read))
        if not len(self):
            raise DataError(f"{self.spec}: {' '.join(self.remarks)}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments

    def _list(self) -> Found:
        """The files of the source. Raises `DataError`."""
        return self._files.glob(f".{self.kind}")

    def __len__(self) -> int:
        return len(self._groups) if self._starts is None else len(self._starts) - 1

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        rows = [index]
        if self._starts is not None:
            rows = self._index["row"][self._starts[index] : self._starts[index + 1]].tolist()
        group, at = self._groups.locate(rows[0])
        table = self._groups.table(group, self._columns)
        image = self._chosen.image
        data, path = picture_of(self._value(table, image, at, rows[0]))
        if data is None:
            what = f", only the path {path!r}" if path else ""
            raise DataError(f"column {image!r} holds no bytes{what}")
        captions = []
        for row in rows:
            captions += self._captions(row, group, table, data)
        record = Record(image=data, captions=captions, id=self._id(table, at, rows[0], path))
        if (
            self._chosen.label
            and (label := self._value(table, self._chosen.label, at, rows[0])) is not None
            and label >= 0
        ):
            check_label(label)
            record["label"] = int(label)
        return record

    def fingerprint(self) -> str:
        """The sha256 of the names, sizes and both ends of the files; the end of a file says where each row is."""
        parts: tuple[Any, ...] = (self._chosen.read, self.class_names)
        if self._starts is not None:
            parts += (self._by, len(self))
        digest = hashlib.sha256(repr(parts).encode())
        for path in self._groups.paths:
            size = self._files.fs.size(path)
            edges(digest, os.path.basename(path), size, partial(self._files.read, path))
        return digest.hexdigest()

    def _captions(self, row: int, group: int, table: pa.Table, picture: bytes) -> list[str]:
        """The captions of a row; the first row of its record is in `group` and has the picture `picture`."""
        columns = self._chosen.captions
        if not columns:
            return []
        of_row, at = self._groups.locate(row)
        if of_row != group:  # The picture of such a row is not read.
            table = self._groups.table(of_row, columns)
        elif self._by is not None:
            other, _ = picture_of(self._value(table, self._chosen.image, at, row))
            if other is not None and other != picture:
                key = self._by[1] or self._by[0]
                place = self._groups.place(row)
                raise DataError(f"{place} has another picture than an earlier row with the same {key}")
        return [text for name in columns for text in texts_in(self._value(table, name, at, row), name)]

    def _id(self, table: pa.Table, at: int, row: int, path: str | None) -> str:
        if self._by is not None:
            named = path if self._by[1] else self._name(table, self._by[0], at, row)
            if named is not None and named != "":
                return str(named)
        named = self._name(table, self._chosen.id, at, row) if self._chosen.id else path
        return str(row if named is None else named)

    def _name(self, table: pa.Table, column: str, at: int, row: int) -> Any:
        """The value of a column of ids, or its text if Python has no such value, as for a time in nanoseconds."""
        try:
            return self._value(table, column, at, row)
        except DataError:
            try:
                return table[column][at].cast(pa.string()).as_py()
            except (pa.ArrowException, ValueError):
                pass
            raise

    def _value(self, table: pa.Table, column: str, at: int, row: int) -> Any:
        """A value of a row. Raises `DataError` if Python has no such value, as for text that is not UTF-8."""
        if column not in table.column_names:
            return None
        try:
            return table[column][at].as_py()
        except UnicodeDecodeError as e:
            raise DataError(
                f"column {column!r} of {self._groups.place(row)} is invalid UTF-8 at byte {e.start}"
            ) from e
        except (pa.ArrowException, ValueError, ArithmeticError, LookupError, TypeError) as e:
            raise DataError(
                f"column {column!r} of {self._groups.place(row)} cannot be read: {first_line(e)}"
            ) from e


def _distinct(paths: list[str]) -> list[str]:
    """The names of files, or their whole paths if a name occurs twice."""
    names = [os.path.basename(path) for path in paths]
    return names if len(set(names)) == len(names) else paths
