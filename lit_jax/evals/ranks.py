"""Ranks of right answers by dot product, counted tile by tile and equal on every machine.

The rounding of float32 dot products depends on the BLAS, the tile and the number of devices, and so do ties. Here the
embeddings are first rounded to a grid so coarse (2**-26 for unit rows, finer than the rounding of their float32
products) that every partial sum is exact in float64. So the order of summation does not matter, equal rows have equal
scores, and the counts of two tiles add up. Large problems are first screened in float32 on all devices (`screen`), and
only the pairs that float32 cannot decide are counted exactly: the ranks are the same.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from lit_jax.evals.screen import Block, Side, screen
from lit_jax.utils.errors import DataError
from lit_jax.utils.names import MODALITIES

TILE = 1024  # Rows of a side that are compared at once: at most TILE x TILE float64 scores are in memory.
# Up to this many pairs, all are counted exactly: that is faster than compiling a program for the devices.
SMALL = 1 << 22
_PAIRS = 4096  # Open pairs whose rows are in memory at once.
_MANY = 1 / 16  # If a larger share of pairs is open, counting the whole tile is faster.
_GRID = 26


@dataclass(frozen=True)
class _Rows:
    """Embeddings as integers in float64: multiples of 2**-26, up to a power-of-two factor."""

    embeds: np.ndarray
    shift: int
    norm: Float[np.ndarray, " N"]  # Upper bounds of the norms of the rows, in units of 2**26.

    def __call__(self, which: slice | np.ndarray) -> np.ndarray:
        return np.rint(self.embeds[which].astype(np.float64) * 2.0**self.shift)

    def side(self, score: np.ndarray) -> Side:
        return Side(
            lambda which: (self(which) * 2.0**-_GRID).astype(np.float32), score * 4.0**-_GRID, self.norm
        )


def ranks(
    keys: Float[np.ndarray, "N E"],
    queries: Float[np.ndarray, "M E"],
    owner: Int[np.ndarray, " M"],
    *,
    names: tuple[str, str] = MODALITIES,
    devices: Sequence[Any] | None = None,
) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " M"]]:
    """Ranks keys for queries and queries for keys; `owner[m]` is the one right key of query m.

    Candidates are ordered by dot product, highest first, and equal scores by index, lower first. Returns for each key
    the rank of the first of its queries (1 is best; 0 for a key that owns none), and for each query the rank of its
    owner. `names` are the words for a key and a query in errors; `devices` (default: those of this process) share the
    work and do not change the ranks.

    Raises DataError if a side is empty, a number is not finite, or an owner is not a key.
    """
    key_rows, query_rows = _on_grid(keys, names[0]), _on_grid(queries, names[1])
    if len(bad := np.flatnonzero((owner < 0) | (owner >= len(keys)))):
        raise DataError(
            f"{names[1]} {bad[0]} belongs to {names[0]} {owner[bad[0]]}, "
            f"but the {names[0]} rows are numbered 0 to {len(keys) - 1}"
        )
    owner = owner.astype(np.int64)

    own = np.empty(len(queries))  # Score of each query with its owner.
    for q in _tiles(slice(0, len(queries))):
        own[q] = np.einsum("me,me->m", key_rows(owner[q]), query_rows(q))

    # For each key, the first of its queries in its ranking. A key without a query gets infinity, which no score
    # exceeds.
    first, best = np.zeros(len(keys), np.int64), np.full(len(keys), np.inf)
    order = np.lexsort((-own, owner))  # Stable: among equal scores the lower index stays first.
    owners, at = np.unique(owner[order], return_index=True)
    first[owners] = order[at]
    best[owners] = own[order[at]]

    key_rank, query_rank = np.zeros(len(keys), np.int64), np.ones(len(queries), np.int64)
    key_rank[owners] = 1

    def count_all(keys: slice, queries: slice) -> None:
        for k in _tiles(keys):
            tile = key_rows(k)
            for q in _tiles(queries):
                scores = tile @ query_rows(q).T
                key_rank[k] += _ahead(scores, best[k, None], first[k, None], q.start, axis=1)
                query_rank[q] += _ahead(scores, own[None, q], owner[None, q], k.start, axis=0)

    def count_open(block: Block) -> None:
        key_rank[block.keys] += block.key_ahead
        query_rank[block.queries] += block.query_ahead
        for start in range(0, len(block.open_keys), _PAIRS):
            pairs = slice(start, start + _PAIRS)
            k, q = block.keys.start + block.open_keys[pairs], block.queries.start + block.open_queries[pairs]
            scores = np.einsum("pe,pe->p", key_rows(k), query_rows(q))
            np.add.at(key_rank, k, (scores > best[k]) | (scores == best[k]) & (q < first[k]))
            np.add.at(query_rank, q, (scores > own[q]) | (scores == own[q]) & (k < owner[q]))

    if len(keys) * len(queries) <= SMALL:
        count_all(slice(0, len(keys)), slice(0, len(queries)))
        return key_rank, query_rank
    for block in screen(key_rows.side(best), query_rows.side(own), keys.shape[1], TILE, devices):
        if len(block.open_keys) > _MANY * len(block.key_ahead) * len(block.query_ahead):
            count_all(block.keys, block.queries)
        else:
            count_open(block)
    return key_rank, query_rank


def _ahead(scores: np.ndarray, score: np.ndarray, index: np.ndarray, start: int, *, axis: int) -> np.ndarray:
    """Counts the candidates before (score, index) along `axis`, whose positions are numbered from `start`."""
    # Several times faster than count_nonzero along an axis.
    count = (scores > score).view(np.uint8).sum(axis=axis, dtype=np.int32)
    tied = np.unravel_index(np.flatnonzero(scores == score), scores.shape)
    before = start + tied[axis] < np.broadcast_to(index, scores.shape)[tied]
    return count + np.bincount(tied[1 - axis][before], minlength=len(count))


def _on_grid(embeds: np.ndarray, name: str) -> _Rows:
    """Checks `embeds` and finds their grid. Raises DataError."""
    if not len(embeds):
        raise DataError(f"there are no {name} embeddings; wanted at least one row")
    norm = np.empty(len(embeds))
    for tile in _tiles(slice(0, len(embeds))):
        rows = embeds[tile].astype(np.float64)
        if len(bad := np.flatnonzero(~np.isfinite(rows).all(axis=1))):
            raise DataError(
                f"{name} embedding {tile.start + bad[0]} holds a NaN or an infinity; wanted finite numbers: "
                f"check the weights and that {name}"
            )
        norm[tile] = np.linalg.norm(rows, axis=1)

    # Rows no longer than 1.2, such as unit rows, have dot products below 2, and float64 represents every multiple of
    # 2**-26 * 2**-26 up to 2.
    longest = norm.max()
    shift = _GRID - math.ceil(math.log2(longest / 1.2)) if longest else 0
    # Rounding to the grid can lengthen a row.
    return _Rows(embeds, shift, norm * 2.0 ** (shift - _GRID) + embeds.shape[1] ** 0.5 * 2.0**-_GRID)


def _tiles(rows: slice) -> Iterator[slice]:
    return (slice(start, min(start + TILE, rows.stop)) for start in range(rows.start, rows.stop, TILE))
