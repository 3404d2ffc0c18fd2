"""Pictures for training: decoded at a reduced size where that suffices, cropped, resized and augmented.

Evaluation uses `make_decode`, which equals the image processor bit for bit. Training can be faster: a JPEG that is at
least twice as large as needed is decoded at a half, a quarter or an eighth of its size, which saves most of the work.
"fast" does so with Pillow alone, "turbo" with simplejpeg and OpenCV (the extra `turbo`); benchmarks/decode.py compares
them. A picture that `prepare --decoded` has stored is copied.
"""

import random
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from lit_jax.data.transforms.augment import Augment, Box, augment_of
from lit_jax.data.transforms.decoded_files import DecodedFiles
from lit_jax.data.transforms.image_files import middle, open_header, to_rgb
from lit_jax.data.transforms.image_processor import pixels_of
from lit_jax.data.transforms.resized import keeps_shapes, resized
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.sides import Sides, pair
from lit_jax.utils.typing import ImageProcessor

HOW = ("exact", "fast", "turbo")


@dataclass(frozen=True)
class ImageDecoder:
    """`decode(bytes, key=0) -> uint8 [S1, S2, C]`; threads may share it, and processes receive a copy.

    The result depends on the bytes and on `key` alone. C is 3, or 4 if the picture keeps its shape (`utils.naflex`); a
    part that was cropped at random is resized to the height and width instead. Raises `DataError` for exactly the files
    for which `image_files.open_image` does.
    """

    image_processor: ImageProcessor
    size: Sides
    how: str
    augment: Augment
    decoded: DecodedFiles

    def __call__(self, data: bytes, key: int = 0) -> UInt8[np.ndarray, "S1 S2 C"]:
        draw = random.Random(key)
        pixels = self.decoded(data) if self.augment.area == 1 else None
        if pixels is None:
            image = open_header(data)
            height, width = pair(self.size)
            crop = self.augment.crop(*image.size, draw, width / height)
            if crop is None and keeps_shapes(self.image_processor):
                return resized(self.image_processor, self.augment.change(to_rgb(image), draw))
            pixels = self._resize(image, data, crop)
        if self.augment.flip or self.augment.ops:
            pixels = np.asarray(self.augment.change(Image.fromarray(pixels), draw))
        return pixels

    def _resize(self, image: Image.Image, data: bytes, crop: Box | None) -> np.ndarray:
        box = crop or shown(self.image_processor, *image.size)
        if box is not None and (need := self._reducible(image, box)):
            pixels = _turbo(data, image.size, box, need, self._width_height) if self.how == "turbo" else None
            return self._draft(image, box, need) if pixels is None else pixels
        if crop is None:
            return resized(self.image_processor, to_rgb(image))
        filter = Image.Resampling(self.image_processor.resample)
        return np.asarray(to_rgb(image).resize(self._width_height, filter, crop))

    def _reducible(self, image: Image.Image, box: Box) -> tuple[int, int] | None:
        """The width and height that suffice for `box`, or None if the file cannot be decoded at half its size."""
        if self.how == "exact" or image.format != "JPEG" or image.mode not in ("RGB", "L"):
            return None
        width, height = (
            ceil(size * all / part)
            for size, all, part in zip(self._width_height, image.size, _sides(box), strict=True)
        )
        return (width, height) if image.width >= 2 * width and image.height >= 2 * height else None

    def _draft(self, image: Image.Image, box: Box, need: tuple[int, int]) -> np.ndarray:
        whole = image.size
        image.draft(None, need)
        box = _scaled(box, whole, image.size)
        # After the reduction, bilinear is as close to the exact picture as bicubic, and faster.
        return np.asarray(to_rgb(image).resize(self._width_height, Image.Resampling.BILINEAR, box))

    @property
    def _width_height(self) -> tuple[int, int]:
        """The size in Pillow's order."""
        height, width = pair(self.size)
        return width, height


