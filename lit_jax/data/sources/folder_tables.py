"""The table of a folder as records: the rows of one picture are one record, wherever they stand."""

import sys
from array import array
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lit_jax.data.sources.base import class_order, counted
from lit_jax.data.sources.files import Files, stamp
from lit_jax.data.sources.folder_csv import CsvTable
from lit_jax.data.sources.folder_json import JsonLines
from lit_jax.data.sources.folder_rows import Row, Table
from lit_jax.data.sources.record_index import Columns, Index, build, open_index
from lit_jax.utils.errors import DataError

TABLES = ("metadata.jsonl", "metadata.csv", "captions.csv", "captions.tsv")
# The index of a table of at least this many bytes is stored; a smaller table is read within a second.
_RULES = 1  # Version of the rules by which tables are read; an index made by other rules is made again.
_INDEXED = 4 << 20
_CHUNK = 1 << 16  # At most this many texts are Python objects at the same time.


class Rows:
    """The records of the table `name`, by the bytes of their rows; `rows[i]` parses the rows of record i.

    Rows with the same file name form one record; its id and its label each come from the first row that has one.
    Records are in the order of their first rows; but if the rows of a picture stand apart, the records are sorted by
    file name, so that the order of the table does not matter. If records share an id, their file names replace it.

    `class_names` are the names of all labels that are names, in `class_order`. Opening checks every row and raises
    `DataError` for the first one that cannot be understood. An error that concerns only one record is raised when that
    record is read. `dialect` holds arguments for CsvTable.
    """

    def __init__(self, files: Files, name: str, caption: str | None, dialect: dict[str, Any] | None = None):
        self._files, self._name = files, name
        self._path = f"{files.root.rstrip('/')}/{name}"
        files.check(self._path, sys.maxsize)
        files.check_permitted(self._path)
        info = files.fs.info(self._path)
        self._table = _table(files, name, caption, dialect)
        if info["size"] < _INDEXED:
            self._index: Index = build(self._scan)
        else:
            key = f"folder records {name} {caption}"
            self._index = open_index(files, files.root, key, [_RULES, *stamp({self._path: info})], self._scan)
        about = self._index.about
        self.class_names, self.remarks = tuple(about["class_names"]), tuple(about["remarks"])
        record = self._index["record"]
        self._size = int(record[-1]) + 1 if len(record) else 0

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        columns = self._index
        first, last = (int(at) for at in np.searchsorted(columns["record"], [index, index + 1]))
        rows: list[Row] = []
        for part in range(first, last):
            data = self._files.read(self._path, int(columns["start"][part]), int(columns["end"][part]))
            rows += self._table.parse(data, columns.about)
        name = rows[0]["file_name"]
        own = None if columns["named"][first] else next((row["id"] for row in rows if row["id"]), None)
        return Row(
            file_name=name,
            captions=[caption for row in rows for caption in row["captions"]],
            id=name if own is None else own,
            label=next((row["label"] for row in rows if row["label"] is not None), None),
        )

    def _scan(self) -> tuple[Columns, dict[str, Any]]:
        """The bytes of the rows by record; and the names of the classes, with what else is known of the table."""
        starts, ends, labels = (array("q") for _ in range(3))
        names, ids = _Texts(), _Texts()
        codes: dict[int | str, int] = {}
        with self._files.fs.open(self._path, "rb") as file:
            for row in self._table.scan(file):
                code = -1 if row.label is None else codes.setdefault(row.label, len(codes))
                if code > 0 and type(row.label) is not type(next(iter(codes))):
                    raise DataError(
                        f"{self._files.spec}: line {row.line} of {self._name}: labels are both numbers and names; want "
                        "one kind"
                    )
                starts.append(row.start)
                ends.append(row.end)
                labels.append(code)
                names.add(_key(row.file_name))
                ids.add(row.id)
        about = self._table.settle()
        grouped = _Grouped.of(names.column())
        file_names = names.column().take(pa.array(grouped.order[grouped.first]))
        own = _first_of(grouped, _codes(ids.column()), ids.column())
        named = _shared_ids(own, file_names)
        remarks = [
            *about["remarks"],
            *_disagreeing(grouped, np.asarray(labels), file_names, "label"),
            *_disagreeing(grouped, _codes(ids.column()), file_names, "id"),
            *_repeated(own, file_names, named),
        ]
        about |= {"class_names": class_order(n for n in codes if isinstance(n, str)), "remarks": remarks}
        return grouped.segments(np.asarray(starts), np.asarray(ends), named), about


