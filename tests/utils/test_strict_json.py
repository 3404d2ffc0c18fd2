"""JSON from others is read as Python's own reader reads it, or refused in a few words."""

import json

import pytest

from lit_jax.utils import strict_json

TREE = {"a": [1, -2.5, None, True, 'text "{[,'], "b": {"a": {}}, "c": 10**30, "ü": 1e-12}


def test_json_is_read_as_by_the_json_module(tmp_path):
    (tmp_path / "x.json").write_text("\ufeff" + json.dumps(TREE), encoding="utf-8")
    assert strict_json.read(tmp_path / "x.json") == TREE
    assert strict_json.parse("[" * 64 + "]" * 64)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1, "b": {"c": 1, "d": 2, "c": 1}}', "key 'c' twice"),
        ("[" + "1" * 5_000 + "]", "number of 5000 characters"),
        ("[0." + "1" * 5_000 + "]", "number of 5002 characters"),
        ("[" * 65 + "]" * 65, "more than 64 levels"),
        ("[" * 10_000 + "]" * 10_000, "more than 64 levels"),
        ("[" + "{}," * 3_000_000 + "1]", "about 6000001 values"),
        ("{", "Expecting property name"),
        (b'{"a": "\xff"}', "it is invalid UTF-8 at byte 7"),
    ],
)
def test_json_that_is_too_large_invalid_or_ambiguous_is_refused_with_the_reason(text, reason):
    with pytest.raises(ValueError, match=reason) as error:
        strict_json.parse(text)
    assert "\n" not in str(error.value)


def test_a_pointer_of_git_lfs_in_the_place_of_a_file_is_named(tmp_path):
    (tmp_path / "x.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(
        ValueError, match="it is a pointer of Git LFS; fetch the file itself with `git lfs pull`"
    ):
        strict_json.read(tmp_path / "x.json")


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    (tmp_path / "x.json").write_text("[1, 2, 3]")
    with pytest.raises(ValueError, match="it has 9 bytes; a JSON file may have at most 8"):
        strict_json.read(tmp_path / "x.json", 8)
