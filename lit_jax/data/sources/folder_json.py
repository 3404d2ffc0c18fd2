"""`metadata.jsonl`: an object in each line, such as `{"file_name": ..., "caption": ...}`."""

import difflib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from lit_jax.data.sources.base import CAPTIONS, counted, decode_utf8, texts_of
from lit_jax.data.sources.folder_rows import Row, Scanned, check_label, check_name, lines_of
from lit_jax.data.sources.split_names import SplitColumn
from lit_jax.utils.errors import DataError

_OWN = ("caption", "captions", "text")  # A line has at most one of these.
_CAPTIONS = frozenset(CAPTIONS)
_READ = frozenset({"file_name", "id", "label", *CAPTIONS})
_SHAPES = 1000  # At most this many sets of keys are remembered.
_BOM = "\ufeff"


class JsonLines:
    """The lines of the file `name` of the source `spec`; `caption` is the key of the captions, detected if None.

    The captions have the key `caption`, `captions` or `text` or, if no line has one of these, the first usual name that
    a line has. Keys that are not read are accepted, unless one of them looks like a misspelt key of the captions.
    """

    def __init__(self, spec: str, name: str, caption: str | None):
        self._spec, self._name, self._caption = spec, name, caption
        self._keys: dict[str, int] = {}  # Key -> the first line that has it.
        # The same for unread keys that hold texts, in lines without a caption.
        self._texts: dict[str, int] = {}
        self._without = 0  # The number of these lines.
        self._splits = SplitColumn()
        self._usual: set[tuple[str, ...]] = set()  # Sets of keys that need no further check.

    def scan(self, file: Any) -> Iterator[Scanned]:
        end = 0
        for number, line in enumerate(lines_of(file), 1):
            start, end = end, end + len(line)
            text = line.decode("utf-8", "surrogateescape").removeprefix(_BOM)
            if not text or text.isspace():
                continue
            try:
                row = _object(text)
                self._note(row, number)
                if "file_name" not in row:
                    keys = ", ".join(map(str, row)) or "none"
                    raise DataError(
                        f"no file_name; the keys are {keys}: call the path of the picture file_name"
                    )
                name, label = check_name(row["file_name"]), check_label(_label(row))
            except (json.JSONDecodeError, RecursionError) as e:
                where = f"{self._spec}: line {number} of {self._name}"
                decode_utf8(line, where)  # If it is not UTF-8, that is the better reason.
                raise DataError(f"{where} is not JSON: {e}; want an object in each line") from e
            except DataError as e:
                raise DataError(f"{self._spec}: line {number} of {self._name}: {e}") from e
            self._splits.add(row.get(SplitColumn.NAME))
            yield Scanned(number, start, end, name, _id(row), label)

    def settle(self) -> dict[str, Any]:
        keys = self._keys.keys()
        if self._caption is not None:
            if keys and self._caption not in keys:
                raise DataError(
                    f"{self._spec}: no line of {self._name} has the key {self._caption!r}; "
                    f"there are {', '.join(map(str, keys))}"
                )
            return {"caption": self._caption, "remarks": self._splits.remarks()}
        other = None if keys & set(_OWN) else next((key for key in CAPTIONS if key in keys), None)
        if self._texts and not keys & _CAPTIONS and "label" not in keys:
            first = next(iter(self._texts))
            raise DataError(
                f"{self._spec}: line {self._texts[first]} of {self._name}: unknown key {first!r}, and no line has a "
                "caption or a label; call the captions caption, or name their key as the caption"
            )
        remarks = self._splits.remarks()
        if self._texts and keys & _CAPTIONS:
            first = next(iter(self._texts))
            remarks.append(
                f"{counted(self._without, 'line', 'lines')} of {self._name} without a caption but with a text under "
                f"another key (the first is line {self._texts[first]}, {first!r}), which is not read"
            )
        for key, line in self._keys.items():
            if key not in _READ and "label" not in keys and _near(key) == "label":
                remarks.append(
                    f"the key {key!r} of {self._name} is not read (it is first in line {line}); "
                    "did you mean 'label'?"
                )
        return {"caption": other, "remarks": remarks}

    def parse(self, data: bytes, about: Mapping[str, Any]) -> list[Row]:
        lines = [line for line in data.splitlines(keepends=True) if line.strip()]
        return [self._row(decode_utf8(line, f"line of {self._name}"), about["caption"]) for line in lines]

    def _row(self, text: str, caption: str | None) -> Row:
        try:
            row = _object(text)
        except RecursionError as e:
            raise DataError(f"line of {self._name} is not JSON: {e}") from e
        captions = []
        for key in [caption] if caption else row.keys() & set(_OWN):
            if key in row:
                captions = texts_of([row[key]] if row[key] is None else row[key], key)
        return Row(file_name=row["file_name"], captions=captions, id=_id(row), label=_label(row))

    def _note(self, row: dict[str, Any], line: int) -> None:
        """Remembers the keys of a line. Raises `DataError` for captions that are ambiguous or misspelt."""
        if (shape := tuple(row)) in self._usual:
            return
        for key in row:
            self._keys.setdefault(key, line)
        if self._caption is not None or len(captions := row.keys() & _CAPTIONS) == 1:
            if len(self._usual) < _SHAPES:
                self._usual.add(shape)
            return
        if len(row.keys() & set(_OWN)) > 1:
            raise DataError(f"has several of {', '.join(_OWN)}; want one, which may be a list")
        if captions:
            return
        others = sorted(row.keys() - _READ)
        for key in others:
            if (near := _near(key)) in _CAPTIONS:
                raise DataError(f"unknown key {key!r}; did you mean {near!r}?")
        texts = [key for key in others if isinstance(row[key], str)]
        self._without += bool(texts)
        for key in texts:
            self._texts.setdefault(key, line)


def captions_in(text: str, what: str, caption: str | None = None) -> list[str] | None:
    """The captions in the JSON object of one picture, under the key `caption`, by default the first usual name.

    None if it has no such key. Raises a `DataError` that names `what` if the text is not such an object.
    """
    try:
        row = _object(text)
    except (json.JSONDecodeError, RecursionError) as e:
        raise DataError(f"{what!r} is not JSON: {e}") from e
    except DataError as e:
        raise DataError(f"{what!r}: {e}") from e
    key = next((key for key in ([caption] if caption else CAPTIONS) if row.get(key) is not None), None)
    return None if key is None else texts_of(row[key], key)


def _object(text: str) -> dict[str, Any]:
    """The object in a line. Raises JSONDecodeError and RecursionError, and `DataError` for any other value."""
    try:
        row = json.loads(text)
    except json.JSONDecodeError:
        raise
    except ValueError as e:  # A number of more than 4,300 digits.
        raise DataError(f"holds a number that is too long ({e})") from e
    if not isinstance(row, dict):
        raise DataError(f"found {type(row).__name__}, want an object with file_name and caption")
    return row


def _id(row: dict[str, Any]) -> str | None:
    given = row.get("id")
    return None if given is None or given == "" else str(given)


def _label(row: dict[str, Any]) -> Any:
    """The label, unchecked; None for an empty one, as in a table of cells."""
    given = row.get("label")
    return None if given == "" else given


@cache
def _near(key: str) -> str | None:
    """The key that was probably meant by `key`, which is not read; None if no key is similar."""
    return next(iter(difflib.get_close_matches(key, (*_OWN, "label"), 1, 0.75)), None)
