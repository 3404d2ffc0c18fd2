"""Exact nearest-neighbour search on all devices, one tile of vectors at a time."""

from collections.abc import Callable, Iterable
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from lit_jax.parallel.sharding import BATCH, put_batch


def nearest(
    queries: Float[np.ndarray, "Q E"],
    tiles: Iterable[Float[np.ndarray, "_ E"]],
    k: int,
    mesh: Mesh,
    *,
    least: int = 0,
) -> tuple[Float[np.ndarray, "Q k"], Int[np.ndarray, "Q k"]]:
    """The `k` largest dot products with the rows of all tiles, and the numbers of these rows; fewer if there are fewer.

    They are sorted by decreasing product; equal ones by increasing number. A tile that is larger than all tiles before
    it causes another compilation; each is padded to at least `least` rows.
    """
    best = np.empty((len(queries), 0), np.float32)
    where = np.empty((len(queries), 0), np.int64)
    start, size = 0, -(-least // mesh.size) * mesh.size
    top = _top(mesh, k)
    for tile in tiles:
        size = max(size, -(-len(tile) // mesh.size) * mesh.size)
        rows = np.zeros((size, tile.shape[1]), np.float32)
        rows[: len(tile)] = tile
        placed = put_batch({"rows": rows, "real": np.arange(size) < len(tile)}, mesh)
        scores, index = (np.asarray(x) for x in top(queries, placed["rows"], placed["real"]))
        real = scores > -np.inf  # The same for every query.
        best = np.concatenate([best, scores[:, real[0]]], axis=1)
        where = np.concatenate([where, index[:, real[0]].astype(np.int64) + start], axis=1)
        order = np.lexsort((where, -best))[:, :k]
        best, where = np.take_along_axis(best, order, 1), np.take_along_axis(where, order, 1)
        start += len(tile)
    return best, where


@lru_cache(maxsize=8)
def _top(mesh: Mesh, k: int) -> Callable[..., tuple[Array, Array]]:
    """Finds the `k` best rows of each device; their numbers count from the first row of the tile."""
    split, every = BATCH, PartitionSpec()

    @jax.jit
    @partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(every, split, split),
        out_specs=(PartitionSpec(None, *split), PartitionSpec(None, *split)),
    )
    def top(queries: Array, rows: Array, real: Array) -> tuple[Array, Array]:
        scores = jnp.einsum("qe,ne->qn", queries, rows, precision=jax.lax.Precision.HIGHEST)
        best, index = jax.lax.top_k(jnp.where(real, scores, -jnp.inf), min(k, len(rows)))
        return best, index + jax.lax.axis_index(mesh.axis_names) * len(rows)

    return top
