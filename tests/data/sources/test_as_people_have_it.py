"""Sets as other programs and systems leave them: what may surprise is reported, and stray files are not read."""

import json
import os
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lit_jax.data.captions import usable_captions
from lit_jax.data.sources.contents import captions_of
from lit_jax.data.sources.registry import open_source
from lit_jax.utils.errors import DataError
from tests.data.conftest import png, write_tar


def written(folder, *names):
    for number, name in enumerate(names):
        path = os.path.join(os.fsencode(folder), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(png(number))
    return open_source(f"folder:{folder}")


def parquet(folder, **columns):
    pq.write_table(pa.table({"image": [png(0), png(1)]} | columns), folder / "a.parquet")
    return open_source(f"parquet:{folder}")


def test_a_name_that_is_not_utf8_has_a_readable_id_and_class(tmp_path):
    source = written(tmp_path, b"caf\xe9/a\xff.png", b"tea/b.png")
    assert source.class_names == (r"caf\xe9", "tea")
    assert [source[i]["id"] for i in range(2)] == [r"caf\xe9/a\xff", "tea/b"]
    assert [source[i]["image"] for i in range(2)] == [png(0), png(1)] and len(source.fingerprint()) == 64


@pytest.mark.parametrize(
    "left_behind", ["@eaDir/cat/1.png", "cat/@eaDir/1.png", "__MACOSX/cat/1.png", "cat/.x/1.png"]
)
def test_what_a_system_left_behind_is_neither_a_picture_nor_a_class(tmp_path, left_behind):
    source = written(tmp_path, "cat/0.png", "dog/0.png", left_behind)
    assert source.class_names == ("cat", "dog") and len(source) == 2 and source.remarks == ()


@pytest.mark.parametrize(
    "splits", [("train2017", "val2017"), ("test_images", "train_images"), ("TrainSet", "val")]
)
def test_splits_of_any_spelling_are_not_classes(tmp_path, splits):
    with pytest.raises(DataError, match="are splits, not classes; name one of them"):
        written(tmp_path, *(f"{split}/0.png" for split in splits))


def test_a_table_beside_the_one_that_is_read_is_named(tmp_path):
    (tmp_path / "captions.csv").write_text("file_name,caption\n0.png,a\n")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "0.png", "caption": "b"}\n')
    assert written(tmp_path, "0.png").remarks == ("captions.csv is not read, since metadata.jsonl is there",)


@pytest.mark.parametrize("name", ["annotations.json", "metadata.json", "llava_v1_5_mix665k.json"])
def test_a_table_that_is_one_json_value_is_named(tmp_path, name):
    (tmp_path / name).write_text(json.dumps([{"image": "0.png", "caption": "a"}]))
    assert f"{name} is a table that is one JSON value: if it has" in written(tmp_path, "0.png").remarks[1]


@pytest.mark.parametrize("cell", ["['a cat', 'a dog']", '["a cat"]', "[ 'a'\n 'b' ]", '["a",]'])
def test_a_list_written_as_text_is_not_a_caption(tmp_path, cell):
    (tmp_path / "captions.csv").write_text('file_name,caption\n0.png,"{}"\n'.format(cell.replace('"', '""')))
    source = written(tmp_path, "0.png")
    for use in (lambda: usable_captions(source[0]["captions"]), lambda: captions_of(source)):
        with pytest.raises(DataError, match=r"caption is a list written as text, .*give the list itself"):
            use()


@pytest.mark.parametrize("caption", ["[a cat]", '["Stop" sign]', "'a' and 'b'", "[]", "[1, 2]"])
def test_a_caption_may_have_brackets(caption):
    assert usable_captions([caption]) == [caption]


def test_a_remark_says_that_the_only_column_of_text_is_taken_as_captions(tmp_path):
    source = parquet(tmp_path, data_source=["laion", "laion"], id=["a", "b"])
    assert source[0]["captions"] == ["laion"]
    assert source.remarks == (
        "The captions are taken from 'data_source', the only column of text; if that is wrong, name their column.",
    )
    assert open_source(f"parquet:{tmp_path}", caption="data_source").remarks == ()


@pytest.mark.parametrize("name", ["txt", "Caption", "TEXT"])
def test_usual_names_of_caption_columns_are_found_in_any_case(tmp_path, name):
    source = parquet(
        tmp_path, **{name: ["a", "b"], "__key__": ["0", "1"], "__url__": ["x", "x"], "x": ["y", "z"]}
    )
    assert source[1]["captions"] == ["b"] and source.remarks == ()


CAPTIONS = [["a", "b"], ["c", None], ["d", "e"]]


@pytest.mark.parametrize("name", ["caption_{}", "Caption {}", "text{}"])
def test_numbered_columns_are_the_captions_of_one_picture(tmp_path, name):
    names = [name.format(number) for number in range(3)]
    source = parquet(tmp_path, **dict(zip(names, CAPTIONS, strict=True)), source=["x", "y"])
    assert [source[i]["captions"] for i in range(2)] == [["a", "c", "d"], ["b", "e"]]
    assert source.remarks == () and pickle.loads(pickle.dumps(source))[1]["captions"] == ["b", "e"]
    rows = ["file_name," + ",".join(names), "0.png,a,c,d", "1.png,b,,e"]
    (tmp_path / "captions.csv").write_text("\n".join(rows) + "\n")
    table = written(tmp_path, "0.png", "1.png")
    assert [table[i]["captions"] for i in range(2)] == [["a", "c", "d"], ["b", "", "e"]]


