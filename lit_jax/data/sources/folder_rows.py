"""One row of a folder's table: what a scan notes about it, what a reader gets, and the checks of all tables."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol, TypedDict, runtime_checkable

from lit_jax.utils.errors import DataError

# Names of the column of file names; a jsonl file accepts only the first one.
FILE = ("file_name", "filename", "filepath", "file", "image", "image_path", "image_name")
_MOST = 2**31  # Labels are below this.
_NUMBER = re.compile(r"(-?[0-9]+)(\.0*)?")  # pandas writes 1.0 in a column of numbers with gaps.


class Row(TypedDict):
    """The description of one picture."""

    file_name: str
    captions: list[str]
    id: str | None  # None: the file name.
    label: int | str | None


class Scanned(NamedTuple):
    """What a scan notes about a row, which occupies the bytes `start` to `end` and begins in `line` (from 1)."""

    line: int
    start: int
    end: int
    file_name: str
    id: str | None
    label: int | str | None


@runtime_checkable
class Table(Protocol):
    """A table of one kind. Undecodable bytes are lone surrogates in a scan, and a `DataError` in `parse`."""

    def scan(self, file: Any) -> Iterator[Scanned]:
        """The rows of a file that is open for reading bytes. Raises `DataError` for a row that is not understood."""
        ...

    def settle(self) -> dict[str, Any]:
        """What the scan found out about the whole table, for `parse`, and its "remarks". Raises `DataError`."""
        ...

    def parse(self, data: bytes, about: Mapping[str, Any]) -> list[Row]:
        """The rows in these bytes. Raises `DataError` for a row that cannot be used."""
        ...


def lines_of(file: Any) -> Iterator[bytes]:
    """The lines of a binary file with their line ends, which are LF, CR LF or CR alone."""
    for line in file:
        if b"\r" in line:
            yield from line.splitlines(keepends=True)
        else:
            yield line


def check_name(name: object) -> str:
    """Returns `name` if it is the path of a file inside the folder. Raises `DataError` otherwise."""
    if not isinstance(name, str) or not name:
        raise DataError(
            "no file_name" if name is None else f"file_name is {name!r}, want a path inside the folder"
        )
    if name[0] in "/\\" or (".." in name and ".." in re.split(r"[/\\]", name)):
        raise DataError(f"file_name {name!r} leads out of the folder; want a path inside it, without '..'")
    return name


def check_label(label: object) -> int | str | None:
    """Returns `label` if it is a class index, a class name or None. Raises `DataError` otherwise."""
    if label is None:
        return None
    if isinstance(label, bool) or not isinstance(label, int | str):
        raise DataError(f"label is {label!r}, want a number or a name")
    if isinstance(label, int) and not 0 <= label < _MOST:
        raise DataError(f"label is {label:.3g}, want a number from 0 to {_MOST - 1}, or none")
    if isinstance(label, str):
        try:
            label.encode()
        except UnicodeEncodeError as e:
            raise DataError(f"label is invalid UTF-8 at character {e.start}") from e
    return label


def label_of_cell(cell: str | None) -> int | str | None:
    """The label in a cell of text: a number if it is one in ASCII digits, None if it is empty, else a name."""
    if not cell:
        return None
    number = _NUMBER.fullmatch(cell)
    if number is None:
        return check_label(cell)
    if len(digits := number[1].lstrip("0")) > len(str(_MOST)):
        raise DataError(f"label has {len(digits)} digits, want a number from 0 to {_MOST - 1}, or none")
    return check_label(int(number[1]))
