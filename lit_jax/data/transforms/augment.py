"""Random changes of pictures, each a function of the picture and of one number.

That number stands for (seed, row), so that neither the step at which a run resumes nor the number of threads or
processes changes a picture. All draws are calls of `random.Random.random`, whose sequence is the same in every version
of Python.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageEnhance, ImageOps

from lit_jax.utils.errors import ConfigError

Box = tuple[float, float, float, float]  # Left, top, right, bottom, in pixels.

_GREY = (128, 128, 128)  # Fills what a moved picture uncovers.


@dataclass(frozen=True)
class Augment:
    """The random changes of a picture, in this order."""

    area: float = 1.0  # The smallest share of the picture that a random crop keeps; 1 means no crop.
    flip: bool = False  # Mirror half of the pictures; a caption that says left or right is then wrong.
    ops: int = 0  # Steps of RandAugment (arXiv:1909.13719).
    magnitude: float = 0.3  # The strength of each step, 0 to 1 of its range.

    def crop(self, width: int, height: int, draw: random.Random, aspect: float = 1.0) -> Box | None:
        """A random part of the picture, whose aspect ratio is 3/4 to 4/3 of `aspect` if that fits; None for no crop."""
        if self.area == 1:
            return None
        area = width * height * (self.area + (1 - self.area) * draw.random())
        ratio = aspect * math.exp((2 * draw.random() - 1) * math.log(4 / 3))
        w, h = min(width, math.sqrt(area * ratio)), min(height, math.sqrt(area / ratio))
        left, top = (width - w) * draw.random(), (height - h) * draw.random()
        return left, top, min(left + w, float(width)), min(top + h, float(height))

    def change(self, image: Image.Image, draw: random.Random) -> Image.Image:
        """The changed picture, in the same size; call it after resizing."""
        if self.flip and draw.random() < 0.5:
            image = ImageOps.mirror(image)
        for _ in range(self.ops):
            op = OPS[int(draw.random() * len(OPS))]
            sign = 1 if draw.random() < 0.5 else -1
            image = op(image, self.magnitude, sign)
        return image


AUGMENTS = {
    "none": Augment(),
    "flip": Augment(flip=True),
    "crop": Augment(area=0.5),
    "crop_flip": Augment(area=0.5, flip=True),
    "randaugment": Augment(area=0.5, ops=2),  # Without flip, since captions may say left and right.
}


def augment_of(name: str) -> Augment:
    """The augmentation called `name`. Raises ConfigError for an unknown name."""
    if name not in AUGMENTS:
        raise ConfigError(f"augment is {name!r}; wanted one of {', '.join(AUGMENTS)}")
    return AUGMENTS[name]


Op = Callable[[Image.Image, float, int], Image.Image]  # Picture, magnitude in 0 to 1, sign.


def _affine(
    image: Image.Image, *, xy: float = 0.0, yx: float = 0.0, x: float = 0.0, y: float = 0.0
) -> Image.Image:
    """The pixel at (i, j), counted from the centre, comes from (i + xy j + x w, j + yx i + y h)."""
    w, h = image.size
    matrix = (1, xy, x * w - xy * h / 2, yx, 1, y * h - yx * w / 2)
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=_GREY
    )


def _enhance(kind: type) -> Op:
    return lambda image, m, sign: kind(image).enhance(1 + 0.9 * m * sign)


def _rotate(image: Image.Image, m: float, sign: int) -> Image.Image:
    return image.rotate(30 * m * sign, Image.Resampling.BILINEAR, fillcolor=_GREY)


# The fourteen operations of the paper, with the ranges of torchvision.
OPS: tuple[Op, ...] = (
    lambda image, m, sign: image,
    lambda image, m, sign: _affine(image, xy=0.3 * m * sign),
    lambda image, m, sign: _affine(image, yx=0.3 * m * sign),
    lambda image, m, sign: _affine(image, x=0.45 * m * sign),
    lambda image, m, sign: _affine(image, y=0.45 * m * sign),
    _rotate,
    _enhance(ImageEnhance.Brightness),
    _enhance(ImageEnhance.Color),
    _enhance(ImageEnhance.Contrast),
    _enhance(ImageEnhance.Sharpness),
    lambda image, m, sign: ImageOps.posterize(image, 8 - round(4 * m)),
    lambda image, m, sign: ImageOps.solarize(image, round(256 * (1 - m))),
    lambda image, m, sign: ImageOps.autocontrast(image),
    lambda image, m, sign: ImageOps.equalize(image),
)
