"""Columns of every type and files that differ: what is read, and what is refused by name."""

import itertools
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lit_jax.data.sources.registry import open_source
from lit_jax.utils.errors import DataError
from tests.data.conftest import png, storable

WORDS = ["a cat", "a cat", "ein Händ"]
LISTS = [["a", "b"], ["c", "d"], ["e", "f"]]


def write(path, **columns):
    pq.write_table(pa.table(columns), path)


def column(values, kind):
    if not storable(kind):
        pytest.skip(f"this version of pyarrow writes no {kind}")
    return pa.array(values, kind)


def records(tmp_path):
    source = open_source(f"parquet:{tmp_path}")
    return [source[i] for i in range(len(source))]


@pytest.mark.parametrize(
    ("kind", "values", "captions"),
    [
        (pa.string_view(), WORDS, [[word] for word in WORDS]),
        (pa.large_string(), WORDS, [[word] for word in WORDS]),
        (pa.dictionary(pa.int32(), pa.string()), WORDS, [[word] for word in WORDS]),
        (pa.dictionary(pa.int8(), pa.large_string()), WORDS, [[word] for word in WORDS]),
        (pa.list_(pa.string()), LISTS, LISTS),
        (pa.list_(pa.string(), 2), LISTS, LISTS),
        (pa.large_list(pa.large_string()), LISTS, LISTS),
        (pa.list_view(pa.string()), LISTS, LISTS),
        (pa.list_(pa.dictionary(pa.int32(), pa.string())), LISTS, LISTS),
        (pa.list_(pa.list_(pa.string())), [[["a"], ["b"]], [["c", "d"]], [["e"], ["f"], []]], LISTS),
        (
            pa.list_(pa.struct([("raw", pa.string())])),
            [[{"raw": t} for t in texts] for texts in LISTS],
            LISTS,
        ),
        (
            pa.list_(pa.struct([("caption", pa.string())])),
            [[{"caption": t} for t in ts] for ts in LISTS],
            LISTS,
        ),
        (pa.struct([("text", pa.list_(pa.string())), ("n", pa.int8())]), [{"text": t} for t in LISTS], LISTS),
    ],
)
@pytest.mark.parametrize("name", ["caption", "unusual"])
def test_captions_of_every_type_are_lists_of_text(tmp_path, kind, values, captions, name):
    write(tmp_path / "0.parquet", image=[png(i) for i in range(3)], **{name: column(values, kind)})
    assert [record["captions"] for record in records(tmp_path)] == captions


PICTURES = [png(i) for i in range(3)]


@pytest.mark.parametrize(
    "kind",
    [
        pa.large_binary(),
        pa.binary_view(),
        pa.binary(len(png(0))),
        pa.dictionary(pa.int32(), pa.binary()),
        pa.struct([("bytes", pa.large_binary()), ("path", pa.string())]),
        pa.struct([("path", pa.string_view()), ("bytes", pa.binary_view())]),
    ],
)
def test_pictures_of_every_type_of_bytes_are_read(tmp_path, kind):
    same = [data.ljust(len(png(0)), b"\0")[: len(png(0))] for data in PICTURES]
    values = [{"bytes": data} for data in same] if pa.types.is_struct(kind) else same
    write(tmp_path / "0.parquet", photo=column(values, kind), caption=WORDS)
    assert [record["image"] for record in records(tmp_path)] == same


def test_bytes_of_a_fixed_size_beside_pictures_are_hashes(tmp_path):
    hashes = pa.array([b"x" * 32] * 3, pa.binary(32))
    write(tmp_path / "0.parquet", sha256=hashes, photo=PICTURES, caption=WORDS)
    assert [record["image"] for record in records(tmp_path)] == PICTURES


def test_files_may_store_pictures_in_different_ways(tmp_path):
    structs = pa.array([{"bytes": data, "path": f"{i}"} for i, data in enumerate(PICTURES)])
    forms = (structs, pa.array(PICTURES), pa.array(PICTURES, pa.large_binary()))
    for order in itertools.permutations(forms):
        for number, pictures in enumerate(order):
            write(tmp_path / f"{number}.parquet", image=pictures, caption=WORDS)
        assert [record["image"] for record in records(tmp_path)] == PICTURES * 3


