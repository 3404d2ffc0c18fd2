"""Checks of the images and pixels that a caller passes: wrong ones are refused before they become NaN."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lit_jax.utils.errors import ConfigError

MAX_VALUE = 30.0  # Of a pixel after (x - mean) / std: no processor divides by less than .03.


def check_pixels(pixels: Float[Array, "B S1 S2 C"]) -> None:
    """Raises ConfigError naming an image that no image processor gives: not finite, or still from 0 to 255."""
    if isinstance(pixels, jax.core.Tracer):  # Inside the caller's own jit there are no values yet.
        return
    finite = np.asarray(jnp.isfinite(pixels).all(axis=(1, 2, 3)))  # A maximum may lose a NaN.
    if len(bad := np.flatnonzero(~finite)):
        raise ConfigError(f"image {bad[0]} of the batch has a pixel that is NaN or infinite")
    largest = np.asarray(jnp.abs(pixels).max(axis=(1, 2, 3)), np.float32)
    if len(bad := np.flatnonzero(largest > MAX_VALUE)):
        raise ConfigError(
            f"image {bad[0]} of the batch has a pixel of {largest[bad[0]]:g}; wanted values of about -3 to 3: "
            "give uint8 images to the processor, and its output to the model"
        )


def check_arrays(images: Any) -> None:
    """Raises ConfigError naming the first array in a batch of images that cannot be read as 8-bit values."""
    many = isinstance(images, list | tuple) or (isinstance(images, np.ndarray) and images.ndim == 4)
    for i, image in enumerate(images if many else [images]):
        if not isinstance(image, np.ndarray) or not np.issubdtype(image.dtype, np.floating):
            continue
        if not np.isfinite(image).all():
            raise ConfigError(f"image {i} of the batch has a pixel that is NaN or infinite")
        if image.max(initial=0) > 1 and (image % 1).any():
            raise ConfigError(
                f"image {i} of the batch holds floats up to {image.max():g}; wanted uint8 in 0 to 255: cast it"
            )
