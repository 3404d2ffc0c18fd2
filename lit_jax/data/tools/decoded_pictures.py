"""What `prepare --decoded` stores: pictures as an image processor resizes them, not yet cropped, in plain BMP files.

Resizing such a picture again changes nothing, so it gives the same pixels as its original.
"""

import json

import numpy as np
from PIL import Image

from lit_jax.data.transforms import bmp
from lit_jax.data.transforms.image_files import MAX_PIXELS
from lit_jax.data.transforms.resized import keeps_shapes, resized
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.sides import pair
from lit_jax.utils.typing import ImageProcessor

_INSTEAD = "give --resize N instead, which stores smaller JPEGs"


def decoded_file(image_processor: ImageProcessor, image: Image.Image) -> bytes | None:
    """The file that is stored for a picture; None if it would have more than `MAX_PIXELS` pixels."""
    pixels = resized(image_processor, image, crop=False)
    return bmp.write(pixels) if pixels.shape[0] * pixels.shape[1] <= MAX_PIXELS else None


def check_decodable(image_processor: ImageProcessor) -> None:
    """Raises ConfigError unless stored pictures give the pixels of their originals; two pictures of noise are tried."""
    # Imported here, since it imports jax, which a writing process never needs.
    from lit_jax.data.transforms.image_processor import pixels_of

    name = type(image_processor).__name__
    height, width = pair(pixels_of(image_processor).size)
    if keeps_shapes(image_processor):
        raise ConfigError(
            f"{name} cuts pictures into patches, which a file of pixels does not hold; {_INSTEAD}"
        )
    if not image_processor.do_resize:
        raise ConfigError(f"{name} does not resize pictures, so decoded ones would be very large; {_INSTEAD}")
    rng = np.random.default_rng(0)
    for shape in ((2 * height, 3 * width, 3), (3 * height + 1, width + 1, 3)):
        image = Image.fromarray(rng.integers(0, 256, shape, np.uint8))
        stored = Image.fromarray(resized(image_processor, image, crop=False))
        if not np.array_equal(resized(image_processor, stored), resized(image_processor, image)):
            raise ConfigError(
                f"{name} does not leave a picture that it has resized as it is when it resizes it again, so decoded "
                f"pictures would be other ones; {_INSTEAD}"
            )


def description(image_processor: ImageProcessor) -> str:
    """Everything that decides which pixels an image processor gives, as JSON."""
    fields = {name: value for name, value in image_processor.to_dict().items() if not name.startswith("_")}
    return json.dumps(fields, sort_keys=True, default=str)
