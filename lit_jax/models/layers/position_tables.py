"""Position tables: resized to another grid with the same numbers as in PyTorch, and computed ones."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from lit_jax.utils import naflex


@lru_cache
def bicubic(source: int, target: int) -> np.ndarray:
    """The weights [target, source] of torch's bicubic without antialias (a = -0.75, half-pixel centres).

    `jax.image.resize` uses a = -0.5 and cannot give these numbers.
    """
    a = -0.75
    at = (np.arange(target) + 0.5) * (source / target) - 0.5
    low = np.floor(at)
    t = np.abs(at[:, None] - (low[:, None] + np.arange(-1, 3)))  # The distance to each of the four taps.
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    taps = np.where(t <= 1, near, far)
    columns = np.clip(low[:, None] + np.arange(-1, 3), 0, source - 1).astype(int)  # Edges repeat.
    weights = np.zeros((target, source))
    np.add.at(weights, (np.arange(target)[:, None], columns), taps)
    return weights.astype(np.float32)


@lru_cache
def bilinear(source: int, target: int) -> np.ndarray:
    """The weights [target, source] of torch's bilinear without antialias (half-pixel centres)."""
    at = np.clip((np.arange(target) + 0.5) * (source / target) - 0.5, 0, source - 1)
    low = np.floor(at).astype(int)
    weights = np.zeros((target, source))
    np.add.at(weights, (np.arange(target), low), 1 - (at - low))
    np.add.at(weights, (np.arange(target), np.minimum(low + 1, source - 1)), at - low)
    return weights.astype(np.float32)


def resize_grid(
    table: Float[Array, "1 n D"],
    old: tuple[int, int],
    new: tuple[int, int],
    *,
    antialias: bool = False,
    linear: bool = False,
) -> Float[Array, "1 m D"]:
    """A grid of positions, flattened row by row -> the same resized to `new` (rows, columns), m in all.

    Equals torch.nn.functional.interpolate(mode="bicubic", align_corners=False, antialias=antialias) in float32, or with
    mode="bilinear" if `linear`, which works only with antialias.
    """
    if old == new:
        return table
    height, width = new
    grid = table.reshape(*old, -1)
    if antialias:  # With antialias torch uses a = -0.5, as jax.image does.
        grid = jax.image.resize(
            grid.astype(jnp.float32), (height, width, grid.shape[-1]), "linear" if linear else "cubic"
        )
        return grid.reshape(1, height * width, -1).astype(table.dtype)
    grid = jnp.einsum(
        "yi,xj,ijd->yxd",
        bicubic(old[0], height),
        bicubic(old[1], width),
        grid.astype(jnp.float32),
        precision=lax.Precision.HIGHEST,
    )
    return grid.reshape(1, height * width, -1).astype(table.dtype)


def resize_grid_to_each(
    table: Float[Array, "n D"], side: int, kinds: Float[Array, "B N"]
) -> Float[Array, "B N D"]:
    """A square grid of positions -> the positions of the patches of each picture, whose shape `kinds` gives.

    `kinds` is that of `utils.naflex`. Equals `resize_grid` with antialias and linear for the shape of each picture, in
    float32; padding gets the position of the first patch, as in transformers' Siglip2VisionEmbeddings.
    """
    inner = kinds > naflex.PADDING
    rows = (kinds == naflex.LAST).sum(axis=1)[:, None]
    columns = inner.sum(axis=1)[:, None] // jnp.maximum(rows, 1)
    slot = jnp.where(inner, jnp.arange(kinds.shape[1]), 0)
    row, column = jnp.divmod(slot, jnp.maximum(columns, 1))

    def triangles(index: Array, count: Array) -> Float[Array, "B N side"]:
        scale = side / jnp.maximum(count, 1).astype(jnp.float32)
        centre = (index + 0.5) * scale - 0.5
        distance = jnp.abs(jnp.arange(side) - centre[..., None]) / jnp.maximum(scale, 1)[..., None]
        weights = jnp.maximum(1 - distance, 0)
        return weights / weights.sum(axis=-1, keepdims=True)

    weights = triangles(row, rows)[..., :, None] * triangles(column, columns)[..., None, :]
    return jnp.einsum(
        "bns,sd->bnd",
        weights.reshape(*kinds.shape, side * side),
        table.astype(jnp.float32),
        precision=lax.Precision.HIGHEST,
    )


def resize_offsets(
    table: Float[Array, "n H"], old: tuple[int, int], new: tuple[int, int]
) -> Float[Array, "m H"]:
    """BEiT's biases by offset, made for a grid of (rows, columns) -> the same for another one.

    The biases between patches are resized as torch.nn.functional.interpolate(mode="bilinear") does; the last three
    rows, from and to the CLS token, stay. Transformers confuses the rows of a table with its columns, so that a table
    that is not square is resized even for its own grid; the numbers here equal those.
    """
    (wide, high), (rows, columns) = ([2 * n - 1 for n in grid] for grid in (old, new))
    if (high, wide) == (rows, columns):
        return table
    grid = jnp.einsum(
        "yi,xj,ijh->yxh",
        bilinear(high, rows),
        bilinear(wide, columns),
        table[:-3].reshape(high, wide, -1),
        precision=lax.Precision.HIGHEST,
    )
    return jnp.concatenate([grid.reshape(-1, table.shape[1]), table[-3:]])


@lru_cache
def sinusoids(rows: int, columns: int, width: int) -> Float[np.ndarray, "m D"]:
    """Sines and cosines of each patch's column, then of its row, each a quarter of the `width` (as in AIMv2)."""
    speeds = 1 / 10000 ** (np.arange(width // 4) / (width // 4))
    y, x = (axis.reshape(-1, 1) * speeds for axis in np.mgrid[:rows, :columns])
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1).astype(np.float32)


@lru_cache
def exponential_waves(first: int, rows: int, width: int) -> Float[np.ndarray, "n D"]:
    """Sines, then cosines, of `rows` positions at speeds from 1 to 1/10000 (tensor2tensor's); an odd `width` ends in 0.

    In float32, as in TIPSv2 and M2M-100; `width` is at least 4. PyTorch rounds a few speeds to a neighbour of the
    nearest float32, so its angle at position n differs by n times that.
    """
    half = width // 2
    exponents = np.arange(half, dtype=np.float32) * np.float32(-np.log(10000) / (half - 1))
    speeds = np.exp(exponents.astype(np.float64)).astype(np.float32)
    angles = np.arange(first, first + rows, dtype=np.float32)[:, None] * speeds
    return np.concatenate([np.sin(angles), np.cos(angles), np.zeros((rows, width % 2), np.float32)], axis=1)


@lru_cache
def power_waves(rows: int, width: int) -> Float[np.ndarray, "n D"]:
    """Sines, then cosines, of positions 0, 1 ... at speeds from 1 towards 1/10000, one for each pair (Marian's)."""
    angles = np.arange(rows)[:, None] / np.power(10000, 2 * np.arange(-(-width // 2)) / width)
    return np.concatenate([np.sin(angles), np.cos(angles[:, : width // 2])], axis=1).astype(np.float32)
