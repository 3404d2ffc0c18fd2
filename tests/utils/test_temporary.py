"""Folders of temporary files: no way in which a process ends, except SIGKILL, leaves one behind."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from lit_jax import __main__ as program
from lit_jax.utils import temporary
from lit_jax.utils.errors import ConfigError

# `run` of a command is replaced by one that makes a folder with a file in it, and then ends in some way.
CODE = """
import os, signal, sys, time
from lit_jax import __main__ as program
from lit_jax.train.watchdog import Watchdog
from lit_jax.utils.errors import PreemptedError
from lit_jax.utils.temporary import temporary_folder

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # The tests may be run by `nohup`, or in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)
TOLD = "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"


def run(*_):
    with temporary_folder() as folder:
        (folder / "file").write_text("x")
        print(folder, flush=True)
        {end}
        time.sleep(60)


program.run = run
program.main()
"""
ENDS = {
    "SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM)", 143),
    "SIGHUP": ("os.kill(os.getpid(), signal.SIGHUP)", 129),
    "SIGINT": ("os.kill(os.getpid(), signal.SIGINT)", 130),
    "SIGTERM in an import": (
        "sys.path.insert(0, str(folder)); (folder / 'one.py').write_text(TOLD); import one",
        -15,
    ),
    "preempted": ("raise PreemptedError('told to end')", 42),
    "a bug": ("raise KeyError('x')", 1),
    "a hang": ("Watchdog(0.1)", 6),
    "a closed pipe": ("raise BrokenPipeError", 141),
    "done": ("return", 0),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_folder_is_gone_however_the_process_ends(end):
    code, status = ENDS[end]
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(end=code)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == status, done.stderr
    folder = Path(done.stdout.splitlines()[0])
    assert folder.name.startswith("lit_jax-") and not folder.exists()
    assert (done.stderr == "") == (end not in ("preempted", "a bug", "a hang"))


def test_what_a_link_in_a_folder_leads_to_stays(tmp_path):
    (tmp_path / "kept").write_text("x")
    with temporary.temporary_folder() as folder:
        (folder / "link").symlink_to(tmp_path)
    assert not folder.exists() and (tmp_path / "kept").exists()


def test_without_a_place_for_temporary_files_the_remedy_is_named(monkeypatch):
    def nowhere():
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp', '/']")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    with pytest.raises(ConfigError, match=r"no temporary file can be written .* set TMPDIR"):
        temporary.make()


def test_a_command_that_finds_no_place_for_temporary_files_names_the_remedy(monkeypatch, capsys):
    def nowhere(*_):
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp', '/']")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    monkeypatch.setattr(program, "run", nowhere)
    with pytest.raises(SystemExit) as ended:
        program.main(["doctor"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "lit-jax: No usable temporary directory found in ['/tmp', '/']; set TMPDIR to a folder that can be written\n"
    )
