"""Samples of tar shards in any order, with labels of any form and names that occur twice."""

import hashlib
import json
import tarfile

import numpy as np
import pytest

from lit_jax.data.sources import record_index
from lit_jax.data.sources.files import Files, stamp
from lit_jax.data.sources.registry import open_source
from lit_jax.utils.errors import DataError
from tests.data.conftest import png, write_tar

BOM = b"\xef\xbb\xbf"


def opened(tmp_path, *members, name="0.tar"):
    write_tar(tmp_path / name, members)
    return open_source(f"wds:{tmp_path}")


def pairs(source):
    return [(source[i]["image"], source[i]["captions"]) for i in range(len(source))]


def plain_fingerprint(*shards, class_names=None):
    """The fingerprint of shards in the usual order, as every version of lit_jax computes it."""
    hashes = [hashlib.sha256(shard.read_bytes()).hexdigest() for shard in shards]
    text = json.dumps([[shard.name for shard in shards], hashes, None, class_names])
    return hashlib.sha256(text.encode()).hexdigest()


PICTURES = [(f"{i}.png", png(i)) for i in range(4)]
TEXTS = [(f"{i}.txt", b"%d" % i) for i in range(4)]
WANT = [(png(i), [str(i)]) for i in range(4)]


@pytest.mark.parametrize(
    "members",
    [
        PICTURES + TEXTS,
        TEXTS + PICTURES[::-1],
        PICTURES[:2] + TEXTS[::-1] + PICTURES[2:],
    ],
)
def test_members_of_a_sample_may_stand_anywhere_in_their_shard(tmp_path, members):
    source = opened(tmp_path, *members)
    assert sorted(pairs(source)) == sorted(WANT) and source.remarks == ()
    assert source.fingerprint() != plain_fingerprint(tmp_path / "0.tar")


def test_members_in_the_usual_order_keep_their_fingerprint(tmp_path):
    members = [part for pair in zip(PICTURES, TEXTS, strict=True) for part in pair]
    extra = [("0.npy", b"x"), ("1.npy", b"x")]  # At the end, where they split no sample.
    assert opened(tmp_path, *members, *extra).fingerprint() == plain_fingerprint(tmp_path / "0.tar")
    write_tar(tmp_path / "1.tar", [("8.png", png(8)), ("8.cls", b"1\n"), ("9.png", png(9)), ("9.cls", b"")])
    source = open_source(f"wds:{tmp_path}")
    assert source.fingerprint() == plain_fingerprint(tmp_path / "0.tar", tmp_path / "1.tar")


def test_an_index_by_older_rules_is_made_again(tmp_path):
    source = opened(tmp_path, *PICTURES, *TEXTS)
    (index,) = tmp_path.glob(".lit_jax-*")
    index.unlink()
    files = Files(source.spec, str(tmp_path))
    old = stamp(files.glob(".tar"))
    record_index.open_index(files, str(tmp_path), "wds .", old, lambda: ({"label": np.zeros(9, int)}, {}))
    assert list(tmp_path.glob(".lit_jax-*")) == [index]
    assert sorted(pairs(open_source(f"wds:{tmp_path}"))) == sorted(WANT)


def test_a_name_that_occurs_twice_is_two_records_with_two_ids(tmp_path):
    parts = [("a/0.png", png(0)), ("a/0.txt", b"old"), ("a/0.png", png(1)), ("a/0.txt", b"new")]
    source = opened(tmp_path, *parts)
    assert [source[i] for i in range(len(source))] == [
        {"image": png(0), "captions": ["old"], "id": "a/0"},
        {"image": png(1), "captions": ["new"], "id": "a/0#2"},
    ]
    with tarfile.open(tmp_path / "0.tar") as tar:
        at = tar.getmembers()[2].offset
    assert (
        len(source.remarks) == 1
        and f": 1, the first is 'a/0.png' at byte {at} of 0.tar." in source.remarks[0]
    )
    assert source.fingerprint() != plain_fingerprint(tmp_path / "0.tar")


def test_ids_that_occur_in_several_shards_are_counted(tmp_path):
    opened(tmp_path, *PICTURES)
    source = opened(tmp_path, *PICTURES[1:3], name="1.tar")
    assert source.remarks == (
        "Records have the id of an earlier one in another shard: 2, the first is '1' in 1.tar.",
    )
    assert source.fingerprint() == plain_fingerprint(tmp_path / "0.tar", tmp_path / "1.tar")


def test_the_usual_picture_of_a_sample_is_read_and_the_others_are_counted(tmp_path):
    source = opened(
        tmp_path,
        ("0.jfif", png(9)),
        ("0.png", png(0)),
        ("0.jpg", png(8)),
        ("1.jpe", png(1)),
        ("2.heic", png(2)),
        ("2.txt", b"no picture that can be read"),
    )
    assert [image for image, _ in pairs(source)] == [png(0), png(1)]
    beside, without = source.remarks
    assert "beside another picture" in beside and ": 2, the first is '0.png'" in beside
    assert (
        "without a picture" in without
        and ": 1, the first is '2' in 0.tar" in without
        and ".heic 1" in without
    )


