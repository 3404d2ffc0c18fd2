"""Ranks of right answers by dot product, counted tile by tile and the same on every machine.

How float32 dot products round depends on the BLAS, the tile and the number of devices, and then so do ties.
Here the embeddings are first put on a grid that is so coarse (2**-26 for unit rows; float32 itself rounds
their products by more) that every partial sum fits a float64 exactly: the order of summation cannot matter,
equal rows have equal scores, and counts of two tiles add up to the count of both. Large problems are screened in
float32 on all devices first (`screen`), and only what float32 cannot tell is counted so: the ranks are the same.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from lit_jax.evals.screen import Block, Side, screen
from lit_jax.utils.errors import DataError

TILE = 1024  # Rows of a side that are compared at once: TILE x TILE float64 scores are all that is ever held.
SMALL = (
    1 << 22
)  # Pairs up to which all are counted exactly, sooner than a program for the devices is compiled.
_PAIRS = 4096  # Open pairs whose rows are held at once.
_MANY = 1 / 16  # Share of open pairs from which counting all of a tile is quicker.
_GRID = 26


@dataclass(frozen=True)
class _Rows:
    """Embeddings as float64 whole numbers, multiples of 2**-26 (of a power of two)."""

    embeds: np.ndarray
    shift: int
    norm: Float[np.ndarray, " N"]  # Not less than that of the rows, in units of 2**26.

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
    names: tuple[str, str] = ("image", "text"),
    devices: Sequence[Any] | None = None,
) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " M"]]:
    """Ranks keys for queries and queries for keys; `owner[m]` is the one right key of query m.

    A side is ordered by dot product, highest first, and equal scores by index, lower first. Returns for each
    key the rank of the first of its queries (1 is best; 0 for a key that owns none) and for each query the rank
    of its owner. `names` say in errors what a key and a query are; `devices` (default: this process's) share the
    work and do not change the ranks.

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
    for q in _tiles(slice(0, len(queries))):
        own[q] = np.einsum("me,me->m", key_rows(owner[q]), query_rows(q))

    # The query of each key that the ranking of that key meets first. No score is above infinity.
    first, best = np.zeros(len(keys), np.int64), np.full(len(keys), np.inf)
    order = np.lexsort((-own, owner))  # Stable, so that among equal scores the lower index stays first.
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
            some = slice(start, start + _PAIRS)
            k, q = block.keys.start + block.open_keys[some], block.queries.start + block.open_queries[some]
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
    """Counts along `axis`, whose places are numbered from `start`, what stands before (score, index)."""
    # Several times faster than count_nonzero along an axis.
    count = (scores > score).view(np.uint8).sum(axis=axis, dtype=np.int32)
    tied = np.unravel_index(np.flatnonzero(scores == score), scores.shape)
    before = start + tied[axis] < np.broadcast_to(index, scores.shape)[tied]
    return count + np.bincount(tied[1 - axis][before], minlength=len(count))


def _on_grid(embeds: np.ndarray, name: str) -> _Rows:
    """Checks `embeds` and finds their grid."""
    if not len(embeds):
        raise DataError(f"there are no {name} embeddings; give at least one row")
    norm = np.empty(len(embeds))
    for tile in _tiles(slice(0, len(embeds))):
        some = embeds[tile].astype(np.float64)
        if len(bad := np.flatnonzero(~np.isfinite(some).all(axis=1))):
            raise DataError(
                f"{name} embedding {tile.start + bad[0]} holds a NaN or an infinity; all numbers must be finite: "
                f"look at the weights and at that {name}"
            )
        norm[tile] = np.linalg.norm(some, axis=1)

    # Rows no longer than 1.2 (unit rows stay as they are) have dot products under 2, and a float64 holds every
    # multiple of 2**-26 * 2**-26 up to 2.
    longest = norm.max()
    shift = _GRID - math.ceil(math.log2(longest / 1.2)) if longest else 0
    # Rounding to the grid may lengthen a row.
    return _Rows(embeds, shift, norm * 2.0 ** (shift - _GRID) + embeds.shape[1] ** 0.5 * 2.0**-_GRID)


def _tiles(rows: slice) -> Iterator[slice]:
    return (slice(start, min(start + TILE, rows.stop)) for start in range(rows.start, rows.stop, TILE))
