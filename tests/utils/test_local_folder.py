"""Names of folders and files to write: what cannot be meant is refused, and nothing but a file is replaced."""

import os
import stat
from pathlib import Path

import pytest

from lit_jax.utils.errors import ConfigError
from lit_jax.utils.local_folder import local_file, local_folder


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
