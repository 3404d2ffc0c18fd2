"""Some records of a source, as a source."""

import hashlib
from collections.abc import Sequence
from typing import Any

from lit_jax.data.sources import Record, Source


class ChosenSource:
    """The records of `source` whose numbers are `chosen`, in that order."""

    def __init__(self, source: Source, chosen: Sequence[int]):
        self._source, self._chosen = source, [int(i) for i in chosen]
        self.spec, self.class_names = source.spec, source.class_names

    def __reduce__(self) -> tuple[Any, ...]:
        return ChosenSource, (self._source, self._chosen)

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Record:
        return self._source[self._chosen[index]]

    def fingerprint(self) -> str:
        """The sha256 of the source's and of the numbers."""
        return hashlib.sha256(f"{self._source.fingerprint()} {self._chosen}".encode()).hexdigest()
