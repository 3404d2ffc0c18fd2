"""Rows of one picture are one record, wherever they stand; rows that failed to download are none."""

import hashlib
import itertools
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lit_jax.data.sources import parquet
from lit_jax.data.sources.registry import open_source
from lit_jax.utils.errors import DataError
from tests.data.conftest import png

ROWS = [(i, f"{i} caption {j}") for i in range(12) for j in range(1 + i % 3)]  # Picture and caption.
WANT = {i: [caption for picture, caption in ROWS if picture == i] for i in range(12)}


def write(path, rows, group=5, **more):
    """A file of (picture, caption) rows; `more` maps a column to the function of a picture's number that fills it."""
    columns = {"image": [png(i) for i, _ in rows], "caption": [caption for _, caption in rows]}
    columns |= {name: [of(i) for i, _ in rows] for name, of in more.items()}
    pq.write_table(pa.table(columns), path, row_group_size=group)


def records(source):
    return [source[i] for i in range(len(source))]


def in_struct(i):
    return {"bytes": png(i), "path": f"{i:02}.png"}


KEYS = {
    "id": ({"id": lambda i: f"r{i:02}"}, lambda i: f"r{i:02}"),
    "numbers": ({"image_id": lambda i: i + 5}, lambda i: str(i + 5)),
    "path": ({"image": in_struct}, lambda i: f"{i:02}.png"),
}


@pytest.mark.parametrize("key", KEYS)
def test_rows_that_stand_together_are_one_record_in_their_order(tmp_path, key):
    columns, name = KEYS[key]
    order = [7, 3, 11, 0, 1, 2]
    rows = [row for i in order for row in ROWS if row[0] == i]
    write(tmp_path / "0.parquet", rows[:9], **columns)
    write(tmp_path / "1.parquet", rows[9:], **columns)  # A picture's rows may end in the next file.
    source = open_source(f"parquet:{tmp_path}")
    assert records(source) == [{"image": png(i), "captions": WANT[i], "id": name(i)} for i in order]
    assert source.remarks == ()


@pytest.mark.parametrize("key", KEYS)
def test_rows_in_any_order_are_the_same_records_sorted_by_picture(tmp_path, key):
    columns, name = KEYS[key]
    rows = random.Random(0).sample(ROWS, len(ROWS))
    write(tmp_path / "0.parquet", rows[:11], **columns)
    write(tmp_path / "1.parquet", rows[11:], **columns)
    source = open_source(f"parquet:{tmp_path}")
    want = {i: [caption for picture, caption in rows if picture == i] for i in range(12)}
    assert records(source) == [{"image": png(i), "captions": want[i], "id": name(i)} for i in range(12)]


def test_rows_are_joined_by_the_first_column_that_names_pictures(tmp_path):
    captions = itertools.count()
    for column in ("image_id", "filename"):
        columns = {"id": lambda _: next(captions), column: lambda i: f"{i}.jpg"}
        write(tmp_path / "0.parquet", ROWS[:6], **columns)
        source = open_source(f"parquet:{tmp_path}")
        assert [record["id"] for record in records(source)] == ["0.jpg", "1.jpg", "2.jpg"]


def test_rows_of_other_pictures_with_one_path_stay_apart(tmp_path):
    write(tmp_path / "0.parquet", ROWS[1:6], image=lambda i: {"bytes": png(i), "path": "image.png"})
    source = open_source(f"parquet:{tmp_path}")
    assert [r["captions"] for r in records(source)] == [[caption] for _, caption in ROWS[1:6]]
    assert source.remarks == (
        "Rows share a value of image.path and have different pictures, so it joins no rows: 1, "
        "the first is row 1 of 0.parquet, as row 2 of 0.parquet.",
    )


def test_a_row_with_another_picture_than_its_id_says_breaks_its_record_alone(tmp_path):
    rows = [(0, "a"), (0, "b"), (1, "c"), (1, "d"), (2, "e"), (2, "f")]
    pictures = iter([0, 0, 1, 9, 2, 2])
    write(tmp_path / "0.parquet", rows, group=2, image=lambda _: png(next(pictures)), id=lambda i: i)
    source = open_source(f"parquet:{tmp_path}")
    assert len(source) == 3 and source[2]["captions"] == ["e", "f"]
    with pytest.raises(DataError, match=r"row 3 of 0\.parquet has another picture than an earlier row .* id"):
        source[1]


def test_rows_without_an_id_are_records_of_their_own(tmp_path):
    write(tmp_path / "0.parquet", ROWS[3:9], id=lambda i: None if i == 2 else "" if i == 3 else i and f"{i}")
    source = open_source(f"parquet:{tmp_path}")
    assert sorted(len(r["captions"]) for r in records(source)) == [1] * 4 + [2]


def test_a_classification_set_is_never_joined(tmp_path):
    table = pa.table({"image": [png(0)] * 3, "id": ["a", "a", "b"], "label": [0, 0, 1]})
    pq.write_table(table, tmp_path / "0.parquet")
    assert len(open_source(f"parquet:{tmp_path}")) == 3


@pytest.fixture
def reads(monkeypatch):
    """What is read of parquet files: the columns of whole files, and (row group, columns)."""
    asked = []
    read, read_group = pq.ParquetFile.read, pq.ParquetFile.read_row_group

    def whole(self, columns):
        asked.append(tuple(columns))
        return read(self, columns=columns)

    def group(self, i, columns):
        asked.append((i, *columns))
        return read_group(self, i, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "read", whole)
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", group)
    return asked


