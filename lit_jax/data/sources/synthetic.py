"""`shapes:N/SPLIT`: N drawings of one coloured shape each, with true captions, drawn on the fly."""

import hashlib
import io
import math
import re
from functools import cache
from itertools import product

import numpy as np
from PIL import Image, ImageDraw

from lit_jax.data.sources.base import Record
from lit_jax.utils.errors import DataError

VERSION = 1  # The version of the drawings; raise it when they change.
SIDE = 64  # Pixels of a picture.
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
COLOURS = {
    "red": (215, 38, 38),
    "brown": (125, 75, 30),
    "yellow": (240, 215, 40),
    "green": (35, 150, 65),
    "blue": (40, 80, 210),
    "purple": (125, 45, 150),
    "black": (20, 20, 20),
    "white": (245, 245, 245),
}
SIZES = {"small": 0.18, "large": 0.36}  # Radius, as a share of the side.
SPLITS = ("train", "test")
HELD_OUT = 5  # Every fifth combination is drawn only for the test split.
CAPTIONS = (
    "a {size} {colour} {shape} on a {ground} ground",
    "a {shape}, {size} and {colour}, on {ground}",
    "{ground} ground with a {size} {colour} {shape}",
    "the {shape} is {colour} and {size}, the ground is {ground}",
)
_COUNT = re.compile("0*[1-9][0-9]{0,11}")


class SyntheticSource:
    """Record i shows a combination of shape, colour, size and ground; its place and angle are functions of i alone.

    No combination of the test split is in the train split, and none is repeated before all were drawn. The label is
    the colour and the shape together. Raises `DataError` for a name that is not N/train or N/test.
    """

    description = (
        "Drawings of one shape in one colour on a ground of another, with captions that are true of them."
    )
    license = "cc0-1.0"

    def __init__(self, name: str):
        self.spec = f"shapes:{name}"
        count, _, self.split = name.partition("/")
        if not _COUNT.fullmatch(count) or self.split not in SPLITS:
            raise DataError(
                f"{self.spec} is not understood; want shapes:N/train or shapes:N/test with N pictures"
            )
        self._count = int(count)
        self.class_names: tuple[str, ...] | None = tuple(
            f"{colour} {shape}" for colour, shape in product(COLOURS, SHAPES)
        )

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Record:
        if not -self._count <= index < self._count:
            raise IndexError(index)
        index %= self._count
        combinations = _combinations(self.split)
        shape, colour, size, ground = combinations[index % len(combinations)]
        words = {"shape": shape, "colour": colour, "size": size, "ground": ground}
        rng = np.random.default_rng([SPLITS.index(self.split), index])
        return Record(
            image=_draw(shape, COLOURS[colour], SIZES[size], COLOURS[ground], rng),
            captions=[caption.format(**words) for caption in CAPTIONS],
            id=f"{self.split}-{index}",
            label=list(COLOURS).index(colour) * len(SHAPES) + SHAPES.index(shape),
        )

    def fingerprint(self) -> str:
        """The sha256 of the name and of the version of the drawings."""
        return hashlib.sha256(f"{self.spec} {VERSION}".encode()).hexdigest()


@cache
def _combinations(split: str) -> list[tuple[str, str, str, str]]:
    every = [c for c in product(SHAPES, COLOURS, SIZES, COLOURS) if c[1] != c[3]]
    mixed = [every[i] for i in np.random.default_rng(0).permutation(len(every))]
    return [c for i, c in enumerate(mixed) if (i % HELD_OUT == 0) == (split == "test")]


def _draw(
    shape: str,
    colour: tuple[int, int, int],
    radius: float,
    ground: tuple[int, int, int],
    rng: np.random.Generator,
) -> bytes:
    """PNG bytes of `shape` somewhere on `ground`, at some angle."""
    r = radius * SIDE
    x, y = rng.uniform(r, SIDE - r, 2)
    angle = rng.uniform(0, 2 * math.pi)
    picture = Image.new("RGB", (SIDE, SIDE), ground)
    draw = ImageDraw.Draw(picture)
    if shape in ("circle", "ring"):
        draw.ellipse((x - r, y - r, x + r, y + r), colour)
        if shape == "ring":
            draw.ellipse((x - r / 2, y - r / 2, x + r / 2, y + r / 2), ground)
    else:
        points = [
            (x + r * length * math.cos(angle + turn), y + r * length * math.sin(angle + turn))
            for length, turn in _corners(shape)
        ]
        draw.polygon(points, colour)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _corners(shape: str) -> list[tuple[float, float]]:
    """The distance of each corner from the middle, in radii, and its angle."""
    if shape == "cross":  # Four arms, each as wide as 0.6 radii.
        edge, notch = math.asin(0.3), math.hypot(0.3, 0.3)
        arm = [(1.0, -edge), (1.0, edge), (notch, math.pi / 4)]
        return [(length, turn + k * math.pi / 2) for k in range(4) for length, turn in arm]
    count, inner = {"square": (4, None), "triangle": (3, None), "star": (5, 0.4)}[shape]
    outer = [(1.0, 2 * math.pi * k / count) for k in range(count)]
    if inner is None:
        return outer
    between = [(inner, 2 * math.pi * (k + 0.5) / count) for k in range(count)]
    return [corner for pair in zip(outer, between, strict=True) for corner in pair]
