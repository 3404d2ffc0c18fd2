"""An index on disk is the one that was written, or it is made again."""

import os

import numpy as np
import pyarrow as pa
import pytest

from lit_jax.data.sources import record_index
from lit_jax.data.sources.files import Files
from lit_jax.data.sources.record_index import MARK, open_index

COLUMNS = {
    "at": np.arange(5, dtype=np.int64) * 7,
    "name": pa.array(["a", "é", "", "d", "e"], pa.large_string()),
}


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Opens the index of a folder; `index.made` counts how often it was made, `index.path` is its file."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))

    def make():
        open_again.made += 1
        return COLUMNS, {"rows": 5}

    def open_again():
        found = open_index(Files("wds:x", str(tmp_path)), str(tmp_path), "x", ["stamp"], make)
        assert found["at"].tolist() == COLUMNS["at"].tolist() and found.about == {"rows": 5}
        assert [found.text("name", i) for i in range(len(found))] == COLUMNS["name"].to_pylist()

    open_again.made = 0
    open_again()
    (open_again.path,) = tmp_path.glob(".lit_jax-*.arrow")
    return open_again


def test_it_is_made_once(index):
    index()
    assert index.made == 1 and index.path.read_bytes().endswith(MARK)


def test_with_any_bit_flipped_it_is_made_again(index):
    content = index.path.read_bytes()
    for number, place in enumerate(range(0, len(content), 7)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        index.path.write_bytes(damaged)
        index()
        assert index.made == number + 2, f"bit {place % 8} of byte {place}"
        assert index.path.read_bytes() == content


def test_cut_or_longer_or_something_else_it_is_made_again(index):
    content = index.path.read_bytes()
    for number, damaged in enumerate(
        [b"", content[:-1], content[:-40], content[:300], content + b"\0", MARK * 9]
    ):
        index.path.write_bytes(damaged)
        index()
        assert index.made == number + 2


def test_one_of_an_older_version_is_made_again(index):
    index.path.write_bytes(index.path.read_bytes()[:-40])
    assert pa.ipc.open_file(index.path.read_bytes()).read_all().num_rows == 5
    index()
    assert index.made == 2 and index.path.read_bytes().endswith(MARK)


@pytest.mark.parametrize("what", [os.mkfifo, os.mkdir])
def test_a_pipe_or_a_folder_in_its_place_is_not_read(what, index):
    index.path.unlink()
    what(index.path)
    index()
    assert index.made == 2


def test_it_is_compared_before_it_is_mapped(index, monkeypatch):
    index.path.write_bytes(index.path.read_bytes().replace(b"stamp", b"stamq"))
    mapped = []
    plain = record_index.pa.memory_map
    monkeypatch.setattr(
        record_index.pa, "memory_map", lambda *args: (mapped.append(index.made), plain(*args))[1]
    )
    index()
    assert mapped == [2]


def test_a_user_without_a_home_has_no_cache_and_reads_the_index_beside_the_data(index, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(
        os.path, "expanduser", lambda path: path
    )  # As for a user that the system does not know.
    assert record_index.cache_dir() is None
    index()
    assert index.made == 1
