"""From a picture to what an image tower reads, as the image processor of its folder would make it.

It is split in two: `make_decode` gives uint8 pixels on the host, `Pixels.normalise` the rest on the device. Together
they equal the image processor (PIL backend), which `pixels_of` checks.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from lit_jax.data.transforms.image_files import middle, open_image
from lit_jax.data.transforms.normalize import PixelNormalizer
from lit_jax.utils.errors import ConfigError


def pixels_of(image_processor: Any) -> PixelNormalizer:
    """What `image_processor` does after resizing and cropping, as `Pixels`.

    A picture of noise is sent both ways, so that a step that `Pixels` does not know can never be lost. Raises
    `ConfigError` when the two differ, and when the result is not a square of uint8 RGB.
    """
    name = type(image_processor).__name__
    if getattr(image_processor, "backend", None) != "pil":
        raise ConfigError(f"{name} is not a PIL image processor; load it with lit_jax's load_processor")
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    pixels = resized(image_processor, Image.fromarray(noise))
    side = pixels.shape[0]
    if pixels.dtype != np.uint8 or pixels.shape != (side, side, 3):
        raise ConfigError(
            f"{name} turns a 64x48 picture into {pixels.dtype} of shape {pixels.shape}; lit_jax needs uint8 of a "
            "fixed square: set its size to height and width, or do_center_crop with a crop_size"
        )
    scaled, centred = image_processor.do_rescale, image_processor.do_normalize
    found = PixelNormalizer(
        size=side,
        mean=_rgb(image_processor.image_mean) if centred else (0.0, 0.0, 0.0),
        std=_rgb(image_processor.image_std) if centred else (1.0, 1.0, 1.0),
        rescale=float(image_processor.rescale_factor) if scaled else 1.0,
    )
    theirs = np.asarray(image_processor(Image.fromarray(noise))["pixel_values"][0]).transpose(1, 2, 0)
    ours = found.normalise(pixels[None])[0]
    if not np.allclose(ours, theirs, rtol=1e-5, atol=1e-5):
        raise ConfigError(
            f"{name} does more to a picture than resize, crop, rescale and normalise; choose another"
        )
    return found


def make_decode(image_processor: Any) -> Callable[..., UInt8[np.ndarray, "S S 3"]]:
    """Returns `decode(bytes) -> uint8 [S, S, 3]`: exactly the image processor without rescale and normalise.

    Before it, `open_image` makes RGB of every kind of picture. Where the image processor resizes by the shorter edge,
    a picture longer than `MAX_RATIO` times its width first loses its ends. `decode` is thread-safe and raises
    `DataError` naming the reason when the bytes are not a picture that it accepts. Its second argument, the key of what
    training draws at random, changes nothing.
    """
    size = pixels_of(image_processor).size

    def decode(data: bytes, key: int = 0) -> UInt8[np.ndarray, "S S 3"]:
        pixels = resized(image_processor, open_image(data))
        assert pixels.shape == (size, size, 3), pixels.shape
        return pixels

    return decode


def resized(image_processor: Any, image: Image.Image) -> np.ndarray:
    """[S, S, 3]: the image processor without rescale and normalise.

    Where it resizes by the shorter edge, a picture longer than `MAX_RATIO` times its width first loses its ends.
    """
    if image_processor.do_resize and "shortest_edge" in image_processor.size:
        box = middle(*image.size)
        image = image if box[2:] == image.size else image.crop(box)
    pixels = image_processor(image, do_rescale=False, do_normalize=False)["pixel_values"][0]
    return np.ascontiguousarray(np.moveaxis(pixels, 0, -1))  # C S S -> S S C


def _rgb(values: float | Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = [values] * 3 if isinstance(values, int | float) else values
    return float(red), float(green), float(blue)
