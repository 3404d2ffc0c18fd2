"""Checks of the images and pixels that a caller passes: wrong ones are refused before they become NaN."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from PIL import Image

from lit_jax.data.transforms.image_files import to_rgb
from lit_jax.utils.errors import ConfigError

MAX_VALUE = 30.0  # The largest pixel after (x - mean) / std: no processor divides by less than .03.


def check_pixels(pixels: Float[Array, "B S1 S2 C"]) -> None:
    """Raises ConfigError naming an image that no image processor returns: not finite, or still from 0 to 255."""
    if isinstance(pixels, jax.core.Tracer):  # Inside the caller's own jit there are no values yet.
        return
    finite = np.asarray(jnp.isfinite(pixels).all(axis=(1, 2, 3)))  # A maximum can lose a NaN.
    if len(bad := np.flatnonzero(~finite)):
        raise ConfigError(f"image {bad[0]} of the batch has a pixel that is NaN or infinite")
    largest = np.asarray(jnp.abs(pixels).max(axis=(1, 2, 3)), np.float32)
    if len(bad := np.flatnonzero(largest > MAX_VALUE)):
        raise ConfigError(
            f"image {bad[0]} of the batch has a pixel of {largest[bad[0]]:g}; wanted values of about -3 to 3: "
            "give uint8 images to the processor, and its output to the model"
        )


def checked_images(images: Any, *, rescales: bool) -> Any:
    """`images` for a processor, one or lists of them, where Pillow images become RGB, and JAX arrays numpy's.

    `rescales` says whether the processor divides by 255. Raises ConfigError naming the first array that cannot be read
    as 8-bit values, and DataError for a Pillow image that cannot be read as RGB.
    """
    for i, image in enumerate(_flat(images)):
        if hasattr(image, "__array__") and not isinstance(image, Image.Image):
            _check_array(np.asarray(image), i, rescales)
    return _in_rgb(images)


def _flat(images: Any) -> Iterator[Any]:
    if isinstance(images, list | tuple) or getattr(images, "ndim", 0) == 4:
        for image in images:
            yield from _flat(image)
    else:
        yield images


def _in_rgb(images: Any) -> Any:
    if isinstance(images, list | tuple):
        return [_in_rgb(image) for image in images]
    if isinstance(images, Image.Image):
        return to_rgb(images)
    return np.asarray(images) if isinstance(images, jax.Array) else images


def _check_array(array: np.ndarray, i: int, rescales: bool) -> None:
    if not array.size:
        raise ConfigError(
            f"image {i} of the batch has the shape {array.shape}, which shows nothing; leave it out"
        )
    floats = jnp.issubdtype(array.dtype, jnp.floating)
    if floats and not np.isfinite(array).all():
        raise ConfigError(f"image {i} of the batch has a pixel that is NaN or infinite")
    if not rescales:
        return
    least, largest = float(array.min()), float(array.max())
    if array.dtype == bool or (floats and 0 < largest <= 1):
        raise ConfigError(
            f"image {i} of the batch holds {array.dtype} from {least:g} to {largest:g}, and the processor divides by "
            "255: give values from 0 to 255, or do_rescale=False"
        )
    if least < 0 or largest > 255 or (floats and (array % 1).any()):
        found = f"floats up to {largest:g}" if floats else f"integers from {least:g} to {largest:g}"
        raise ConfigError(f"image {i} of the batch holds {found}; wanted uint8 in 0 to 255: cast it")
