"""Several sources as one, each with its share of the records."""

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lit_jax.data.sources.base import Record, Source, remarks_of
from lit_jax.utils.errors import ConfigError

_MOST = 2**31 - 1  # Batches number their records in int32.


class MixtureSource:
    """A mixture of `parts`, each (source, weight): source k has the share weight_k / sum of weights of the records.

    It has the smallest length at which no record is left out: the source with the most records for its weight appears
    once, and the others are repeated. The records of one source are contiguous. Labels are kept if all sources have
    the same class names. Raises `ConfigError` for a weight that is not a positive number, and for weights so unequal
    that the mixture would have more than 2**31 records.
    """

    description: str | None = None
    license: str | None = None

    def __init__(self, parts: Sequence[tuple[Source, float | int]]):
        if not parts:
            raise ConfigError("a mixture of no sources; want a list of (source, weight)")
        for source, weight in parts:
            if not 0 < weight < math.inf:
                raise ConfigError(f"the weight of {source.spec} is {weight!r}; want a number above 0")
        self._sources = [source for source, _ in parts]
        self._weights = np.array([weight for _, weight in parts], np.float64)
        share = self._weights / self._weights.sum()
        sizes = np.array([len(source) for source in self._sources])
        total = (sizes / share).max()
        if total > _MOST:
            raise ConfigError(
                f"the mixture would need {total:.3g} records for each record to appear once; want weights that "
                "are closer to the sizes of the sources"
            )
        counts = np.maximum(np.round(share * total).astype(np.int64), sizes)
        self._ends = np.cumsum(counts)
        self.spec = " + ".join(
            f"{part:.3g} {source.spec}" for part, source in zip(share, self._sources, strict=True)
        )
        names = {source.class_names for source in self._sources}
        self.class_names = names.pop() if len(names) == 1 else None

    @property
    def remarks(self) -> tuple[str, ...]:
        """The remarks of the sources, each with the name of its source."""
        return tuple(f"{source.spec}: {remark}" for source in self._sources for remark in remarks_of(source))

    def __reduce__(self) -> tuple[Any, ...]:
        return MixtureSource, (list(zip(self._sources, self._weights.tolist(), strict=True)),)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        k = int(np.searchsorted(self._ends, index, side="right"))
        start = int(self._ends[k - 1]) if k else 0
        record = self._sources[k][(index - start) % len(self._sources[k])]
        if self.class_names is None:
            record.pop("label", None)
        return record

    def fingerprint(self) -> str:
        """The sha256 of the sources' fingerprints and weights."""
        parts = [(s.fingerprint(), w) for s, w in zip(self._sources, self._weights.tolist(), strict=True)]
        return hashlib.sha256(repr(parts).encode()).hexdigest()
