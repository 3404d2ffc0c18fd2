"""`metadata.jsonl`: which keys are read, and what is said of the others."""

import json

import pytest

from lit_jax.data.sources.registry import open_source
from lit_jax.utils.errors import DataError
from tests.data.conftest import records_of


def opened(write_folder, *rows, **options):
    return open_source(f"folder:{write_folder(list(rows))}", **options)


def test_further_keys_are_accepted(write_folder):
    more = {"width": 9, "similarity": 0.31, "url": "http://x", "captions_en": "z", "exif": {"a": [1]}}
    source = opened(
        write_folder, {"file_name": "00.png", "caption": "x"} | more, {"file_name": "01.png", "id": 7}
    )
    assert records_of(source) == [("00.png", ["x"]), ("7", [])] and source.remarks == ()


def test_a_usual_name_is_read_if_no_line_has_the_own_ones(write_folder):
    rows = [{"file_name": "00.png", "title": "t"}, {"file_name": "01.png", "title": ["u", "v"], "url": "w"}]
    assert records_of(opened(write_folder, *rows)) == [("00.png", ["t"]), ("01.png", ["u", "v"])]


def test_a_usual_name_beside_a_caption_is_not_read(write_folder):
    rows = [{"file_name": "00.png", "title": "t"}, {"file_name": "01.png", "title": "u", "caption": "c"}]
    assert records_of(opened(write_folder, *rows)) == [("00.png", []), ("01.png", ["c"])]


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("captoin", r"line 2 of metadata\.jsonl: unknown key 'captoin'; did you mean 'caption'"),
        ("Caption", "line 2 .* unknown key 'Caption'; did you mean 'caption'"),
        ("txet", "line 2 .* unknown key 'txet'; did you mean 'text'"),
    ],
)
def test_a_misspelt_caption_is_told_beside_further_keys(write_folder, key, words):
    with pytest.raises(DataError, match=words):
        opened(
            write_folder,
            {"file_name": "00.png", "caption": "x"},
            {"file_name": "01.png", "width": 3, key: "y"},
        )


def test_texts_under_a_name_that_nobody_knows_are_told(write_folder):
    rows = [{"file_name": f"{i:02}.png", "beschreibung": "x", "width": 3} for i in range(3)]
    with pytest.raises(DataError, match=r"line 1 .* unknown key 'beschreibung', and no line has a caption"):
        opened(write_folder, *rows)


def test_lines_without_a_caption_that_have_another_text_are_counted(write_folder):
    rows = [{"file_name": f"{i:02}.png", "beschreibung" if i % 2 else "caption": "x"} for i in range(6)]
    assert opened(write_folder, *rows, {"file_name": "06.png", "width": 3}).remarks == (
        "3 lines of metadata.jsonl without a caption but with a text under another key (the first is line 2, "
        "'beschreibung'), which is not read",
    )


def test_a_misspelt_label_is_remarked(write_folder):
    source = opened(write_folder, {"file_name": "00.png", "caption": "x", "lable": "cat"})
    assert source.remarks == (
        "the key 'lable' of metadata.jsonl is not read (it is first in line 1); did you mean 'label'?",
    )


def test_a_line_may_lack_the_named_caption(write_folder):
    rows = [{"file_name": "00.png", "alt": "x"}, {"file_name": "01.png"}]
    assert records_of(opened(write_folder, *rows, caption="alt")) == [("00.png", ["x"]), ("01.png", [])]


def test_a_caption_that_is_misspelt_on_the_command_line_is_refused(write_folder):
    with pytest.raises(
        DataError, match=r"no line of metadata\.jsonl has the key 'atl'; there are file_name, alt"
    ):
        opened(write_folder, {"file_name": "00.png", "alt": "x"}, caption="atl")


def test_lines_may_end_with_cr_alone_and_hold_any_character(write_folder):
    rows = [
        json.dumps({"file_name": f"{i:02}.png", "text": "a\u2028\x85b"}, ensure_ascii=False) for i in (0, 1)
    ]
    source = opened(write_folder, "\r".join(rows).encode())
    assert records_of(source) == [("00.png", ["a\u2028\x85b"]), ("01.png", ["a\u2028\x85b"])]


def test_an_id_that_is_null_or_empty_is_the_file_name(write_folder):
    rows = [{"file_name": f"{i:02}.png", "id": given} for i, given in enumerate([None, "", 0, None])]
    assert [name for name, _ in records_of(opened(write_folder, *rows))] == [
        "00.png",
        "01.png",
        "0",
        "03.png",
    ]
