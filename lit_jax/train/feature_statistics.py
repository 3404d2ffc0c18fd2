"""Mean and deviation of cached features, for the heads that standardise them."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from lit_jax.models import heads
from lit_jax.parallel.sharding import put
from lit_jax.train.state import State
from lit_jax.utils.errors import DataError

_BLOCK = 1 << 16  # Rows that are in memory at once.
_LEAST = 1e-6  # The smallest deviation: a feature that varies less is only shifted, not scaled.


def measured(rows: Float[np.ndarray, "R D"]) -> tuple[Float[np.ndarray, " D"], Float[np.ndarray, " D"]]:
    """The mean and the standard deviation of each feature over the finite rows, summed in float64, block by block.

    A feature that does not vary has the deviation 1. Raises DataError if no row is finite.
    """
    count, mean, squares = 0, np.zeros(rows.shape[1]), np.zeros(rows.shape[1])
    for start in range(0, len(rows), _BLOCK):
        block = np.asarray(rows[start : start + _BLOCK], np.float64)
        block = block[np.isfinite(block).all(axis=1)]
        if not len(block):
            continue
        own = block.mean(axis=0)
        total = count + len(block)
        # Chan, Golub and LeVeque (1979): combines the sums of squares of two sets of rows, each about its own mean.
        squares += ((block - own) ** 2).sum(axis=0) + (own - mean) ** 2 * (count * len(block) / total)
        mean += (own - mean) * (len(block) / total)
        count = total
    if not count:
        raise DataError("none of the cached features is finite; repair the data")
    deviation = np.sqrt(squares / count)
    return mean.astype(np.float32), np.where(deviation < _LEAST, 1, deviation).astype(np.float32)


def standardised(state: State, config: Any, rows: dict[str, np.ndarray | None]) -> State:
    """`state` with the statistics of the cached `rows` of each tower ("vision", "text") whose head standardises."""
    locked = dict(state.locked)
    for tower, features in rows.items():
        name = heads.NAMES[tower]
        if features is None or not getattr(config, f"{tower}_head").standardise:
            continue
        own = dict(locked[name])
        for statistic, values in zip(heads.STATISTICS, measured(features), strict=True):
            own[statistic] = put(values.astype(own[statistic].dtype), own[statistic].sharding)
        locked[name] = own
    return dataclasses.replace(state, locked=locked)
