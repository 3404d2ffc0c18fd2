"""Ranks of right answers by dot product, counted tile by tile and the same on every machine.

How float32 dot products round depends on the BLAS, the tile and the number of devices, and then so do ties.
Here the embeddings are first put on a grid that is so coarse (2**-26 for unit rows; float32 itself rounds
their products by more) that every partial sum fits a float64 exactly: the order of summation cannot matter,
equal rows have equal scores, and counts of two tiles add up to the count of both.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float, Int

from lit_jax.errors import DataError

TILE = 1024  # Rows of a side that are compared at once: TILE x TILE float64 scores are all that is ever held.

Rows = Callable[[slice | np.ndarray], np.ndarray]


def ranks(
    keys: Float[np.ndarray, "N E"],
    queries: Float[np.ndarray, "M E"],
    owner: Int[np.ndarray, " M"],
    *,
    names: tuple[str, str] = ("image", "text"),
) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " M"]]:
    """Ranks keys for queries and queries for keys; `owner[m]` is the one right key of query m.

    A side is ordered by dot product, highest first, and equal scores by index, lower first. Returns for each
    key the rank of the first of its queries (1 is best; 0 for a key that owns none) and for each query the rank
    of its owner. `names` say in errors what a key and a query are.

    Raises DataError when a side is empty, a number is not finite, or an owner is no key.
    """
    key_rows, query_rows = _on_grid(keys, names[0]), _on_grid(queries, names[1])
    if len(bad := np.flatnonzero((owner < 0) | (owner >= len(keys)))):
        raise DataError(
            f"{names[1]} {bad[0]} belongs to {names[0]} {owner[bad[0]]}, "
            f"but the {names[0]} rows are numbered 0 to {len(keys) - 1}"
        )
    owner = owner.astype(np.int64)

    own = np.empty(len(queries))  # Score of each query with its owner.
    for q in _tiles(len(queries)):
        own[q] = np.einsum("me,me->m", key_rows(owner[q]), query_rows(q))

    # The query of each key that the ranking of that key meets first. No score is above infinity.
    first, best = np.zeros(len(keys), np.int64), np.full(len(keys), np.inf)
    order = np.lexsort((-own, owner))  # Stable, so that among equal scores the lower index stays first.
    owners, at = np.unique(owner[order], return_index=True)
    first[owners] = order[at]
    best[owners] = own[order[at]]

    key_rank, query_rank = np.zeros(len(keys), np.int64), np.ones(len(queries), np.int64)
    key_rank[owners] = 1
    for k in _tiles(len(keys)):
        tile = key_rows(k)
        for q in _tiles(len(queries)):
            scores = tile @ query_rows(q).T
            key_rank[k] += _ahead(scores, best[k, None], first[k, None], q.start, axis=1)
            query_rank[q] += _ahead(scores, own[None, q], owner[None, q], k.start, axis=0)
    return key_rank, query_rank


def _ahead(scores: np.ndarray, score: np.ndarray, index: np.ndarray, start: int, *, axis: int) -> np.ndarray:
    """Counts along `axis`, whose places are numbered from `start`, what stands before (score, index)."""
    # Several times faster than count_nonzero along an axis.
    count = (scores > score).view(np.uint8).sum(axis=axis, dtype=np.int32)
    tied = np.unravel_index(np.flatnonzero(scores == score), scores.shape)
    before = start + tied[axis] < np.broadcast_to(index, scores.shape)[tied]
    return count + np.bincount(tied[1 - axis][before], minlength=len(count))


def _on_grid(embeds: np.ndarray, name: str) -> Rows:
    """Checks `embeds` and returns what gives rows of it as float64 multiples of 2**-26 (of a power of two)."""
    if not len(embeds):
        raise DataError(f"there are no {name} embeddings; give at least one row")
    norm = 0.0
    for tile in _tiles(len(embeds)):
        some = embeds[tile].astype(np.float64)
        if len(bad := np.flatnonzero(~np.isfinite(some).all(axis=1))):
            raise DataError(
                f"{name} embedding {tile.start + bad[0]} holds a NaN or an infinity; all numbers must be finite: "
                f"look at the weights and at that {name}"
            )
        norm = max(norm, float(np.linalg.norm(some, axis=1).max()))

    # Rows no longer than 1.2 (unit rows stay as they are) have dot products under 2, and a float64 holds every
    # multiple of 2**-26 * 2**-26 up to 2.
    shift = 26 - math.ceil(math.log2(norm / 1.2)) if norm else 0

    def rows(which: slice | np.ndarray) -> np.ndarray:
        return np.rint(embeds[which].astype(np.float64) * 2.0**shift)

    return rows


def _tiles(n: int) -> Iterator[slice]:
    return (slice(start, min(start + TILE, n)) for start in range(0, n, TILE))
