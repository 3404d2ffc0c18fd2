"""A few hundred tables made to hurt: each is read completely, or refused in a sentence. tests/test_fuzz.py has more."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.sources import tables

few = settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    tables.write_pictures(folder)
    return folder


@few
@given(st.sampled_from(tables.NAMES[:5]), tables.rows, st.sampled_from(["\n", "\r\n", "\r"]))
def test_what_csv_and_json_write_is_read_completely(folder, name, pairs, end):
    tables.check_exact(folder, name, pairs, end)


@few
@given(
    st.sampled_from(tables.NAMES[:4]),
    tables.plain_rows,
    st.lists(st.integers(0, 999), min_size=1, max_size=3),
    tables.snippets,
)
def test_no_row_of_a_changed_table_is_lost_without_a_word(folder, name, pairs, places, snippet):
    tables.check_changed(folder, name, pairs, places, snippet)


@few
@given(st.sampled_from(tables.NAMES), st.binary(max_size=80), st.none() | tables.keys)
def test_bytes_of_any_kind_are_no_traceback(folder, name, content, caption):
    head = "|".join(tables.HEADS[name]) if name == "results.csv" else ",".join(tables.HEADS[name])
    tables.check_any(folder, name, content, caption)
    tables.check_any(folder, name, head.encode() + b"\n" + content, caption)


@few
@given(tables.json_lines(), st.none() | tables.keys)
def test_keys_and_values_of_any_kind_are_no_traceback(folder, content, caption):
    tables.check_any(folder, "metadata.jsonl", content, caption)


@few
@given(tables.labelled())
def test_labels_and_ids_of_any_kind_are_no_traceback(folder, content):
    tables.check_any(folder, "captions.csv", content)