@pytest.mark.parametrize("given", [None, "caption_1"])
def test_a_usual_or_a_given_name_comes_before_numbered_columns(tmp_path, given):
    columns = {"caption_0": ["a", "b"], "caption_1": ["c", "d"]}
    parquet(tmp_path, **columns | ({} if given else {"caption": ["e", "f"]}))
    assert open_source(f"parquet:{tmp_path}", caption=given)[0]["captions"] == ["c" if given else "e"]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"caption": [1.0, 2.0]}, "The column 'caption' holds double, not text, so there are no captions."),
        (
            {"label": [1.0, 2.0]},
            "The column 'label' holds double, not whole numbers, so there are no labels.",
        ),
    ],
)
def test_a_column_whose_type_does_not_fit_its_name_is_reported(tmp_path, columns, says):
    assert parquet(tmp_path, **columns).remarks == (says,)


def test_the_error_for_a_table_of_addresses_says_how_to_get_pictures(tmp_path):
    pq.write_table(pa.table({"URL": ["http://x/0.jpg"], "TEXT": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(
        DataError, match=r"0 columns of bytes among URL, TEXT; .*; img2dataset downloads pictures"
    ):
        open_source(f"parquet:{tmp_path}")


def test_an_index_of_ours_is_never_taken_for_a_file_of_another_program(tmp_path):
    (tmp_path / ".lit_jax-0123456789ab.arrow").write_bytes(b"")
    with pytest.raises(DataError, match=r"no file matches .*\.tgz; want a file"):
        open_source(f"wds:{tmp_path}/*.tgz")


@pytest.mark.parametrize("count", ["9" * 20, "9" * 5000, "\u0665", "0", "-1", "1_000"])
def test_the_number_of_drawings_must_be_positive_and_in_ascii_digits(count):
    with pytest.raises(DataError, match="is not understood; want shapes:N/train"):
        open_source(f"shapes:{count}/train")


def test_an_id_with_half_a_surrogate_pair_can_be_written_everywhere(tmp_path):
    rows = (
        {"file_name": f"{i}.png", "caption": "a", "id": name} for i, name in enumerate(("x\ud800", "y\udce9"))
    )
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = written(tmp_path, "0.png", "1.png")
    assert [source[i]["id"] for i in range(2)] == [r"x\ud800", r"y\xe9"]


def test_an_empty_label_of_a_jsonl_is_none_as_in_a_csv(tmp_path):
    rows = [{"file_name": f"{i}.png", "label": label} for i, label in enumerate(["", "cat", "dog"])]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = written(tmp_path, "0.png", "1.png", "2.png")
    assert source.class_names == ("cat", "dog")
    assert [source[i].get("label") for i in range(3)] == [None, 0, 1]


def test_files_with_endings_in_capitals_are_read(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    pq.write_table(pa.table({"image": [png(0)], "caption": ["x"]}), tmp_path / "a" / "0.PARQUET")
    write_tar(tmp_path / "b" / "0.TAR", [("0.png", png(0)), ("0.txt", b"x")])
    for place in ("parquet:{}/a", "{}/a", "{}/a/0.PARQUET", "wds:{}/b", "{}/b", "{}/b/0.TAR"):
        assert open_source(place.format(tmp_path))[0]["captions"] == ["x"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("0.tar.zst", "is a compressed tar: unpack it to .tar, .* unzstd"),
        ("0.svg", "is a picture of a format that is not read: write it as JPEG or PNG"),
    ],
)
def test_what_is_not_read_is_refused_with_a_remedy_for_it(tmp_path, name, says):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=says):
        open_source(f"folder:{tmp_path}")


def test_a_compressed_table_beside_pictures_is_named(tmp_path):
    (tmp_path / "captions.csv.gz").write_bytes(b"x")
    assert any("captions.csv.gz is a compressed table" in said for said in written(tmp_path, "0.png").remarks)


def test_an_id_for_which_python_has_no_value_is_its_text(tmp_path):
    times = pa.array([2**60 + 1, 2**60], pa.timestamp("ns"))
    source = parquet(tmp_path, caption=["a", "b"], id=times)
    assert source[0]["id"] == "2006-07-14 23:58:24.606846977" and source[1]["captions"] == ["b"]


def test_a_label_beyond_every_class_breaks_its_record_alone(tmp_path):
    source = parquet(tmp_path, label=pa.array([2**64 - 1, 1], pa.uint64()))
    assert source[1]["label"] == 1
    with pytest.raises(DataError, match=r"label is 1\.84e\+19, want a number from 0 to 2147483647"):
        source[0]


def test_captions_that_no_shard_has_under_a_usual_ending_are_told(tmp_path):
    write_tar(tmp_path / "0.tar", [("0.png", png(0)), ("0.caption", b"x"), ("1.png", png(1))])
    (said,) = open_source(f"wds:{tmp_path}").remarks
    assert said == (
        "Pictures stand without a txt, a json or a cls beside them: 2, the first is 0.tar (endings in it that are not "
        "read: .caption 1)."
    )
