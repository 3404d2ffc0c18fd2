"""Descriptions of the pictures of a folder: a table (`metadata.jsonl`, `captions.csv` ...), or texts beside them."""

import csv
import difflib
import json
import re
from array import array
from collections.abc import Iterable, Iterator
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa

from lit_jax.data.sources.base import CAPTIONS, decode_utf8, texts_of
from lit_jax.data.sources.files import Files, stamp
from lit_jax.data.sources.record_index import Columns, Index, build, open_index
from lit_jax.utils.errors import DataError

TABLES = ("metadata.jsonl", "metadata.csv", "captions.csv", "captions.tsv")
_INDEXED = (
    4 << 20
)  # Bytes from which on the index of a table is stored; a smaller table is read within a second.
_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
# Names of the column of files; a jsonl file accepts only the first one.
_FILE = ("file_name", "filename", "filepath", "file", "image", "image_path")
_KNOWN = frozenset({"caption", "captions", "text"})  # Keys of metadata.jsonl.


class Row(TypedDict):
    """The description of one picture."""

    file_name: str
    captions: list[str]
    id: str
    label: int | str | None


class Rows:
    """The rows of a text table, by the byte at which each one starts; `rows[i]` parses row i.

    `class_names` are the sorted names of all labels that are names. Opening checks every row and raises `DataError` for
    the first one that cannot be understood. An error that concerns only one record is raised when that is read.
    """

    def __init__(self, files: Files, name: str, caption: str | None):
        self._files, self._name = files, name
        self._path = f"{files.root.rstrip('/')}/{name}"
        self._caption = caption
        info = files.fs.info(self._path)
        self._head: list[str] = []
        if name != TABLES[0]:
            self._head = self._columns()
        if info["size"] < _INDEXED:
            self._index: Index = build(self._scan)
        else:
            key = f"folder {name} {caption}"
            self._index = open_index(files, files.root, key, stamp({self._path: info}), self._scan)
        self.class_names = tuple(self._index.about["class_names"])

    def __len__(self) -> int:
        return len(self._index) - 1

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        start, end = (int(at) for at in self._index["start"][index : index + 2])
        text = decode_utf8(self._files.read(self._path, start, end), f"line of {self._name}")
        if not self._head:
            return self._of_json(json.loads(text.removeprefix("\ufeff").split("\n", 1)[0]))
        return self._of_csv(list(self._reader(text.splitlines(keepends=True))))

    def _scan(self) -> tuple[Columns, dict[str, Any]]:
        """Where each record starts and the last one ends; and the names of the classes."""
        starts = array("q")
        names: set[str] = set()
        kinds: set[type] = set()
        with self._files.fs.open(self._path, "rb") as file:
            for number, start, label in self._lines(file) if not self._head else self._records(file):
                starts.append(start)
                if label is not None:
                    kinds.add(type(label))
                    names.update([label] if isinstance(label, str) else ())
                if len(kinds) > 1:
                    raise self._bad(number, "labels are both numbers and names; want one kind")
            starts.append(file.tell())
        return {"start": np.frombuffer(starts, np.int64)}, {"class_names": sorted(names)}

    def _bad(self, number: int, why: object) -> DataError:
        return DataError(f"{self._files.spec}: line {number} of {self._name}: {why}")

    # metadata.jsonl

    def _lines(self, file: Any) -> Iterator[tuple[int, int, int | str | None]]:
        start = 0
        for number, line in enumerate(file, 1):
            if not line.isspace():
                label = None
                try:
                    label = self._check(json.loads(line))
                except UnicodeDecodeError:
                    pass  # Raised when this one record is read.
                except (json.JSONDecodeError, RecursionError) as e:
                    raise DataError(
                        f"{self._files.spec}: line {number} of {self._name} is not JSON: {e}"
                    ) from e
                except DataError as e:
                    raise self._bad(number, e) from e
                yield number, start, label
            start += len(line)

    def _check(self, row: Any) -> int | str | None:
        """The label of a line. Raises `DataError` for a line that cannot be understood."""
        if not isinstance(row, dict):
            raise DataError(f"found {type(row).__name__}, want an object with file_name and caption")
        known = _KNOWN | {"file_name", "id", "label"}
        if self._caption is None and (unknown := sorted(row.keys() - known)):
            near = difflib.get_close_matches(unknown[0], known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"want some of {', '.join(sorted(known))}"
            raise DataError(f"unknown key {unknown[0]!r}; {hint}")
        check_name(row.get("file_name"))
        if self._caption is None and len(row.keys() & _KNOWN) > 1:
            raise DataError(f"has several of {', '.join(sorted(_KNOWN))}; want one, which may be a list")
        label = row.get("label")
        if label is not None and (isinstance(label, bool) or not isinstance(label, int | str)):
            raise DataError(f"label is {label!r}, want a number or a name")
        if isinstance(label, int) and label < 0:
            raise DataError(f"label is {label}, want 0 or more")
        return label

    def _of_json(self, row: dict[str, Any]) -> Row:
        name, captions = row["file_name"], []
        for key in [self._caption] if self._caption else row.keys() & _KNOWN:
            if key in row:
                captions = texts_of([row[key]] if row[key] is None else row[key], key)
        return Row(file_name=name, captions=captions, id=str(row.get("id", name)), label=row.get("label"))

    # captions.csv and captions.tsv

    def _reader(self, lines: Iterable[str]) -> Any:
        return csv.reader(lines, delimiter="\t" if self._name.endswith(".tsv") else ",")

    def _columns(self) -> list[str]:
        """The role of each column: "file", "caption", "id", "label", or "" for one that is not read."""
        with self._files.fs.open(self._path, "rb") as file:
            first = decode_utf8(file.readline(), f"{self._files.spec}: line 1 of {self._name}").removeprefix(
                "\ufeff"
            )
        columns = [name.strip() for row in self._reader([first]) for name in row]
        file_column = next((name for name in _FILE if name in columns), None)
        caption = self._caption or next((name for name in CAPTIONS if name in columns), None)
        if (
            file_column is None
            or (caption is None and "label" not in columns)
            or (caption and caption not in columns)
        ):
            wanted = f"file_name and {self._caption or 'caption'}"
            raise self._bad(
                1, f"the columns are {', '.join(columns) or 'none'}; want a first line with {wanted}"
            )
        roles = {caption: "caption", file_column: "file", "id": "id", "label": "label"}
        return [roles.get(name, "") for name in columns]

    def _records(self, file: Any) -> Iterator[tuple[int, int, int | str | None]]:
        """The line, start and label of each record; consecutive rows with one file are one record."""
        consumed, number = 0, 0

        def lines() -> Iterator[str]:
            nonlocal consumed, number
            for line in file:
                consumed += len(line)
                number += 1
                yield line.decode("utf-8", "surrogateescape")  # Raised when the record is read.

        reader = self._reader(lines())
        next(reader, None)
        start, last = consumed, None
        while True:
            first = number + 1
            try:
                cells = next(reader, None)
            except csv.Error as e:
                raise self._bad(first, e) from e
            if cells is None:
                return
            if cells:
                if len(cells) != len(self._head):
                    raise self._bad(first, f"{len(cells)} cells, want {len(self._head)} as in the first line")
                row = dict(zip(self._head, cells, strict=True))
                try:
                    check_name(row["file"])
                except DataError as e:
                    raise self._bad(first, e) from e
                if row["file"] != last:
                    yield first, start, _label(row)
                last = row["file"]
            start = consumed

    def _of_csv(self, rows: list[list[str]]) -> Row:
        cells = [dict(zip(self._head, row, strict=True)) for row in rows if row]
        first = cells[0]
        captions = [row["caption"] for row in cells if "caption" in row]
        return Row(
            file_name=first["file"],
            captions=captions,
            id=first.get("id") or first["file"],
            label=_label(first),
        )


class Pictures:
    """The pictures below a directory, sorted by path; `a.txt` is the caption of `a.jpg`.

    If no picture has such a file and all are in subdirectories, the subdirectories are the classes; if some are not,
    the pictures have neither captions nor classes.
    """

    def __init__(self, files: Files):
        self._files = files
        root = files.root.rstrip("/")
        every = [path[len(root) + 1 :] for path in files.fs.find(root)]
        names = sorted(name for name in every if is_picture(name) and "/." not in f"/{name}")
        texts = {name for name in every if name.endswith(".txt")}
        self._described = any(_text_beside(name) in texts for name in names)
        classed = not self._described and all("/" in name for name in names)
        classes = {name.split("/")[0] for name in names} if classed else set()
        self.class_names = tuple(sorted(classes))
        self._names = pa.array(names, pa.large_string())

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        name: str = self._names[index].as_py()
        captions, label = [], None
        if self._described:
            text = self._files.read(f"{self._files.root.rstrip('/')}/{_text_beside(name)}")
            captions = [decode_utf8(text, f"{_text_beside(name)!r}").rstrip("\r\n")]
        elif self.class_names:
            label = name.split("/")[0]
        return Row(file_name=name, captions=captions, id=name.rpartition(".")[0], label=label)


def is_picture(name: str) -> bool:
    """Whether the file of that name is a picture, by its extension."""
    return name.lower().endswith(_PICTURES)


def check_name(name: object) -> None:
    """Raises `DataError` unless `name` is the path of a file inside the folder."""
    if not isinstance(name, str) or not name:
        raise DataError(
            "no file_name" if name is None else f"file_name is {name!r}, want a path inside the folder"
        )
    if name[0] in "/\\" or ".." in re.split(r"[/\\]", name):
        raise DataError(f"file_name {name!r} leads out of the folder; want a path inside it, without '..'")


def _text_beside(name: str) -> str:
    return name.rpartition(".")[0] + ".txt"


def _label(row: dict[str, str]) -> int | str | None:
    label = row.get("label") or None
    return int(label) if label and label.isdigit() else label
