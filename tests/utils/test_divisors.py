"""Divisors are complete, also of numbers that are too large to be tried one by one."""

import pytest

from lit_jax.utils.divisors import divisors


@pytest.mark.parametrize("number", [1, 2, 7, 16, 36, 360, 997])
def test_all_divisors_are_found_in_order(number):
    assert divisors(number) == [n for n in range(1, number + 1) if number % n == 0]


def test_the_divisors_of_a_large_number_are_found():
    assert divisors(2**31 - 1) == [1, 2**31 - 1]
