"""The pictures of an index that somebody else wrote: nothing is opened that the user did not name."""

import json
import os
import shutil
import socket

import pytest

import lit_jax
from lit_jax.data.sources.registry import open_source
from lit_jax.tools.demo import pictures
from lit_jax.tools.demo.app import make_app
from lit_jax.tools.demo.pictures import open_pictures
from lit_jax.utils.errors import ConfigError, DataError
from tests.tools.demo.pages import asked, served


def changed(index, folder, ids=None, **fields):
    """A copy of an index with other ids and another manifest."""
    shutil.copytree(index.folder, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | fields))
    (folder / "SHA256SUMS").unlink()  # A stranger writes what he likes.
    if ids is not None:
        ids = [*ids, *(f"none {i}" for i in range(index.pictures - len(ids)))]
        next(folder.glob("ids-*")).write_text(json.dumps(ids))
    return lit_jax.inference.index.Index.open(folder)


def test_the_pictures_of_the_source_that_was_embedded_are_shown(place, index):
    source = f"folder:{place / 'pairs'}"
    read, caption = open_pictures(index, source)
    assert read(3) == (place / "pairs" / "003.png").read_bytes()
    assert caption(3) == open_source(source)[3]["captions"][0] and caption(10**12) == ""
    for number in (-1, 24, 10**12):
        with pytest.raises(DataError, match="not there"):
            read(number)


def test_files_that_were_embedded_are_shown_below_the_folder_that_is_named(
    place, model, tmp_path, monkeypatch
):
    monkeypatch.chdir(place)
    files = [f"pairs/{i:03}.png" for i in (4, 2)]
    index = lit_jax.embed(files, tmp_path / "i", model)
    for folder in ("pairs", "folder:pairs", str(place / "pairs"), "."):
        assert open_pictures(index, folder).read(1) == (place / "pairs" / "002.png").read_bytes()
    with pytest.raises(DataError, match="not there"):
        open_pictures(index, str(tmp_path)).read(1)
    with pytest.raises(ConfigError, match="is not a folder; give the one"):
        open_pictures(index, "parquet:x.parquet")


@pytest.fixture
def traps(place, tmp_path):
    """A folder with a picture, and names that lead to something else."""
    folder = tmp_path / "mine"
    folder.mkdir()
    shutil.copy(place / "pairs" / "000.png", folder / "0.png")
    (tmp_path / "private.png").write_bytes((place / "pairs" / "001.png").read_bytes())
    (folder / "link.png").symlink_to("../private.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.png")
    with (folder / "vast.png").open("wb") as file:
        file.truncate(pictures.MOST + 1)
    names = [
        "link.png",
        "loop.png",
        "zero.png",
        "pipe.png",
        "vast.png",
        "../private.png",
        "none.png",
        "a\0",
        ".",
    ]
    return folder, [
        *(str(folder / name) for name in names),
        "/etc/passwd",
        "/dev/zero",
        "~nobody/x",
        "~/x",
        "",
        "0",
    ]


def test_no_name_leads_out_of_the_folder_or_to_what_is_no_regular_file(index, traps, tmp_path):
    folder, names = traps
    read, _ = open_pictures(
        changed(index, tmp_path / "i", [str(folder / "0.png"), *names], source="pictures"), str(folder)
    )
    assert read(0) == (folder / "0.png").read_bytes()
    for number in range(1, index.pictures):
        with pytest.raises(DataError, match=r"^this picture is not there$"):
            read(number)


@pytest.mark.parametrize(
    "source",
    ["pictures", "parquet:http://127.0.0.1:9/a.parquet", "folder:/", "wds:/dev/zero", "gs://b/x", "tfds:x/y"],
)
def test_a_page_opens_nothing_because_an_index_says_so(model, index, traps, tmp_path, monkeypatch, source):
    other = changed(index, tmp_path / "i", traps[1], source=source)

    def connect(self, place):
        assert place[0] == "127.0.0.1" and place[1] != 9, f"the page asks {place}"
        return whole(self, place)

    whole = socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(pictures, "open_source", lambda spec: pytest.fail(f"opens {spec}"))
    address = served(model, other)
    assert [asked(f"{address}picture/{number}")[0] for number in range(index.pictures)] == [
        404
    ] * index.pictures
    assert "start the demo with --pictures" in asked(address)[2]


def test_another_source_than_the_one_that_was_embedded_is_refused(place, model, index, tmp_path):
    shutil.copytree(place / "pairs", tmp_path / "pairs")
    assert make_app(model, index, pictures=f"folder:{tmp_path / 'pairs'}")  # The same pictures, elsewhere.
    shutil.copy(place / "pairs" / "001.png", tmp_path / "pairs" / "000.png")
    with pytest.raises(DataError, match=r"made from other pictures than those of .*; give the source"):
        make_app(model, index, pictures=f"folder:{tmp_path / 'pairs'}")


def test_a_manifest_that_counts_more_pictures_than_there_are_shows_no_more(place, index, tmp_path):
    read, _ = open_pictures(changed(index, tmp_path / "i", pictures=10**9), f"folder:{place / 'pairs'}")
    with pytest.raises(DataError, match="not there"):
        read(10**6)
