"""A disk that is full, read-only or gone: what was saved stays, and the run reports what happened."""

import errno
import logging
import resource
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import jax.numpy as jnp
import pytest

from lit_jax.train.loop import train
from lit_jax.utils.errors import CheckpointError, ConfigError
from lit_jax.workdir.checkpoints import Checkpoints
from lit_jax.workdir.metrics import Jsonl
from tests import tiny
from tests.workdir.test_checkpoints import same, state_of


@contextmanager
def full_disk(size=60_000):
    """Within the block, no file can grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def large(seed):
    state = state_of(seed)
    return state.replace(tuned={"large": jnp.sin(jnp.arange(2.0**16) + seed)}, opt=())


def written(ours):
    """Waits for the save in progress, as training would."""
    while ours._manager.is_saving_in_progress():
        time.sleep(0.01)


def test_a_save_that_fails_is_made_up_for_at_the_next_step(tmp_path, caplog):
    ours = Checkpoints(tmp_path, save_every=2)
    ours.save(2, large(2), {})
    ours.wait()
    with caplog.at_level(logging.WARNING, "lit_jax"), full_disk():
        assert ours.save(4, large(4), {})
        written(ours)
        assert ours.save(5, large(5), {})  # Not due, but the last one failed.
        written(ours)
    assert "step_4 could not be saved" in caplog.text and "File too large" in caplog.text
    assert ours.save(6, large(6), {"next": 6})
    ours.wait()
    assert not ours.save(7, large(7), {})
    ours.close()
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["locked", "step_2", "step_6"]  # The space of a half-written save is freed.
    same(Checkpoints(tmp_path, save_every=2).restore(large(0), fallback=False)[0].tuned, large(6).tuned)


def test_three_failed_saves_in_a_row_end_the_run_and_the_last_good_one_remains(tmp_path):
    ours = Checkpoints(tmp_path, save_every=2)
    ours.save(2, large(2), {"next": 2})
    ours.wait()
    with full_disk():
        with pytest.raises(
            CheckpointError, match=r"step_6 could not be .*too large.*is that of step 2.*room"
        ) as error:
            for step in range(4, 9):
                ours.save(step, large(step), {})
                written(ours)
        assert "\n" not in str(error.value) and error.value.exit_code == 4
    state, data = Checkpoints(tmp_path, save_every=2).restore(large(0), fallback=False)
    assert data == {"next": 2}
    same(state.tuned, large(2).tuned)


def test_a_disk_that_is_full_at_the_end_is_reported(tmp_path):
    ours = Checkpoints(tmp_path, save_every=2)
    ours.save(2, large(2), {})
    ours.wait()
    with full_disk():
        ours.save(4, large(4), {})
        with pytest.raises(CheckpointError, match="step_4 could not be saved"):
            ours.wait()
    assert Checkpoints(tmp_path, save_every=2).latest() == 2


def test_closing_on_a_full_disk_raises_our_error_and_not_that_of_orbax(tmp_path):
    ours = Checkpoints(tmp_path, save_every=2)
    ours.save(2, large(2), {})
    ours.wait()
    with full_disk(), pytest.raises(CheckpointError, match="step_4 could not be saved"):
        ours.save(4, large(4), {})
        ours.close()
    ours.close()


def test_locked_weights_that_do_not_fit_end_the_run(tmp_path):
    state = large(1).replace(locked={"vision": large(1).tuned})
    ours = Checkpoints(tmp_path, save_every=1)
    with full_disk(), pytest.raises(CheckpointError, match=r"locked could not be saved.*File too large"):
        ours.save(1, state, {})
    assert Checkpoints(tmp_path, save_every=1).latest() is None


def test_a_folder_that_is_removed_during_a_run_is_made_anew(tmp_path):
    ours = Checkpoints(tmp_path, save_every=2)
    ours.save(2, large(2), {})
    ours.wait()
    shutil.rmtree(tmp_path / "checkpoints" / "step_2")
    ours.save(4, large(4), {})
    ours.close()
    assert Checkpoints(tmp_path, save_every=2).latest() == 4


@pytest.mark.slow
def test_training_on_a_full_disk_ends_with_status_4_and_goes_on_when_there_is_room(tmp_path, monkeypatch):
    config = tiny.config(tmp_path, steps=8, data__test="", save_every=2)
    scalars = Jsonl.scalars

    def full(writer, step, values):
        if step == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        scalars(writer, step, values)

    monkeypatch.setattr(Jsonl, "scalars", full)
    with pytest.raises(
        CheckpointError, match=r"No space left on device\); the newest checkpoint is that of step 4"
    ):
        train(config, tmp_path / "run")
    monkeypatch.undo()
    assert int(train(config, tmp_path / "run").step) == 8


@pytest.mark.parametrize("existing", [True, False])
def test_a_workdir_that_cannot_be_written_is_refused_at_once(existing, tmp_path):
    kernel = Path("/sys/kernel")  # Nobody can write there, not even root.
    if not kernel.exists():
        pytest.skip("no /sys on this machine")
    place = kernel if existing else kernel / "run"
    config = tiny.config(tmp_path)
    since = time.monotonic()
    with pytest.raises(ConfigError, match=f"workdir {place} cannot be written") as error:
        train(config, place)
    assert time.monotonic() - since < 5 and error.value.exit_code == 2
