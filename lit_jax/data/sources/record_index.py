"""An index of a large source, made once and then memory-mapped: the position of each record.

It is an Arrow file of one batch, followed by its sha256 and MARK. It is stored beside the data or, if that place
cannot be written, in the user's cache. Its schema contains the stamp of the files that it was made from. It is made
again if their stamp has changed, or if its sha256 is missing or wrong: a flipped bit in a mapped file gives another
record, or ends the process.
"""

import hashlib
import json
import logging
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lit_jax.data.sources.files import Files
from lit_jax.utils import strict_json

_log = logging.getLogger(__name__)
_VERSION = 1
MARK = b"lit_jax1"
_CHUNK = 1 << 22
_TAIL = 32 + len(MARK)  # Bytes of the sha256 and MARK.
Columns = Mapping[str, np.ndarray | pa.Array]


class Index:
    """Columns of equal length, as in `index["offset"][i]`, and a dict `about`."""

    def __init__(self, table: pa.Table):
        self.about: dict[str, Any] = strict_json.parse(table.schema.metadata[b"lit_jax"])["about"]
        self._columns: dict[str, Any] = {}
        for name in table.column_names:
            column = table[name].chunk(0) if table.num_rows else pa.array([], table.schema.field(name).type)
            text = pa.types.is_large_string(column.type)
            self._columns[name] = column if text else column.to_numpy(zero_copy_only=True)
        self._rows = table.num_rows

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, column: str) -> Any:
        return self._columns[column]

    def text(self, column: str, row: int) -> str:
        """An entry of a column of text."""
        return self._columns[column][row].as_py()


def build(make: Callable[[], tuple[Columns, dict[str, Any]]], stamp: Any = None) -> Index:
    """The index that `make` returns, in memory only."""
    return Index(_table(*make(), stamp))


def open_index(
    files: Files, folder: str, name: str, stamp: Any, make: Callable[[], tuple[Columns, dict[str, Any]]]
) -> Index:
    """The index `name` of data in `folder`: memory-mapped if it exists with this stamp, else made and stored."""
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    cached = hashlib.sha256(f"{files.fs.protocol} {folder} {name}".encode()).hexdigest()[:24]
    places = [Path(folder) / f".lit_jax-{digest}.arrow"] if files.local else []
    if (cache := cache_dir()) is not None:
        places.append(cache / f"{cached}.arrow")
    for place in places:
        table = _read(place)
        if table is not None and _stamp(table) == json.loads(json.dumps(stamp)):
            return Index(table)
    table = _table(*make(), stamp)
    for place in places:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            _write(place, table)
        except OSError:
            continue
        stored = _read(place)
        if stored is not None:
            return Index(stored)
    where = places[-1] if places else "a home of this user, who has none"
    _log.warning("the index of %s cannot be stored in %s; it is made again each time", files.spec, where)
    return Index(table)


def cache_dir() -> Path | None:
    """The folder of the indexes that cannot be stored beside their data; None if this user has no home."""
    folder = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return None if folder.startswith("~") else Path(folder) / "lit_jax"


def _table(columns: Columns, about: dict[str, Any], stamp: Any) -> pa.Table:
    metadata = {b"lit_jax": json.dumps({"version": _VERSION, "stamp": stamp, "about": about}).encode()}
    return pa.table({name: pa.array(c) for name, c in columns.items()}, metadata=metadata).combine_chunks()


def _stamp(table: pa.Table) -> Any:
    try:
        head = strict_json.parse(table.schema.metadata[b"lit_jax"])
        return head["stamp"] if head["version"] == _VERSION else None
    except (KeyError, TypeError, ValueError):
        return None


def _read(place: Path) -> pa.Table | None:
    """The table in the file `place`, memory-mapped; None if it is missing or not as it was written."""
    try:
        if not place.is_file():  # Opening a pipe would wait for a writer.
            return None
        size = place.stat().st_size - _TAIL
        with place.open("rb") as file:
            digest = hashlib.sha256()
            for start in range(0, size, _CHUNK):
                digest.update(file.read(min(_CHUNK, size - start)))
            if size < 0 or file.read() != digest.digest() + MARK:
                _log.info("%s is of an older version or damaged; it is made again", place)
                return None
        with pa.memory_map(str(place)) as mapped:
            table = pa.ipc.open_file(mapped.read_buffer(size)).read_all()
        table.validate(full=True)
        return table
    except (OSError, pa.ArrowException):
        return None


def _write(place: Path, table: pa.Table) -> None:
    draft = place.with_suffix(f".{uuid.uuid4().hex[:8]}")  # Several processes may do this at the same time.
    try:
        with pa.OSFile(str(draft), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        with draft.open("r+b") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
            file.write(digest + MARK)
        os.replace(draft, place)
    finally:
        draft.unlink(missing_ok=True)
