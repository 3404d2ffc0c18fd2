"""The part of an image processor that runs on the device: rescale and normalise."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt8

from lit_jax.utils import naflex
from lit_jax.utils.sides import Sides


@dataclass(frozen=True)
class PixelNormalizer:
    """Turns uint8 pixels into the input of the image tower; hashable, so it can be a static argument of jit."""

    size: Sides  # The height and width of the pictures; see `image_processor.size_of`.
    mean: tuple[float, float, float]  # RGB, in the units after `rescale`.
    std: tuple[float, float, float]  # RGB, in the units after `rescale`.
    rescale: float = 1 / 255

    def normalise(
        self,
        images: UInt8[Array, "b S1 S2 C"] | UInt8[np.ndarray, "b S1 S2 C"],
        dtype: DTypeLike = jnp.float32,
    ) -> Float[Array, "b S1 S2 C"]:
        """`(images * rescale - mean) / std` in float32, then cast to `dtype`.

        Pictures of any shape (`utils.naflex`) keep their fourth channel, and zeros in their padding.
        """
        values = jnp.asarray(images, jnp.float32)
        colours = (values[..., :3] * self.rescale - jnp.array(self.mean)) / jnp.array(self.std)
        if values.shape[-1] > 3:
            kinds = values[..., 3:]
            colours = jnp.concatenate([jnp.where(kinds > naflex.PADDING, colours, 0), kinds], axis=-1)
        return colours.astype(dtype)
