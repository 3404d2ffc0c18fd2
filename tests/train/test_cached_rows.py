"""Cached rows come back bit for bit, or the file is reported as damaged."""

import hashlib
import logging

import ml_dtypes
import numpy as np
import pytest

from lit_jax.train import cached_rows
from lit_jax.train.cache_draft import Draft
from lit_jax.train.cached_rows import DTYPES, open_rows, seal
from lit_jax.utils.errors import CheckpointError, ConfigError

ROWS = np.random.default_rng(0).normal(size=(7, 6)).astype(np.float32)


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A file of four blocks."""
    monkeypatch.setattr(cached_rows, "BLOCK", 2 * ROWS[0].nbytes)
    np.save(tmp_path / "rows.npy", ROWS)
    seal(tmp_path / "rows.npy")
    return tmp_path / "rows.npy"


def flip(path, place, bit=0):
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def test_numpy_reads_the_file_as_if_it_had_no_sums(path):
    np.testing.assert_array_equal(np.load(path), ROWS)
    np.testing.assert_array_equal(np.load(path, mmap_mode="r"), ROWS)
    digests = path.read_bytes()[128 + ROWS.nbytes :]
    assert digests[32:64] == hashlib.sha256(ROWS[2:4].tobytes()).digest()


@pytest.mark.parametrize(
    "which", [3, -1, slice(1, 5), slice(None), np.array([6, 0]), (2, slice(0, 3)), ROWS > 0]
)
def test_any_part_of_the_rows_is_what_was_written(which, path):
    found = open_rows(path, 7)[which]
    assert type(found) in (np.ndarray, np.float32)
    np.testing.assert_array_equal(found, ROWS[which])


def test_a_flip_of_any_bit_is_found_where_it_is_read(path):
    content = path.read_bytes()
    for place in range(len(content)):
        flip(path, place, place % 8)
        with pytest.raises(CheckpointError, match=r"rows\.npy is damaged") as error:
            open_rows(path, 7).compare_all()
        assert "\n" not in str(error.value) and path.exists()
        path.write_bytes(content)


def test_only_what_is_read_is_checked_and_a_damaged_file_is_set_aside(path):
    flip(path, 128 + 3 * ROWS[0].nbytes)
    rows = open_rows(path, 7)
    np.testing.assert_array_equal(rows[:2], ROWS[:2])
    np.testing.assert_array_equal(rows[4], ROWS[4])
    with pytest.raises(CheckpointError, match=r"rows 2 to 3 have another sha256.*start again"):
        rows[2]
    assert [each.name for each in path.parent.iterdir()] == ["rows.npy.damaged"]


@pytest.mark.parametrize(
    "content",
    [b"", bytes(900), b"\x93NUMPY\x01\x00\xff\xff", b"\x93NUMPY\x03\x00" + bytes(200), b"no array" * 20],
)
def test_what_is_not_such_a_file_is_refused_in_one_sentence(content, path):
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"rows\.npy is damaged"):
        open_rows(path, 7)


@pytest.mark.parametrize("other", [ROWS[:6], ROWS.astype(np.float64), ROWS.ravel(), np.asfortranarray(ROWS)])
def test_rows_of_another_kind_are_refused(other, path):
    np.save(path, other)
    with pytest.raises(CheckpointError, match=r"it holds .*wanted 7 rows"):
        open_rows(path, 7)


def test_a_file_that_was_cut_off_anywhere_is_refused(path):
    whole = path.read_bytes()
    # Of that size, it is a file of an old version.
    for size in {*range(0, len(whole), 3)} - {128 + ROWS.nbytes}:
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="is damaged"):
            open_rows(path, 7)


def test_a_file_of_an_old_version_is_read_and_one_line_says_so(path, caplog):
    np.save(path, ROWS)
    with caplog.at_level(logging.INFO, "lit_jax"):
        np.testing.assert_array_equal(open_rows(path, 7)[:], ROWS)
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} is of an older version, without sums: it cannot be checked"
    ]


@pytest.mark.parametrize("name", DTYPES)
def test_a_file_of_any_precision_comes_back_rounded_once(name, tmp_path):
    rounded = ROWS.astype(getattr(ml_dtypes, name, name))
    with Draft(tmp_path / "rows.npy", name) as draft:
        draft.append(ROWS[:3], 3)
    with Draft(tmp_path / "rows.npy", name) as draft:  # Another start continues.
        assert draft.records == 3
        draft.append(ROWS[3:], 4)
        draft.finish()
    rows = open_rows(tmp_path / "rows.npy", 7)
    rows.compare_all()
    np.testing.assert_array_equal(np.asarray(rows[:], np.float32), rounded.astype(np.float32))
    np.testing.assert_array_equal(np.asarray(rows[5], np.float32), rounded[5].astype(np.float32))
    assert rows[:].nbytes == ROWS.size * np.dtype(DTYPES[name]).itemsize
    for place in (140, -50):  # A bit of the rows, and one of the sums.
        flip(tmp_path / "rows.npy", place)
        with pytest.raises(CheckpointError, match="damaged"):
            open_rows(tmp_path / "rows.npy", 7).compare_all()
        flip(tmp_path / "rows.npy", place)


def test_a_number_that_float16_cannot_hold_is_refused(tmp_path):
    with Draft(tmp_path / "rows.npy", "float16") as draft:
        draft.append(np.array([[65_504.0, np.nan]], np.float32), 1)
        with pytest.raises(ConfigError, match=r"a feature of 70000 does not fit.*set it to 'bfloat16'"):
            draft.append(np.array([[-7e4, 0]], np.float32), 1)
    with Draft(tmp_path / "rows.npy", "bfloat16") as draft:
        draft.append(np.array([[-7e4, 0]], np.float32), 1)