@pytest.mark.parametrize("empty", [pa.null(), pa.list_(pa.null()), pa.string()])
@pytest.mark.parametrize("name", ["caption", "unusual"])
def test_captions_that_are_all_missing_in_the_first_file_are_found_in_the_others(tmp_path, empty, name):
    write(tmp_path / "0.parquet", image=PICTURES, **{name: pa.nulls(3, empty)})
    kind = pa.string() if empty == pa.string() else pa.list_(pa.string())
    values = WORDS if kind == pa.string() else LISTS
    write(tmp_path / "1.parquet", image=PICTURES, **{name: pa.array(values, kind)})
    want = [[]] * 3 + ([[word] for word in WORDS] if values is WORDS else LISTS)
    assert [record["captions"] for record in records(tmp_path)] == want


def test_columns_may_have_another_order_and_some_files_more_of_them(tmp_path):
    write(tmp_path / "0.parquet", image=PICTURES, caption=WORDS, id=list("abc"))
    write(
        tmp_path / "1.parquet",
        id=list("def"),
        width=[1, 2, 3],
        caption=WORDS,
        label=[4, 5, 6],
        image=PICTURES,
    )
    write(tmp_path / "2.parquet", caption=WORDS, image=PICTURES, url=list("xyz"), id=list("ghi"))
    found = records(tmp_path)
    assert [record["id"] for record in found] == list("abcdefghi")
    assert [record["captions"] for record in found] == [[word] for word in WORDS] * 3
    assert [record.get("label") for record in found] == [None] * 3 + [4, 5, 6] + [None] * 3


def names_of(*names):
    features = {"label": {"names": list(names), "_type": "ClassLabel"}}
    return {"huggingface": json.dumps({"info": {"features": features}})}


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (
            {"image": PICTURES, "caption": WORDS},
            {"image": PICTURES},
            r"1\.parquet has no column 'caption', which 0",
        ),
        (
            {"caption": WORDS},
            {"image": PICTURES, "caption": WORDS},
            r"0\.parquet has no column 'image', which 1",
        ),
        (
            {"image": PICTURES, "caption": WORDS},
            {"image": ["a.png"] * 3, "caption": WORDS},
            r"column 'image' of 1\.parquet holds string; want pictures",
        ),
        (
            {"image": PICTURES, "caption": WORDS},
            {"image": PICTURES, "caption": [1, 2, 3]},
            r"column 'caption' of 1\.parquet holds int64; want text",
        ),
    ],
)
def test_a_file_that_does_not_fit_the_others_is_named(tmp_path, first, second, words):
    write(tmp_path / "0.parquet", **first)
    write(tmp_path / "1.parquet", **second)
    with pytest.raises(DataError, match=words):
        open_source(f"parquet:{tmp_path}")


def test_files_that_name_other_classes_are_refused(tmp_path):
    table = pa.table({"image": PICTURES, "label": [0, 1, 0]})
    for number, names in enumerate((("cat", "dog"), ("dog", "cat"))):
        pq.write_table(table.replace_schema_metadata(names_of(*names)), tmp_path / f"{number}.parquet")
    with pytest.raises(DataError, match=r"1\.parquet names other classes than 0\.parquet"):
        open_source(f"parquet:{tmp_path}")


def test_text_that_is_not_utf_8_breaks_its_record_alone(tmp_path):
    texts = pa.array([b"good", b"bad \xff", b"good"]).view(pa.string())
    write(tmp_path / "0.parquet", image=PICTURES, caption=texts)
    source = open_source(f"parquet:{tmp_path}")
    assert source[0]["captions"] == source[2]["captions"] == ["good"]
    with pytest.raises(
        DataError, match=r"column 'caption' of row 1 of 0\.parquet is invalid UTF-8 at byte 4"
    ):
        source[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[:-20], "is cut off; fetch it again"),
        (lambda data: data[:-8] + b"\xff\xff\0\0PAR1", "damaged on the way"),
        (lambda data: b"", "it is empty; fetch it again"),
        (lambda data: b"image,caption\n" * 99, "it does not begin as a parquet file does"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ],
)
def test_a_file_that_is_not_parquet_is_told_what_it_is(tmp_path, change, words):
    write(tmp_path / "0.parquet", image=PICTURES, caption=WORDS)
    (tmp_path / "0.parquet").write_bytes(change((tmp_path / "0.parquet").read_bytes()))
    with pytest.raises(DataError, match=rf"0\.parquet cannot be read as parquet: .*{words}") as error:
        open_source(f"parquet:{tmp_path}")
    assert "\n" not in str(error.value)


