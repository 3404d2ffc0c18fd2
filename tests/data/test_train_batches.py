"""Training batches, whose position is the step, however they are read; and evaluation batches."""

import itertools
import json
import logging
from collections import Counter

import numpy as np
import pytest

from lit_jax.data.eval_batches import image_batches, text_batches
from lit_jax.data.reader import tries_of
from lit_jax.data.sources.registry import open_source
from lit_jax.utils.errors import ConfigError, DataError
from lit_jax.utils.typing import ProcessShard
from tests.data.conftest import RECORDS, decode, png, read_batches, row, texts_of, tokenize

B = 8


def some(source, count, **changes):
    batches = read_batches(source, **changes)
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def same(batch, want):
    assert batch.keys() == want.keys()
    assert texts_of(batch) == texts_of(want)
    for key in batch.keys() - {"texts"}:
        np.testing.assert_array_equal(batch[key], want[key])


@pytest.fixture
def source(folder):
    return open_source(f"folder:{folder}")


def test_a_batch_holds_the_picture_and_a_caption_of_the_record_that_it_names(source):
    (batch,) = some(source, 1)
    assert batch["images"].shape == (B, 4, 4, 3) and batch["images"].dtype == np.uint8
    assert batch["index"].dtype == batch["texts"]["input_ids"].dtype == np.int32
    for index, image, text in zip(batch["index"], batch["images"], texts_of(batch), strict=True):
        np.testing.assert_array_equal(image, decode(png(index)))
        assert text in row(index)["captions"]


def test_every_epoch_holds_every_record_once_in_another_order(source):
    indices = np.concatenate([b["index"] for b in some(source, 10)]).reshape(2, RECORDS)
    assert sorted(indices[0]) == sorted(indices[1]) == list(range(RECORDS))
    assert list(indices[0]) != list(range(RECORDS)) != list(indices[1])
    assert list(indices[0]) != list(indices[1])


def test_another_seed_gives_another_order(source):
    assert not np.array_equal(some(source, 1)[0]["index"], some(source, 1, seed=4)[0]["index"])


def test_all_captions_of_a_record_are_drawn_over_the_epochs(source):
    texts = Counter(text for batch in some(source, 50) for text in texts_of(batch))
    assert len(texts) == 2 * RECORDS


def test_the_order_of_a_seed_never_changes(source):
    """The expected order is fixed: no new version of anything may change the data of a resumed run."""
    (batch,) = some(source, 1)
    assert batch["index"].tolist() == [1, 7, 37, 11, 13, 6, 38, 39]
    captions = [row(index)["captions"] for index in batch["index"]]
    assert [two.index(text) for two, text in zip(captions, texts_of(batch), strict=True)] == [
        0,
        1,
        1,
        0,
        0,
        0,
        1,
        1,
    ]


@pytest.mark.parametrize("threads", [0, 1, 4])
@pytest.mark.parametrize("start", [1, 6])
def test_resuming_at_a_step_with_any_number_of_threads_gives_the_same_batches(source, start, threads):
    straight = some(source, 9)
    for want, batch in zip(
        straight[start:], some(source, 9 - start, start=start, threads=threads), strict=True
    ):
        same(batch, want)


@pytest.mark.parametrize("processes", [2, 4, 8])
def test_the_processes_together_read_the_rows_of_one_process(write_folder, processes):
    source = open_source(f"folder:{write_folder(broken={5})}")
    whole = some(source, 6, max_bad_share=0.1)
    parts = [some(source, 6, shard=ProcessShard(p, processes), max_bad_share=0.1) for p in range(processes)]
    for i, batch in enumerate(whole):
        same(
            batch,
            {
                "images": np.concatenate([part[i]["images"] for part in parts]),
                "index": np.concatenate([part[i]["index"] for part in parts]),
                "texts": {"input_ids": np.concatenate([part[i]["texts"]["input_ids"] for part in parts])},
            },
        )


def test_a_process_resumes_at_the_step_that_all_have_reached(source):
    here = {"shard": ProcessShard(1, 2)}
    for want, batch in zip(some(source, 5, **here)[3:], some(source, 2, start=3, **here), strict=True):
        same(batch, want)


