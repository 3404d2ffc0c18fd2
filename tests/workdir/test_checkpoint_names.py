"""Whatever the workdir is called, what was saved there comes back; what is missing does not count as saved."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from lit_jax.utils.errors import CheckpointError, ConfigError
from lit_jax.utils.local_folder import local_folder
from lit_jax.workdir.bucket import Bucket, opened
from lit_jax.workdir.checkpoints import Checkpoints
from tests.workdir.test_checkpoints import same, state_of

NAMES = ["lr[1e-3]", "a*", "a**", "b?\n", "a\\b", "a\udcff", "a b %20#'\"$HOME{}", "~root", "\x1b[1m\u202eü"]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", NAMES)
def test_a_run_in_a_folder_of_any_name_is_restored(name, tmp_path):
    if name == "a*":  # As a glob pattern, the name would match this folder.
        (tmp_path / "ab" / "checkpoints").mkdir(parents=True)
    ours = Checkpoints(tmp_path / name, save_every=1)
    ours.save(1, state_of(1), {"next": 1})
    ours.close()
    assert sorted(os.listdir(tmp_path / name / "checkpoints")) == ["locked", "step_1"]
    again = Checkpoints(tmp_path / name, save_every=1)
    state, data = again.restore(state_of(0), fallback=False)
    same(state, state_of(1))
    assert data == {"next": 1}
    same(again.read().tuned, state.tuned)


def test_a_run_whose_temporary_folder_is_cleared_goes_on_saving(tmp_path):
    ours = Checkpoints(tmp_path / "[1]", save_every=1)
    ours.save(1, state_of(1), {})
    ours.wait()
    link = ours._alias._link
    shutil.rmtree(link.parent)
    ours.save(2, state_of(2), {})
    ours.close()
    assert ours.steps() == [1, 2]
    link.unlink()  # As happens at the end of the process.
    link.parent.rmdir()


def test_a_folder_that_has_no_other_name_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    (tmp_path / "t[1]").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t[1]"))
    with pytest.raises(ConfigError, match=r"run\[1\] has a name that Orbax cannot read.*TMPDIR"):
        Checkpoints(tmp_path / "run[1]", save_every=1).save(1, state_of(1), {})
    assert os.listdir(tmp_path / "t[1]") == [] and not (tmp_path / "run[1]").exists()


def test_a_save_with_missing_arrays_does_not_count(tmp_path):
    ours = Checkpoints(tmp_path / "[1]", save_every=1)
    ours._alias._plain = True  # Orbax then loses the arrays, which it reports only in its log.
    state = state_of(1).replace(locked={})
    with pytest.raises(
        CheckpointError, match=r"step_3 could not be saved .*arrays of tuned cannot be read back"
    ):
        for step in range(1, 4):
            ours.save(step, state, {})
        ours.wait()
    assert ours.steps() == []


def test_a_copy_of_a_step_under_another_name_is_not_taken_for_that_step(tmp_path):
    ours = Checkpoints(tmp_path, save_every=1)
    for step in (1, 2):
        ours.save(step, state_of(step), {})
    ours.close()
    shutil.copytree(tmp_path / "checkpoints" / "step_1", tmp_path / "checkpoints" / "step_99")
    assert ours.damage(99) == "it is a copy of step 1" and ours.damage(2) is None
    with pytest.raises(CheckpointError, match=r"step_99 is damaged \(it is a copy of step 1"):
        Checkpoints(tmp_path, save_every=1).restore(state_of(), step=99)
    state, _ = Checkpoints(tmp_path, save_every=1).restore(state_of())
    assert int(state.step) == 2 and (tmp_path / "checkpoints" / "step_99.damaged").is_dir()


def test_locked_weights_that_are_removed_during_a_run_are_written_again(tmp_path, caplog):
    ours = Checkpoints(tmp_path, save_every=1)
    ours.save(1, state_of(1), {})
    ours.wait()
    shutil.rmtree(tmp_path / "checkpoints")
    ours.save(2, state_of(2).replace(locked=state_of(1).locked), {})
    ours.close()
    assert "locked is gone; it is written again" in caplog.text
    same(Checkpoints(tmp_path, save_every=1).read(step=2).locked, state_of(1).locked)


@pytest.mark.parametrize("gone", ["checkpoints", "checkpoints/locked", "checkpoints/step_1"])
def test_a_run_does_not_end_well_if_what_it_saved_is_gone(gone, tmp_path):
    ours = Checkpoints(tmp_path, save_every=1)
    ours.save(1, state_of(1), {})
    ours._manager.wait_until_finished()
    shutil.rmtree(tmp_path / gone)
    with pytest.raises(CheckpointError, match="was written and is gone"):
        ours.close()


def test_an_error_in_the_run_is_not_hidden_by_one_in_its_last_save(tmp_path, caplog):
    with pytest.raises(ZeroDivisionError), Checkpoints(tmp_path, save_every=1) as ours:
        ours.save(1, state_of(1), {})
        ours._manager.wait_until_finished()
        shutil.rmtree(tmp_path / "checkpoints")
        raise ZeroDivisionError
    assert "was written and is gone" in caplog.text


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_a_workdir_that_names_no_folder_is_refused(name):
    with pytest.raises(ConfigError, match="names no folder"), opened(name):
        pass
    with pytest.raises(ConfigError, match=r"--output is .*names no folder"):
        local_folder(name, "--output")


def test_a_tilde_means_the_home_for_all_files_of_a_workdir_or_for_none(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with opened("~/run") as place:
        assert place == tmp_path / "run" == local_folder("~/run", "--output")
    with opened("./~") as place:  # A folder can have that name.
        assert not isinstance(place, Bucket) and place == Path("~")
        assert Checkpoints(str(place), save_every=1).folder == tmp_path / "~" / "checkpoints"
