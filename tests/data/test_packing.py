"""Where the tokens of short texts are placed when texts share the rows of a tower."""

import numpy as np
import pytest

from lit_jax.data.packing import place, share_needed, starts_of


def lengths_of(seed, count=64, length=64):
    """Lengths like those of captions: most are short, a few are cut."""
    return np.random.default_rng(seed).lognormal(3.0, 0.6, count).clip(2, length).astype(int)


def mask_of(lengths, length):
    return np.arange(length) < np.asarray(lengths)[:, None]


@pytest.mark.parametrize("seed", range(5))
def test_every_token_has_its_own_slot_and_a_text_is_in_one_row_in_order(seed):
    real = mask_of(lengths_of(seed), 64)
    source, target = place(real, 40)
    assert ((target >= 0) == real).all()
    slots = target[real]
    assert len(set(slots)) == len(slots) and slots.max() < 40 * 64
    np.testing.assert_array_equal(source.ravel()[slots], np.flatnonzero(real.ravel()))
    assert (source >= 0).sum() == real.sum()
    for row, mask in zip(target, real, strict=True):
        assert (np.diff(row[mask]) == 1).all() and len(set(row[mask] // 64)) == 1


def test_rows_are_filled_to_nearly_the_last_slot():
    lengths = lengths_of(0, 512)
    starts = starts_of(lengths.tolist(), 64, 512)
    rows = 1 + max(starts) // 64
    assert rows <= 1.03 * lengths.sum() / 64


def test_padding_on_the_left_and_in_the_middle_is_left_out_too():
    real = np.array([[0, 0, 1, 1], [1, 0, 1, 0]], bool)
    source, target = place(real, 1)
    np.testing.assert_array_equal(target, [[-1, -1, 0, 1], [2, -1, 3, -1]])
    np.testing.assert_array_equal(source, [[2, 3, 4, 6], [-1, -1, -1, -1]])


def test_a_text_for_which_no_row_has_room_gets_no_slot_and_the_others_do():
    assert starts_of([4, 3, 2], 4, 2) == [0, 4, -1]
    assert starts_of([4, 4], 4, 0) == [-1, -1]


def test_the_advised_share_suffices_for_texts_of_these_lengths():
    share = share_needed(lengths_of(0, 10_000).tolist(), 64)
    assert 0.3 < share < 0.45  # Texts have 24 of 64 tokens on average.
    for seed in range(1, 20):
        starts = starts_of(lengths_of(seed, 512).tolist(), 64, int(512 * share))
        assert min(starts) >= 0
    assert share_needed([64, 70], 64) == 1