@pytest.mark.parametrize("ending", ["avif", "AVIF", "avifs"])
def test_an_avif_member_is_the_picture_of_its_sample_if_there_is_no_usual_one(tmp_path, ending):
    source = opened(
        tmp_path,
        (f"0.{ending}", png(9)),
        ("0.png", png(0)),
        (f"1.{ending}", png(1)),
        ("1.txt", b"a"),
    )
    assert pairs(source) == [(png(0), []), (png(1), ["a"])]
    assert len(source.remarks) == 1 and "beside another picture" in source.remarks[0]


LATER = {
    "none": (["0.jfif"], ["endings"]),
    "one": (["0.jfif", "1.avif"], ["endings", "later endings"]),
    "one beside a usual one": (["0.jfif", "1.avif", "1.jpg"], ["endings"]),
}


@pytest.mark.parametrize("case", LATER)
def test_a_picture_whose_ending_is_read_only_now_changes_the_fingerprint(tmp_path, case):
    names, changed = LATER[case]
    source = opened(tmp_path, *((name, png(0)) for name in names))
    parts = [["0.tar"], [hashlib.sha256((tmp_path / "0.tar").read_bytes()).hexdigest()], None, None, changed]
    assert source.fingerprint() == hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path):
    row = BOM + json.dumps({"caption": "b"}).encode()
    source = opened(tmp_path, *PICTURES[:2], ("0.txt", BOM + b"a"), ("1.json", row))
    assert pairs(source) == [(png(0), ["a"]), (png(1), ["b"])]
    tidy = [PICTURES[0], ("0.txt", BOM + b"a")]
    assert opened(tmp_path, *tidy).fingerprint() != plain_fingerprint(tmp_path / "0.tar")


def labels(source):
    return [source[i].get("label") for i in range(len(source))]


def test_numbers_in_cls_members_are_labels_and_empty_ones_are_none(tmp_path):
    held = [b"3\n", BOM + b"0", b"", b"-1", b" \n", b"7" * 30, b"-2", b"\xff", b"a\nb"]
    parts = [part for i, data in enumerate(held) for part in ((f"{i}.png", png(i)), (f"{i}.cls", data))]
    source = opened(tmp_path, *parts)
    assert labels(source) == [3, 0] + [None] * 7 and source.class_names is None
    empty, unknown, unnamed = source.remarks
    assert ": 3, the first is '2.cls' at byte" in empty
    assert ": 4, the first is '5.cls' at byte" in unknown and "which holds b'77" in unknown
    assert "up to 3; write their names, one per line, to classnames.txt" in unnamed


def test_names_in_cls_members_are_classes_sorted_over_all_shards(tmp_path):
    opened(tmp_path, *PICTURES[:3], ("0.cls", b"dog\n"), ("2.cls", b"ant"))
    source = opened(
        tmp_path, ("7.png", png(7)), ("7.cls", b"cat"), ("8.png", png(8)), ("8.cls", b"dog"), name="1.tar"
    )
    assert source.class_names == ("ant", "cat", "dog") and labels(source) == [2, None, 0, 1, 2]
    (tmp_path / "classnames.txt").write_bytes(BOM + b"cat\r\ndog\r\nant\r\n\r\n")
    source = open_source(f"wds:{tmp_path}")
    assert source.class_names == ("cat", "dog", "ant") and labels(source) == [1, None, 2, 0, 1]


@pytest.mark.parametrize(
    ("cls", "names", "words"),
    [
        (
            (b"cat", b"2"),
            None,
            r"cls members hold numbers \('1\.cls' at byte \d+ of 0\.tar\) and names \('cat'\)",
        ),
        ((b"cat", b"dog"), b"cat\nant\n", r"a cls member holds 'dog', which classnames\.txt does not name"),
        ((b"0", b"1"), b"cat\n\ndog\n", r"line 2 of classnames\.txt is empty"),
        ((b"0", b"1"), b"cat\n\xff\n", r"wds:.*classnames\.txt is invalid UTF-8 at byte 4"),
    ],
)
def test_labels_that_cannot_be_understood_are_refused(tmp_path, cls, names, words):
    if names is not None:
        (tmp_path / "classnames.txt").write_bytes(names)
    parts = [part for i, data in enumerate(cls) for part in ((f"{i}.png", png(i)), (f"{i}.cls", data))]
    with pytest.raises(DataError, match=words):
        opened(tmp_path, *parts)


def test_a_number_too_long_for_json_breaks_its_record_alone(tmp_path):
    source = opened(tmp_path, PICTURES[0], ("0.json", b"[" + b"1" * 5000 + b"]"), *PICTURES[1:])
    with pytest.raises(DataError, match="json member is not JSON"):
        source[0]
    assert source[1]["image"] == png(1)


def test_a_sample_called_as_a_repeated_one_is_numbered_keeps_its_own_record(tmp_path):
    parts = [("1.png", png(0)), ("1.png", png(1)), ("1#2.jpg", png(2)), ("1#2.txt", b"c")]
    source = opened(tmp_path, *parts)
    assert [(source[i]["image"], source[i]["captions"]) for i in range(len(source))] == [
        (png(0), []),
        (png(1), []),
        (png(2), ["c"]),
    ]
    assert len({source[i]["id"] for i in range(3)}) == 3
