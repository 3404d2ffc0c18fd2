"""Tiles of float32 scores on the devices: they count what is certainly ahead, and list the pairs that are too close.

A float32 dot product of E numbers has an error of at most about E * 2**-24 times the lengths of its rows, in whatever
order it is summed. If two scores differ by more than that, their order is certain.
"""

import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, UInt32

from lit_jax.parallel.sharding import BATCH, make_mesh

WORD = 32  # How many pairs' marks a device packs into one number.
_UNDER_WAY = 2  # Blocks on the devices while the host handles the previous one.


@dataclass(frozen=True)
class Side:
    """The rows of one side, float32 of length at most 1.2, and the score that each compares its candidates with."""

    rows: Callable[[slice], np.ndarray]  # [n E]
    score: Float[np.ndarray, " N"]  # Infinity: nothing is ahead.
    norm: Float[np.ndarray, " N"]

    def band(self, other: "Side", width: int, tpu: bool) -> tuple[np.ndarray, np.ndarray]:
        """Two float32 limits per row: scores above the first are certainly ahead, those below the second are not."""
        # The rows were rounded to float32; a TPU computes a product in several bfloat16 passes.
        off = (1 + tpu) * 1.01 * (width + 4) * 2.0**-24 * self.norm * other.norm.max()
        up, down = np.float32(np.inf), np.float32(-np.inf)
        with np.errstate(invalid="ignore"):
            high = np.nextafter((self.score + off).astype(np.float32), up)
            low = np.nextafter((self.score - off).astype(np.float32), down)
        return high, np.where(np.isinf(self.score), up, low)


@dataclass(frozen=True)
class Block:
    """The result for keys x queries: counts of what is certainly ahead, and the pairs that are left open."""

    keys: slice
    queries: slice
    key_ahead: Int[np.ndarray, " k"]  # Queries ahead, for each key.
    query_ahead: Int[np.ndarray, " q"]  # Keys ahead, for each query.
    open_keys: Int[np.ndarray, " p"]  # Indices from the start of `keys`.
    open_queries: Int[np.ndarray, " p"]


def screen(
    keys: Side, queries: Side, width: int, tile: int, devices: Sequence[Any] | None
) -> Iterator[Block]:
    """All blocks of `tile` keys and, on each device, `tile` queries (a multiple of WORD).

    The rows of `queries` stay split over `devices` (default: those of this process), and the keys come tile by tile; a
    device holds one tile of the scores.
    """
    mesh = make_mesh(devices=jax.local_devices() if devices is None else devices)
    everywhere = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, BATCH)
    tpu = mesh.devices.flat[0].platform == "tpu"
    key_band, query_band = keys.band(queries, width, tpu), queries.band(keys, width, tpu)

    def placed(side: Side, band: tuple[np.ndarray, np.ndarray], size: int, where: NamedSharding) -> Iterator:
        for start in range(0, len(side.score), size):
            rows = slice(start, min(start + size, len(side.score)))
            yield (
                rows,
                jax.device_put(
                    [_filled(x, size) for x in (side.rows(rows), band[0][rows], band[1][rows])], where
                ),
            )

    query_blocks = list(placed(queries, query_band, tile * mesh.size, split))
    waiting: deque[tuple[slice, slice, tuple]] = deque()
    for k, key_tile in placed(keys, key_band, tile, everywhere):
        for q, query_block in query_blocks:
            sizes = (k.stop - k.start, q.stop - q.start)
            waiting.append((k, q, _tile(*key_tile, *query_block, *map(np.int32, sizes))))
            if len(waiting) > _UNDER_WAY:
                yield _block(*waiting.popleft())
    yield from (_block(*block) for block in waiting)


@jax.jit
def _tile(
    keys: Float[Array, "k E"],
    key_high: Float[Array, " k"],
    key_low: Float[Array, " k"],
    queries: Float[Array, "q E"],
    query_high: Float[Array, " q"],
    query_low: Float[Array, " q"],
    key_count: Int[Array, ""],
    query_count: Int[Array, ""],
) -> tuple[Int[Array, " k"], Int[Array, " q"], UInt32[Array, "k w"]]:
    exists = (jnp.arange(len(keys)) < key_count)[:, None] & (jnp.arange(len(queries)) < query_count)
    scores = jnp.where(exists, jnp.matmul(keys, queries.T, precision="highest"), -jnp.inf)
    for_key, for_query = scores > key_high[:, None], scores > query_high
    unsure = (~for_key & (scores >= key_low[:, None])) | (~for_query & (scores >= query_low))
    count = functools.partial(jnp.sum, dtype=jnp.int32)
    return count(for_key & ~unsure, axis=1), count(for_query & ~unsure, axis=0), _packed(unsure)


def _packed(marks: Bool[Array, "k q"]) -> UInt32[Array, "k w"]:
    bits = marks.reshape(len(marks), -1, WORD).astype(jnp.uint32) << jnp.arange(WORD, dtype=jnp.uint32)
    return bits.sum(axis=-1, dtype=jnp.uint32)


def _block(keys: slice, queries: slice, result: tuple[Array, Array, Array]) -> Block:
    key_ahead, query_ahead, words = map(np.asarray, result)
    row, word = np.nonzero(words)
    marks = words[row, word, None] >> np.arange(WORD, dtype=np.uint32) & 1
    at, bit = np.nonzero(marks)
    return Block(
        keys,
        queries,
        key_ahead[: keys.stop - keys.start],
        query_ahead[: queries.stop - queries.start],
        row[at],
        word[at] * WORD + bit,
    )


def _filled(rows: np.ndarray, size: int) -> np.ndarray:
    return np.pad(rows, [(0, size - len(rows)), *[(0, 0)] * (rows.ndim - 1)])
