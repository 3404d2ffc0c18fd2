"""The account of broken records: each named once in the log, and too many of them end the run."""

import contextlib
import json
import logging
import os

from lit_jax.utils.errors import DataError

_log = logging.getLogger(__name__)
_SAMPLE = 10_000  # Rows that must have been read before their share speaks for a larger source.


class Ledger:
    """Counts the broken records of one reader of `source`, which has `total` records.

    A record is counted once, however often it is drawn; those that the file at `path` names already, of a run that goes
    on at row `rows`, are counted and not told again. The share is taken of all `total` records, or, once more than
    10,000 rows are read, of those read where they are fewer.
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
        if rows and path is not None and os.path.exists(path):
            self.broken = _read(path)

    def add(self, record: int, reason: str, row: int | None = None, replaced_by: int | None = None) -> None:
        """Counts and logs a broken record. Raises `DataError` when there are now too many."""
        if record in self.broken:
            return
        self.broken[record] = reason
        _log.warning("%s: record %d is broken and skipped: %s", self.source, record, reason)
        if self._path is not None:
            line = {"source": self.source, "record": record, "reason": reason, "row": row}
            with open(self._path, "a", encoding="utf-8") as f:
                f.write(json.dumps(line | {"replaced_by": replaced_by}) + "\n")
        among = min(self._total, max(self.rows, _SAMPLE))
        if len(self.broken) > self._share * among:
            raise DataError(
                f"{self.source}: {len(self.broken)} of {among} records are broken, more than the "
                f"{self._share:.1%} allowed; the last one is record {record}: {reason}"
            )


def _read(path: str | os.PathLike[str]) -> dict[int, str]:
    broken = {}
    with open(path, encoding="utf-8") as f:
        for line in f:
            with contextlib.suppress(ValueError, KeyError, TypeError):  # A kill may have cut a line.
                row = json.loads(line)
                broken[int(row["record"])] = str(row["reason"])
    return broken
