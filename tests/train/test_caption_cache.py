"""The cached outputs of a text tower: one row for each caption, whatever interrupts the run or damages the files."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from lit_jax.data.sources.registry import open_source
from lit_jax.data.train_batches import Reading, TrainTransforms, train_batches
from lit_jax.parallel.sharding import make_mesh
from lit_jax.train import caption_cache
from lit_jax.train.cache_draft import Draft
from lit_jax.train.caption_cache import CaptionCache
from lit_jax.utils.errors import DataError
from tests import tiny


@pytest.fixture
def source(tmp_path):
    """Ten records of one to three captions."""
    spec = tiny.write_pairs(tmp_path / "pairs", n=10)
    path = tmp_path / "pairs" / "metadata.jsonl"
    rows = [json.loads(row) for row in path.read_text().splitlines()]
    for i, row in enumerate(rows):
        row["captions"] = [f"caption {j} of {i}" for j in range(1 + i % 3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return open_source(spec)


def tokenize(texts):
    """The numbers in a text."""
    ids = [[int(word) for word in text.split() if word.isdecimal()] or [0, 0] for text in texts]
    return {"input_ids": np.array(ids, np.int32)}


def pooled(folder, source, calls, chunk=1):
    def pool(batch):
        calls.append(len(batch["input_ids"]))
        ids = batch["input_ids"]
        return ids.astype(jnp.float32) * jnp.float32([1, 10]), ids.sum(axis=1)

    caption_cache._CHUNK, before = chunk, caption_cache._CHUNK
    try:
        return CaptionCache(folder, pool, tokenize, make_mesh(), batch_size=8).pooled("k" * 64, source)
    finally:
        caption_cache._CHUNK = before


def wanted(source):
    """The rows of each record."""
    return [[[j, 10 * i] for j in range(len(source[i]["captions"]))] for i in range(len(source))]


def test_every_caption_has_its_own_row_and_is_computed_once(tmp_path, source):
    calls = []
    found = pooled(tmp_path / "cache", source, calls)
    for i, rows in enumerate(wanted(source)):
        np.testing.assert_array_equal(found.rows[found.offsets[i] : found.offsets[i + 1]], rows)
    assert found.groups.tolist() == [int(j + i / 10) for j, i in np.concatenate(wanted(source))]
    np.testing.assert_array_equal(found.owner, np.repeat(np.arange(10), [1, 2, 3, 1, 2, 3, 1, 2, 3, 1]))
    again = pooled(tmp_path / "cache", source, calls)
    np.testing.assert_array_equal(again.rows[:], found.rows[:])
    assert calls == [8, 8, 8] and isinstance(found.rows, np.memmap)


def test_a_file_that_is_damaged_or_gone_is_computed_again(tmp_path, source, caplog):
    first = np.array(pooled(tmp_path / "cache", source, []).rows)
    for suffix in (".captions", ".npy"):
        for damage in (
            lambda content: content[:40] + b"x" + content[41:],
            lambda content: content[:-9],
            None,
        ):
            (path,) = (tmp_path / "cache").glob(f"*{suffix}")
            caplog.clear()
            path.unlink() if damage is None else path.write_bytes(damage(path.read_bytes()))
            np.testing.assert_array_equal(pooled(tmp_path / "cache", source, []).rows[:], first)
            assert len(list((tmp_path / "cache").iterdir())) == 2
            assert damage is None or "is damaged" in caplog.text


def test_an_interrupted_run_goes_on_after_the_last_complete_chunk(tmp_path, source, monkeypatch):
    straight = pooled(tmp_path / "straight", source, [])

    class Ended(Exception):
        pass

    whole = caption_cache.put_batch
    left = [2]

    def put_batch(*args):
        left[0] -= 1
        if left[0] < 0:
            raise Ended
        return whole(*args)

    with monkeypatch.context() as patch, pytest.raises(Ended):
        patch.setattr(caption_cache, "put_batch", put_batch)
        pooled(tmp_path / "cut", source, [])
    assert {path.suffix for path in (tmp_path / "cut").iterdir()} == {".part"}
    calls = []
    found = pooled(tmp_path / "cut", source, calls)
    assert calls == [8]  # Two of the ten records are left.
    np.testing.assert_array_equal(found.rows[:], straight.rows[:])
    files = [
        sorted(path.read_bytes() for path in (tmp_path / name).iterdir()) for name in ("cut", "straight")
    ]
    assert files[0] == files[1]


def test_a_record_that_cannot_be_read_has_no_row_and_is_replaced(tmp_path, source):
    path = tmp_path / "pairs" / "metadata.jsonl"
    rows = [json.loads(row) for row in path.read_text().splitlines()]
    rows[4]["captions"] = [""]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = open_source(source.spec)
    found = pooled(tmp_path / "cache", source, [])
    assert found.offsets[4] == found.offsets[5]
    with pytest.raises(DataError, match="no cached caption"):
        found.drawn(4, 0, 0)
    transforms = TrainTransforms(lambda data, key=0: np.zeros((2, 2, 3), np.uint8), tokenize, None, found)
    batch = next(train_batches(source, transforms, Reading(max_bad_share=0.2), batch_size=10, seed=0))
    assert batch.keys() == {"images", "pooled_texts", "text_groups", "index"} and 4 not in batch["index"]


@pytest.mark.parametrize("both", [True, False], ids=["of both", "of texts"])
def test_the_captions_drawn_are_those_drawn_without_a_cache(both, tmp_path, source):
    found = pooled(tmp_path / "cache", source, [])
    pictures = np.zeros((10, 3), np.float32) if both else None

    def decode(data, key=0):
        return np.zeros((2, 2, 3), np.uint8)

    def some(captions, pooled):
        batches = train_batches(
            source, TrainTransforms(decode, tokenize, None, captions), batch_size=5, seed=3, pooled=pooled
        )
        return [next(batches) for _ in range(4)]

    for batch, plain in zip(some(found, pictures), some(None, None), strict=True):
        np.testing.assert_array_equal(batch["index"], plain["index"])
        np.testing.assert_array_equal(batch["pooled_texts"], plain["texts"]["input_ids"] * [1, 10])
        np.testing.assert_array_equal(batch["text_groups"], plain["texts"]["input_ids"].sum(axis=1))


def chunks(draft, numbers):
    for n in numbers:
        draft.append(np.full((2, 3), n, np.float32), 1, counts=[2])


def test_the_damaged_end_of_a_draft_is_cut_off(tmp_path):
    path = tmp_path / "k.npy"
    for spoil in ("rows", "log", "tail of the log", "nothing"):
        with Draft(path) as draft:
            chunks(draft, [0, 1, 2])
        part, log = tmp_path / "k.part", tmp_path / "k.log.part"
        for file, whether in ((part, spoil == "rows"), (log, spoil.endswith("log"))):
            content = file.read_bytes()
            cut = content[:-5] if spoil.startswith("tail") else content[:-5] + b"#" + content[-4:]
            file.write_bytes(cut if whether else content)
        kept = 3 if spoil == "nothing" else 2
        with Draft(path) as draft:
            assert (draft.records, draft.rows) == (kept, 2 * kept), spoil
            assert [one.tolist() for one in draft.about["counts"]] == [[2]] * kept
            chunks(draft, range(kept, 4))
            draft.finish()
        assert [file.name for file in tmp_path.iterdir()] == ["k.npy"]
        np.testing.assert_array_equal(np.load(path)[:, 0], np.repeat(np.arange(4), 2))
        path.unlink()


def test_two_processes_have_drafts_of_their_own(tmp_path):
    path = tmp_path / "k.npy"
    with Draft(path) as first, Draft(path) as second:
        chunks(first, [0, 1])
        chunks(second, [5])
        second.finish()
        first.finish()
    assert np.load(path)[:, 0].tolist() == [0, 0, 1, 1]
    assert [file.name for file in tmp_path.iterdir()] == ["k.npy"]