def test_only_the_column_of_ids_and_a_few_pictures_are_read_at_opening(tmp_path, reads):
    write(tmp_path / "0.parquet", ROWS, group=3, id=lambda i: f"{i // 9}{i}")
    assert len(open_source(f"parquet:{tmp_path}")) == 12
    assert reads[0] == ("id",) and [columns for _, *columns in reads[1:]] == [["image"]] * 2


def test_captions_of_rows_elsewhere_are_read_without_their_pictures(tmp_path, reads):
    rows = [(i, f"{i}{j}") for j in range(3) for i in range(4)]
    write(tmp_path / "0.parquet", rows, group=4, id=lambda i: f"{i}")
    source = open_source(f"parquet:{tmp_path}")
    reads.clear()
    assert [record["captions"] for record in records(source)] == [
        [f"{i}{j}" for j in range(3)] for i in range(4)
    ]
    assert sorted(reads) == [(0, "image", "caption", "id"), (1, "caption"), (2, "caption")]


def test_the_rows_of_a_large_source_are_indexed_once(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "_INDEXED", 10)
    write(tmp_path / "0.parquet", ROWS[::-1], id=lambda i: f"{i:02}")
    first = open_source(f"parquet:{tmp_path}")
    assert len(list(tmp_path.glob(".lit_jax-*"))) == 1
    with monkeypatch.context() as m:
        m.setattr(parquet, "arrange", lambda *_: 1 / 0)
        assert records(open_source(f"parquet:{tmp_path}")) == records(first)
    write(tmp_path / "1.parquet", ROWS[:1], id=lambda i: "x")
    assert len(open_source(f"parquet:{tmp_path}")) == len(first) + 1


def test_rows_that_failed_to_download_are_left_out_with_a_remark(tmp_path):
    states = ["success", "failed_to_download", "failed_to_resize", "success", "failed_to_download"]
    for file in range(2):
        columns = {
            "key": [f"{file}{i}" for i in range(5)],
            "status": states,
            "error_message": [None if s == "success" else "HTTP Error 404" for s in states],
            "caption": [f"{file}{i}" for i in range(5)],
            "jpg": [png(i) if s == "success" else None for i, s in enumerate(states)],
        }
        pq.write_table(pa.table(columns), tmp_path / f"{file}.parquet", row_group_size=2)
    source = open_source(f"parquet:{tmp_path}")
    assert [record["id"] for record in records(source)] == ["00", "03", "10", "13"]
    (remark,) = source.remarks
    assert "left out: 6, the first is row 1 of 0.parquet (failed_to_download)" in remark
    assert [record["captions"] for record in records(source)] == [["00"], ["03"], ["10"], ["13"]]


def test_a_state_that_is_no_utf8_is_shown_and_leaves_its_row_out(tmp_path):
    states = pa.array([b"success", b"failed_to_\x80", b"success"], pa.binary())
    states = pa.Array.from_buffers(pa.string(), 3, states.buffers())  # As in a file that was damaged.
    table = pa.table({"jpg": [png(0), None, png(2)], "caption": list("abc"), "status": states})
    pq.write_table(table, tmp_path / "0.parquet")
    source = open_source(f"parquet:{tmp_path}")
    assert [record["captions"] for record in records(source)] == [["a"], ["c"]]
    assert "left out: 1, the first is row 1 of 0.parquet (failed_to_\ufffd)" in source.remarks[0]


def test_a_column_of_fewer_rows_than_its_file_is_told_and_leaves_no_row_out(tmp_path, monkeypatch):
    write(tmp_path / "0.parquet", ROWS, status=lambda i: "success")
    read = pq.ParquetFile.read

    def cut(file, columns):
        return read(file, columns=columns).slice(0, 3 if columns == ["status"] else None)

    monkeypatch.setattr(pq.ParquetFile, "read", cut)
    source = open_source(f"parquet:{tmp_path}")
    assert len(source) == len(ROWS)
    assert source.remarks == ("Files whose column 'status' cannot be read: 1, the first is 0.parquet.",)


def test_a_status_of_another_kind_leaves_no_row_out(tmp_path):
    write(tmp_path / "0.parquet", ROWS, status=lambda i: "failed exam" if i else None)
    source = open_source(f"parquet:{tmp_path}")
    assert len(source) == len(ROWS) and source.remarks == ()


def test_a_source_of_failed_rows_alone_is_refused_with_their_number(tmp_path):
    table = pa.table(
        {"jpg": pa.nulls(3, pa.binary()), "caption": list("abc"), "status": ["failed_to_download"] * 3}
    )
    pq.write_table(table, tmp_path / "0.parquet")
    with pytest.raises(
        DataError, match=r"could not be fetched .* left out: 3, the first is row 0 of 0\.parquet"
    ):
        open_source(f"parquet:{tmp_path}")


def test_the_fingerprint_changes_only_where_records_do(tmp_path):
    write(tmp_path / "0.parquet", [(i, "x") for i in range(5)], id=lambda i: f"{i}")
    data = (tmp_path / "0.parquet").read_bytes()
    assert len(data) < 1 << 16

    def plain(columns):  # As every version of lit_jax computes it.
        name = f"0.parquet {len(data)} ".encode()
        return hashlib.sha256(repr((columns, None)).encode() + name + data + data).hexdigest()

    assert open_source(f"parquet:{tmp_path}").fingerprint() == plain(["image", "caption", "id"])
    write(tmp_path / "0.parquet", [(i // 2, "x") for i in range(5)], id=lambda i: f"{i}")
    data = (tmp_path / "0.parquet").read_bytes()
    assert open_source(f"parquet:{tmp_path}").fingerprint() != plain(["image", "caption", "id"])
