"""`prepare` writes what TFDS and `tfds:` read; nothing half-written is taken for finished."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from lit_jax.data import open_source, prepare
from lit_jax.errors import ConfigError, DataError
from tests.data.conftest import RECORDS, png, row


@pytest.fixture
def source(folder):
    return open_source(f"folder:{folder}")


@pytest.fixture
def out(source, tmp_path):
    return prepare(
        source, tmp_path / "set", name="tiny", split="train", shards=3, license="CC0", description="x"
    )


def test_a_prepared_set_is_the_source(source, out):
    prepared = open_source(f"tfds:{out}/train")
    assert [prepared[i] for i in range(RECORDS)] == [source[i] for i in range(RECORDS)]
    assert len(prepared) == RECORDS and prepared.class_names == source.class_names
    assert (prepared.license, prepared.description) == ("CC0", "x")
    assert len(list(out.glob("*.array_record-*-of-00003"))) == 3


def test_tfds_itself_reads_a_prepared_set(source, out):
    builder = tfds.builder_from_directory(out)
    (example, *_) = builder.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
    assert example["image"] == png(0) and list(example["captions"]) == [
        c.encode() for c in row(0)["captions"]
    ]
    assert example["id"] == b"r0" and builder.info.features["label"].int2str(example["label"]) == "cat"
    assert builder.info.splits["train"].num_examples == RECORDS


def test_no_path_of_this_machine_is_written(out, tmp_path):
    for file in out.iterdir():
        assert str(tmp_path).encode() not in file.read_bytes()


def test_a_second_split_joins_the_first(source, out):
    first = open_source(f"tfds:{out}/train").fingerprint()
    prepare(open_source(f"tfds:{out}/train[:25%]"), out, name="tiny", split="test")
    test = open_source(f"tfds:{out}/test")
    assert [test[i]["id"] for i in range(len(test))] == [f"r{i}" for i in range(10)]
    assert open_source(f"tfds:{out}/train").fingerprint() == first != test.fingerprint()
    assert open_source(f"tfds:{out}/train").license == "CC0"


def test_numbers_as_labels_and_records_without_one_survive(write_folder, tmp_path):
    rows = [{"file_name": "00.png", "label": 7}, {"file_name": "01.png", "caption": "x"}]
    out = prepare(open_source(str(write_folder(rows))), tmp_path / "set", name="tiny", split="train")
    first, second = (open_source(f"{out}/train")[i] for i in range(2))
    assert first["label"] == 7 and first["captions"] == [] and "label" not in second


def test_killed_while_writing_it_leaves_no_set_and_can_be_started_again(source, tmp_path, monkeypatch):
    out = tmp_path / "set"
    with monkeypatch.context() as m:
        m.setattr(shutil, "rmtree", lambda *_, **__: None)  # What a killed process does not get to do.
        m.setattr(sys.modules["lit_jax.data.prepare"], "_write_info", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(source, out, name="tiny", split="train", shards=3)
    with pytest.raises(DataError):
        open_source(f"tfds:{out}/train")
    prepare(source, out, name="tiny", split="train")
    assert len(open_source(f"tfds:{out}/train")) == RECORDS
    assert not [p for p in out.iterdir() if p.name.startswith(".")]


def test_the_file_that_makes_the_split_exist_is_moved_in_last(source, tmp_path, monkeypatch):
    moved, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (moved.append(Path(b).name), replace(a, b)))
    out = prepare(source, tmp_path / "set", name="tiny", split="train", shards=2)
    assert moved[-1] == "dataset_info.json" and sorted(moved) == sorted(p.name for p in out.iterdir())


def test_a_broken_record_is_an_error_or_left_out(write_folder, tmp_path):
    rows = [row(i) for i in range(4)]
    rows[1]["file_name"] = "gone.png"
    rows[2]["captions"] = ["\ud800"]
    source = open_source(str(write_folder(rows)))
    with pytest.raises(DataError, match=r"pictures: record 1: 'gone\.png' cannot be read"):
        prepare(source, tmp_path / "set", name="tiny", split="train")
    out = prepare(source, tmp_path / "set", name="tiny", split="train", shards=2, on_bad_record="skip")
    prepared = open_source(f"tfds:{out}/train")
    assert [prepared[i]["id"] for i in range(len(prepared))] == ["r0", "r3"]


def test_what_cannot_be_prepared_is_refused_and_what_is_there_stays(
    source, out, folder, write_folder, tmp_path
):
    before = {p: p.read_bytes() for p in out.iterdir()}
    other = open_source(str(write_folder([{"file_name": "00.png", "label": "cow"}], name="other")))
    for arguments, error, words in [
        ((source, out, {"name": "tiny", "split": "train"}), DataError, "already has a split 'train'"),
        ((source, out, {"name": "huge", "split": "test"}), DataError, "holds the set 'tiny', not 'huge'"),
        (
            (other, out, {"name": "tiny", "split": "test"}),
            DataError,
            "other labels than the splits already there",
        ),
        ((source, folder, {"name": "tiny", "split": "train"}), DataError, "exists and is not a prepared set"),
        ((source, tmp_path / "x", {"name": "Tiny-1", "split": "train"}), ConfigError, "name 'Tiny-1'"),
        ((source, tmp_path / "x", {"name": "tiny", "split": "a/b"}), ConfigError, "split 'a/b'"),
        (
            (source, tmp_path / "x", {"name": "tiny", "split": "all"}),
            ConfigError,
            "TFDS's word for all splits",
        ),
        (
            (source, tmp_path / "x", {"name": "tiny", "split": "a", "shards": 41}),
            ConfigError,
            "41 shards for 40",
        ),
    ]:
        with pytest.raises(error, match=words):
            prepare(arguments[0], arguments[1], **arguments[2])
    assert {p: p.read_bytes() for p in out.iterdir()} == before
    assert not (tmp_path / "x").exists()


def test_the_metadata_say_which_splits_there_are(out):
    info = json.loads((out / "dataset_info.json").read_text())
    assert [(s["name"], s["shardLengths"]) for s in info["splits"]] == [("train", ["13", "13", "14"])]
