"""A command whose output is closed, full or gone ends in one sentence, or goes on with its work."""

import io
import os
import shlex
import subprocess
import sys

import pytest

from lit_jax.utils import console
from lit_jax.workdir.terminal import Terminal


def run(line, redirected):
    return subprocess.run(
        ["sh", "-c", f"{shlex.quote(sys.executable)} -m lit_jax {line} {redirected}"],
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("line", ["--help", "encoders", "--version", "inspect --help"])
def test_a_full_output_ends_in_one_sentence(line):
    done = run(line, "> /dev/full")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "No space left on device; choose another path" in done.stderr


@pytest.mark.parametrize("redirected", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_output_is_not_an_error(redirected):
    done = run("encoders", redirected)
    assert (done.returncode, done.stderr) == (0, "")
    assert bool(done.stdout) == (redirected == "2>&-")


class Gone(io.TextIOBase):
    """A stream that raises `error` when written to, like that of a terminal that has been closed."""

    encoding = "utf-8"

    def __init__(self, error, terminal):
        self.error, self.terminal, self.is_there = error, terminal, True

    def isatty(self):
        return self.terminal

    def write(self, text):
        if not self.is_there:
            raise self.error

    def flush(self):
        self.write("")


@pytest.mark.parametrize("terminal", [True, False])
def test_work_goes_on_when_its_progress_cannot_be_shown(terminal, monkeypatch):
    gone = Gone(OSError(5, "Input/output error"), terminal)
    monkeypatch.setattr(sys, "stderr", gone)
    shown = Terminal(4, stream=gone)
    with console.progress("pictures") as report:
        gone.is_there = False
        shown.scalars(1, {"loss": 1.0})
        report(3, 3)
    shown.close()


def test_work_ends_when_the_reader_of_its_progress_is_gone(monkeypatch):
    gone = Gone(BrokenPipeError(32, "Broken pipe"), False)
    gone.is_there = False
    with pytest.raises(BrokenPipeError):
        Terminal(4, stream=gone).scalars(1, {"loss": 1.0})
    monkeypatch.setattr(sys, "stderr", gone)
    with pytest.raises(BrokenPipeError), console.progress("pictures") as report:
        report(3, 3)
