"""The ledger of broken records: what it counts, and what it says when there are too many."""

import pytest

from lit_jax.data.bad_records import Ledger, frequent
from lit_jax.utils.errors import DataError


def test_reasons_that_differ_in_names_and_numbers_are_of_one_kind():
    reasons = ["'a.jpg' cannot be read", "not an image: 6 bytes", "'b c.jpg' cannot be read"]
    reasons += ["not an image: 17 bytes", '"it\'s.jpg" cannot be read', "caption is empty"]
    assert frequent(reasons) == [
        ("'a.jpg' cannot be read", 3),
        ("not an image: 6 bytes", 2),
        ("caption is empty", 1),
    ]
    assert frequent(reasons, 1) == [("'a.jpg' cannot be read", 3)]


def test_too_many_broken_records_are_told_with_the_three_most_frequent_reasons():
    ledger = Ledger("folder:x", 100, 0.09)
    for record, reason in enumerate(["empty"] * 3 + ["'y.jpg' is gone"] * 4 + ["odd", "cut"]):
        ledger.add(record, reason)
    with pytest.raises(DataError) as raised:
        ledger.add(9, "cut")
    assert str(raised.value) == (
        "folder:x: 10 of 100 records are broken, more than the 9.0% allowed (4 x 'y.jpg' is gone, 3 x empty, 2 x cut); "
        "the last one is record 9: cut; repair the data or raise data.max_broken"
    )
