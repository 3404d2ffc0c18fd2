"""Losing a process that reads data ends the run in one sentence."""

import os
import signal
from pathlib import Path

import pytest

from lit_jax.data.workers import told_if_lost
from lit_jax.train import step_log
from lit_jax.train.loop import train
from lit_jax.train.trained import read_trained
from lit_jax.utils.errors import STALLED, LostProcessError
from tests import tiny


@pytest.mark.parametrize(
    "code, how", [(-9, "was ended by SIGKILL"), (-99, "by signal 99"), (3, "ended with status 3")]
)
def test_the_end_of_a_process_is_reported(code, how):
    with (
        pytest.raises(LostProcessError, match=f"a process that reads data .*{how}.*start again") as error,
        told_if_lost(),
    ):
        raise RuntimeError(
            f"Worker process was terminated unexpectedly with exit code {code}. Search the logs"
        )
    assert error.value.exit_code == STALLED


def test_other_errors_are_raised_unchanged():
    with pytest.raises(RuntimeError, match="out of memory"), told_if_lost():
        raise RuntimeError("out of memory")


def readers():
    """The processes that this one has started to read data."""
    for task in Path(f"/proc/{os.getpid()}/task").iterdir():
        for child in (task / "children").read_text().split():
            if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text():
                yield int(child)


@pytest.mark.slow
def test_a_killed_reader_ends_the_run_and_the_saved_steps_remain(tmp_path, monkeypatch):
    if not Path("/proc/self/task").exists():
        pytest.skip("the processes are found in /proc")
    plain = step_log.StepLog.step

    def step(log, number, outputs):
        if number == 5:
            os.kill(next(readers()), signal.SIGKILL)
        plain(log, number, outputs)

    monkeypatch.setattr(step_log.StepLog, "step", step)
    with pytest.raises(LostProcessError, match="was ended by SIGKILL"):
        train(tiny.config(tmp_path, steps=500, data__test="", data__workers=2), tmp_path / "run")
    assert read_trained(tmp_path / "run").step >= 4
