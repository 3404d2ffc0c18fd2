"""The size of a picture or of a patch, in pixels: one number, the side of a square, or height and width."""

from typing import Any

Sides = int | tuple[int, int]
LARGEST = 2_048  # A picture of this side takes 13 MB, and four times that in float32.


def pair(sides: Sides) -> tuple[int, int]:
    """Height and width."""
    return (sides, sides) if isinstance(sides, int) else sides


def plain(height: int, width: int) -> Sides:
    """One number if both are the same, as in configs for squares; else (height, width)."""
    return height if height == width else (height, width)


def is_sides(value: Any) -> bool:
    """Whether `value` is one whole number, or two of them."""
    several = isinstance(value, tuple | list)
    numbers = value if several else (value,)
    return all(type(number) is int for number in numbers) and (not several or len(numbers) == 2)


def grid(image: Sides, patch: Sides) -> tuple[int, int]:
    """Rows and columns of whole patches in a picture."""
    (height, width), (high, wide) = pair(image), pair(patch)
    return height // high, width // wide


def in_words(sides: Sides) -> str:
    """Height x width, for messages."""
    return "x".join(map(str, pair(sides)))
