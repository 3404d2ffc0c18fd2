"""`folder:`: what is read, and the error for each mistake."""

import json
import shutil

import pytest

from lit_jax.data.sources.registry import open_source
from lit_jax.utils.errors import DataError
from tests.data.conftest import RECORDS, png, row


def opened(write_folder, *rows):
    return open_source(f"folder:{write_folder(list(rows))}")


def test_every_line_is_a_record(folder):
    source = open_source(f"folder:{folder}")
    assert len(source) == RECORDS and source.spec == f"folder:{folder}"
    assert source.class_names == ("ant", "cat", "dog")
    for i in range(RECORDS):
        want = {"image": png(i), "captions": row(i)["captions"], "id": f"r{i}", "label": (i % 3 + 1) % 3}
        assert source[i] == want
    with pytest.raises(IndexError):
        source[RECORDS]


@pytest.mark.parametrize(
    ("given", "captions"),
    [({"caption": "a"}, ["a"]), ({"text": "b"}, ["b"]), ({"captions": ["c", "d"]}, ["c", "d"]), ({}, [])],
)
def test_captions_have_any_of_three_keys_or_none(write_folder, given, captions):
    source = opened(write_folder, {"file_name": "00.png"} | given)
    assert source[0] == {"image": png(0), "captions": captions, "id": "00.png"}
    assert source.class_names is None


def test_labels_may_be_numbers(write_folder):
    source = opened(write_folder, {"file_name": "00.png", "label": 7})
    assert source[0]["label"] == 7 and source.class_names is None


def test_blank_lines_and_a_byte_order_mark_are_ignored(write_folder):
    line = json.dumps({"file_name": "01.png", "caption": "x"}).encode()
    other = line.replace(b"01", b"02").replace(b"x", b"y")
    source = opened(write_folder, b"\xef\xbb\xbf" + line, b"", b"  ", other)
    assert [source[i]["captions"] for i in range(len(source))] == [["x"], ["y"]]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"file_name": "00.png", "captoin": "x"}, "unknown key 'captoin'; did you mean 'caption'?"),
        ({"file_name": "00.png", "caption ": "x"}, "unknown key 'caption '; did you mean 'caption'?"),
        ({"file_name": "00.png", "label": 1 << 40}, "label is 1.1e+12, want a number from 0"),
        (b'{"file_name": "00.png", "label": ' + b"9" * 5000 + b"}", "a number that is too long"),
        ({"file_name": "00.png", "label": "\ud800"}, "label is invalid UTF-8 at character 0"),
        ({"caption": "x"}, "no file_name; the keys are caption: call the path of the picture file_name"),
        ({"file_name": 3}, "file_name is 3"),
        ({"file_name": ""}, "file_name is ''"),
        ({"file_name": "../x.png"}, "leads out of the folder"),
        ({"file_name": "a/../../x.png"}, "leads out of the folder"),
        ({"file_name": "a\\..\\x.png"}, "leads out of the folder"),
        ({"file_name": "/etc/passwd"}, "leads out of the folder"),
        ({"file_name": "00.png", "caption": "x", "text": "y"}, "several of caption, captions, text"),
        ({"file_name": "00.png", "label": 1.5}, "label is 1.5"),
        ({"file_name": "00.png", "label": True}, "label is True"),
        ({"file_name": "00.png", "label": -1}, "label is -1"),
        ({"file_name": "00.png", "label": 1}, "labels are both numbers and names"),
        (["00.png"], "found list, want an object"),
        (b'{"file_name": "00.p', "; want an object in each line"),
        (b"[" * 100_000, "is not JSON"),
    ],
)
def test_a_line_that_is_not_understood_is_named(write_folder, line, words):
    with pytest.raises(DataError) as error:
        opened(write_folder, {"file_name": "00.png", "label": "cat"}, line)
    assert "pictures: line 2 of metadata.jsonl" in str(error.value) and words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "latin-1"])
def test_a_table_in_another_encoding_is_refused_with_the_way_out(write_folder, encoding):
    row = '{"file_name": "00.png", "caption": "chèvre"}\n'.encode(encoding)
    row = b"\xfe\xff" + row if encoding == "utf-16-be" else row
    said = r"is invalid UTF-8 at byte 38" if encoding == "latin-1" else "is UTF-16"
    with pytest.raises(DataError, match=rf"{said}; save it as UTF-8"):
        opened(write_folder, row)[0]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"file_name": "missing.png"}, "'missing.png' cannot be read: No such file"),
        ({"file_name": "."}, "'.' cannot be read: Is a directory"),
        ({"file_name": "00.png\0"}, "cannot be read"),
        ({"file_name": "00.png", "caption": None}, "'caption' holds a NoneType, want text"),
        ({"file_name": "00.png", "captions": ["a", 3]}, "'captions' holds a int, want text"),
        (b'{"file_name": "00.png", "caption": "\xff"}', "invalid UTF-8 at byte 36"),
    ],
)
def test_a_broken_record_leaves_the_others_readable(write_folder, line, words):
    source = opened(write_folder, line, {"file_name": "01.png"})
    with pytest.raises(DataError) as error:
        source[0]
    assert words in str(error.value)
    assert source[1]["image"] == png(1)


def test_a_folder_that_is_missing_or_without_records_is_refused(tmp_path, write_folder):
    with pytest.raises(DataError, match="nowhere: there is no such directory"):
        open_source(f"folder:{tmp_path}/nowhere")
    with pytest.raises(DataError, match=r"holds no metadata\.jsonl"):
        open_source(f"folder:{tmp_path}")
    with pytest.raises(DataError, match=r"metadata\.jsonl has no records"):
        opened(write_folder, b"")


def test_the_fingerprint_follows_the_content_and_not_the_place(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    before = open_source(f"folder:{folder}").fingerprint()
    assert open_source(f"folder:{copy}").fingerprint() == before
    (copy / "07.png").write_bytes(png(99))
    changed = open_source(f"folder:{copy}").fingerprint()
    (copy / "07.png").unlink()
    assert len({before, changed, open_source(f"folder:{copy}").fingerprint()}) == 3
