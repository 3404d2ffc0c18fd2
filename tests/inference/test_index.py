"""An index without its broken pictures: what it holds, what it says of them, and what a search of it finds."""

import json
import logging
import shutil

import numpy as np
import pytest

import lit_jax
from lit_jax.inference.embedder import Embedder
from lit_jax.inference.index import Index
from tests import tiny

N, BROKEN, SIZE = 10, (2, 3, 4, 5, 9), 2  # Two shards have no sound picture, one has one of two.
KEPT = [i for i in range(N) if i not in BROKEN]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, a folder of sound pictures, and the same folder with some of them broken."""
    folder = tmp_path_factory.mktemp("index")
    lit_jax.save(folder / "model", *tiny.dual(), tiny.processor())
    tiny.write_pairs(folder / "sound", n=N)
    (folder / "sound" / "metadata.jsonl").unlink()
    shutil.copytree(folder / "sound", folder / "broken")
    for i in BROKEN:
        (folder / "broken" / f"{i:03}.png").write_bytes(b"<html>"[: 1 + i % 2])
    return folder


@pytest.fixture(scope="module")
def model(place):
    return Embedder(place / "model")


@pytest.fixture(scope="module")
def rows(place, model):
    """The embedding of every sound picture."""
    return model.pictures(f"folder:{place}/sound")


def skipping(place, model, out, **options):
    return lit_jax.embed(
        f"folder:{place}/broken", out, model, shard_size=SIZE, on_bad_record="skip", **options
    )


@pytest.mark.parametrize("format", ["npy", "parquet"])
def test_broken_pictures_are_left_out_and_named(place, model, rows, tmp_path, format, caplog):
    with caplog.at_level(logging.WARNING):
        index = skipping(place, model, tmp_path / "i", format=format)
    assert (index.pictures, index.skipped) == (len(KEPT), BROKEN)
    found = list(Index.open(index.folder))
    assert [shard.ids for shard in found] == [["000", "001"], ["006", "007"], ["008"]]
    np.testing.assert_allclose(np.concatenate([shard.embeddings for shard in found]), rows[KEPT], atol=1e-5)
    ledger = [json.loads(line) for line in (index.folder / "broken_records.jsonl").read_text().splitlines()]
    assert [(line["source"], line["record"]) for line in ledger] == [
        (f"folder:{place}/broken", i) for i in BROKEN
    ]
    assert all(line["reason"].startswith("not an image") for line in ledger)
    assert not list(index.folder.glob("broken_records-*"))
    assert "5 of 10 pictures are left out (5 x not an image" in caplog.text


def test_a_search_finds_what_a_sort_of_the_sound_pictures_finds(place, model, rows, tmp_path):
    index = skipping(place, model, tmp_path / "i")
    scores = rows[KEPT] @ model.texts(["a red circle"])[0]
    order = np.argsort(-scores, kind="stable")
    hits = lit_jax.search(index, "a red circle", model=model, top=N)
    assert [hit.number for hit in hits] == order.tolist()
    assert [index.record(hit.number) for hit in hits] == [KEPT[i] for i in order]
    assert [hit.id for hit in hits] == [f"{KEPT[i]:03}" for i in order]


def test_after_a_kill_what_was_left_out_before_is_still_named(place, model, tmp_path, monkeypatch):
    whole, done = Embedder.pictures, []

    def killed_in_the_fourth(self, part, **options):
        done.append(part.spec)
        if len(done) == 4:
            raise KeyboardInterrupt
        return whole(self, part, **options)

    monkeypatch.setattr(Embedder, "pictures", killed_in_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        skipping(place, model, tmp_path / "i")
    index = skipping(place, model, tmp_path / "i")
    assert index.skipped == BROKEN and len(done) == 6  # Five shards, and the fourth of them twice.
    assert len((index.folder / "broken_records.jsonl").read_text().splitlines()) == len(BROKEN)


def test_without_skip_a_broken_picture_is_an_error_with_its_name(place, model, tmp_path):
    with pytest.raises(lit_jax.DataError, match=r"broken.*: record 2: 002: not an image"):
        lit_jax.embed(f"folder:{place}/broken", tmp_path / "i", model)
    with pytest.raises(lit_jax.ConfigError, match="on_bad_record is 'drop'; want 'error' or 'skip'"):
        lit_jax.embed(f"folder:{place}/broken", tmp_path / "i", model, on_bad_record="drop")


def test_pictures_that_are_all_broken_give_no_index(place, model, tmp_path):
    (tmp_path / "none").mkdir()
    for name in "ab":
        (tmp_path / "none" / f"{name}.png").write_bytes(b"<html>")
    with pytest.raises(lit_jax.DataError, match="every one of its 2 pictures is broken; "):
        lit_jax.embed(f"folder:{tmp_path}/none", tmp_path / "i", model, on_bad_record="skip")
    with pytest.raises(lit_jax.DataError, match="not complete"):
        Index.open(tmp_path / "i")
