"""Which rows of parquet files are one record: those that have the same picture, by a column that names it."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int

from lit_jax.data.sources.parquet_columns import Chosen, picture_of
from lit_jax.data.sources.parquet_groups import FAILURES, RowGroups
from lit_jax.data.sources.record_index import Columns
from lit_jax.data.sources.remarks import Remarks
from lit_jax.data.sources.split_names import SplitColumn

_log = logging.getLogger(__name__)
_UNREAD = "Files whose column {!r} cannot be read"
_COMPARED = 32  # Pairs of rows of a row group whose pictures are compared.


class _Keys(NamedTuple):
    """The number of each row's picture, in the order of ids or paths; a row without one has a number of its own."""

    code: Int[np.ndarray, " N"]
    pictures: int


def arrange(groups: RowGroups, chosen: Chosen) -> tuple[Columns, dict[str, Any]]:
    """The rows of each record, for an index.

    Its column `row` holds the rows of all records, one record after the other, and `first` is 1 for the first row of
    each. Both are empty if each row is a record and none is left out. The dict holds `by`, the column and field by
    which rows are joined, or None; `left_out`, the number of rows that are left out; and `remarks`. Reads the columns
    of ids, paths and states, and a few pictures to check that rows with one id have one picture.
    """
    remarks = Remarks()
    kept = _kept(groups, chosen, remarks)
    left_out = len(groups) - len(kept)
    about: dict[str, Any] = {"by": None, "left_out": left_out}
    row = kept if left_out else np.empty(0, np.int64)
    first = np.ones(len(row), np.int8)
    for column, field in chosen.keys if chosen.captions else ():
        named = f"{column}.{field}" if field else column
        keys = _keys(groups, (column, field), kept, remarks)
        if keys is None or keys.pictures == len(kept):
            continue
        if not _agree(groups, chosen.image, named, keys, kept, remarks):
            continue
        order = np.arange(len(kept))
        starts = np.flatnonzero(np.diff(keys.code, prepend=-1))
        if len(starts) > keys.pictures:  # The rows of a picture stand apart.
            order = np.argsort(keys.code, kind="stable")
            starts = np.flatnonzero(np.diff(keys.code[order], prepend=-1))
        row, first = kept[order], np.zeros(len(kept), np.int8)
        first[starts] = 1
        about["by"] = [column, field]
        text = "%s: %d rows are %d records, since rows with one %s have one picture"
        _log.info(text, groups.spec, len(kept), len(starts), named)
        break
    mixed = _splits(groups, chosen).remarks()
    return {"row": row, "first": first}, about | {"remarks": (*mixed, *remarks.sentences())}


def _splits(groups: RowGroups, chosen: Chosen) -> SplitColumn:
    found = SplitColumn()
    if chosen.split is None:
        return found
    with ThreadPoolExecutor(8) as pool:
        for values in pool.map(partial(groups.column, name=chosen.split), range(len(groups.paths))):
            texts = None if values is None else _as_bytes(values)
            for value in () if texts is None else texts.value_counts().to_pylist():
                found.add((value["values"] or b"").decode("utf-8", "replace"), value["counts"])
    return found


def _kept(groups: RowGroups, chosen: Chosen, remarks: Remarks) -> Int[np.ndarray, " N"]:
    """All rows but those that img2dataset failed to fetch."""
    keep = np.ones(len(groups), bool)
    if chosen.status is None:
        return np.flatnonzero(keep)
    end = 0
    with ThreadPoolExecutor(8) as pool:
        columns = pool.map(partial(groups.column, name=chosen.status), range(len(groups.paths)))
        for file, (rows, states) in enumerate(zip(groups.rows_of_file, columns, strict=True)):
            start, end = end, end + int(rows)
            if states is None:
                if chosen.status in groups.schemas[file].names:
                    remarks.add(_UNREAD.format(chosen.status), os.path.basename(groups.paths[file]))
                continue
            texts = _as_bytes(states)
            if texts is None:
                continue
            lost = pc.fill_null(pc.starts_with(texts, b"failed_to_"), False).to_numpy(zero_copy_only=False)
            keep[start:end] = ~lost
            if lost.any():
                row = start + int(np.argmax(lost))
                why = texts[row - start].as_py().decode("utf-8", "replace")
                remarks.add(
                    "Rows whose picture could not be fetched when the files were made are left out",
                    f"{groups.place(row)} ({why})",
                    int(lost.sum()),
                )
    return np.flatnonzero(keep)


