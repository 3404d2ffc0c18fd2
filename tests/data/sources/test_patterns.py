"""Names of several files at once: braces, lists and brackets."""

import pytest

from lit_jax.data.sources.patterns import expand_braces, split_list
from lit_jax.data.sources.registry import open_source
from lit_jax.utils.errors import DataError
from tests.data.conftest import png, write_tar


# What braceexpand 0.1.7, which webdataset uses, returns.
@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("x{000..002}.tar", ["x000.tar", "x001.tar", "x002.tar"]),
        ("{08..11}", ["08", "09", "10", "11"]),
        ("{2..-1}", ["2", "1", "0", "-1"]),
        ("{0..6..3}", ["0", "3", "6"]),
        ("{a..e..2}", ["a", "c", "e"]),
        ("{a,b}/{1..2}", ["a/1", "a/2", "b/1", "b/2"]),
        ("p{2.{5..6},3,}", ["p2.5", "p2.6", "p3", "p"]),
        ("{one}", ["{one}"]),
        ("{{1..2}}", ["{1}", "{2}"]),
        ("plain", ["plain"]),
    ],
)
def test_braces_are_expanded_as_webdataset_expands_them(pattern, names):
    assert expand_braces(pattern) == names


@pytest.mark.parametrize("pattern", ["{1..2", "1..2}", "{1{2,3}", "a}{b", "{0..10000000}"])
def test_braces_that_do_not_close_or_give_too_much_are_refused(pattern):
    with pytest.raises(DataError):
        expand_braces(pattern)


@pytest.mark.parametrize(
    ("where", "places"),
    [
        ("a.tar::b.tar", ["a.tar", "b.tar"]),
        ("gs://x/a.tar::gs://y/b.tar", ["gs://x/a.tar", "gs://y/b.tar"]),
        ("simplecache::gs://x/a.tar", ["simplecache::gs://x/a.tar"]),
        ("tar://a.tar::s3://x/b.tar", ["tar://a.tar::s3://x/b.tar"]),
    ],
)
def test_a_list_is_told_from_a_chain_of_file_systems(where, places):
    assert split_list(where) == places


@pytest.fixture
def shards(tmp_path):
    """Twelve shards of a record each."""
    for i in range(12):
        write_tar(tmp_path / f"{i:03}.tar", [(f"{i}.png", png(i))])
    return tmp_path


def ids(spec):
    source = open_source(spec)
    return [source[i]["id"] for i in range(len(source))]


def test_lists_and_braces_name_shards(shards):
    assert ids(f"wds:{shards}/{{008..011}}.tar") == ["8", "9", "10", "11"]
    assert ids(f"wds:{shards}/003.tar::{shards}/00{{1,2}}.tar::{shards}/003.tar") == ["1", "2", "3"]
    assert ids(f"wds:{shards}/0{{0*,10}}.tar") == [str(i) for i in range(11)]


@pytest.mark.parametrize(
    ("where", "words"),
    [
        (
            "{0}/{{010..014}}.tar",
            r"no file matches .*/012\.tar; 3 of the 5 names that the braces give are missing",
        ),
        ("{0}/000.tar::{0}/x.tar", r"no file matches .*/x\.tar; want a file"),
        ("{0}/000.tar::", "one of the 2 places that :: divides is empty"),
        ("{0}/000.tar::memory://b/1.tar", "are on different file systems"),
        ("{0}/{{000..011.tar", r"a '\{' without its '\}'"),
    ],
)
def test_a_name_without_its_shard_is_an_error(shards, where, words):
    with pytest.raises(DataError, match=words):
        open_source("wds:" + where.format(shards))


@pytest.mark.parametrize("name", ["d[1]", "d*", "what?", "{a,b}", "[x]{1..2}", "}{"])
def test_brackets_and_braces_in_the_name_of_a_folder_stand_for_themselves(tmp_path, name):
    folder = tmp_path / name / "more[0]"
    folder.mkdir(parents=True)
    (tmp_path / "d1" / "more[0]").mkdir(parents=True)
    for place, key in ((folder, "right"), (tmp_path / "d1" / "more[0]", "wrong")):
        write_tar(place / "0[5].tar", [(f"{key}.png", png(0))])
    for where in (folder, folder / "*.tar", folder / "0[5].tar", folder / "0?5?.*"):
        assert ids(f"wds:{where}") == ["right"], where


def test_hidden_files_of_a_folder_are_no_shards(shards):
    (shards / "._000.tar").write_bytes(b"AppleDouble")
    assert len(ids(f"wds:{shards}")) == len(ids(f"wds:{shards}/*.tar")) == 12
    with pytest.raises(DataError, match="it is no tar file"):
        open_source(f"wds:{shards}/._000.tar")
