"""`folder:DIR`: pictures in a directory, described by the lines of its `metadata.jsonl`."""

import difflib
import hashlib
import json
import re
from array import array
from pathlib import Path
from typing import Any

from lit_jax.data.sources import Record, decode_utf8
from lit_jax.errors import DataError

METADATA = "metadata.jsonl"
_CAPTIONS = frozenset({"caption", "captions", "text"})
_KEYS = _CAPTIONS | {"file_name", "id", "label"}


class FolderSource:
    """The lines of `metadata.jsonl`, each `{"file_name": ..., "caption": ...}`, as records.

    `file_name` is relative to the directory. The captions are under one of `caption`, `captions` and `text`, one
    string or a list; a line may have none. `id` defaults to the file name. `label` is a class index, or a class
    name, in which case `class_names` are the sorted names of all lines.

    Opening reads the metadata once, checks that every line is an object of these keys whose file name stays
    inside the directory, and keeps 8 bytes a record. A file that is missing, or a caption of a wrong type, breaks
    its own record only. Raises `DataError`.
    """

    description: str | None = None
    license: str | None = None

    def __init__(self, directory: str):
        self.directory = Path(directory).expanduser()
        self.spec = f"folder:{directory}"
        if not self.directory.is_dir():
            raise DataError(f"{self.spec}: there is no such directory")
        self._metadata = self.directory / METADATA
        if not self._metadata.is_file():
            raise DataError(
                f"{self.spec}: no {METADATA} in it; want a line of JSON with file_name and caption for each picture"
            )
        self._lines = array("q")  # Where each record's line starts.
        names = self._scan()
        if not self._lines:
            raise DataError(f"{self.spec}: {METADATA} has no records")
        self.class_names: tuple[str, ...] | None = tuple(sorted(names)) or None
        self._label_of = {name: label for label, name in enumerate(self.class_names or ())}

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> Record:
        with self._metadata.open("rb") as f:
            f.seek(self._lines[index])
            line = decode_utf8(f.readline(), f"line of {METADATA}")
        row = json.loads(line.removeprefix("\ufeff"))
        name, label = row["file_name"], row.get("label")
        try:
            image = (self.directory / name).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError, ValueError) as e:
            raise DataError(f"{name!r} cannot be read: {getattr(e, 'strerror', None) or e}") from e
        record = Record(image=image, captions=_captions(row), id=str(row.get("id", name)))
        if label is not None:
            record["label"] = self._label_of[label] if isinstance(label, str) else label
        return record

    def fingerprint(self) -> str:
        """The sha256 of the metadata and of every file it names; reads them all."""
        with self._metadata.open("rb") as f:
            digest = hashlib.file_digest(f, "sha256")
        for index in range(len(self)):
            try:
                digest.update(hashlib.sha256(self[index]["image"]).digest())
            except DataError:
                digest.update(b"broken")
        return digest.hexdigest()

    def _scan(self) -> set[str]:
        """Fills `_lines`; returns the class names. Raises `DataError` for the first line that is not understood."""
        names: set[str] = set()
        kinds: set[type] = set()
        start = 0
        with self._metadata.open("rb") as f:
            for number, line in enumerate(f, 1):
                if not line.isspace():
                    self._lines.append(start)
                    try:
                        label = _check(json.loads(line))
                        if label is not None:
                            kinds.add(type(label))
                            names.update([label] if isinstance(label, str) else ())
                        if len(kinds) > 1:
                            raise DataError("labels are both numbers and names; want one kind")
                    except UnicodeDecodeError:
                        pass  # Found again, and told, when this one record is read.
                    except (json.JSONDecodeError, RecursionError) as e:
                        raise DataError(f"{self.spec}: line {number} of {METADATA} is not JSON: {e}") from e
                    except DataError as e:
                        raise DataError(f"{self.spec}: line {number} of {METADATA}: {e}") from e
                start += len(line)
        return names


def _check(row: Any) -> int | str | None:
    """The label of a line that is understood; else raises `DataError`."""
    if not isinstance(row, dict):
        raise DataError(f"found {type(row).__name__}, want an object with file_name and caption")
    if unknown := sorted(row.keys() - _KEYS):
        near = difflib.get_close_matches(unknown[0], _KEYS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"want some of {', '.join(sorted(_KEYS))}"
        raise DataError(f"unknown key {unknown[0]!r}; {hint}")
    name = row.get("file_name")
    if not isinstance(name, str) or not name:
        raise DataError(
            "no file_name" if name is None else f"file_name is {name!r}, want a path inside the folder"
        )
    if name[0] in "/\\" or ".." in re.split(r"[/\\]", name):
        raise DataError(f"file_name {name!r} leads out of the folder; want a path inside it, without '..'")
    if len(row.keys() & _CAPTIONS) > 1:
        raise DataError(f"has several of {', '.join(sorted(_CAPTIONS))}; want one, which may be a list")
    label = row.get("label")
    if label is not None and (isinstance(label, bool) or not isinstance(label, int | str)):
        raise DataError(f"label is {label!r}, want a number or a name")
    if isinstance(label, int) and label < 0:
        raise DataError(f"label is {label}, want 0 or more")
    return label


def _captions(row: dict[str, Any]) -> list[str]:
    for key in row.keys() & _CAPTIONS:
        captions = row[key] if isinstance(row[key], list) else [row[key]]
        for caption in captions:
            if not isinstance(caption, str):
                raise DataError(f"{key!r} holds a {type(caption).__name__}, want text")
        return captions
    return []
