"""Pictures of any shape as transformers passes them: lists of patches, with a mask and the shape of each picture."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lit_jax.hf.pixel_checks import check_pixels
from lit_jax.models.encoders.base import takes_any_shape
from lit_jax.utils import naflex
from lit_jax.utils.errors import ConfigError


def packed(config: Any, pixels: Array, shapes: Any, mask: Any) -> Float[Array, "B S1 S2 C"]:
    """[B N P*P*C] with `shapes` [B 2] and `mask` [B N] or None -> what `utils.naflex.packed` returns.

    Raises ConfigError for a tower of another type, for other shapes, and for a mask that differs from `shapes`; values
    are not checked inside the caller's own jit.
    """
    if not takes_any_shape(config):
        raise ConfigError(
            "spatial_shapes are given, and this image tower takes pictures of one size; leave them out"
        )
    values = config.patch_size**2 * config.num_channels
    floats = jnp.issubdtype(pixels.dtype, jnp.floating)
    if pixels.ndim != 3 or pixels.shape[2] != values or not floats or not pixels.size:
        raise ConfigError(
            f"pixel_values with spatial_shapes are {pixels.dtype} of shape {pixels.shape}; wanted floats "
            f"[batch, patches, {values}], as the processor returns them"
        )
    batch, slots, _ = pixels.shape
    if shapes.shape != (batch, 2) or not jnp.issubdtype(shapes.dtype, jnp.integer):
        raise ConfigError(
            f"spatial_shapes are {shapes.dtype} of shape {shapes.shape}; wanted integers of shape {(batch, 2)}"
        )
    if mask is not None and mask.shape != (batch, slots):
        raise ConfigError(f"pixel_attention_mask has shape {mask.shape}; wanted {(batch, slots)}")
    if not isinstance(shapes, jax.core.Tracer):
        _check_values(shapes, None if isinstance(mask, jax.core.Tracer) else mask, slots)
    images = naflex.packed(pixels, jnp.asarray(shapes), config.num_channels, jnp)
    check_pixels(images)
    return images


def _check_values(shapes: np.ndarray, mask: np.ndarray | None, slots: int) -> None:
    shapes = shapes.astype(np.int64)
    counts = shapes.prod(axis=1)
    if len(bad := np.flatnonzero((shapes < 1).any(axis=1) | (shapes > slots).any(axis=1) | (counts > slots))):
        raise ConfigError(
            f"image {bad[0]} of the batch has the spatial_shapes {shapes[bad[0]].tolist()}; wanted rows and columns of "
            f"patches, 1 or more, and at most {slots} patches in all"
        )
    if mask is not None and not np.array_equal(mask != 0, np.arange(slots) < counts[:, None]):
        raise ConfigError(
            "pixel_attention_mask differs from spatial_shapes; wanted ones for the first rows x columns patches of "
            "each image, and zeros for its padding"
        )
