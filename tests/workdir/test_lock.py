import subprocess
import sys
import time

import pytest

from lit_jax.utils.errors import ConfigError
from lit_jax.workdir import lock

HOLD = """
import sys, time
from pathlib import Path
from lit_jax.workdir import lock
with lock.workdir_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_run_is_refused_at_once_and_a_killed_one_leaves_nothing_behind(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        begin = time.monotonic()
        with pytest.raises(ConfigError, match="is in use by another run"), lock.workdir_lock(tmp_path):
            pass
        assert time.monotonic() - begin < 5
    finally:
        other.kill()
        other.communicate()
    with lock.workdir_lock(tmp_path):
        pass
    with lock.workdir_lock(tmp_path):  # A run that has ended releases it.
        pass


def test_a_place_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(ConfigError, match=r"file/run cannot be written"),
        lock.workdir_lock(tmp_path / "file" / "run"),
    ):
        pass
