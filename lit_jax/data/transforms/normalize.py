"""The part of an image processor that runs on the device: rescale and normalise."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt8

from lit_jax.utils.sides import Sides


@dataclass(frozen=True)
class PixelNormalizer:
    """Turns uint8 pixels into the input of the image tower; hashable, so it can be a static argument of jit."""

    size: Sides  # The height and width of the pictures.
    mean: tuple[float, float, float]  # RGB, in the units after `rescale`.
    std: tuple[float, float, float]  # RGB, in the units after `rescale`.
    rescale: float = 1 / 255

    def normalise(
        self,
        images: UInt8[Array, "b S1 S2 3"] | UInt8[np.ndarray, "b S1 S2 3"],
        dtype: DTypeLike = jnp.float32,
    ) -> Float[Array, "b S1 S2 3"]:
        """`(images * rescale - mean) / std` in float32, then cast to `dtype`."""
        scaled = jnp.asarray(images, jnp.float32) * self.rescale
        return ((scaled - jnp.array(self.mean)) / jnp.array(self.std)).astype(dtype)
