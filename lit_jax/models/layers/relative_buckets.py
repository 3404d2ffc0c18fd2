"""Relative positions of T5 (arXiv:1910.10683): near tokens by distance, far ones in logarithmic buckets."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int


def buckets(tokens: Any, count: int = 32, farthest: int = 128) -> Int[Array | np.ndarray, "N N"]:
    """The bucket, 0 to `count` - 1, of each query and key among `tokens`; equals T5Attention's bidirectional one.

    Half of the `count` buckets (at least 4) are for keys ahead. All distances from `farthest` on share a bucket;
    `farthest` must be more than `count` // 4. `tokens` can be a symbol (jax.export).
    """
    if isinstance(tokens, int):
        at = np.arange(tokens)
        return _buckets(at[None, :] - at[:, None], count, farthest)
    places = jnp.arange(tokens)
    ahead = jnp.clip(places[None, :] - places[:, None], -farthest, farthest)
    return jnp.asarray(_buckets(np.arange(-farthest, farthest + 1), count, farthest))[ahead + farthest]


def _buckets(ahead: Int[np.ndarray, "..."], count: int, farthest: int) -> Int[np.ndarray, "..."]:
    """The buckets of keys that are `ahead` tokens ahead of a query."""
    half = count // 2
    near, distance = half // 2, np.abs(ahead)
    with np.errstate(divide="ignore"):  # The logarithm of a zero distance, which is near, is not used.
        log = np.log(distance.astype(np.float32) / np.float32(near)) / np.float32(np.log(farthest / near))
    far = near + np.maximum(log * np.float32(half - near), 0).astype(np.int32)
    return np.where(ahead > 0, half, 0) + np.where(distance < near, distance, np.minimum(far, half - 1))
