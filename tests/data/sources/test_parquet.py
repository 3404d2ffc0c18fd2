"""`parquet:`: the columns that are detected, and the error for each mistake."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lit_jax.data.sources import parquet_groups
from lit_jax.data.sources.files import Files
from lit_jax.data.sources.parquet_groups import RowGroups
from lit_jax.data.sources.registry import open_source
from lit_jax.utils.errors import DataError
from tests.data.conftest import png


def opened(tmp_path, chosen=None, metadata=None, **columns):
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "0.parquet", row_group_size=2)
    return open_source(f"parquet:{tmp_path}", caption=chosen)


@pytest.mark.parametrize(
    ("name", "value", "captions"),
    [
        ("caption", "é", ["é"]),
        ("text", ["a", "b"], ["a", "b"]),
        ("sentences", [{"raw": "a", "id": 1}, {"raw": "b", "id": 2}], ["a", "b"]),
        ("the_only_text", "a", ["a"]),
        ("caption", None, []),
    ],
)
def test_captions_of_every_shape_are_lists_of_text(tmp_path, name, value, captions):
    filler = value if value is not None else "x"
    source = opened(tmp_path, image=[png(0), png(1)], **{name: [value, filler]})
    assert source[0] == {"image": png(0), "captions": captions, "id": "0"}


def test_the_image_of_the_hub_is_bytes_and_a_path(tmp_path):
    image = [{"bytes": png(i), "path": f"{i}.png"} for i in range(3)]
    source = opened(tmp_path, picture=image, url=list("abc"), caption=list("xyz"))
    assert [source[i]["id"] for i in range(3)] == ["0.png", "1.png", "2.png"] and source[2]["image"] == png(2)


def test_the_caption_column_can_be_chosen(tmp_path):
    source = opened(tmp_path, chosen="better", image=[png(0)], text=["a"], better=["b"])
    assert source[0]["captions"] == ["b"]
    with pytest.raises(DataError, match=r"no column of text 'best'; there are text, better"):
        open_source(f"parquet:{tmp_path}", caption="best")


def test_a_classification_set_of_the_hub_has_class_names(tmp_path):
    label = {"names": ["cat", "dog"], "_type": "ClassLabel"}
    metadata = {"huggingface": json.dumps({"info": {"features": {"label": label}}})}
    source = opened(tmp_path, metadata=metadata, image=[png(0), png(1)], label=[1, -1])
    assert source[0] == {"image": png(0), "captions": [], "id": "0", "label": 1}
    assert "label" not in source[1] and source.class_names == ("cat", "dog")


def test_a_row_without_its_picture_breaks_alone(tmp_path):
    image = pa.array([{"bytes": None, "path": "a.png"}, {"bytes": png(1), "path": "b.png"}, None])
    source = opened(tmp_path, image=image, caption=list("abc"))
    with pytest.raises(DataError, match=r"column 'image' holds no bytes, only the path 'a\.png'"):
        source[0]
    with pytest.raises(DataError, match=r"column 'image' holds no bytes"):
        source[2]
    assert source[1]["image"] == png(1)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"caption": ["a"]}, "0 columns of bytes among caption"),
        (
            {"a": [b"x"], "b": [b"y"], "caption": ["a"]},
            "2 columns of bytes among a, b, caption; want one, or 'image'",
        ),
        (
            {"image": [b"x"], "url": ["u"], "alt": ["v"]},
            "which of the columns image, url, alt holds the captions",
        ),
        (
            {"image": pa.array([], pa.binary()), "caption": pa.array([], pa.string())},
            "1 file has no rows",
        ),
    ],
)
def test_a_table_that_is_not_understood_is_refused_in_a_sentence(tmp_path, columns, words):
    with pytest.raises(DataError, match=words):
        opened(tmp_path, **columns)


def test_a_file_that_is_not_parquet_or_has_other_columns_is_named(tmp_path):
    opened(tmp_path, image=[png(0)], caption=["a"])
    pq.write_table(pa.table({"image": [png(1)]}), tmp_path / "1.parquet")
    with pytest.raises(DataError, match=r"1\.parquet has no column .caption., which 0\.parquet has"):
        open_source(f"parquet:{tmp_path}")
    (tmp_path / "1.parquet").write_bytes(b"version https://git-lfs.github.com/spec/v1\n" * 3)
    with pytest.raises(DataError, match=r"1\.parquet cannot be read as parquet") as error:
        open_source(f"parquet:{tmp_path}")
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="no file matches"):
        open_source(f"parquet:{tmp_path}/x*.parquet")


def test_damage_inside_a_row_group_breaks_its_records_alone(tmp_path):
    opened(tmp_path, image=[png(i, (40, 40)) for i in range(4)], caption=list("abcd"))
    file = tmp_path / "0.parquet"
    start = pq.read_metadata(file).row_group(0).column(0).data_page_offset
    data = bytearray(file.read_bytes())
    data[start : start + 40] = b"\xff" * 40
    file.write_bytes(data)
    source = open_source(f"parquet:{tmp_path}")
    with pytest.raises(DataError, match=r"row group 0 of 0\.parquet cannot be read"):
        source[0]
    assert source[3]["image"] == png(3, (40, 40))


def test_no_more_row_groups_are_kept_than_there_is_room_for(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_groups, "_CACHE", 3000)
    source = opened(tmp_path, image=[png(i, (20, 20)) for i in range(40)], caption=["a"] * 40)
    for _ in range(2):
        for i in range(40):
            assert source[i]["image"] == png(i, (20, 20))
            assert len(source._groups._groups) == len(source._groups._bytes) <= 2


def test_a_footer_that_is_damaged_anywhere_does_not_end_the_process(tmp_path):
    source = opened(tmp_path, image=[png(i) for i in range(4)], caption=list("abcd"))
    path = next(tmp_path.glob("**/*.parquet"))
    content = path.read_bytes()
    length = int.from_bytes(content[-8:-4], "little")
    refused = 0
    for at in range(len(content) - 8 - length, len(content) - 8, 2):
        path.write_bytes(content[:at] + b"\n" + content[at + 1 :])
        try:
            RowGroups(source.spec, Files(source.spec, str(path)), [str(path)])
        except DataError as error:
            refused += 1
            assert "\n" not in str(error)
    assert 0 < refused < length
