"""Turns a picture into the input of an image tower, exactly as the image processor of its folder does.

It has two parts: `make_decode` makes uint8 pixels on the host, and `PixelNormalizer.normalise` does the rest on the
device. Together they equal the image processor (PIL backend), which `pixels_of` checks. If the image processor resizes
floats (`resizes_floats`, DINOv3's), they differ by the rounding to 8 bits: half of a 255th, before normalising.
"""

from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from lit_jax.data.transforms.decoded_files import DecodedFiles
from lit_jax.data.transforms.image_files import open_image
from lit_jax.data.transforms.normalize import PixelNormalizer
from lit_jax.data.transforms.resized import resized, resizes_floats
from lit_jax.utils.errors import ConfigError, first_line
from lit_jax.utils.sides import pair, plain
from lit_jax.utils.typing import ImageProcessor, TrainDecode


def pixels_of(image_processor: ImageProcessor) -> PixelNormalizer:
    """What `image_processor` does after resizing and cropping, as a PixelNormalizer.

    A picture of noise is processed in both ways, so that a step that PixelNormalizer lacks cannot go unnoticed.
    Raises `ConfigError` if the results differ, or if resizing and cropping do not give uint8 RGB of one size.
    """
    name, floats = type(image_processor).__name__, resizes_floats(image_processor)
    if floats and image_processor.resample not in (None, Image.Resampling.BILINEAR):
        raise ConfigError(
            f"{name} with resample={int(image_processor.resample)} gives values that pictures of 8 bits cannot hold; "
            "set resample to 2 (bilinear)"
        )
    if getattr(image_processor, "backend", None) != "pil":
        raise ConfigError(f"{name} is not a PIL image processor; load it with lit_jax's load_processor")
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    try:
        pixels, other = (resized(image_processor, Image.fromarray(x)) for x in (noise, noise.swapaxes(0, 1)))
        theirs = np.asarray(image_processor(Image.fromarray(noise))["pixel_values"][0])
    except Exception as error:  # Any error: transformers hardly checks the fields of an image processor.
        raise ConfigError(f"{name} cannot process a 64x48 picture: {first_line(error)}") from error
    height, width, _ = pixels.shape
    if pixels.dtype != np.uint8 or {pixels.shape, other.shape} != {(height, width, 3)}:
        raise ConfigError(
            f"{name} turns a 64x48 picture into {pixels.dtype} of shape {pixels.shape}; lit_jax needs uint8 of a "
            "fixed size: set its size to height and width, or do_center_crop with a crop_size"
        )
    scaled, centred = image_processor.do_rescale, image_processor.do_normalize
    normalizer = PixelNormalizer(
        size=plain(height, width),
        mean=_rgb(image_processor.image_mean) if centred else (0.0, 0.0, 0.0),
        std=_rgb(image_processor.image_std) if centred else (1.0, 1.0, 1.0),
        rescale=float(image_processor.rescale_factor) if scaled else 1.0,
    )
    ours = normalizer.normalise(pixels[None])[0]
    rounding = normalizer.rescale / 2 / min(normalizer.std) if floats else 0.0
    same = theirs.shape == (3, height, width) and np.allclose(
        ours, theirs.transpose(1, 2, 0), rtol=1e-5, atol=1e-5 + rounding
    )
    if not same:
        raise ConfigError(
            f"{name} does more to a picture than resize, crop, rescale and normalise; choose another image processor"
        )
    return normalizer


def make_decode(image_processor: ImageProcessor) -> TrainDecode:
    """Returns `decode(bytes, key=0) -> uint8 [S1, S2, 3]`: the image processor without rescale and normalise, exactly.

    `open_image` first turns every kind of picture into RGB. If the image processor resizes by the shorter edge, a
    picture longer than `MAX_RATIO` times its width first loses its ends. `decode` is thread-safe, ignores the key, and
    raises `DataError` with the reason if the bytes are not a picture that it accepts.
    """
    size, decoded = pair(pixels_of(image_processor).size), DecodedFiles(image_processor)

    def decode(data: bytes, key: int = 0) -> UInt8[np.ndarray, "S1 S2 3"]:
        pixels = decoded(data)
        if pixels is None:
            pixels = resized(image_processor, open_image(data))
        assert pixels.shape == (*size, 3), pixels.shape
        return pixels

    return decode


def size_of(image_processor: ImageProcessor) -> tuple[int, int]:
    """The height and width, in pixels, that every picture gets."""
    height, width, _ = resized(image_processor, Image.new("RGB", (64, 48))).shape
    return height, width


def _rgb(values: Any) -> tuple[float, float, float]:
    """The values in a file as three numbers. Raises ConfigError for others."""
    try:
        red, green, blue = map(float, [values] * 3 if isinstance(values, int | float) else values)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"a mean or std is {values!r}; wanted one number, or one for each of 3 channels"
        ) from error
    return red, green, blue