def make_train_decode(
    image_processor: ImageProcessor, how: str = "fast", augment: str = "none"
) -> ImageDecoder:
    """A decoder for the tower of `image_processor`; `how` is "exact", "fast" or "turbo".

    `augment` is one of `augment.AUGMENTS`. "fast" and "turbo" differ from the image processor only for large JPEGs.
    Raises ConfigError for unknown names, and for "turbo" if its extra is not installed.
    """
    if how not in HOW:
        raise ConfigError(f"decode is {how!r}; wanted one of {', '.join(HOW)}")
    if how == "turbo":
        _turbo_modules()
    size, decoded = pixels_of(image_processor).size, DecodedFiles(image_processor)
    return ImageDecoder(image_processor, size, how, augment_of(augment), decoded)


def shown(image_processor: ImageProcessor, width: int, height: int) -> Box | None:
    """The part of a picture that `image_processor` keeps; None if its result is not a resized part (padding)."""
    size, left, top, right, bottom = image_processor.size or {}, 0.0, 0.0, float(width), float(height)
    if not image_processor.do_resize:
        return None
    if "shortest_edge" in size:
        left, top, right, bottom = map(float, middle(width, height))
        short = min(right - left, bottom - top)
        if (share := getattr(image_processor, "crop_pct", None)) is not None:  # ConvNeXt's.
            return _convnext(size["shortest_edge"], share, (left, top, right, bottom))
        scaled = [
            (right - left) / short * size["shortest_edge"],
            (bottom - top) / short * size["shortest_edge"],
        ]
    elif "height" in size and "width" in size:
        scaled = [size["width"], size["height"]]
    else:
        return None
    crop_size = getattr(image_processor, "crop_size", None)
    if crop_size is None or not getattr(image_processor, "do_center_crop", False):
        return left, top, right, bottom
    shares = [crop_size[edge] / of for edge, of in zip(("width", "height"), scaled, strict=True)]
    if max(shares) > 1:
        return None
    dx, dy = ((right - left) * (1 - shares[0]) / 2, (bottom - top) * (1 - shares[1]) / 2)
    return left + dx, top + dy, right - dx, bottom - dy


def _convnext(edge: int, share: float, box: Box) -> Box:
    """Below an `edge` of 384, a central square, `share` of the shorter side; otherwise the whole picture, squeezed."""
    if edge >= 384:
        return box
    left, top, right, bottom = box
    sides = (right - left, bottom - top)
    sizes = [int(int(edge / share) * side / min(sides)) for side in sides]  # The sides before the crop.
    width, height = (edge * side / size for side, size in zip(sides, sizes, strict=True))
    dx, dy = ((size - edge) // 2 * side / size for side, size in zip(sides, sizes, strict=True))
    return left + dx, top + dy, left + dx + width, top + dy + height


def _turbo_modules() -> tuple[Any, Any]:
    try:
        import cv2
        import simplejpeg
    except ImportError as e:
        raise ConfigError(
            f"decode is 'turbo' and {e.name} is not installed; pip install 'lit_jax[turbo]', or use 'fast'"
        ) from e
    cv2.setNumThreads(1)  # Several pictures are decoded in parallel, with one thread for each.
    return simplejpeg, cv2


def _turbo(
    data: bytes, whole: tuple[int, int], box: Box, need: tuple[int, int], size: tuple[int, int]
) -> np.ndarray | None:
    """None if simplejpeg fails: Pillow, which is more tolerant, then decides whether the picture is broken."""
    simplejpeg, cv2 = _turbo_modules()
    try:
        pixels = simplejpeg.decode_jpeg(
            data, min_width=need[0], min_height=need[1], min_factor=2, fastdct=True
        )
    except ValueError:
        return None
    left, top, right, bottom = map(round, _scaled(box, whole, (pixels.shape[1], pixels.shape[0])))
    part = pixels[top : max(bottom, top + 1), left : max(right, left + 1)]
    # Below a factor of two, linear interpolation skips no pixel and takes a fifth of the time of area averages.
    linear = part.shape[1] < 2 * size[0] and part.shape[0] < 2 * size[1]
    return cv2.resize(part, size, interpolation=cv2.INTER_LINEAR if linear else cv2.INTER_AREA)


def _sides(box: Box) -> tuple[float, float]:
    return box[2] - box[0], box[3] - box[1]


def _scaled(box: Box, old: tuple[int, int], new: tuple[int, int]) -> Box:
    x, y = new[0] / old[0], new[1] / old[1]
    return box[0] * x, box[1] * y, min(box[2] * x, float(new[0])), min(box[3] * y, float(new[1]))
