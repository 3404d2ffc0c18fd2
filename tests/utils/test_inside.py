"""A folder reads no file outside itself, whatever its links say, and only regular files."""

import os

import pytest

from lit_jax.data.sources.registry import open_source
from lit_jax.utils.errors import DataError
from tests.data.conftest import png


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "set").mkdir()
    for i in range(2):
        (tmp_path / "set" / f"{i}.png").write_bytes(png(i))
        (tmp_path / "set" / f"{i}.txt").write_text(f"text {i}")
    (tmp_path / "secret").write_text("a secret")
    return tmp_path / "set"


@pytest.mark.parametrize("name", ["1.txt", "1.png"])
def test_a_link_that_leaves_the_folder_breaks_only_its_record(folder, name):
    (folder / name).unlink()
    (folder / name).symlink_to("../secret")
    source = open_source(f"folder:{folder}")
    assert source[0]["captions"] == ["text 0"]
    with pytest.raises(DataError, match=f"'{name}' cannot be read"):
        source[1]


def test_a_link_within_the_folder_is_read(folder):
    (folder / "a.png").symlink_to("0.png")
    (folder / "a.txt").symlink_to("1.txt")
    source = open_source(f"folder:{folder}")
    assert (source[2]["image"], source[2]["captions"]) == (png(0), ["text 1"])


def test_a_pipe_in_the_place_of_a_picture_does_not_hang(folder):
    (folder / "1.png").unlink()
    os.mkfifo(folder / "1.png")
    with pytest.raises(DataError, match=r"1\.png"):
        open_source(f"folder:{folder}")[1]


def test_files_in_the_cache_of_the_hub_count_as_inside(tmp_path):
    snapshot, blobs = tmp_path / "repo" / "snapshots" / "1", tmp_path / "repo" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name, content in (("0.png", png(0)), ("0.txt", b"text")):
        (blobs / f"of_{name}").write_bytes(content)
        (snapshot / name).symlink_to(f"../../blobs/of_{name}")
    source = open_source(f"folder:{snapshot}")
    assert (source[0]["image"], source[0]["captions"]) == (png(0), ["text"])
