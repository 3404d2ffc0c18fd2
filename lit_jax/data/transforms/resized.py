"""A picture after the first steps of an image processor, which give uint8 pixels."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from lit_jax.data.transforms.image_files import middle
from lit_jax.utils import naflex
from lit_jax.utils.typing import ImageProcessor


def resized(image_processor: ImageProcessor, image: Image.Image, *, crop: bool = True) -> np.ndarray:
    """[S1, S2, C]: `image` after the image processor without rescale and normalise; without `crop`, before its crop.

    C is 3, or 4 for an image processor that keeps shapes: see `utils.naflex`. If it resizes by the shorter edge, a
    picture longer than `MAX_RATIO` times its width first loses its ends.
    """
    if image_processor.do_resize and "shortest_edge" in (image_processor.size or ()):
        box = middle(*image.size)
        image = image if box[2:] == image.size else image.crop(box)
    steps = {"do_rescale": False, "do_normalize": False} | ({} if crop else {"do_center_crop": False})
    pixels = picture_of(image_processor(image, **steps))
    if resizes_floats(image_processor):
        pixels = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels)


def picture_of(processed: Mapping[str, Any]) -> np.ndarray:
    """[S1, S2, C]: the first picture in what an image processor returns."""
    pixels = np.asarray(processed["pixel_values"][0])
    if "spatial_shapes" in processed:
        return naflex.packed(pixels[None], np.asarray(processed["spatial_shapes"][:1]))[0]
    return np.moveaxis(pixels, 0, -1)


def keeps_shapes(image_processor: ImageProcessor) -> bool:
    """Whether pictures keep their shapes and become lists of patches (NaFlex), as SigLIP 2's do."""
    return hasattr(image_processor, "max_num_patches")


def resizes_floats(image_processor: ImageProcessor) -> bool:
    """Whether its resize gives numbers that are not rounded to 8 bits, as DINOv3's does."""
    return getattr(image_processor, "resizes_floats", False)