def labelled(tmp_path, marked=(), **columns):
    """A set whose columns `marked` are classes by what `datasets` wrote."""
    features = {name: {"names": ["cat", "dog"], "_type": "ClassLabel"} for name in marked}
    metadata = {"huggingface": json.dumps({"info": {"features": features | {"image": {"_type": "Image"}}}})}
    table = pa.table({"image": [png(0), png(1)], **columns}).replace_schema_metadata(metadata)
    pq.write_table(table, tmp_path / "0.parquet")
    source = open_source(f"parquet:{tmp_path}")
    found = [(source[i]["captions"], source[i].get("label")) for i in range(2)]
    return found, source.class_names, [text for text in source.remarks if "label" in text]


NUMBERS, NAMES, PATHS = [1, 0], ("cat", "dog"), ["a/0.png", "b/1.png"]


@pytest.mark.parametrize(
    ("columns", "marked", "names"),
    [
        ({"label": NUMBERS}, ["label"], NAMES),
        ({"label": NUMBERS, "labels": [0, 0], "coarse": [0, 0]}, ["labels", "label", "coarse"], NAMES),
        ({"labels": NUMBERS}, [], None),
        ({"labels": NUMBERS, "image_file_path": PATHS}, ["labels"], NAMES),
        ({"breed": NUMBERS, "a": PATHS, "b": PATHS, "width": [9, 9]}, ["breed"], NAMES),
    ],
)
def test_a_set_without_captions_has_the_labels_of_its_only_column_of_classes(
    columns, marked, names, tmp_path
):
    assert labelled(tmp_path, marked, **columns) == ([([], 1), ([], 0)], names, [])


@pytest.mark.parametrize(
    ("columns", "marked"),
    [
        ({"breed": NUMBERS, "caption": PATHS}, ["breed"]),
        ({"labels": NUMBERS, "caption_0": PATHS, "caption_1": PATHS}, ["labels"]),
    ],
)
def test_a_set_with_captions_has_no_labels_but_those_of_a_column_label(columns, marked, tmp_path):
    (first, _), names, remarks = labelled(tmp_path, marked, **columns)
    assert (set(first[0]), first[1], names, remarks) == ({"a/0.png"}, None, None, [])
    assert labelled(tmp_path, marked, label=[0, 1], **columns)[0][1][1] == 1


def test_several_columns_of_classes_are_named_and_none_is_read(tmp_path):
    found, names, remarks = labelled(tmp_path, ["fine", "coarse"], fine=NUMBERS, coarse=NUMBERS)
    assert found == [([], None)] * 2 and names is None
    assert remarks == [
        "The columns coarse, fine hold classes and none of them is called 'label', so there are no labels; rename the "
        "one that is meant."
    ]


@pytest.mark.parametrize("kind", [pa.list_(pa.int64()), pa.string()])
def test_labels_that_are_no_numbers_are_no_labels(kind, tmp_path):
    values = [[1], [0]] if kind == pa.list_(pa.int64()) else PATHS
    found, *_ = labelled(tmp_path, labels=pa.array(values, kind), other=PATHS, more=PATHS, label=[0, 1])
    assert [label for _, label in found] == [0, 1]
    with pytest.raises(DataError, match=r"which of the columns .* holds the captions"):
        labelled(tmp_path, labels=pa.array(values, kind), other=PATHS, more=PATHS)


def test_classes_that_are_numbers_in_some_files_alone_are_no_labels(tmp_path):
    labelled(tmp_path, ["breed"], breed=NUMBERS)
    pq.write_table(pa.table({"image": [png(2)], "breed": ["cat"]}), tmp_path / "1.parquet")
    source = open_source(f"parquet:{tmp_path}")
    assert source.class_names is None and "label" not in source[0]
