"""Which captions of a record are drawn."""

import numpy as np
import pytest

from lit_jax.data.captions import usable_captions
from lit_jax.data.shuffle import draw, shuffled
from lit_jax.data.sources.registry import open_source
from lit_jax.utils.errors import DataError
from tests.data.conftest import RECORDS, read_batches, texts_of


@pytest.mark.parametrize(
    ("captions", "usable"),
    [
        (["good", ""], ["good"]),
        (["", " ", "good", "\0", "also good"], ["good", "also good"]),
        (["\ud800", "good"], ["good"]),
        (["good", None, 7], ["good"]),
    ],
)
def test_captions_that_cannot_be_used_are_left_out(captions, usable):
    assert usable_captions(captions) == usable


@pytest.mark.parametrize(
    ("captions", "why"),
    [
        ([], "record has no caption"),
        ([""], "caption is empty"),
        (["", " "], "none of its 2 captions can be used: caption is empty"),
    ],
)
def test_a_record_without_a_usable_caption_is_broken(captions, why):
    with pytest.raises(DataError) as raised:
        usable_captions(captions)
    assert str(raised.value) == why


def test_every_record_with_an_empty_slot_trains_on_its_other_captions(write_folder):
    rows = [{"file_name": f"{i:02d}.png", "captions": [f"good {i}", ""]} for i in range(RECORDS)]
    batches = read_batches(open_source(f"folder:{write_folder(rows)}"))
    seen = []
    for _ in range(10):
        batch = next(batches)
        assert texts_of(batch) == [f"good {i}" for i in batch["index"]]
        seen += batch["index"].tolist()
    assert not batches.ledger.broken and sorted(seen[:RECORDS]) == list(range(RECORDS))


def test_captions_that_are_all_usable_are_drawn_by_their_number_in_the_record(write_folder):
    rows = [
        {"file_name": f"{i:02d}.png", "captions": [f"{i} {j}" for j in range(1 + i % 5)]}
        for i in range(RECORDS)
    ]
    batches = read_batches(open_source(f"folder:{write_folder(rows)}"), seed=7)
    for step in range(10):
        batch = next(batches)
        for place, (index, text) in enumerate(zip(batch["index"], texts_of(batch), strict=True)):
            row = 8 * step + place
            assert index == shuffled(row, RECORDS, 7)
            number = draw(1 + int(index) % 5, "caption", 7, row)
            assert text == f"{index} {number}"


def test_the_usable_captions_of_a_record_are_drawn_alike(write_folder):
    rows = [{"file_name": f"{i:02}.png", "captions": ["", "a", "", "b", "c"]} for i in range(RECORDS)]
    batches = read_batches(open_source(f"folder:{write_folder(rows)}"))
    drawn = [text for _ in range(100) for text in texts_of(next(batches))]
    counts = np.array([drawn.count(text) for text in "abc"])
    assert counts.sum() == 800
    assert np.abs(counts - 800 / 3).max() < 4 * np.sqrt(800 * 2 / 9)
