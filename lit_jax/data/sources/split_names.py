"""Splits of a set, recognised by the names of directories and files, and by a column of a table."""

import os
import re
from collections import Counter
from collections.abc import Collection

SPLITS = frozenset(
    {"train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval", "evaluation"}
)
_OF_SPLIT = re.compile(r"[_-]?(images?|imgs?|set|20\d\d)")  # Additions, as in train2017 and test_images.
_WORD = re.compile(r"[A-Za-z0-9]+")


def is_split(name: str) -> bool:
    """Whether a directory with this name is a split of a set, not a class."""
    return _OF_SPLIT.sub("", name.lower()) in SPLITS


def several_splits(paths: Collection[str], folder: str = "") -> str | None:
    """A sentence on files whose names say that they belong to several splits, as `train-0.tar` and `test-0.tar` do.

    None if they do not. With `folder`, which they are all of, the sentence says how to name those of one split.
    """
    first: dict[str, str] = {}  # A split -> a pattern of its files.
    for path in sorted(paths):
        name = os.path.basename(path)
        stem, ending = os.path.splitext(name)
        word = next((word for word in _WORD.finditer(stem) if is_split(word[0])), None)
        if word is not None:
            first.setdefault(word[0].lower(), f"{name[: word.end()]}*{ending}")
    if len(first) < 2:
        return None
    named = f"The files are those of several splits: {', '.join(first)}"
    if not folder:
        return f"{named}. All of them are read."
    return f"{named}; name those of one, as in {folder.rstrip('/')}/{first.get('train', min(first.values()))}"


class SplitColumn:
    """The column or key `split` of a table: how many rows each split has."""

    NAME = "split"

    def __init__(self) -> None:
        self._rows: Counter[str] = Counter()

    def add(self, value: object, rows: int = 1) -> None:
        """Counts rows with this value; only the usual names of splits count."""
        if isinstance(value, str) and value.lower() in SPLITS:
            self._rows[value] += rows

    def remarks(self) -> list[str]:
        """A sentence if the rows are those of several splits."""
        if len(self._rows) < 2:
            return []
        splits = ", ".join(f"{name} {rows:,}" for name, rows in self._rows.most_common())
        return [
            f"The column {self.NAME!r} says that the rows are those of several splits ({splits}), and all of them are "
            "read; write those of one split as a set of its own (docs/data.md)."
        ]
