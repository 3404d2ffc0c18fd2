"""`captions.csv`, `captions.tsv` and their like: a first line that names the columns, and a row for each caption."""

import csv
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lit_jax.data.sources.base import CAPTIONS, counted, decode_utf8, numbered_captions
from lit_jax.data.sources.files import Files
from lit_jax.data.sources.folder_rows import FILE, Row, Scanned, check_name, label_of_cell, lines_of
from lit_jax.data.sources.split_names import SplitColumn
from lit_jax.data.transforms.image_files import is_picture
from lit_jax.utils.errors import DataError

# Characters of a cell; without a bound, a quote that is never closed would collect the rest of the file.
_LONGEST = 1 << 24
_LIMIT = threading.Lock()
_CAPTIONS = (*CAPTIONS, "comment")  # The name in Flickr30k's results.csv.


class CsvTable:
    """The rows of the table `name` in the folder of `files`, whose cells are separated by `delimiter`.

    With `quotes`, a cell in quotes can contain delimiters and line ends. `caption` names the column of the captions;
    None means the first one with a usual name, or columns such as `caption_0`, `caption_1` ... Raises `DataError` if a
    column is missing.
    """

    def __init__(
        self, files: Files, name: str, caption: str | None, delimiter: str = ",", quotes: bool = True
    ):
        self._spec, self._name = files.spec, name
        self._dialect: dict[str, Any] = {"delimiter": delimiter}
        if not quotes:
            self._dialect |= {"quoting": csv.QUOTE_NONE, "skipinitialspace": True}
        self._head = self._columns(files, caption)
        self._place = {role: place for place, role in enumerate(self._head) if role}
        self._spans: list[tuple[int, int]] = []  # First and last line of each row that spans several.
        self._swallowed = 0  # Lines in these rows that look like rows of their own.
        self._open: list[int] = []  # Rows with text after a closing quote.
        self._splits = SplitColumn()

    def scan(self, file: Any) -> Iterator[Scanned]:
        lines = _Lines(file)
        reader = self._reader(lines, strict=True)  # `strict` raises an error at a misplaced quote.
        next(self._reader(lines), None)
        if lines.number > 1:
            raise self._bad(1, 'a quote (") is opened in the names of the columns and not closed; close it')
        while True:
            lines.pending.clear()
            first, start = lines.number + 1, lines.consumed
            try:
                cells = next(reader, None)
            except csv.Error as e:
                cells = self._lenient(lines, first, e)
            if cells is None:
                return
            if cells:
                if len(lines.pending) > 1:
                    self._spans.append((first, lines.number))
                    self._swallowed += sum(self._is_row(line) for line in lines.pending[1:])
                yield self._scanned(cells, first, start, lines.consumed)

    def settle(self) -> dict[str, Any]:
        remarks = self._splits.remarks()
        if self._spans:
            first, last = self._spans[0]
            own = counted(self._swallowed, "of these lines looks like a row", "of these lines look like rows")
            remarks.append(
                f"{counted(len(self._spans), 'row', 'rows')} of {self._name} with a quoted cell that spans several "
                f"lines (the first in the lines {first} to {last})"
                + (f"; {own} of the table" if self._swallowed else "")
                + "; where that is not meant, double the quotes in a caption and put it between quotes"
            )
        if self._open:
            remarks.append(
                f"{counted(len(self._open), 'row', 'rows')} of {self._name} with text behind a closing quote (the "
                f"first is line {self._open[0]}); such quotes are lost: double them and put the caption between quotes"
            )
        return {"remarks": remarks}

    def parse(self, data: bytes, about: Mapping[str, Any]) -> list[Row]:
        decode_utf8(data, f"line of {self._name}")
        # `str.splitlines` would also split at U+2028 and at other characters that do not end a line of a table.
        lines = (line.decode() for line in data.splitlines(keepends=True))
        rows = []
        for cells in self._reader(lines):
            if cells:
                row = dict(zip(self._head, cells, strict=True))
                captions = [cell for role, cell in zip(self._head, cells, strict=True) if role == "caption"]
                label = label_of_cell(row.get("label"))
                rows.append(
                    Row(file_name=row["file"], captions=captions, id=row.get("id") or None, label=label)
                )
        return rows

    def _reader(self, lines: Iterable[str], **options: Any) -> "_Reader":
        return _Reader(csv.reader(lines, **self._dialect, **options))

    def _bad(self, number: int, why: object) -> DataError:
        return DataError(f"{self._spec}: line {number} of {self._name}: {why}")

    def _scanned(self, cells: list[str], line: int, start: int, end: int) -> Scanned:
        if len(cells) != len(self._head):
            delimiter = self._dialect["delimiter"]
            way = f"put a caption that contains {delimiter!r} between quotes"
            if len(cells) < len(self._head):
                way = f"write {delimiter!r} for each cell that is empty, too"
            found = counted(len(cells), "cell", "cells")
            raise self._bad(line, f"{found}, want {len(self._head)} as in the first line; {way}")
        at = self._place
        try:
            name = check_name(cells[at["file"]])
            label = label_of_cell(cells[at["label"]]) if "label" in at else None
        except DataError as e:
            raise self._bad(line, e) from e
        if SplitColumn.NAME in at:
            self._splits.add(cells[at[SplitColumn.NAME]])
        return Scanned(line, start, end, name, (cells[at["id"]] or None) if "id" in at else None, label)

    def _lenient(self, lines: "_Lines", first: int, error: csv.Error) -> list[str]:
        """The cells of a row whose quotes are odd but harmless. Raises `DataError` if they have joined rows."""
        if lines.ended:
            raise self._bad(
                first,
                f'a quote (") is opened here and never closed, so the row would go on to line {lines.number}, the '
                "last one; close it, or double each quote of a caption and put the caption between quotes",
            ) from error
        if len(lines.pending) > 1:
            raise self._bad(
                first,
                f'a quote (") that is opened here is closed within line {lines.number}, with text behind it, so that '
                f"{len(lines.pending)} lines would be one row; double each quote of a caption and put the caption "
                "between quotes",
            ) from error
        row = _Lines(lines.pending[0].encode("utf-8", "surrogateescape").splitlines(keepends=True))
        try:
            cells = next(self._reader(row))
        except csv.Error as e:
            raise self._bad(
                first, f"{e}; shorten the cell or, if a quote is opened in it and not closed, close that"
            ) from e
        if row.ended:
            raise self._bad(
                first, f'a quote (") is opened here behind another one and not closed ({error}); close it'
            )
        self._open.append(first)
        return cells

    def _is_row(self, line: str) -> bool:
        try:
            cells: list[str] = next(self._reader([line]), [])
        except csv.Error:
            return False
        return len(cells) == len(self._head) and is_picture(cells[self._head.index("file")])

    def _columns(self, files: Files, caption: str | None) -> list[str]:
        """The role of each column: "file", "caption", "id", "label", "split", or "" for one that is not read."""
        with files.fs.open(f"{files.root.rstrip('/')}/{self._name}", "rb") as file:
            line = next(lines_of(file), b"")
        first = decode_utf8(line, f"{self._spec}: line 1 of {self._name}")
        try:
            columns = [name.strip() for row in self._reader([first]) for name in row]
        except csv.Error as e:
            raise self._bad(1, e) from e
        file_column = next((name for name in FILE if name in columns), None)
        usual = [name for name in _CAPTIONS if name in columns][:1]
        chosen = [caption] if caption else usual or numbered_captions(columns)
        if file_column is None or (not chosen and "label" not in columns) or not set(chosen) <= set(columns):
            wanted = f"file_name and {caption or 'caption'}"
            marks = "; a table with tabs between the columns is called captions.tsv" if "\t" in first else ""
            delimiter = self._dialect["delimiter"]
            if not marks and (
                other := next((mark for mark in ",;|" if mark != delimiter and mark in first), "")
            ):
                marks = f" and {delimiter!r} between the columns, not {other!r}"
            raise self._bad(
                1, f"the columns are {', '.join(columns) or 'none'}; want a first line with {wanted}{marks}"
            )
        roles = {"id": "id", "label": "label"} | dict.fromkeys(chosen, "caption") | {file_column: "file"}
        if twice := [name for name in roles if columns.count(name) > 1]:
            raise self._bad(
                1, f"{columns.count(twice[0])} columns are called {twice[0]!r}; give each its own name"
            )
        if columns.count(split := SplitColumn.NAME) == 1:
            roles.setdefault(split, split)
        return [roles.get(name, "") for name in columns]


class _Reader:
    """The rows of a `csv.reader`, whose cells may have `_LONGEST` characters.

    csv knows one limit for the whole process, so it is set for one row at a time: callers of lit_jax keep theirs.
    """

    def __init__(self, rows: Any):
        self._rows = rows

    def __iter__(self) -> "_Reader":
        return self

    def __next__(self) -> list[str]:
        with _LIMIT:
            before = csv.field_size_limit(_LONGEST)
            try:
                cells: list[str] = next(self._rows)
            finally:
                csv.field_size_limit(before)
        return cells


class _Lines:
    """The lines of a file as texts, and a count of what was taken.

    csv asks for another line within a row only while a quote is open.
    """

    def __init__(self, file: Any):
        self._lines = lines_of(file)
        self.number = self.consumed = 0  # Lines and bytes taken.
        self.pending: list[str] = []  # The lines of the current row.
        self.ended = False

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = next(self._lines, None)
        if line is None:
            self.ended = True
            raise StopIteration
        self.number += 1
        self.consumed += len(line)
        text = line.decode("utf-8", "surrogateescape")  # `parse` raises the error when the record is read.
        self.pending.append(text)
        return text
