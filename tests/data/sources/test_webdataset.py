"""`wds:`: what is read from tar shards, the index, and the error for each mistake."""

import json
import os

import pytest

from lit_jax.data.sources.registry import open_source
from lit_jax.data.sources.webdataset import WebDatasetSource
from lit_jax.utils.errors import DataError
from tests.data.conftest import png, write_tar


def opened(tmp_path, *members, caption=None):
    write_tar(tmp_path / "0.tar", members)
    return open_source(f"wds:{tmp_path}", caption=caption)


def as_json(**row):
    return json.dumps(row).encode()


@pytest.mark.parametrize(
    ("members", "captions"),
    [
        ([("txt", "é".encode())], ["é"]),
        ([("txt", b"two\nlines")], ["two\nlines"]),
        ([("json", as_json(caption="a", url="x"))], ["a"]),
        ([("json", as_json(text="a"))], ["a"]),
        ([("txt", b"a"), ("json", as_json(caption="b"))], ["a"]),
        ([("txt", b"a"), ("json", as_json(captions=["b", "c"]))], ["b", "c"]),
        ([("json", as_json(caption=None))], []),
        ([], []),
    ],
)
def test_captions_are_those_of_img2dataset(tmp_path, members, captions):
    source = opened(tmp_path, ("000.JPG", png(0)), *((f"000.{end}", data) for end, data in members))
    assert source[0] == {"image": png(0), "captions": captions, "id": "000"}


def test_another_key_of_the_json_can_hold_the_captions(tmp_path):
    members = [("0.png", png(0)), ("0.txt", b"a"), ("0.json", as_json(better="b"))]
    source = opened(tmp_path, *members, ("1.png", png(1)), ("1.json", as_json(url="x")), caption="better")
    assert source[0]["captions"] == ["b"]
    with pytest.raises(DataError, match="json member has no 'better'; it has url"):
        source[1]


def test_samples_keep_their_order_directories_and_distance(tmp_path):
    big = os.urandom(100_000)
    source = opened(
        tmp_path,
        ("./b/1.seg.png", big),
        ("./b/1.txt", b"one"),
        ("./b/1.depth", big),
        ("./b/1.png", png(1)),
        ("a/0.txt", b"no picture"),
        ("a/2." + "x" * 200, b"a long name has a header of its own"),
        ("a/2.webp", png(2)),
        (".hidden.png", png(3)),
    )
    assert [source[i] for i in range(len(source))] == [
        {"image": png(1), "captions": ["one"], "id": "b/1"},
        {"image": png(2), "captions": [], "id": "a/2"},
    ]


def test_labels_and_class_names_make_a_classification_set(tmp_path):
    (tmp_path / "classnames.txt").write_text("cat\ndog\n")
    source = opened(tmp_path, ("0.png", png(0)), ("0.cls", b"1\n"), ("1.png", png(1)))
    assert source[0]["label"] == 1 and "label" not in source[1] and source.class_names == ("cat", "dog")
    (tmp_path / "classnames.txt").write_text("cat\n")
    with pytest.raises(DataError, match=r"label 1, but classnames\.txt names 1 classes"):
        open_source(f"wds:{tmp_path}")


@pytest.mark.parametrize("place", ["test", "."])
def test_a_set_for_retrieval_has_a_caption_in_each_line(tmp_path, place):
    (tmp_path / "test").mkdir()
    write_tar(tmp_path / "test" / "0.tar", [("0.png", png(0)), ("0.txt", "a cat\nein Händ\r\n".encode())])
    plain = open_source(f"wds:{tmp_path}/test")
    assert plain[0]["captions"] == ["a cat\nein Händ\r\n"]
    (tmp_path / place / "dataset_type.txt").write_text("classification\n")
    again = open_source(f"wds:{tmp_path}/test")
    assert again[0] == plain[0] and again.fingerprint() == plain.fingerprint()
    (tmp_path / place / "dataset_type.txt").write_text(" Retrieval\n")
    source = open_source(f"wds:{tmp_path}/test")
    assert source[0]["captions"] == ["a cat", "ein Händ"] and source.fingerprint() != plain.fingerprint()


