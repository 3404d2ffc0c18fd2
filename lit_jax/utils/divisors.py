"""The divisors of a number, which errors suggest as sizes that fit."""

import math


def divisors(number: int) -> list[int]:
    """All divisors of a `number` of 1 or more, in ascending order."""
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return small + [number // n for n in reversed(small) if n * n != number]
