"""The other descriptions of a folder: tables, texts beside the pictures, a directory for each class."""

import json

import numpy as np
import pytest

from lit_jax.data.sources import folder_tables
from lit_jax.data.sources.registry import open_source
from lit_jax.utils.errors import DataError
from tests.data.conftest import png, records_of


def records(root, **options):
    source = open_source(f"folder:{root}", **options)
    return [(source[i]["id"], source[i]["image"], source[i]["captions"]) for i in range(len(source))]


def test_a_csv_has_quotes_several_captions_a_picture_and_columns_of_other_names(pictures):
    text = '\ufefffilepath,title,url\na.png,"one, ""two""\nthree",x\r\n\na.png,zwei é,y\nb.png,b,z\n'
    root = pictures("a.png", "b.png", captions_csv=text)
    want = [("a.png", png(0), ['one, "two"\nthree', "zwei é"]), ("b.png", png(1), ["b"])]
    assert records(root) == want
    assert records(root, caption="url")[0][2] == ["x", "y"]


def test_a_tsv_has_ids_and_labels(pictures):
    root = pictures(
        "a.png", "b.png", captions_tsv="id\tfile_name\ttext\tlabel\nx\ta.png\ta, b\tcat\n\tb.png\tc\tant\n"
    )
    source = open_source(str(root))
    assert source[0] == {"image": png(0), "captions": ["a, b"], "id": "x", "label": 1}
    assert source[1]["id"] == "b.png" and source.class_names == ("ant", "cat")


def test_a_table_of_labels_alone_is_a_classification_set(pictures):
    source = open_source(str(pictures("a.png", captions_csv="file_name,label\na.png,3\n")))
    assert (
        source[0] == {"image": png(0), "captions": [], "id": "a.png", "label": 3}
        and source.class_names is None
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"line 1 of captions\.csv: the columns are none; want a first line with file_name and caption"),
        ("a.png,a\n", r"the columns are a\.png, a; want a first line"),
        ("file_name,caption\na.png\n", "line 2 .* 1 cell, want 2 .* write ',' for each cell that is"),
        (
            "file_name,caption\na.png,b,c\n",
            "3 cells, want 2 .* put a caption that contains ',' between quotes",
        ),
        ("file_name;caption\na.png;a\n", "want a first line .* and ',' between the columns, not ';'"),
        ("file_name,caption\n\n/etc/passwd,a\n", "line 3 .* leads out of the folder"),
        ("file_name,caption\n,a\n", "line 2 .* file_name is ''"),
        ("file_name,caption\n", r"captions\.csv has no records"),
        (
            'file_name,caption\na.png,"' + "x" * 200_000,
            "line 2 .* is opened here and never closed, .*; close it",
        ),
        ("file_name,caption,label\na.png,x,1\na.png,x,1\nb.png,x,cat\n", "line 4 .* both numbers and names"),
        (b"\xff,caption\n", "invalid UTF-8 at byte 0"),
    ],
)
def test_a_table_that_is_not_understood_is_refused_in_a_sentence(pictures, text, words):
    with pytest.raises(DataError, match=words) as error:
        open_source(f"folder:{pictures('a.png', captions_csv=text)}")
    assert "\n" not in str(error.value)


def test_a_broken_row_leaves_the_others_readable(pictures):
    source = open_source(
        str(pictures("a.png", captions_csv=b"file_name,caption\nb.png,\xff\na.png,a\nc.png,c\n"))
    )
    with pytest.raises(DataError, match=r"line of captions\.csv is invalid UTF-8 at byte 6"):
        source[0]
    with pytest.raises(DataError, match=r"'c\.png' cannot be read"):
        source[2]
    assert source[1]["captions"] == ["a"]


def test_texts_beside_the_pictures_are_captions(pictures):
    root = pictures(
        "b.png", "a.JPG", "sub/c.png", "d.png", b_txt="b é\n", a_txt="a\nb\r\n", sub__c_txt="c", notes_md="x"
    )
    source = open_source(str(root))
    assert source[0] == {"image": png(1), "captions": ["a\nb"], "id": "a"}
    assert source[1] == {"image": png(0), "captions": ["b é"], "id": "b"}
    with pytest.raises(DataError, match=r"'d\.txt' cannot be read"):
        source[2]
    assert source[3] == {"image": png(2), "captions": ["c"], "id": "sub/c"} and source.class_names is None


def test_a_directory_for_each_class_is_a_classification_set(pictures):
    source = open_source(f"folder:{pictures('dog/1.png', 'cat/2.png', 'cat/deep/3.png', '.trash/4.png')}")
    assert source.class_names == ("cat", "dog") and len(source) == 3
    assert source[0] == {"image": png(1), "captions": [], "id": "cat/2", "label": 0}
    assert source[2]["label"] == 1


def test_pictures_that_nothing_describes_have_neither_captions_nor_classes(pictures):
    source = open_source(f"folder:{pictures('a.png', 'cat/1.png')}")
    assert source.class_names is None
    assert list(map(source.__getitem__, range(2))) == [
        {"image": png(0), "captions": [], "id": "a"},
        {"image": png(1), "captions": [], "id": "cat/1"},
    ]