def test_a_broken_record_is_replaced_named_and_counted_and_the_other_rows_stay_the_same(
    write_folder, tmp_path, caplog
):
    sound = open_source(f"folder:{write_folder(name='sound')}")
    broken = open_source(f"folder:{write_folder(broken={5, 9}, name='broken')}")
    ledger = tmp_path / "ledger.jsonl"
    batches = read_batches(broken, threads=None, max_bad_share=0.1, ledger_path=ledger)
    with caplog.at_level(logging.WARNING):
        got = list(itertools.islice(batches, 10))
    batches.close()
    for batch, want in zip(got, some(sound, 10), strict=True):
        for i, index in enumerate(want["index"]):
            if index in (5, 9):
                assert batch["index"][i] not in (5, 9)
            else:
                assert batch["index"][i] == index and texts_of(batch)[i] == texts_of(want)[i]
    assert batches.ledger.broken == {5: "not an image", 9: "not an image"}
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert sorted(line["record"] for line in lines) == [5, 9]
    assert all(line["reason"] == "not an image" and line["replaced_by"] not in (5, 9) for line in lines)
    assert "record 5 is broken and skipped: not an image" in caplog.text
    for start, threads in ((2, 0), (3, 4)):
        resumed = some(broken, 10 - start, start=start, threads=threads, max_bad_share=0.1)
        for want, batch in zip(got[start:], resumed, strict=True):
            same(batch, want)


def test_too_many_broken_records_end_the_run(write_folder):
    source = open_source(f"folder:{write_folder(broken={1, 2, 3})}")
    with pytest.raises(
        DataError, match=r"2 of 40 records are broken, more than the 2\.5% allowed.*not an image"
    ):
        some(source, 10, max_bad_share=0.025)
    with pytest.raises(DataError, match=r"1 of 40 records are broken, more than the 1\.0% allowed"):
        some(source, 10, threads=2)


def test_a_source_without_any_sound_record_ends_the_run(write_folder):
    source = open_source(f"folder:{write_folder(broken=range(RECORDS))}")
    why = r"pictures: 20 records drawn in a row are broken \(20 x not an image\); the last one is record \d+: not an"
    with pytest.raises(DataError, match=why):
        some(source, 1)


@pytest.mark.parametrize(("share", "tries"), [(0.0, 20), (0.01, 20), (0.5, 133), (0.9, 875), (1.0, 1000)])
def test_a_row_is_given_up_only_when_chance_cannot_explain_it(share, tries):
    assert tries_of(share) == tries
    if 0 < share < 1:
        assert share**tries < 1.0001e-40


def test_most_records_may_be_broken_if_that_is_allowed(write_folder):
    source = open_source(f"folder:{write_folder(broken=range(3, RECORDS))}")
    batches = some(source, 10, max_bad_share=0.95)
    assert {int(i) for batch in batches for i in batch["index"]} == {0, 1, 2}


def test_a_broken_record_is_an_error_if_that_is_requested(write_folder):
    source = open_source(f"folder:{write_folder(broken={5})}")
    with pytest.raises(DataError, match="pictures: record 5: not an image"):
        some(source, 10, on_bad_record="error", threads=2)


def test_pooled_rows_stand_in_for_the_pictures(source):
    pooled = np.arange(RECORDS * 6, dtype=np.float64).reshape(RECORDS, 6)
    for batch, want in zip(some(source, 6, decode=None, pooled=pooled), some(source, 6), strict=True):
        assert "images" not in batch and batch["pooled_images"].dtype == np.float32
        np.testing.assert_array_equal(batch["index"], want["index"])
        np.testing.assert_array_equal(batch["pooled_images"], pooled[want["index"]])
        assert texts_of(batch) == texts_of(want)


