"""Parquet and Arrow files of any columns, types and damage: every row is read, or an error or a remark tells of it."""

import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lit_jax.data.sources.registry import open_source
from lit_jax.utils.errors import DataError
from tests.data.conftest import storable

EXAMPLES = [60, pytest.param(10_000, marks=pytest.mark.slow)]
FORMS = ["parquet", "stream.arrow", "file.arrow"]
struct = pa.struct

BYTES = [
    pa.binary(),
    pa.large_binary(),
    pa.binary_view(),
    pa.binary(4),
    pa.dictionary(pa.int32(), pa.binary()),
]
BYTES = [*filter(storable, BYTES)]
PICTURES = [
    *BYTES,
    struct([("bytes", pa.binary()), ("path", pa.string())]),
    struct([("path", pa.null()), ("bytes", pa.large_binary())]),
    struct([("bytes", pa.null()), ("path", pa.string())]),
    pa.null(),
]
STRINGS = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
STRINGS = [*filter(storable, STRINGS)]
TEXTS = [
    *STRINGS,
    pa.list_(pa.string()),
    pa.large_list(pa.large_string()),
    pa.list_(pa.string(), 2),
    *filter(storable, [pa.list_view(pa.string())]),
    pa.list_(pa.list_(pa.string())),
    pa.list_(struct([("raw", pa.string()), ("n", pa.int64())])),
    struct([("text", pa.list_(pa.string()))]),
    struct([("caption", pa.string())]),
    pa.list_(pa.null()),
    pa.null(),
]
ODD = [
    pa.int64(),
    pa.uint8(),
    pa.float64(),
    pa.bool_(),
    pa.timestamp("ns"),
    pa.date64(),
    pa.time64("ns"),
    pa.decimal128(38, 2),
    pa.list_(pa.int32()),
    struct([("a", pa.int8())]),
    pa.duration("s"),
]
NAMES = [
    "image",
    "jpg",
    "caption",
    "text",
    "id",
    "image_id",
    "key",
    "label",
    "status",
    "url",
    "file_name",
    "width",
]


def fill(kind, row):
    """A value of this type that tells of its row."""
    types, word = pa.types, f"{row}"
    if types.is_dictionary(kind):
        return fill(kind.value_type, row)
    if types.is_struct(kind):
        return {field.name: fill(field.type, row) for field in kind}
    if types.is_fixed_size_list(kind):
        return [fill(kind.value_type, row)] * kind.list_size
    if types.is_nested(kind):
        return [fill(kind.value_type, row)]
    if types.is_fixed_size_binary(kind):
        return word.rjust(kind.byte_width).encode()
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind):
        return word.encode()
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return word
    if types.is_null(kind):
        return None
    if types.is_boolean(kind):
        return bool(row % 2)
    return row


def column(kind, rows, missing):
    values = [None if row in missing else fill(kind, row) for row in rows]
    if pa.types.is_decimal(kind) or pa.types.is_temporal(kind):
        return (
            pa.array(values, pa.int64()).cast(kind)
            if not pa.types.is_date64(kind)
            else pa.nulls(len(values), kind)
        )
    return pa.array(values, kind)


def many(count, check, *strategies):
    """Runs `check` on `count` inputs."""
    health = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    wanted = settings(
        max_examples=count, deadline=None, derandomize=True, database=None, suppress_health_check=health
    )
    wanted(given(*strategies)(check))()


def write(folder, form, tables):
    """Writes a file for each table, and removes the former ones."""
    for old in folder.iterdir():
        old.unlink()
    for number, table in enumerate(tables):
        path = folder / f"{number}.{form.rpartition('.')[2]}"
        if form == "parquet":
            pq.write_table(table, path, row_group_size=2)
            continue
        new = pa.ipc.new_stream if form == "stream.arrow" else pa.ipc.new_file
        with new(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)