class _Grouped(NamedTuple):
    """Rows sorted by record, and within a record in the order of the table."""

    order: np.ndarray  # The row at each place.
    record: np.ndarray  # The record of that row.
    first: np.ndarray  # The place of the first row of each record.

    @classmethod
    def of(cls, names: pa.Array) -> "_Grouped":
        encoded = names.dictionary_encode()
        record = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        runs = np.count_nonzero(np.diff(record)) + bool(len(record))
        if runs > len(encoded.dictionary):  # The rows of a picture stand apart.
            rank = np.empty(len(encoded.dictionary), np.int64)
            rank[pc.sort_indices(encoded.dictionary).to_numpy()] = np.arange(len(rank))
            record = rank[record]
        order = np.argsort(record, kind="stable")
        record = record[order]
        return cls(order, record, np.flatnonzero(np.diff(record, prepend=-1)))

    def segments(self, starts: np.ndarray, ends: np.ndarray, named: np.ndarray) -> Columns:
        """The columns of the index: a row for each run of bytes that belongs to one record."""
        start, end = starts[self.order], ends[self.order]
        new = np.ones(len(start), bool)
        new[1:] = (np.diff(self.record) != 0) | (start[1:] != end[:-1])
        at = np.flatnonzero(new)
        last = np.append(at[1:], len(start))[: len(at)] - 1
        record = self.record[at]
        return {
            "start": start[at],
            "end": end[last],
            "record": record,
            "named": named[record].astype(np.int8),
        }


class _Texts:
    """A column of texts that grows; the texts may hold lone surrogates."""

    def __init__(self) -> None:
        self._chunks: list[pa.Array] = []
        self._new: list[bytes | None] = []

    def add(self, text: str | None) -> None:
        self._new.append(None if text is None else text.encode("utf-8", "surrogatepass"))
        if len(self._new) == _CHUNK:
            self._flush()

    def column(self) -> pa.Array:
        self._flush()
        self._chunks = [pa.concat_arrays(self._chunks)]
        return self._chunks[0]

    def _flush(self) -> None:
        self._chunks.append(pa.array(self._new, pa.large_binary()))
        self._new = []


def _table(files: Files, name: str, caption: str | None, dialect: dict[str, Any] | None) -> Table:
    if name == TABLES[0]:
        return JsonLines(files.spec, name, caption)
    if dialect is None:
        dialect = {"delimiter": "\t"} if name.endswith(".tsv") else {}
    return CsvTable(files, name, caption, **dialect)


def _key(name: str) -> str:
    """The same text for every spelling of a path, such as `./a.jpg` and `a.jpg`, or `x//a.jpg` and `x/a.jpg`."""
    if name.startswith("./") or "//" in name or "/./" in name:
        return "/".join(part for part in name.split("/") if part not in ("", "."))
    return name


def _codes(texts: pa.Array) -> np.ndarray:
    """A number for each distinct text, -1 for none."""
    return pc.fill_null(texts.dictionary_encode().indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)


def _first_of(grouped: _Grouped, codes: np.ndarray, texts: pa.Array) -> pa.Array:
    """The first text among the rows of each record, null if none of them has one."""
    if not len(codes) or codes.max() < 0:
        return pa.nulls(len(grouped.first), texts.type)
    place = np.where(codes[grouped.order] >= 0, np.arange(len(codes)), len(codes))
    place = np.minimum.reduceat(place, grouped.first)
    missing = place == len(codes)
    return texts.take(pa.array(grouped.order[np.where(missing, 0, place)], mask=missing))


def _shared_ids(own: pa.Array, file_names: pa.Array) -> np.ndarray:
    """Which records are called by their file name because another record has the same id."""
    if own.null_count == len(own):
        return np.zeros(len(own), bool)
    codes = _codes(pc.coalesce(own, file_names))
    named = np.bincount(codes)[codes] > 1
    codes = _codes(pc.if_else(pa.array(named), file_names, pc.coalesce(own, file_names)))
    return named if codes.max() + 1 == len(codes) else np.ones(len(own), bool)


def _repeated(own: pa.Array, file_names: pa.Array, named: np.ndarray) -> Iterable[str]:
    places = np.flatnonzero(named)
    if len(places):
        text = own[int(places[0])].as_py()
        shown = _shown(text if text is not None else file_names[int(places[0])].as_py())
        yield (
            f"{len(places)} pictures share their id with another one (the first is {shown} of "
            f"{_shown(file_names[int(places[0])].as_py())}); their id is now their file name"
        )


def _disagreeing(grouped: _Grouped, codes: np.ndarray, file_names: pa.Array, what: str) -> Iterable[str]:
    if len(codes) == len(grouped.first) or not len(codes):
        return
    codes = codes[grouped.order]
    most = np.maximum.reduceat(codes, grouped.first)
    least = np.minimum.reduceat(np.where(codes < 0, np.iinfo(codes.dtype).max, codes), grouped.first)
    if len(several := np.flatnonzero((most >= 0) & (least < most))):
        yield (
            f"{counted(len(several), 'picture', 'pictures')} whose rows have several {what}s (the first is "
            f"{_shown(file_names[int(several[0])].as_py())}); the first {what} is used"
        )


def _shown(text: bytes) -> str:
    return repr(text.decode("utf-8", "replace"))
