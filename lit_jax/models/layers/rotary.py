"""Rotary positions (arXiv:2104.09864): how fast each channel turns, and the rotation of queries and keys."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class Linear:
    """Positions divided by `factor`; the fields are those of transformers' `rope_scaling`."""

    rope_type: str
    factor: float

    def scaled(self, speeds: np.ndarray) -> np.ndarray:
        """Radians per position of each channel."""
        return speeds / np.float32(self.factor)


@dataclasses.dataclass(frozen=True)
class Llama3:
    """Llama 3.1's scaling ("llama3"): slow channels turn `factor` times slower, and fast ones as before."""

    rope_type: str
    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def scaled(self, speeds: np.ndarray) -> np.ndarray:
        """Radians per position; a channel is fast if it turns at least `high_freq_factor` times in the old context."""
        low, high = self.low_freq_factor, self.high_freq_factor
        turns = self.original_max_position_embeddings * speeds / (2 * math.pi)
        fast = np.clip((turns - low) / (high - low), 0, 1)
        return ((1 - fast) * speeds / self.factor + fast * speeds).astype(np.float32)


SCALINGS: dict[str, type[Linear | Llama3]] = {"linear": Linear, "llama3": Llama3}


def speeds(theta: float, width: int, scaling: Linear | Llama3 | None = None) -> np.ndarray:
    """Radians per position of each pair among the `width` channels of a head, [K/2] in float32."""
    plain = 1 / np.float32(theta) ** (np.arange(0, width, 2, dtype=np.float32) / np.float32(width))
    return plain if scaling is None else scaling.scaled(plain)


def of_grid(
    speeds: Float[np.ndarray, "_"],
    grid: tuple[int, int],
    *,
    stretched: int | None = None,
    offset: float = 0.0,
    columns_first: bool = False,
) -> Float[np.ndarray, "M _"]:
    """Angles, in radians, of the patches of a grid of (rows, columns): by row, then by column.

    Rows and columns are counted from `offset`. If `stretched` is given, every grid is scaled to that many rows and
    columns. With `columns_first`, the angles by column come first.
    """
    y, x = (
        axis.reshape(-1, 1).astype(np.float32) + np.float32(offset) for axis in np.mgrid[: grid[0], : grid[1]]
    )
    if stretched is not None:
        y, x = (
            at / np.float32(length) * np.float32(stretched) for at, length in zip((y, x), grid, strict=True)
        )
    return np.concatenate([at * speeds for at in ((x, y) if columns_first else (y, x))], axis=1)


def cos_sin(angles: Float[np.ndarray | Array, "M _"]) -> tuple[Array, Array]:
    """Cosines and sines [M K], as `rotate` takes them, of angles [M K/2]."""
    turns = jnp.tile(jnp.asarray(angles), 2)
    return jnp.cos(turns), jnp.sin(turns)


def tables(positions: Int[Array, "..."], speeds: Float[np.ndarray | Array, "S _"]) -> tuple[Array, Array]:
    """Cosines and sines of positions [... N] at S kinds of speeds [K/2], each [S ... N K]."""
    kinds = speeds.reshape(len(speeds), *(1 for _ in positions.shape), -1)
    angles = positions[..., None].astype(jnp.float32) * kinds
    angles = jnp.concatenate([angles, angles], axis=-1)
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: Float[Array, "B N H K"], rope: tuple[Array, Array]) -> Float[Array, "B N H K"]:
    """Rotates the last M tokens of x; `rope` is cos and sin, each [M K], or [B M K] if texts have their own positions.

    Channel i is rotated together with channel i + K/2, as in transformers' `rotate_half`.
    """
    cos, sin = (table[..., None, :].astype(x.dtype) for table in rope)
    first = x.shape[1] - cos.shape[-3]  # Prefix tokens stay as they are.
    rotated = x[:, first:]
    half = x.shape[-1] // 2
    other = jnp.concatenate([-rotated[..., half:], rotated[..., :half]], axis=-1)
    return jnp.concatenate([x[:, :first], rotated * cos + other * sin], axis=1)
