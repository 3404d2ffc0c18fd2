"""A picture after the first steps of an image processor, which give uint8 pixels."""

import numpy as np
from PIL import Image

from lit_jax.data.transforms.image_files import middle
from lit_jax.utils.typing import ImageProcessor


def resized(image_processor: ImageProcessor, image: Image.Image, *, crop: bool = True) -> np.ndarray:
    """[S1, S2, 3]: `image` after the image processor without rescale and normalise; without `crop`, before its crop.

    If it resizes by the shorter edge, a picture longer than `MAX_RATIO` times its width first loses its ends.
    """
    if image_processor.do_resize and "shortest_edge" in image_processor.size:
        box = middle(*image.size)
        image = image if box[2:] == image.size else image.crop(box)
    steps = {"do_rescale": False, "do_normalize": False} | ({} if crop else {"do_center_crop": False})
    pixels = image_processor(image, **steps)["pixel_values"][0]
    if resizes_floats(image_processor):
        pixels = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(pixels, 0, -1))  # C S1 S2 -> S1 S2 C


def resizes_floats(image_processor: ImageProcessor) -> bool:
    """Whether its resize gives numbers that are not rounded to 8 bits, as DINOv3's does."""
    return getattr(image_processor, "resizes_floats", False)
