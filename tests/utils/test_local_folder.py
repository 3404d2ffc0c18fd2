"""Places for folders and files: what cannot be meant is refused before any work, and only a file is replaced."""

import os
import stat
from pathlib import Path

import pytest

from lit_jax.tools import doctor
from lit_jax.tools.export import new_folder
from lit_jax.tools.report import report
from lit_jax.tools.space import space
from lit_jax.train.loop import train
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.local_folder import local_file, local_folder, name_of
from tests import tiny

IMPOSSIBLE = {
    "file/x": "cannot be used: Not a directory; choose another",
    "loop": "cannot be used: Too many levels of symbolic links; choose another",
    "nowhere": "is a link that leads nowhere; choose another",
    "x" * 300: "a name in it has more than 230 bytes; wanted a shorter one",
}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "output is '', which names no folder; wanted one"),
        ("a\0b", r"output is 'a\\x00b', which names no folder"),
        ("x/" + "a" * 231, "a name in it has more than 230 bytes; wanted a shorter one"),
        ("gs://bucket/x", "output gs://bucket/x is an address; wanted a folder of this machine"),
        ("file:///tmp/x", "output file:///tmp/x is an address; wanted a folder of this machine"),
        ("~nobody-has-this-name/x", "is in the home of nobody; for a folder of that name give ./~nobody"),
    ],
)
def test_a_name_that_no_folder_is_meant_by_is_refused(name, says):
    with pytest.raises(ConfigError, match=says):
        local_folder(name, "output")


@pytest.mark.parametrize("name", ["x", "./~x", "a b#%?[x]:é", "C:\\x", "/tmp/x/", "a:b/c"])
def test_every_other_name_is_a_folder(name):
    assert local_folder(name, "output") == Path(name)


def test_only_a_file_is_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(ConfigError, match=f"{name} is a device or a pipe; give a file"):
            local_file(tmp_path / name, "--output")
    with pytest.raises(ConfigError, match="is a directory; give a file"):
        local_file("/", "--output")
    assert local_file(tmp_path / "file", "--output") == tmp_path / "file"
    assert local_file(tmp_path / "new", "--output") == tmp_path / "new"
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)


@pytest.fixture
def place(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nowhere").symlink_to("missing/x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    return tmp_path


@pytest.mark.parametrize("name", IMPOSSIBLE)
@pytest.mark.parametrize("use", ["an output", "export", "train", "doctor", "report"])
def test_a_place_where_no_folder_can_be_is_refused_before_the_work(place, name, use):
    uses = {
        "export": new_folder,
        "train": lambda path: train(tiny.config(place), path),
        "doctor": doctor.workdir,
        "report": report,
        "an output": lambda path: local_folder(path, "output"),
    }
    with pytest.raises(ConfigError, match=IMPOSSIBLE[name]):
        uses[use](place / name)


@pytest.mark.parametrize("name", ["new", "new/in/new", "folder", "link", "link/new", "file"])
def test_every_other_place_is_left_to_its_user(place, name):
    assert local_folder(place / name, "output") == place / name


def test_a_folder_has_a_name_however_it_is_written(place, monkeypatch):
    monkeypatch.chdir(place / "folder")
    assert [name_of(path) for path in (".", "./", "../folder", "x/..", place / "folder")] == ["folder"] * 5
    assert os.path.basename(".") == "." and name_of("x/y/") == "y"


def test_a_space_in_the_current_folder_holds_its_model_in_a_folder_of_its_own(place, monkeypatch):
    tiny.write_models_and_pictures(place / "models")
    monkeypatch.chdir(place / "folder")
    space.write(place / "models" / "model", ".")
    assert [path.name for path in (place / "folder/models").iterdir()] == ["folder"]
    assert "title: folder\n" in (place / "folder/README.md").read_text()


def test_a_report_is_not_written_in_the_place_of_a_folder(place, monkeypatch):
    monkeypatch.chdir(place)
    for output in (".", "folder"):
        with pytest.raises(ConfigError, match="is a directory; give a file"):
            report(place / "folder", output)
