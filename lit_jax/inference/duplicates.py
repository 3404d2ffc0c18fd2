"""Near-duplicates among embedded pictures, found exactly on all devices, block against block."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from lit_jax.inference.screen import Rows
from lit_jax.parallel.sharding import BATCH, put_batch

_BLOCK = 8192  # Rows that are compared with as many others at once.


def near_duplicates(
    rows: Rows, numbers: Int[np.ndarray, "n"], threshold: float, mesh: Mesh, block: int = _BLOCK
) -> Bool[np.ndarray, "n"]:
    """Which of the pictures `numbers` (ascending) to leave out, so that no two of the rest are near-duplicates.

    They are taken in order: a picture is left out if its cosine to an earlier one that stays is `threshold` or more.
    Each is compared with all earlier ones that stay, so the work grows with the square of their number.
    """
    size = -(-min(block, len(numbers)) // mesh.size) * mesh.size
    near = _near(mesh, float(threshold))
    stays: np.ndarray = np.ones(len(numbers), bool)
    for start in range(0, len(numbers), size):
        here = slice(start, start + size)
        mine = _padded(rows.take(numbers[here]), size)
        before = numbers[:start][stays[:start]]
        left: Any = stays[here]  # A view, bool [n].
        for first in range(0, len(before), size):
            others = before[first : first + size]
            found = near(mine, _placed(rows.take(others), size, mesh))
            left[np.flatnonzero(np.asarray(found)[: len(left)].any(axis=1))] = False
        matrix = np.asarray(near(mine, _placed(mine[: len(left)], size, mesh)))[: len(left), : len(left)]
        for row in np.flatnonzero(np.tril(matrix, -1).any(axis=1)).tolist():
            left[row] &= not (matrix[row, :row] & left[:row]).any()
    return ~stays


def _padded(rows: Float[np.ndarray, "n E"], size: int) -> Float[np.ndarray, "m E"]:
    full = np.zeros((size, rows.shape[1]), np.float32)
    full[: len(rows)] = rows
    return full


def _placed(rows: Float[np.ndarray, "n E"], size: int, mesh: Mesh) -> dict[str, Array]:
    return dict(put_batch({"rows": _padded(rows, size), "real": np.arange(size) < len(rows)}, mesh))


def _near(mesh: Mesh, threshold: float) -> Callable[..., Array]:
    """A function that says which of `mine` are near which of `others`, whose rows are split over the devices."""

    @jax.jit
    @partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(PartitionSpec(), BATCH),
        out_specs=PartitionSpec(None, *BATCH),
    )
    def near(mine: Array, others: dict[str, Array]) -> Array:
        cosine = jnp.einsum("qe,ne->qn", mine, others["rows"], precision=jax.lax.Precision.HIGHEST)
        return (cosine >= threshold) & others["real"]

    return near
