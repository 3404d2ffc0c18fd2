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


def several_splits(paths: Collection[str]) -> dict[str, str]:
    """The splits that the names of files tell, as `train-0.tar` and `test-0.tar` do: split -> a pattern of its files.

    Empty if there are fewer than two.
    """
    found: dict[str, str] = {}
    for path in sorted(paths):
        stem, ending = os.path.splitext(os.path.basename(path))
        word = next((word for word in _WORD.finditer(stem) if is_split(word[0])), None)
        if word is not None:
            found.setdefault(word[0].lower(), f"{stem[: word.end()]}*{ending}")
    return found if len(found) > 1 else {}


def remarks_on_splits(paths: Collection[str]) -> list[str]:
    """A sentence if the files are those of several splits."""
    splits = several_splits(paths)
    return (
        [f"The files are those of several splits: {', '.join(splits)}. All of them are read."]
        if splits
        else []
    )


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
