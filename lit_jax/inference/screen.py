"""Exact search that reads few vectors: an int8 copy, one byte for each number, tells which of them may be the nearest.

A vector x is s c + e, with a scale s, integers c of at most 127 in size and a remainder e whose length is known. So the
product of a query q with x lies within |q| |e| of s (q c). The k-th largest of the lower bounds is a floor: a vector
whose upper bound lies below it is not among the k nearest. The others, usually a few hundred, are read and compared
exactly.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from lit_jax.inference.nearest import nearest
from lit_jax.inference.precision import Decoded, Vectors
from lit_jax.utils.cores import cores
from lit_jax.utils.errors import DataError

_LEVELS = 127
_ROWS = 512  # Rows that are converted to float32 at once: as many as fit into a cache.
_TILE = 4096  # Candidates that are compared at once.
_MAPPED = 64  # Shards whose files stay open.


class Rows:
    """Vectors by their numbers, read shard by shard with `read(number of the shard)`; `name` is for messages."""

    def __init__(self, sizes: Sequence[int], read: Callable[[int], Vectors], name: str = ""):
        self._starts = np.cumsum([0, *sizes])
        self._read, self._name = lru_cache(_MAPPED)(read), name

    def take(self, numbers: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n E"]:
        """The rows with these numbers, ascending. Raises DataError for one that is not finite."""
        cuts = np.searchsorted(numbers, self._starts)
        parts = [
            self._read(shard)[numbers[a:b] - self._starts[shard]]
            for shard, (a, b) in enumerate(pairwise(cuts.tolist()))
            if b > a
        ]
        found = np.concatenate(parts)
        if not np.isfinite(found).all():
            raise DataError(f"the index {self._name} has vectors that are not finite; embed again")
        return found


@dataclass(frozen=True)
class Screen:
    """The int8 copy of N vectors, in blocks, and where the vectors themselves are read."""

    codes: list[np.ndarray]  # int8 [n, E] each.
    scales: list[np.ndarray]  # float32 [n] each.
    slack: list[np.ndarray]  # float32 [n] each: how far off a product with a unit query may be.
    rows: Rows

    @classmethod
    def of(cls, blocks: Iterable[Float[np.ndarray, "_ E"] | Decoded], rows: Rows) -> "Screen":
        """Reads all vectors once. Raises DataError for those that are not finite."""
        made = [_coded(block) for block in blocks]
        if not all(np.isfinite(slack).all() for _, _, slack in made):
            raise DataError("the index has vectors that are not finite; embed again")
        codes, scales, slack = (list(each) for each in zip(*made, strict=True))
        return cls(codes, scales, slack, rows)

    def candidates(self, query: Float[np.ndarray, "E"], k: int) -> Int[np.ndarray, "n"]:
        """The numbers, ascending, of all vectors that may be among the `k` with the largest products."""
        length = np.float32(np.linalg.norm(query) * (1 + 1e-6))

        def bounds(block: int) -> tuple[np.ndarray, np.ndarray]:
            scores = _products(self.codes[block], query) * self.scales[block]
            slack = self.slack[block] * length
            lower = scores - slack
            best = np.partition(lower, len(lower) - k)[-k:] if len(lower) > k else lower
            return scores + slack, best

        with ThreadPoolExecutor(cores()) as pool:
            found = list(pool.map(bounds, range(len(self.codes))))
        best = np.concatenate([best for _, best in found])
        floor = np.partition(best, len(best) - k)[-k] if len(best) >= k else -np.inf
        starts = np.cumsum([0, *(len(codes) for codes in self.codes)])
        near = [
            np.flatnonzero(upper >= floor) + start for (upper, _), start in zip(found, starts, strict=False)
        ]
        return np.concatenate(near)

    def nearest(
        self, query: Float[np.ndarray, "1 E"], k: int, mesh: Mesh
    ) -> tuple[Float[np.ndarray, "1 k"], Int[np.ndarray, "1 k"]]:
        """What `nearest` finds among all vectors."""
        return nearest_of(self.rows, self.candidates(query[0], k), query, k, mesh)


def nearest_of(
    rows: Rows, numbers: Int[np.ndarray, "n"], query: Float[np.ndarray, "1 E"], k: int, mesh: Mesh
) -> tuple[Float[np.ndarray, "1 k"], Int[np.ndarray, "1 k"]]:
    """What `nearest` finds among the vectors with these numbers, ascending, which are read now."""
    tiles = (rows.take(numbers[start : start + _TILE]) for start in range(0, len(numbers), _TILE))
    scores, found = nearest(query, tiles, k, mesh, least=_TILE)
    return scores, numbers[found]


def _coded(rows: Vectors) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, scales and slack of some vectors.

    The slack is the length of the remainder plus what float32 may lose in a sum of E products, here (in any order of
    summation) and where the vector itself is compared.
    """
    width = rows.shape[1]
    codes = np.empty(rows.shape, np.int8)
    scales, slack = np.empty(len(rows), np.float32), np.empty(len(rows), np.float32)
    sums = width * 2.0**-24
    for start in range(0, len(rows), _ROWS):
        here = slice(start, start + _ROWS)
        part = np.asarray(rows[here], np.float32)
        scale = np.abs(part).max(axis=1) / _LEVELS
        scale[scale == 0] = 1
        code = np.rint(part / scale[:, None])
        codes[here], scales[here] = code, scale
        code *= scale[:, None]
        rest = np.linalg.norm(part - code, axis=1)
        length = np.linalg.norm(part, axis=1)
        slack[here] = rest * (1 + 4 * sums) + (length + rest) * (3 * sums + 1e-6)
    return codes, scales, slack


def _products(codes: np.ndarray, query: Float[np.ndarray, "E"]) -> Float[np.ndarray, "n"]:
    out, buffer = np.empty(len(codes), np.float32), np.empty((_ROWS, codes.shape[1]), np.float32)
    for start in range(0, len(codes), _ROWS):
        part = codes[start : start + _ROWS]
        np.copyto(buffer[: len(part)], part)
        np.dot(buffer[: len(part)], query, out=out[start : start + len(part)])
    return out
