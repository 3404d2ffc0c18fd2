"""Sizes of pictures and patches: one number or two."""

import pytest

from lit_jax.utils.sides import grid, in_words, is_sides, pair, plain


def test_a_square_is_one_number_and_a_rectangle_two():
    assert pair(32) == (32, 32) and pair((24, 40)) == (24, 40)
    assert plain(32, 32) == 32 and plain(24, 40) == (24, 40)
    assert in_words(32) == "32x32" and in_words((24, 40)) == "24x40"


def test_a_grid_has_the_rows_and_columns_of_whole_patches():
    assert grid(32, 8) == (4, 4) and grid((24, 43), (8, 4)) == (3, 10) and grid((7, 40), 8) == (0, 5)


@pytest.mark.parametrize(
    ("value", "good"),
    [(32, True), ((24, 40), True), ([24, 40], True), ((24,), False), ((1, 2, 3), False), (True, False)]
    + [(value, False) for value in (24.0, "24", (24, 4.0), (24, True), None)],
)
def test_only_whole_numbers_are_sizes(value, good):
    assert is_sides(value) is good