def _keys(
    groups: RowGroups, key: tuple[str, str], kept: Int[np.ndarray, " N"], remarks: Remarks
) -> _Keys | None:
    """The pictures of the rows `kept`, told apart by `key`; None if that holds nothing that names pictures."""
    column, field = key

    def read(file: int) -> pa.ChunkedArray | None:
        return groups.column(file, column, field) if column in groups.schemas[file].names else None

    with ThreadPoolExecutor(8) as pool:
        read_columns = list(pool.map(read, range(len(groups.paths))))
    numbers = all(c is not None and pa.types.is_signed_integer(c.type) for c in read_columns)
    parts: list[pa.Array] = []
    for file, (values, rows) in enumerate(zip(read_columns, groups.rows_of_file, strict=True)):
        cast = None if values is None else values.cast(pa.int64()) if numbers else _as_bytes(values)
        if cast is None:
            if values is None and not field:
                remarks.add(_UNREAD.format(column), os.path.basename(groups.paths[file]))
            cast = pa.nulls(int(rows), pa.int64() if numbers else pa.large_binary())
        parts += cast.chunks if isinstance(cast, pa.ChunkedArray) else [cast]
    values = pa.chunked_array(parts)
    if len(kept) < len(values):
        values = values.take(pa.array(kept))
    values = values.combine_chunks()
    if isinstance(values, pa.ChunkedArray):  # Older versions of pyarrow return chunks here.
        values = pa.concat_arrays(values.chunks)
    if not numbers:
        values = pc.if_else(pc.equal(pc.binary_length(values), 0), pa.scalar(None, values.type), values)
    if values.null_count == len(values):
        return None
    coded = values.dictionary_encode()
    rank = np.empty(len(coded.dictionary), np.int64)
    rank[pc.array_sort_indices(coded.dictionary).to_numpy()] = np.arange(len(rank))
    index = pc.fill_null(coded.indices, -1).to_numpy(zero_copy_only=False)
    unknown = index < 0
    code = np.where(unknown, 0, rank[index])
    code[unknown] = len(rank) + np.arange(unknown.sum())
    return _Keys(code, len(rank) + int(unknown.sum()))


def _as_bytes(values: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Ids of any type as bytes that differ wherever the ids do; None for a type that has no such form."""
    try:
        if isinstance(values.type, pa.BaseExtensionType):
            values = pa.chunked_array([chunk.storage for chunk in values.chunks], values.type.storage_type)
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        if pa.types.is_null(values.type):
            return pa.chunked_array([pa.nulls(len(values), pa.large_binary())])
        if not any(
            test(values.type)
            for test in (
                pa.types.is_string,
                pa.types.is_large_string,
                pa.types.is_binary,
                pa.types.is_large_binary,
            )
        ):
            values = values.cast(pa.large_string())
        return values.cast(pa.large_binary())
    except (pa.ArrowException, ValueError):
        return None


def _agree(
    groups: RowGroups, image: str, column: str, keys: _Keys, kept: Int[np.ndarray, " N"], remarks: Remarks
) -> bool:
    """Whether rows with the same key have the same picture, judged by a few row groups."""
    order = np.argsort(keys.code, kind="stable")
    same = np.flatnonzero(np.diff(keys.code[order]) == 0)
    one, other = kept[order[same]], kept[order[same + 1]]
    group = np.searchsorted(groups.ends, one, side="right")
    near = np.flatnonzero(group == np.searchsorted(groups.ends, other, side="right"))
    some = [0, len(one) - 1]
    if len(near):  # Pairs within one row group are compared without reading a second one.
        ends = {int(group[near[0]]), int(group[near[-1]])}
        some = [int(i) for g in sorted(ends) for i in near[group[near] == g][:_COMPARED]]
    for i in some:
        a, b = (_picture(groups, image, int(rows[i])) for rows in (one, other))
        if a is not None and b is not None and a != b:
            remarks.add(
                f"Rows share a value of {column} and have different pictures, so it joins no rows",
                f"{groups.place(int(one[i]))}, as {groups.place(int(other[i]))}",
            )
            return False
    return True


def _picture(groups: RowGroups, image: str, row: int) -> bytes | None:
    group, at = groups.locate(row)
    try:
        return picture_of(groups.table(group, (image,))[image][at].as_py())[0]
    except FAILURES:
        return None
