"""The outputs of a locked text tower in place of captions."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from lit_jax.data.shuffle import draws
from lit_jax.utils.errors import DataError


@dataclass(frozen=True)
class PooledTexts:
    """A row for each caption of each record of a source; `rows` may be memory-mapped.

    The captions of record i are the rows from `offsets[i]` to `offsets[i + 1]`; a record that could not be read has
    none. Captions with equal `groups` have the same tokens.
    """

    rows: Float[np.ndarray, "M Dt"]
    offsets: Int[np.ndarray, " R1"]
    groups: Int[np.ndarray, " M"]

    def drawn(self, record: int, seed: int, row: int, count: int = 1) -> dict[str, Any]:
        """The caption of `record` that row `row` of a run draws; with `count` above 1, [count, ...] arrays of several.

        Raises DataError for a record without captions.
        """
        first, end = (int(number) for number in self.offsets[record : record + 2])
        if first == end:
            raise DataError("no cached caption, since the record was broken or had none")
        numbers = [first + number for number in draws(count, end - first, "caption", seed, row)]
        several: Any = numbers if count > 1 else numbers[0]
        return {
            "pooled_texts": np.asarray(self.rows[several], np.float32),
            "text_groups": self.groups[several],
        }

    @property
    def owner(self) -> Int[np.ndarray, " M"]:
        """The record of each caption."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