def read(folder):
    """(source, captions of each record, or its error), or the error of the source."""
    try:
        source = open_source(f"{next(folder.iterdir()).suffix[1:]}:{folder}")
    except DataError as error:
        assert "\n" not in str(error) and str(folder) in str(error)
        return str(error)
    records = []
    for i in range(len(source)):
        try:
            records.append(source[i])
        except DataError as error:
            assert "\n" not in str(error)
            records.append(str(error))
    assert len(source.fingerprint()) == 64
    return source, records


files = st.integers(1, 3)
kinds = st.sampled_from(PICTURES + TEXTS + ODD)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", EXAMPLES)
def test_files_of_any_columns_are_read_or_refused(tmp_path, count, form):
    def check(number, data):
        tables = []
        names = data.draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=5, unique=True))
        for file in range(number):
            some = data.draw(st.permutations(names)) if file else names
            table = {name: column(data.draw(kinds), range(file * 10, file * 10 + 3), ()) for name in some}
            tables.append(pa.table(table))
        write(tmp_path, form, tables)
        read(tmp_path)

    many(count, check, files, st.data())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", EXAMPLES)
def test_every_row_with_a_picture_and_a_text_is_in_one_record(tmp_path, count, form):
    """Rows, captions and pictures of any type that can be read; ids that join some of the rows."""

    def check(number, data):
        tables = []
        picture = [data.draw(st.integers(100, 103)) for _ in range(5 * number)]  # Of each row.
        status = data.draw(st.booleans())
        key = data.draw(st.sampled_from([None, *STRINGS, pa.int64(), pa.dictionary(pa.int32(), pa.int64())]))
        image = data.draw(st.sampled_from(PICTURES[: len(BYTES) + 1]))
        kept = []  # (row, how often its caption is in it)
        for file in range(number):
            rows = range(file * 5, file * 5 + 5)
            lost = data.draw(st.sets(st.sampled_from(rows), max_size=2)) if status else set()
            text = data.draw(st.sampled_from(TEXTS[:-2]))
            table = {
                "image": pa.array([None if r in lost else fill(image, picture[r]) for r in rows], image),
                "caption": column(text, rows, ()),
            }
            if key is not None:
                table["id"] = pa.array([fill(key, picture[r]) for r in rows], key)
            if status:
                states = ["failed_to_download" if r in lost else "success" for r in rows]
                table["status"] = pa.array(states, data.draw(st.sampled_from(STRINGS)))
            table = {name: table[name] for name in data.draw(st.permutations(sorted(table)))}
            tables.append(pa.table(table))
            kept += [(r, 2 if pa.types.is_fixed_size_list(text) else 1) for r in rows if r not in lost]
        write(tmp_path, form, tables)
        found = read(tmp_path)
        assert not isinstance(found, str)
        source, records = found
        failed = [
            int(re.search(r"left out: (\d+),", text)[1]) for text in source.remarks if "left out" in text
        ]
        assert sum(failed) == len(picture) - len(kept)
        want = {}
        for row, times in kept:
            joined = picture[row] if key is not None or pa.types.is_struct(image) else row
            want.setdefault(joined, []).extend([f"{row}"] * times)
        assert sorted(record["captions"] for record in records) == sorted(want.values())

    many(count, check, files, st.data())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", EXAMPLES)
def test_a_few_bytes_changed_end_in_no_traceback(tmp_path, count, form):
    table = pa.table(
        {
            "image": [{"bytes": b"%d" % i, "path": f"{i // 2}"} for i in range(6)],
            "caption": list("abcdef"),
            "id": pa.array(range(6)),
            "label": [0, 1, 0, 1, 2, 2],
            "status": ["success", "failed_to_resize"] * 3,
        }
    )
    write(tmp_path, form, [table])
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()

    def check(data):
        changed = bytearray(content)
        for _ in range(data.draw(st.integers(1, 3))):
            changed[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.unlink(missing_ok=True)  # What is mapped into memory must not change.
        path.write_bytes(changed[: data.draw(st.just(len(content)) | st.integers(0, len(content)))])
        read(tmp_path)

    many(count, check, st.data())
