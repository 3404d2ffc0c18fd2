"""The account of broken records: each named once in the log, and too many of them end the run."""

import json
import logging
import os
import threading

from lit_jax.errors import DataError

_log = logging.getLogger(__name__)
_SAMPLE = 100_000  # Rows that must have been read before their share speaks for a larger source.


class Ledger:
    """Counts the broken records of one reader of `source`, which has `total` records; threads may share it.

    A record is counted once, however often it is drawn. The share is taken of all `total` records, or, once more than
    100,000 rows are read, of those read where they are fewer.
    """

    def __init__(
        self, source: str, total: int, max_bad_share: float, path: str | os.PathLike[str] | None = None
    ):
        self.source = source
        self.broken: dict[int, str] = {}  # Record -> reason.
        self.rows = 0
        self._total, self._share, self._path = total, max_bad_share, path
        self._lock = threading.Lock()

    def read(self) -> None:
        """Counts a row that was read."""
        with self._lock:
            self.rows += 1

    def add(self, record: int, reason: str, row: int | None = None, replaced_by: int | None = None) -> None:
        """Counts and logs a broken record. Raises `DataError` when there are now too many."""
        with self._lock:
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
