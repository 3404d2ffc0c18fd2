"""The ledger of broken records: what it counts, and what it says when there are too many."""

import pytest

from lit_jax.data.bad_records import Ledger, frequent
from lit_jax.utils.errors import DataError


def test_reasons_that_differ_only_in_names_and_numbers_are_of_one_kind():
    reasons = ["'a.jpg' cannot be read", "not an image: 6 bytes", "'b c.jpg' cannot be read"]
    reasons += ["not an image: 17 bytes", '"it\'s.jpg" cannot be read', "caption is empty"]
    assert frequent(reasons) == [
        ("'a.jpg' cannot be read", 3),
        ("not an image: 6 bytes", 2),
        ("caption is empty", 1),
    ]
    assert frequent(reasons, 1) == [("'a.jpg' cannot be read", 3)]


def test_too_many_broken_records_are_reported_with_the_three_most_frequent_reasons():
    ledger = Ledger("folder:x", 100, 0.09)
    for record, reason in enumerate(["empty"] * 3 + ["'y.jpg' is gone"] * 4 + ["odd", "cut"]):
        ledger.add(record, reason)
    with pytest.raises(DataError) as raised:
        ledger.add(9, "cut")
    assert str(raised.value) == (
        "folder:x: 10 of 100 records are broken, more than the 9.0% allowed (4 x 'y.jpg' is gone, 3 x empty, 2 x cut); "
        "the last one is record 9: cut; repair the data or raise data.max_broken"
    )


def test_damaged_lines_of_a_ledger_are_counted_and_the_others_read(tmp_path, caplog):
    path = tmp_path / "ledger.jsonl"
    good = b'{"record": 3, "reason": "cut"}\n'
    path.write_bytes(
        b"\xff\xfe\n" + good + b"[" * 10_000 + b'\n{"record": 1e999, "reason": ""}\n{"record": 5, "re'
    )
    assert Ledger("folder:x", 100, 0.5, path, rows=8).broken == {3: "cut"}
    assert [r.getMessage() for r in caplog.records] == [f"{path}: 3 of 4 lines are damaged and left out"]


def test_a_folder_in_place_of_a_ledger_is_set_aside(tmp_path):
    (tmp_path / "ledger.jsonl").mkdir()
    ledger = Ledger("folder:x", 100, 0.5, tmp_path / "ledger.jsonl", rows=8)
    ledger.add(3, "cut")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ledger.jsonl", "ledger.jsonl.damaged"]
    assert Ledger("folder:x", 100, 0.5, tmp_path / "ledger.jsonl", rows=8).broken == {3: "cut"}