@pytest.mark.parametrize(("split", "known"), [("test", True), ("val2017", True), ("shards", False)])
def test_splits_share_the_class_names_in_the_folder_above(tmp_path, split, known):
    (tmp_path / "classnames.txt").write_text("cat\ndog\n")
    (tmp_path / split).mkdir()
    write_tar(tmp_path / split / "0.tar", [("0.png", png(0)), ("0.cls", b"1")])
    source = open_source(f"wds:{tmp_path}/{split}")
    assert source[0]["label"] == 1 and source.class_names == (("cat", "dog") if known else None)
    (tmp_path / split / "classnames.txt").write_text("eel\nfly\n")
    assert open_source(f"wds:{tmp_path}/{split}").class_names == ("eel", "fly")


def test_the_index_is_made_once_and_again_when_a_shard_changes(tmp_path, monkeypatch):
    first = opened(tmp_path, ("0.png", png(0)), ("0.txt", b"a"))
    with monkeypatch.context() as m:
        m.setattr(WebDatasetSource, "_scan", lambda *_: 1 / 0)
        assert open_source(f"wds:{tmp_path}")[0] == first[0]
    again = opened(tmp_path, ("0.png", png(0)), ("0.txt", b"a"), ("1.png", png(1)))
    assert len(again) == 2 and again.fingerprint() != first.fingerprint()


def test_the_index_is_in_the_cache_if_the_place_of_the_data_cannot_be_written(tmp_path, monkeypatch):
    cache, replace = tmp_path / "cache", os.replace

    def refuse(a, b):
        if str(b).startswith(str(tmp_path / "data")):
            raise PermissionError(13, "Permission denied", str(b))
        replace(a, b)

    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(os, "replace", refuse)  # File modes do not stop root.
    (tmp_path / "data").mkdir()
    opened(tmp_path / "data", ("0.png", png(0)))
    assert os.listdir(tmp_path / "data") == ["0.tar"] and len(list((cache / "lit_jax").iterdir())) == 1
    monkeypatch.setattr(WebDatasetSource, "_scan", lambda *_: 1 / 0)
    assert len(open_source(f"wds:{tmp_path / 'data'}")) == 1


def test_a_damaged_index_is_made_again(tmp_path):
    opened(tmp_path, ("0.png", png(0)))
    (index,) = tmp_path.glob(".lit_jax-*")
    for data in (b"", b"ARROW1", index.read_bytes()[:-9]):
        index.write_bytes(data)
        assert open_source(f"wds:{tmp_path}")[0]["image"] == png(0)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[: len(data) // 2], r"shard 0\.tar is not a complete tar file"),
        (lambda data: b"<html>" * 200, r"shard 0\.tar is not a complete tar file"),
        (lambda data: b"", r"shard 0\.tar is not a complete tar file"),
    ],
)
def test_a_shard_that_was_cut_off_is_named(tmp_path, damage, words):
    write_tar(tmp_path / "0.tar", [("0.png", os.urandom(50_000)), ("1.png", os.urandom(50_000))])
    (tmp_path / "0.tar").write_bytes(damage((tmp_path / "0.tar").read_bytes()))
    with pytest.raises(DataError, match=words) as error:
        open_source(f"wds:{tmp_path}/*.tar")
    assert "\n" not in str(error.value)


def test_what_holds_no_pairs_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(DataError, match=r"no picture in its 1 shard;"):
        opened(tmp_path, ("0.txt", b"a"))
    with pytest.raises(
        DataError, match=r"Samples without a picture are left out: 1, the first is '0' in 0\.tar \(.*\.heic 1"
    ):
        opened(tmp_path, ("0.heic", b"a"))


@pytest.mark.parametrize(
    ("member", "words"),
    [
        (("0.txt", b"a\xff"), "txt member is invalid UTF-8 at byte 1"),
        (("0.json", b'{"caption": '), "json member is not JSON"),
        (("0.json", b"[1]"), "json member holds a list"),
        (("0.json", as_json(captions=[1])), "'captions' holds a int, want text"),
    ],
)
def test_a_broken_record_leaves_the_others_readable(tmp_path, member, words):
    source = opened(tmp_path, ("0.png", png(0)), member, ("1.png", png(1)))
    with pytest.raises(DataError, match=words):
        source[0]
    assert source[1]["image"] == png(1)


def test_a_shard_that_goes_missing_later_breaks_its_records(tmp_path):
    source = opened(tmp_path, ("0.png", png(0)))
    (tmp_path / "0.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"'0\.tar' ends before byte"):
        source[0]
    (tmp_path / "0.tar").unlink()
    with pytest.raises(DataError, match=r"'0\.tar' cannot be read: No such file"):
        source[0]