@pytest.mark.parametrize("name", ["metadata.jsonl", "captions.csv"])
def test_a_large_table_is_indexed_and_read_the_same(pictures, name, monkeypatch):
    lines = {
        "metadata.jsonl": ['{"file_name": "a.png", "caption": "a", "label": "x"}', '{"file_name": "b.png"}'],
        "captions.csv": ["file_name,caption,label", "a.png,a,x", "b.png,b,x"],
    }
    root = pictures("a.png", "b.png", **{name.replace(".", "_"): "\n".join(lines[name])})
    want = records(root)
    monkeypatch.setattr(folder_tables, "_INDEXED", 0)
    assert records(root) == want and len(list(root.glob(".lit_jax-*"))) == 1
    monkeypatch.setattr(folder_tables.Rows, "_scan", lambda *_: 1 / 0)
    assert records(root) == want and open_source(str(root)).class_names == ("x",)


WRITERS = {
    "metadata.jsonl": lambda rows: "".join(
        json.dumps({"file_name": name, "caption": text}) + "\n" for name, text in rows
    ),
    "captions.csv": lambda rows: "file_name,caption\n" + "".join(f"{name},{text}\n" for name, text in rows),
    "captions.tsv": lambda rows: "file_name\tcaption\n" + "".join(f"{name}\t{text}\n" for name, text in rows),
}


def grouped(rows):
    """The captions of each picture, sorted by picture; those of a picture in the order of their rows."""
    return [
        (name, [text for other, text in rows if other == name]) for name in sorted({name for name, _ in rows})
    ]


@pytest.mark.parametrize("size", [0, 1 << 40], ids=["indexed", "in memory"])
@pytest.mark.parametrize("name", WRITERS)
def test_rows_of_a_picture_that_stand_apart_are_one_record(pictures, name, size, monkeypatch):
    monkeypatch.setattr(folder_tables, "_INDEXED", size)
    monkeypatch.setattr(folder_tables, "_CHUNK", 7)
    files = [f"{i}.png" for i in range(12)]
    rows = [(file, f"{file} {j}") for j in range(3) for file in files]
    texts = []
    for order in (np.arange(36), *np.random.default_rng(0).permuted(np.tile(np.arange(36), (3, 1)), axis=1)):
        shuffled = [rows[i] for i in order]
        source = open_source(
            f"folder:{pictures(*files, **{name.replace('.', '_'): WRITERS[name](shuffled)})}"
        )
        assert records_of(source) == grouped(shuffled)
        texts.append([sorted(record[1]) for record in records_of(source)])
    assert texts[1:] == texts[:-1]


@pytest.mark.parametrize("name", WRITERS)
def test_rows_that_stand_together_keep_the_order_of_their_pictures(pictures, name):
    rows = [(file, f"{file} {j}") for file in ("b.png", "a.png", "c.png") for j in range(2)]
    source = open_source(
        f"folder:{pictures('a.png', 'b.png', 'c.png', **{name.replace('.', '_'): WRITERS[name](rows)})}"
    )
    assert [record for record, _ in records_of(source)] == ["b.png", "a.png", "c.png"]
    assert records_of(source)[0] == ("b.png", ["b.png 0", "b.png 1"])


def test_spellings_of_one_path_are_one_picture(pictures):
    text = "file_name,caption\n./a.png,1\nsub//b.png,2\na.png,3\nsub/./b.png,4\n"
    assert records_of(open_source(f"folder:{pictures('a.png', 'sub/b.png', captions_csv=text)}")) == [
        ("./a.png", ["1", "3"]),
        ("sub//b.png", ["2", "4"]),
    ]


def test_rows_of_a_picture_that_disagree_are_remarked_with_the_first_place(pictures):
    text = (
        "file_name,caption,label,id\na.png,1,,5\nb.png,2,ant,\na.png,3,cat,6\na.png,4,dog,7\nb.png,5,ant,8\n"
    )
    source = open_source(f"folder:{pictures('a.png', 'b.png', captions_csv=text)}")
    assert source[0] == {"image": png(0), "captions": ["1", "3", "4"], "label": 1, "id": "5"}
    assert source[1] == {"image": png(1), "captions": ["2", "5"], "label": 0, "id": "8"}
    assert source.remarks == (
        "1 picture whose rows have several labels (the first is 'a.png'); the first label is used",
        "1 picture whose rows have several ids (the first is 'a.png'); the first id is used",
    )


def test_an_id_names_one_record(pictures):
    text = "file_name,caption,id\na.png,1,x\nb.png,2,y\nc.png,3,x\nd.png,4,\n"
    source = open_source(f"folder:{pictures('a.png', 'b.png', 'c.png', 'd.png', captions_csv=text)}")
    assert [name for name, _ in records_of(source)] == ["a.png", "y", "c.png", "d.png"]
    (remark,) = source.remarks
    assert (
        remark
        == "2 pictures share their id with another one (the first is 'x' of 'a.png'); their id is now their file name"
    )


def test_an_id_that_is_the_file_name_of_another_record_is_told_apart(pictures):
    text = "file_name,caption,id\na.png,1,x\nb.png,2,x\nc.png,3,a.png\n"
    source = open_source(f"folder:{pictures('a.png', 'b.png', 'c.png', captions_csv=text)}")
    assert [name for name, _ in records_of(source)] == ["a.png", "b.png", "c.png"]


def test_names_of_classes_that_are_whole_numbers_sort_as_numbers(pictures):
    rows = [("0.png", "10"), ("1.png", "2"), ("2.png", "ant"), ("3.png", "02"), ("4.png", "9" * 5000)]
    text = "".join(json.dumps({"file_name": name, "label": label}) + "\n" for name, label in rows)
    source = open_source(f"folder:{pictures(*(name for name, _ in rows), metadata_jsonl=text)}")
    assert source.class_names == ("02", "2", "10", "9" * 5000, "ant")
    assert [source[i]["label"] for i in range(5)] == [2, 1, 4, 0, 3]
