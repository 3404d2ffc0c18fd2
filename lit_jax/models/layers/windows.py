"""A grid of tokens in square windows, and attention within them (Swin).

Shape letters: W windows of an image, M tokens of a window; the others as everywhere.
"""

import dataclasses
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class Windows:
    """How a grid of rows x columns tokens is cut into squares, after padding with zeros if necessary."""

    rows: int
    columns: int
    side: int
    shift: int  # The shift in every second block; zero if there is only one window.
    pretrained: int = 0  # Swin v2: the side for which positions were learned, if it differs.

    @property
    def padding(self) -> tuple[int, int]:
        return -self.rows % self.side, -self.columns % self.side

    def split(self, x: Float[Array, "B N D"], shifted: Bool[Array, ""]) -> Float[Array, "B W M D"]:
        """The tokens of each window."""
        down, right = self.padding
        grid = x.reshape(x.shape[0], self.rows, self.columns, -1)
        grid = jnp.pad(grid, ((0, 0), (0, down), (0, right), (0, 0)))
        if self.shift:
            grid = jnp.where(shifted, jnp.roll(grid, (-self.shift, -self.shift), (1, 2)), grid)
        return rearrange(grid, "b (y i) (x j) d -> b (y x) (i j) d", i=self.side, j=self.side)

    def join(self, windows: Float[Array, "B W M D"], shifted: Bool[Array, ""]) -> Float[Array, "B N D"]:
        """Undoes `split`."""
        high = (self.rows + self.padding[0]) // self.side
        pattern = "b (y x) (i j) d -> b (y i) (x j) d"
        grid = rearrange(windows, pattern, y=high, i=self.side, j=self.side)
        if self.shift:
            grid = jnp.where(shifted, jnp.roll(grid, (self.shift, self.shift), (1, 2)), grid)
        grid = grid[:, : self.rows, : self.columns]
        return grid.reshape(grid.shape[0], self.rows * self.columns, -1)

    @cached_property
    def strangers(self) -> Bool[np.ndarray, "W M M"]:
        """Pairs of tokens from opposite ends of the grid that only the shift has brought into one window."""

        def region(padding: int, size: int) -> np.ndarray:
            end = size + padding
            at = np.arange(end)
            return (at >= end - self.side).astype(int) + (at >= end - self.shift)

        down, right = self.padding
        regions = 3 * region(down, self.rows)[:, None] + region(right, self.columns)
        regions = rearrange(regions, "(y i) (x j) -> (y x) (i j)", i=self.side, j=self.side)
        return regions[:, :, None] != regions[:, None, :]

    def mask(self, value: float, shifted: Bool[Array, ""]) -> Float[Array, "W 1 M M"] | Float[Array, ""]:
        """`value` for pairs of strangers, to add to the scores: transformers also adds a value and excludes nothing."""
        if not self.shift:
            return jnp.float32(0)
        return jnp.where(shifted, value * self.strangers[:, None].astype(np.float32), 0)

    @cached_property
    def relative(self) -> Int[np.ndarray, "M M"]:
        """For each query and key, the row in a table of (2 side - 1)^2 relative positions."""
        at = np.arange(self.side)
        offset = at[:, None] - at + self.side - 1
        rows = (2 * self.side - 1) * offset[:, None, :, None] + offset[None, :, None, :]
        return rows.reshape(self.side**2, self.side**2)


def attend(
    q: Float[Array, "B W M H K"],
    k: Float[Array, "B W M H K"],
    v: Float[Array, "B W M H K"],
    scale: Float[Array, "H 1 1"] | float,
    bias: Float[Array, "... H M M"],
    drop: nn.Dropout,
) -> tuple[Float[Array, "B W M H K"], Float[Array, "B W H M M"]]:
    """Attention within windows, which are too small for a fused kernel to help."""
    scores = jnp.einsum("bwqhk,bwnhk->bwhqn", q, k, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(scores * scale + bias, axis=-1).astype(v.dtype)
    return jnp.einsum("bwhqn,bwnhk->bwqhk", drop(weights), v), weights
