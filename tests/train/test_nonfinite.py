import pytest

from lit_jax.train.nonfinite import NonFiniteGuard
from lit_jax.utils.errors import NonFiniteError


def test_ten_in_a_row_end_the_run_and_nine_do_not():
    skips = NonFiniteGuard()
    for step in range(1, 10):
        skips.add(step, True)
    skips.add(10, False)
    skips = NonFiniteGuard()
    for step in range(1, 10):
        skips.add(step, True)
    with pytest.raises(
        NonFiniteError, match=r"step 10: the last 10 steps .* were skipped; nothing of it was saved"
    ):
        skips.add(10, True)
    assert skips.total == 10


def test_more_than_one_percent_of_the_last_thousand_end_the_run():
    skips = NonFiniteGuard()
    for step in range(1, 3001):
        skips.add(step, step % 101 == 0)  # 9 or 10 in each thousand.
    skips = NonFiniteGuard()
    with pytest.raises(NonFiniteError, match="step 990: 11 of the last 990 steps"):
        for step in range(1, 2000):
            skips.add(step, step % 90 == 0)
