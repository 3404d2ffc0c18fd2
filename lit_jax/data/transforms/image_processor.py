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
from lit_jax.data.transforms.resized import keeps_shapes, picture_of, resized, resizes_floats
from lit_jax.utils import naflex
from lit_jax.utils.errors import ConfigError, first_line
from lit_jax.utils.sides import plain
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
        theirs = picture_of(image_processor(Image.fromarray(noise)))
    except Exception as error:  # Any error: transformers hardly checks the fields of an image processor.
        raise ConfigError(f"{name} cannot process a 64x48 picture: {first_line(error)}") from error
    if pixels.dtype != np.uint8 or other.shape != pixels.shape or pixels.shape[2] not in (3, 4):
        raise ConfigError(
            f"{name} turns a 64x48 picture into {pixels.dtype} of shape {pixels.shape}; lit_jax needs uint8 of a "
            "fixed size: set its size to height and width, or do_center_crop with a crop_size"
        )
    if keeps_shapes(image_processor) and not image_processor.do_resize:
        raise ConfigError(
            f"{name} does not resize pictures, so they can have more than max_num_patches; set do_resize to true"
        )
    scaled, centred = image_processor.do_rescale, image_processor.do_normalize
    normalizer = PixelNormalizer(
        size=plain(*_size(image_processor, pixels)),
        mean=_rgb(image_processor.image_mean) if centred else (0.0, 0.0, 0.0),
        std=_rgb(image_processor.image_std) if centred else (1.0, 1.0, 1.0),
        rescale=float(image_processor.rescale_factor) if scaled else 1.0,
    )
    ours = normalizer.normalise(pixels[None])[0]
    rounding = normalizer.rescale / 2 / min(normalizer.std) if floats else 0.0
    if theirs.shape != ours.shape or not np.allclose(ours, theirs, rtol=1e-5, atol=1e-5 + rounding):
        raise ConfigError(
            f"{name} does more to a picture than resize, crop, rescale and normalise; choose another image processor"
        )
    return normalizer


def make_decode(image_processor: ImageProcessor) -> TrainDecode:
    """Returns `decode(bytes, key=0) -> uint8 [S1, S2, C]`: the image processor without rescale and normalise, exactly.

    `open_image` first turns every kind of picture into RGB. If the image processor resizes by the shorter edge, a
    picture longer than `MAX_RATIO` times its width first loses its ends. C is 3, or 4 for an image processor that keeps
    the shapes of pictures (`utils.naflex`). `decode` is thread-safe, ignores the key, and raises `DataError` with the
    reason if the bytes are not a picture that it accepts.
    """
    pixels_of(image_processor)
    shape, decoded = _first(image_processor).shape, DecodedFiles(image_processor)

    def decode(data: bytes, key: int = 0) -> UInt8[np.ndarray, "S1 S2 C"]:
        pixels = decoded(data)
        if pixels is None:
            pixels = resized(image_processor, open_image(data))
        assert pixels.shape == shape, pixels.shape
        return pixels

    return decode


def size_of(image_processor: ImageProcessor) -> tuple[int, int]:
    """The height and width, in pixels, that every picture gets.

    Of pictures that keep their shapes, those of the one that has all patches and is nearest to a square.
    """
    return _size(image_processor, _first(image_processor))


def _size(image_processor: ImageProcessor, picture: UInt8[np.ndarray, "S1 S2 C"]) -> tuple[int, int]:
    """The same, from what becomes of any picture."""
    if keeps_shapes(image_processor):
        own: Any = image_processor
        rows, columns = naflex.grid_of(own.max_num_patches)
        return rows * own.patch_size, columns * own.patch_size
    return picture.shape[0], picture.shape[1]


def _first(image_processor: ImageProcessor) -> UInt8[np.ndarray, "S1 S2 C"]:
    """What becomes of a small picture."""
    return resized(image_processor, Image.new("RGB", (64, 48)))


def _rgb(values: Any) -> tuple[float, float, float]:
    """The values in a file as three numbers. Raises ConfigError for others."""
    try:
        red, green, blue = map(float, [values] * 3 if isinstance(values, int | float) else values)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"a mean or std is {values!r}; wanted one number, or one for each of 3 channels"
        ) from error
    return red, green, blue
