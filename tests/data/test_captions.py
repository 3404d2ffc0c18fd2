"""Which captions of a record are drawn."""

import numpy as np
import pytest

from lit_jax.data.captions import usable_captions
from lit_jax.data.pooled_texts import PooledTexts
from lit_jax.data.shuffle import draw, draws, shuffled
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


def test_the_usable_captions_of_a_record_are_drawn_equally_often(write_folder):
    rows = [{"file_name": f"{i:02}.png", "captions": ["", "a", "", "b", "c"]} for i in range(RECORDS)]
    batches = read_batches(open_source(f"folder:{write_folder(rows)}"))
    drawn = [text for _ in range(100) for text in texts_of(next(batches))]
    counts = np.array([drawn.count(text) for text in "abc"])
    assert counts.sum() == 800
    assert np.abs(counts - 800 / 3).max() < 4 * np.sqrt(800 * 2 / 9)


def several(source, count, batches=1, **options):
    reading = read_batches(source, captions_per_image=count, **options)
    taken = [next(reading) for _ in range(batches)]
    reading.close()
    return taken


def words(batch):
    """The captions of each picture."""
    ids = batch["texts"]["input_ids"]
    return [[bytes(line[line > 0].tolist()).decode() for line in lines] for lines in ids]


def test_several_captions_are_distinct_and_the_first_is_the_one_drawn_alone(folder):
    source = open_source(f"folder:{folder}")
    for batch, single in zip(several(source, 2, 5), several(source, 1, 5), strict=True):
        assert batch["texts"]["input_ids"].shape == (8, 2, 16)
        np.testing.assert_array_equal(batch["images"], single["images"])
        assert [first for first, _ in words(batch)] == texts_of(single)
        for index, pair in zip(batch["index"], words(batch), strict=True):
            assert set(pair) == {f"{index} one", f"{index} zwei é"}


def test_captions_that_are_too_few_are_drawn_repeatedly(folder):
    (batch,) = several(open_source(f"folder:{folder}"), 5)
    for texts in words(batch):
        assert sorted(map(texts.count, set(texts))) == [2, 3]


def test_numbers_that_are_drawn_together_are_distinct_and_depend_on_the_key():
    for count, below in ((3, 7), (7, 7), (1, 1), (4, 3)):
        numbers = draws(count, below, "key", 1)
        assert len(numbers) == count and len(set(numbers)) == min(count, below)
        assert numbers[0] == draw(below, "key", 1) and max(numbers) < below
    seen = {tuple(draws(2, 3, "key", row)) for row in range(200)}
    assert len(seen) == 6  # Every ordered pair occurs.


def test_cached_captions_are_drawn_like_captions(folder):
    source = open_source(f"folder:{folder}")
    captions = [caption for i in range(RECORDS) for caption in source[i]["captions"]]
    rows = np.arange(len(captions), dtype=np.float32)[:, None]
    cached = PooledTexts(rows, np.arange(0, 2 * RECORDS + 1, 2), np.arange(len(captions), dtype=np.int32))
    (batch,), (drawn,) = several(source, 3), several(source, 3, captions=cached)
    assert drawn["pooled_texts"].shape == (8, 3, 1) and drawn["text_groups"].shape == (8, 3)
    chosen = [[captions[int(number)] for number in numbers] for numbers in drawn["text_groups"]]
    assert chosen == words(batch)
