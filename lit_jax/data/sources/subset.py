"""Some records of a source, as a source of their own."""

import hashlib
from collections.abc import Iterable, Sequence

from lit_jax.data.sources.base import Record, Source


class Subset:
    """The records of `source` with the numbers `chosen`, in that order; it remembers the ids of the records read."""

    def __init__(self, source: Source, chosen: Sequence[int]):
        self._source, self._chosen = source, chosen
        self.spec = source.spec if chosen == range(len(source)) else f"{source.spec}[{_description(chosen)}]"
        self.class_names = source.class_names
        self._ids: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Record:
        record = self._source[self._chosen[index]]
        self._ids[index] = record["id"]
        return record

    def ids(self, records: Iterable[int] | None = None) -> list[str]:
        """The ids of all records, or of `records`; those that another process has read are read again."""
        wanted = range(len(self)) if records is None else records
        return [self._ids.get(index) or self[index]["id"] for index in wanted]

    def fingerprint(self) -> str:
        """The sha256 of the fingerprint of `source` and of the numbers."""
        return hashlib.sha256(f"{self._source.fingerprint()} {self._chosen}".encode()).hexdigest()


def _description(chosen: Sequence[int]) -> str:
    return f"{chosen.start}:{chosen.stop}" if isinstance(chosen, range) else f"{len(chosen)} records"