def test_a_pooled_row_that_is_not_finite_is_replaced_as_its_broken_picture_would_be(write_folder):
    source = open_source(f"folder:{write_folder(broken={5})}")
    pooled = np.zeros((RECORDS, 6), np.float32)
    pooled[5] = np.nan
    cached = some(source, 10, decode=None, pooled=pooled, max_bad_share=0.1)
    for batch, want in zip(cached, some(source, 10, max_bad_share=0.1), strict=True):
        np.testing.assert_array_equal(batch["index"], want["index"])


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"batch_size": 41}, DataError, "has 40 records, fewer than one batch of 41"),
        ({"shard": ProcessShard(0, 3)}, ConfigError, "8 is not divisible by 3 processes"),
        ({"shard": ProcessShard(2, 2)}, ConfigError, "process 2 of 2"),
        ({"batch_size": 0}, ConfigError, "batch size 0"),
        ({"seed": -1}, ConfigError, "seed -1"),
        ({"start": -1}, ConfigError, "start -1"),
        ({"threads": -1}, ConfigError, "threads -1"),
        ({"workers": -1}, ConfigError, "workers -1"),
        ({"on_bad_record": "drop"}, ConfigError, "on_bad_record is 'drop'; want 'skip' or 'error'"),
        ({"pooled": np.zeros((39, 6))}, DataError, r"shape \(39, 6\); want one row for each of the 40"),
        ({"decode": None}, ConfigError, "neither decode nor pooled"),
    ],
)
def test_what_cannot_be_read_is_refused_before_the_first_batch(source, changes, error, words):
    with pytest.raises(error, match=words):
        some(source, 0, **changes)


def test_image_batches_give_every_picture_once_in_order(source):
    batches = list(image_batches(source, decode, batch_size=16, threads=2))
    assert [b["images"].shape for b in batches] == [(16, 4, 4, 3)] * 3
    mask = np.concatenate([b["mask"] for b in batches])
    assert mask.tolist() == [True] * 40 + [False] * 8
    np.testing.assert_array_equal(np.concatenate([b["index"] for b in batches])[mask], np.arange(40))
    images = np.concatenate([b["images"] for b in batches])
    for i in range(RECORDS):
        np.testing.assert_array_equal(images[i], decode(png(i)))
    assert not images[40:].any()


def test_image_batches_name_a_broken_picture_or_mask_it(write_folder):
    source = open_source(f"folder:{write_folder(broken={0, 1})}")
    with pytest.raises(DataError, match="record 0: r0: not an image"):
        list(image_batches(source, decode, batch_size=2))
    skip = {"batch_size": 2, "on_bad_record": "skip"}
    first, second, *_ = image_batches(source, decode, max_bad_share=0.1, **skip)
    assert first["mask"].tolist() == [False, False] and first["index"].tolist() == [0, 1]
    assert first["images"].shape == (2, 4, 4, 3) and not first["images"].any()
    assert second["mask"].all()
    with pytest.raises(DataError, match="1 of 40 records are broken"):
        list(image_batches(source, decode, **skip))


def test_text_batches_give_every_text_once_in_order():
    texts = ["a", "", "c", "d", "é"]
    batches = list(text_batches(texts, tokenize, batch_size=2))
    assert [t for b in batches for t in texts_of(b)] == [*texts, ""]
    assert [m for b in batches for m in b["mask"].tolist()] == [True] * 5 + [False]
    with pytest.raises(DataError, match="no texts"):
        text_batches([], tokenize, batch_size=2)


@pytest.mark.parametrize("count", [2, 3])
def test_processes_share_the_rows_of_every_batch_and_have_equally_many_batches(source, count):
    texts = [str(i) for i in range(RECORDS)]
    for make in (
        lambda **who: image_batches(source, decode, batch_size=18, threads=2, **who),
        lambda **who: text_batches(texts, tokenize, batch_size=18, **who),
    ):
        parts = [list(make(shard=ProcessShard(i, count))) for i in range(count)]
        assert {len(part) for part in parts} == {3}
        for whole, *some in zip(make(), *parts, strict=True):
            for name in ("index", "mask"):
                np.testing.assert_array_equal(np.concatenate([b[name] for b in some]), whole[name])
        assert [b["index"].tolist() for b in make()][-1] == [*range(36, 40), *[-1] * 14]
