"""The ledger of broken records: the log names each one once, and too many of them end the run."""

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from lit_jax.utils import strict_json
from lit_jax.utils.atomic import clear
from lit_jax.utils.errors import DataError

_log = logging.getLogger(__name__)
# The parts in which reasons of one kind differ.
_NAMES = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\d+")
_SAMPLE = 10_000  # Rows of which the share is taken at least, unless the source has fewer records.


class Ledger:
    """Counts the broken records of one reader of `source`, which has `total` records.

    A record is counted once, however often it is drawn. If the run resumes at row `rows`, the records that the file at
    `path` already lists are counted and not logged again. The share is taken of the rows read so far, or of 10,000 if
    they are fewer, but never of more than `total`.
    """

    def __init__(
        self,
        source: str,
        total: int,
        max_bad_share: float,
        path: str | os.PathLike[str] | None = None,
        rows: int = 0,
    ):
        self.source = source
        self.rows = rows
        self.broken: dict[int, str] = {}  # Record -> reason.
        self._total, self._share, self._path = total, max_bad_share, path
        if path is not None:
            clear(Path(path), _log)
        if rows and path is not None and os.path.exists(path):
            self.broken = _read(Path(path))

    def add(self, record: int, reason: str, row: int | None = None, replaced_by: int | None = None) -> None:
        """Counts and logs a broken record. Raises `DataError` if there are now too many."""
        if record in self.broken:
            return
        self.broken[record] = reason
        _log.warning("%s: record %d is broken and skipped: %s", self.source, record, reason)
        if self._path is not None:
            line = {"source": self.source, "record": record, "reason": reason, "row": row}
            with open(self._path, "a", encoding="utf-8") as f:
                f.write(json.dumps(line | {"replaced_by": replaced_by}) + "\n")
        of = min(self._total, max(self.rows, _SAMPLE))
        if len(self.broken) > self._share * of:
            raise DataError(
                f"{self.source}: {len(self.broken)} of {of} records are broken, more than the "
                f"{self._share:.1%} allowed ({in_words(self.broken.values())}); the last one is record {record}: "
                f"{reason}; repair the data or raise data.max_broken"
            )


def frequent(reasons: Iterable[str], most: int = 3) -> list[tuple[str, int]]:
    """The `most` most frequent kinds of `reasons`, most frequent first, each as its first reason and its count.

    Reasons that differ only in numbers and in quoted names are of the same kind.
    """
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for reason in reasons:
        kind = _NAMES.sub("", reason)
        first.setdefault(kind, reason)
        counts[kind] += 1
    return [(first[kind], times) for kind, times in counts.most_common(most)]


def in_words(reasons: Iterable[str]) -> str:
    """The three most frequent kinds of `reasons` with their counts, for a sentence."""
    return ", ".join(f"{times} x {reason!s:.200}" for reason, times in frequent(reasons))


def _read(path: Path) -> dict[int, str]:
    broken, unread = dict[int, str](), 0
    try:
        lines = strict_json.lines(path)
    except ValueError as error:
        raise DataError(f"{path} cannot be read: {error}; move it away") from error
    for line in lines[:-1]:  # A killed run may leave its last line incomplete.
        try:
            row = strict_json.parse(line)
            broken[int(row["record"])] = str(row["reason"])
        except (ValueError, KeyError, TypeError, OverflowError):
            unread += 1
    if unread:
        _log.warning("%s: %d of %d lines are damaged and left out", path, unread, len(lines) - 1)
    return broken
