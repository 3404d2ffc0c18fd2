"""Search that first compares the signs of all vectors, one bit for each number, and then reads only a few vectors.

The more signs of a query and a vector agree, the nearer they are, roughly. The vectors that agree most, several times
as many as are wanted, are read and compared. Some of the nearest may be missed.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int, UInt8, UInt16

from lit_jax.inference.precision import signs
from lit_jax.inference.screen import Rows, nearest_of
from lit_jax.utils.cores import cores

RESCORED = 100  # Vectors that are read and compared for each that is wanted, unless a caller says otherwise.
_ROWS = 1 << 15  # Vectors whose signs are compared at once.


@dataclass(frozen=True)
class SignScreen:
    """The signs of vectors, shard by shard, and where the vectors themselves are read."""

    sizes: Sequence[int]  # Vectors of each shard.
    # Number of a shard -> its signs, as `precision.signs` packs them.
    signs: Callable[[int], UInt8[np.ndarray, "n e"]]
    rows: Rows
    width: int  # Numbers of a vector that are used.
    multiplier: int  # Vectors that are read and compared, for each that is wanted.

    def in_memory(self) -> "SignScreen":
        """The same screen with all signs read now."""
        kept = {number: np.array(self.signs(number)) for number, size in enumerate(self.sizes) if size}
        return SignScreen(self.sizes, kept.__getitem__, self.rows, self.width, self.multiplier)

    def candidates(self, query: Float[np.ndarray, "E"], k: int) -> Int[np.ndarray, "n"]:
        """The numbers, ascending, of the vectors that agree most with the query; of ties the first."""
        mine = signs(query[None])[0]
        shards = [number for number, size in enumerate(self.sizes) if size]
        with ThreadPoolExecutor(cores()) as pool:
            found = list(pool.map(lambda shard: _differing(self.signs(shard), mine, self.width), shards))
        differing, most = np.concatenate(found), k * self.multiplier
        if len(differing) <= most:
            return np.arange(len(differing))
        limit = int(np.searchsorted(np.cumsum(np.bincount(differing)), most))
        near, ties = np.flatnonzero(differing < limit), np.flatnonzero(differing == limit)
        return np.sort(np.concatenate([near, ties[: most - len(near)]]))

    def nearest(
        self, query: Float[np.ndarray, "1 E"], k: int, mesh: Mesh
    ) -> tuple[Float[np.ndarray, "1 k"], Int[np.ndarray, "1 k"]]:
        """What `nearest.nearest` finds among the candidates."""
        return nearest_of(self.rows, self.candidates(query[0], k), query, k, mesh)


def _differing(
    bits: UInt8[np.ndarray, "n e"], mine: UInt8[np.ndarray, "m"], width: int
) -> UInt16[np.ndarray, "n"]:
    """How many of the first `width` signs of each vector differ from `mine`."""
    used = -(-width // 8)
    mask = np.full(used, 255, np.uint8)
    mask[-1] = 255 << (-width % 8) & 255
    word = np.uint64 if used % 8 == 0 else np.uint8
    out = np.empty(len(bits), np.uint16)
    for start in range(0, len(bits), _ROWS):
        here = slice(start, start + _ROWS)
        other = (bits[here, :used] ^ mine[:used]) & mask
        np.bitwise_count(np.ascontiguousarray(other).view(word)).sum(axis=1, dtype=np.uint16, out=out[here])
    return out
