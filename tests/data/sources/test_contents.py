"""All captions and labels of a source; what is said of the first record without, and of pictures of several records."""

import json

import numpy as np
import pytest

from lit_jax.data.sources.contents import captions_of, labels_of, read_record
from lit_jax.data.sources.registry import open_source
from lit_jax.utils.errors import DataError
from tests.data.conftest import RECORDS, png, row


def test_captions_come_in_order_with_the_numbers_of_their_records(write_folder):
    rows = [row(0), row(1) | {"captions": ["one"]}, row(2)]
    texts, owner = captions_of(open_source(f"folder:{write_folder(rows)}"))
    assert texts == ["0 one", "0 zwei é", "one", "2 one", "2 zwei é"]
    np.testing.assert_array_equal(owner, [0, 0, 1, 2, 2])


@pytest.mark.parametrize(
    ("changes", "read", "why"),
    [
        (
            {"captions": []},
            captions_of,
            "record 1 of {} has no caption (1 of 3 have none); retrieval needs one",
        ),
        (
            {"captions": ["good", "\ud800"]},
            captions_of,
            "{}: record 1: caption is invalid UTF-8 at character 0",
        ),
        ({"captions": [7]}, captions_of, "{}: record 1: 'captions' holds a int, want text"),
        ({"file_name": "y.png"}, captions_of, "{}: record 1: 'y.png' cannot be read: No such file"),
        ({"file_name": "y.png"}, labels_of, "{}: record 1: 'y.png' cannot be read: No such file"),
        (
            {"file_name": "y.png"},
            lambda source: read_record(source, 1),
            "{}: record 1: 'y.png' cannot be read",
        ),
        ({"label": None}, labels_of, "record 1 of {} has no label (1 of 3 have none)"),
    ],
)
def test_the_first_record_without_is_named_with_its_source_and_the_reason(changes, read, why, write_folder):
    source = open_source(f"folder:{write_folder([row(0), row(1) | changes, row(2)])}")
    with pytest.raises(DataError) as raised:
        read(source)
    assert str(raised.value).startswith(why.format(source.spec))


def test_copies_of_a_picture_are_counted_with_the_first_one(write_folder, caplog):
    folder = write_folder()
    (folder / "05.png").write_bytes(png(3))
    (folder / "09.png").write_bytes(png(3))
    source = open_source(f"folder:{folder}")
    texts, owner = captions_of(source, warn_of_copies=True)
    assert texts == [text for i in range(RECORDS) for text in row(i)["captions"]] and owner[-1] == RECORDS - 1
    (message,) = caplog.messages
    assert message.startswith(
        f"{source.spec}: 2 of 40 records have the picture of an earlier one "
        "(first, record 5, 'r5', has that of record 3)"
    )
    captions_of(source)
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("blank", ["", " \t", "\u200b"])
def test_captions_that_are_empty_do_not_count_and_a_record_without_others_is_broken(write_folder, blank):
    rows = [row(0), row(1) | {"captions": [blank, "one"]}]
    folder = write_folder(rows)
    texts, owner = captions_of(open_source(f"folder:{folder}"))
    assert texts == ["0 one", "0 zwei é", "one"] and owner.tolist() == [0, 0, 1]
    rows[1]["captions"] = [blank]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = open_source(f"folder:{folder}")
    with pytest.raises(DataError, match=r"pictures: record 1: caption (is empty|has no visible character)$"):
        captions_of(source)


def test_a_set_with_labels_and_without_captions_is_told_its_task(write_folder):
    rows = [row(i) | {"captions": [], "label": i} for i in range(3)]
    with pytest.raises(
        DataError, match=r"3 of 3 have none.*; for the labels of this set, the task is zero_shot"
    ):
        captions_of(open_source(f"folder:{write_folder(rows)}"))
