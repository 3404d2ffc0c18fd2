"""Tables made to hurt, a few hundred or, slow, 10,000: each is read completely, or refused in a sentence."""

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


@pytest.mark.slow
@settings(few, max_examples=10_000)
@given(st.data())
def test_no_table_loses_a_row_without_a_word_or_ends_in_a_traceback(folder, data):
    """One target of five kinds: written by csv or json, changed in places, any bytes, any keys, any labels."""
    name = data.draw(st.sampled_from(tables.NAMES[:4]))
    match data.draw(st.integers(0, 4)):
        case 0:
            tables.check_exact(
                folder, name, data.draw(tables.rows), data.draw(st.sampled_from(["\n", "\r\n", "\r"]))
            )
        case 1:
            places = data.draw(st.lists(st.integers(0, 999), min_size=1, max_size=4))
            tables.check_changed(
                folder, name, data.draw(tables.plain_rows), places, data.draw(tables.snippets)
            )
        case 2:
            tables.check_any(folder, name, data.draw(st.binary(max_size=120)))
        case 3:
            caption = data.draw(st.none() | tables.keys)
            tables.check_any(folder, "metadata.jsonl", data.draw(tables.json_lines()), caption)
        case 4:
            tables.check_any(folder, "captions.csv", data.draw(tables.labelled()))
