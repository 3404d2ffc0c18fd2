"""A folder is the old one until it is the new one."""

import errno
import os

import pytest

from lit_jax.utils import atomic
from lit_jax.utils.atomic import naming, put, replaced
from lit_jax.utils.errors import ConfigError

STALE = r"model.*\.safetensors"


def content(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def write(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_json", ".json").replace("_st", ".safetensors")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture(params=["exchanged", "moved in", "worked inside"])
def way(request, monkeypatch, tmp_path):
    if request.param == "moved in":
        monkeypatch.setattr(atomic, "_exchanged", lambda *_: False)
    (tmp_path / "m").mkdir()
    if request.param == "worked inside":
        monkeypatch.chdir(tmp_path / "m")
    return request.param


def test_what_is_written_replaces_the_old_and_the_rest_stays(tmp_path, way):
    folder = tmp_path / "m"
    write(folder, config_json="old", model1_st="old", model2_st="old", README="mine", onnx__model_st="mine")
    os.symlink("README", folder / "link")
    inode = folder.stat().st_ino
    with replaced("." if way == "worked inside" else folder, STALE) as draft:
        write(draft, config_json="new", model_st="new", text__config_json="new")
        assert content(folder)["config.json"] == "old"
    assert content(folder) == {
        "README": "mine",
        "link": "mine",
        "config.json": "new",
        "model.safetensors": "new",
        "onnx/model.safetensors": "mine",
        "text/config.json": "new",
    }
    assert (folder / "link").is_symlink()
    assert os.listdir(tmp_path) == ["m"]
    assert (folder.stat().st_ino == inode) == (way != "exchanged")


def test_an_error_leaves_what_was_there(tmp_path, way):
    write(tmp_path / "m", config_json="old")
    with pytest.raises(KeyError), replaced(tmp_path / "m", STALE) as draft:
        write(draft, config_json="new")
        raise KeyError
    assert content(tmp_path / "m") == {"config.json": "old"} and os.listdir(tmp_path) == ["m"]


def test_a_new_folder_is_made_with_its_parents_and_readable_by_all(tmp_path):
    with replaced(tmp_path / "a" / "b") as draft:
        write(draft, x="1")
        assert not (tmp_path / "a" / "b").exists()
    assert content(tmp_path) == {"a/b/x": "1"}
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o755


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    write(tmp_path / "real", config_json="old")
    (tmp_path / "link").symlink_to("real")
    with replaced(tmp_path / "link") as draft:
        write(draft, config_json="new")
    assert (tmp_path / "link").is_symlink() and content(tmp_path / "real") == {"config.json": "new"}


def test_files_that_move_in_one_by_one_are_not_a_model_until_the_last(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "_exchanged", lambda *_: False)
    folder, replace, seen = tmp_path / "m", os.replace, []
    write(folder, config_json="old", model_st="old", z_json="old")

    def spy(path, target):
        seen.append(content(folder).get("config.json"))
        return type(path)(target) if replace(path, target) is None else None

    monkeypatch.setattr(atomic.Path, "replace", spy)
    with replaced(folder, STALE) as draft:
        write(draft, config_json="new", model_st="new", z_json="new")
    assert seen == [None, None, None] and set(content(folder).values()) == {"new"}


def test_a_file_that_cannot_be_written_leaves_no_draft(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        put(tmp_path / "folder", lambda draft: draft.write_text("x"))
    with pytest.raises(KeyError):
        put(tmp_path / "file", lambda draft: {}[draft.write_text("x")])
    assert os.listdir(tmp_path) == ["folder"]


def test_an_error_of_the_disk_names_the_file_whatever_wrote_it(tmp_path):
    path, draft = tmp_path / "x", tmp_path / ".x-1"
    for error in (
        OSError(errno.ENOSPC, "write failed. Detail: [errno 28] No space left on device"),
        RuntimeError("write() failed: No space left on device; writing x.part"),
        OSError(errno.ENOSPC, "No space left on device", str(draft)),
    ):
        with (
            pytest.raises(OSError, match=f"^.Errno 28. No space left on device: '{path}'$"),
            naming(path, draft),
        ):
            raise error
    for other in (ConfigError("No space left on device"), RuntimeError("no device")):
        with pytest.raises(type(other)), naming(path):
            raise other
